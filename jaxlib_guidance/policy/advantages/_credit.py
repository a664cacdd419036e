"""Which step of a sequence earned the reward: redistribution and attribution.

One sequence ``[S]`` of steps, turns or utterances; `jax.vmap` for a batch.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import divide, hide, mask_like, masked_sum, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def _require_sequence(name, x):
    if jnp.ndim(x) != 1:
        raise ValueError(
            f"{name} has shape {jnp.shape(x)}; expected [S], one sequence: use "
            "jax.vmap for a batch"
        )


def progress_redistribution(
    progress: Array,
    reward: float | Array,
    grounded: Array | None = None,
    mask: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    rescale: bool = True,
) -> Array:
    """``alpha c_t + beta g_t``: an episode's reward where its progress was made.

    Args:
      progress: Contribution ``c`` that an estimator gives each step, ``[S]``; train it
        with `progress_loss`.
      reward: Reward of the episode, scalar.
      grounded: 1 where the action could be executed, ``g``, ``[S]``; None leaves the
        term out.
      mask: 0 on steps that do not count, of the shape of ``progress``; None keeps all.
      alpha: Weight of the progress.
      beta: Weight of the grounding; the released code's is 0.5.
      rescale: Whether to scale the contributions to sum to the reward exactly. If they
        sum to 0, each step gets an equal share.

    Returns:
      Float32 ``[S]``, 0 where masked.

    Raises:
      ValueError: Mismatched shapes.

    Reference: SPA-RL, Wang et al., arXiv 2505.20732.
    """
    _require_sequence("progress", progress)
    require_shape("reward", reward, ())
    c, m = hide(progress, mask), mask_like(mask, progress)
    if rescale:
        total = masked_sum(c, mask)
        even = divide(m, jnp.sum(m))
        c = jnp.where(total == 0, even, divide(c, total)) * reward
    out = alpha * c
    if grounded is not None:
        require_shape("grounded", grounded, jnp.shape(progress))
        out = out + beta * hide(grounded, mask)
    return hide(out, mask)


def progress_loss(progress: Array, reward: Array, mask: Array | None = None) -> Array:
    """``(sum_t c_t - R)^2``, which trains the estimator of `progress_redistribution`.

    Args:
      progress: Contribution of each step, ``[..., S]``.
      reward: Reward of each episode, ``[...]``.
      mask: 0 on steps that do not count, of the shape of ``progress``; None keeps all.

    Returns:
      Float32 ``[...]``.
    """
    require_shape("reward", reward, jnp.shape(progress)[:-1])
    return jnp.square(masked_sum(progress, mask, -1) - at_least_float32(reward))


def utterance_attribution(
    attribution: Array,
    score: float | Array,
    mask: Array | None = None,
    *,
    kind: Literal["scaled", "normalized", "discounted"] = "scaled",
    scale: float = 3.0,
    decay: float = 0.9,
) -> Array:
    """A dialogue's score, shared among the utterances.

    "scaled" ``a_i / scale * score``; "normalized" ``a_i / sum a * score``, 0 if nothing
    is attributed; "discounted" ``decay^(n - 1 - i) * score``.

    Args:
      attribution: Attribution ``a`` that a judge gives each utterance, ``[S]``: 0 to
        ``scale``, or -1 for redundant, which in "scaled" is a reward of -1.
      score: Score of the episode, scalar.
      mask: 1 on one's own utterances and 0 on others', ``[S]``; None keeps all.
      kind: "scaled", "normalized" or "discounted", explained above.
      scale: Largest attribution that the judge gives; 3, 5 or 10 in the released
        prompts.
      decay: Factor per utterance of kind "discounted", in [0, 1].

    Returns:
      Float32 ``[S]``, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown kind.

    Reference: Sotopia-RL, Yu et al., arXiv 2508.03905; several dimensions, each shared
    out on its own, are put together by `combine_dimensions`.
    """
    if kind not in ("scaled", "normalized", "discounted"):
        raise ValueError(
            f'kind is {kind!r}; expected "scaled", "normalized" or "discounted"'
        )
    _require_sequence("attribution", attribution)
    require_shape("score", score, ())
    require_range("scale", scale, 0, inside=True)
    require_range("decay", decay, 0, 1)
    a, m = hide(attribution, mask), mask_like(mask, attribution)
    match kind:
        case "scaled":
            out = jnp.where(a == -1, -1, a / scale * score)
        case "normalized":
            out = divide(a, masked_sum(a, mask)) * score
        case "discounted":
            after = jnp.sum(m) - jnp.cumsum(m)
            out = decay**after * score
    return hide(out, mask)


class Hindsight(NamedTuple):
    """Goals that a trajectory reached, by goal ``[K]``.

    Attributes:
      reached: 1 if it was.
      time: The first step that did, 0 if none.
      reward: 1 at that step, ``[T, K]``.
    """

    reached: Array
    time: Array
    reward: Array


def hindsight_relabel(achieved: Array, mask: Array | None = None) -> Hindsight:
    """What a trajectory achieved, as if that had been its goal.

    Args:
      achieved: Whether a step fulfils a goal, ``[T, K]``, as a relabeller says.
      mask: 0 on steps that do not count, ``[T]``; None keeps all.

    Reference: LMA3, Colas et al., arXiv 2305.12487; hindsight experience replay, arXiv
    1707.01495.
    """
    if jnp.ndim(achieved) != 2:
        raise ValueError(f"achieved has shape {jnp.shape(achieved)}; expected [T, K]")
    steps = jnp.shape(achieved)[0]
    if mask is not None:
        require_shape("mask", mask, (steps,))
        mask = jnp.broadcast_to(at_least_float32(mask)[:, None], jnp.shape(achieved))
    hit = hide(achieved, mask) > 0
    first = hit & (jnp.cumsum(hit, 0) == 1)
    return Hindsight(
        jnp.any(hit, 0).astype(jnp.float32),
        jnp.argmax(hit, 0).astype(jnp.int32),
        first.astype(jnp.float32),
    )
