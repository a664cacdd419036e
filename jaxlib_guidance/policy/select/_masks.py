"""Which tokens of a trajectory train: errors, hints and overthinking left out.

Index arrays and masks of fixed length, so that they work under `jax.jit`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import divide, mask_like
from jaxlib_guidance.types import Array, at_least_float32


def step_mask(step_ids: Array, bad: Array, mask: Array | None = None) -> Array:
    """0 on the tokens of bad steps, else the mask: their context trains nothing.

    STeP: ``bad`` marks erroneous steps, and what reflects on and corrects them trains.
    Agent-RLVR: it marks the hints that a guide put into the trajectory.

    Args:
      step_ids: Step of each token, integers ``[..., T]`` in ``[0, S)``.
      bad: 1 for steps that are bad, ``[..., S]``.
      mask: 0 on tokens that train nothing, of the shape of ``step_ids``; None keeps
        all.

    Returns:
      Float32 ``[..., T]``.

    Reference: STeP, Chen et al., arXiv 2505.20023; Agent-RLVR, arXiv 2506.11425.
    """
    ids = jnp.asarray(step_ids)
    if jnp.shape(bad)[:-1] != ids.shape[:-1] or jnp.ndim(bad) < 1:
        raise ValueError(
            f"bad has shape {jnp.shape(bad)}; expected {(*ids.shape[:-1], 'S')}"
        )
    require_range("step_ids", ids, 0, jnp.shape(bad)[-1] - 1, mask)
    wrong = jnp.take_along_axis(at_least_float32(bad), ids, -1)
    return jnp.where(wrong == 0, mask_like(mask, ids), 0)


def overthink_score(
    first_correct: Array,
    steps: Array,
    markers: Array,
    tokens: Array,
    *,
    weight: float = 0.1,
) -> Array:
    """``(1 - w)(1 - first / steps) + w markers / tokens``: how much comes after enough.

    Args:
      first_correct: Step of the first right solution, counted from 1, of any shape.
      steps: Number of steps, of the same shape.
      markers: Number of tokens that mark reconsidering ("wait", "alternatively"), of
        the same shape.
      tokens: Number of tokens, of the same shape.
      weight: Weight ``w`` of the markers, in [0, 1].

    Returns:
      Float32 in [0, 1]; 0 for a chain without steps and tokens.

    Reference: Self-Braking Tuning, Zhao et al., arXiv 2505.14604; its code.
    """
    require_range("weight", weight, 0, 1)
    first, steps = at_least_float32(first_correct), at_least_float32(steps)
    marked = divide(at_least_float32(markers), at_least_float32(tokens))
    return (1 - weight) * divide(steps - first, steps) + weight * marked


class Brake(NamedTuple):
    """What to keep of a chain of steps, ``[S]``, and what of it trains."""

    keep: Array
    train: Array


def brake_point(
    scores: Array, mask: Array | None = None, *, tau: float = 0.2, margin: float = 0.05
) -> Brake:
    """Stops a chain of thought where it overthinks.

    Steps before the first with score ``tau`` train. That one and those after it up to
    ``tau + margin`` are kept as context and do not train; then the chain is cut.

    Args:
      scores: Scores of `overthink_score` up to each step, ``[..., S]``.
      mask: 0 on steps that do not exist, ``[..., S]``; None keeps all.
      tau: Score from which the chain brakes.
      margin: Score beyond ``tau`` up to which overthinking stays as context.

    Returns:
      Which steps are kept and which train, float32 ``[..., S]`` each.

    Reference: Self-Braking Tuning, Zhao et al., arXiv 2505.14604 (SBT-D).
    """
    known = mask_like(mask, scores) > 0
    require_range("margin", margin, 0)
    scores = at_least_float32(scores)
    over = jnp.cumsum((scores >= tau) & known, -1) > 0
    far = jnp.cumsum((scores > tau + margin) & known, -1) > 0
    return Brake(
        (known & ~far).astype(jnp.float32), (known & ~over).astype(jnp.float32)
    )
