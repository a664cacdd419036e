"""Weights for losses whose data another policy made, or that should not count.

Each is a constant to multiply a per-token loss with (the tokens stay in the mean, as in
TRL), or, as a mask, to multiply the mask with (they leave it, as in verl).
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.losses._ratio import (
    RatioLevel,
    importance_ratio,
    like_tokens,
    log_ratio,
)
from jaxlib_guidance.reduce import divide, hide, mask_like, masked_sum, require_shape
from jaxlib_guidance.types import Array, concrete

stop = jax.lax.stop_gradient


def rollout_weight(
    logp: Array,
    logp_rollout: Array,
    mask: Array | None = None,
    *,
    level: RatioLevel = "token",
    mode: Literal["truncate", "mask", "reject"] = "truncate",
    low: float | Array = 0.0,
    high: float | Array = 2.0,
    kept_mass: Array | None = None,
) -> Array:
    """Importance weight ``pi / pi_rollout`` of a sampler that is not quite the policy.

    An engine with other kernels, precision or older weights samples from another
    distribution than the one that the trainer scores.

    - "truncate": ``clip(w, low, high)`` (truncated importance sampling).
    - "mask": ``w`` inside ``[low, high]``, 0 outside (IcePop).
    - "reject": 1 inside, 0 outside; a mask.

    Args:
      logp: Log-probabilities of the taken tokens under the trainer's policy *before*
        the update, ``[..., T]``.
      logp_rollout: Log-probabilities of the same tokens as the sampler reports them,
        ``[..., T]``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      level: "token", "seq" (the geometric mean), "seq_token" or "seq_sum": whose ratio,
        explained in `log_ratio`.
      mode: "truncate", "mask" or "reject", explained above.
      low: Smallest ratio, at least 0.
      high: Largest ratio. There is no agreed value: verl's presets have 2 for tokens,
        IcePop has 0.5 and 5, TRL 3.
      kept_mass: Log of the probability that top-k or top-p left, ``[..., T]``, of a
        sampler that renormalises over it: it is added to ``logp_rollout``.

    Returns:
      Float32 ``[..., T]``, gradients stopped, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown mode, an empty range.
    """
    if mode not in ("truncate", "mask", "reject"):
        raise ValueError(f'mode is {mode!r}; expected "truncate", "mask" or "reject"')
    require_range("low", low, 0)
    bottom, top = concrete(low), concrete(high)
    if bottom is not None and top is not None and not bottom < top:
        raise ValueError(f"low is {low}, high is {high}; expected low < high")
    if kept_mass is not None:
        require_shape("kept_mass", kept_mass, jnp.shape(logp))
        require_range("kept_mass", kept_mass, high=0, mask=mask)
        logp_rollout = hide(logp_rollout, mask) + hide(kept_mass, mask)
    w = jnp.exp(log_ratio(logp, logp_rollout, mask, level=level))
    inside = (low <= w) & (w <= high)
    match mode:
        case "truncate":
            w = jnp.clip(w, low, high)
        case "mask":
            w = jnp.where(inside, w, 0)
        case "reject":
            w = inside.astype(w.dtype)
    return stop(hide(w, mask))


def off_policy_mask(
    logp: Array,
    logp_rollout: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    threshold: float,
) -> Array:
    """0 for sequences to move away from that the policy has long left, else 1.

    Kept if ``A >= 0`` or ``mean_t(logp_rollout - logp) <= threshold``.

    Args:
      logp: Log-probabilities of the taken tokens under the policy now, ``[..., T]``.
      logp_rollout: Log-probabilities of the same tokens under the policy that acted,
        ``[..., T]``.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      threshold: Largest mean drift in nats per token; TRL suggests 0.5.

    Returns:
      Float32 ``[..., T]``, 0 where masked.

    Reference: DeepSeek-V3.2, arXiv 2512.02556; TRL's ``off_policy_mask_threshold``.
    """
    drift = -stop(log_ratio(logp, logp_rollout, mask, level="seq"))
    keep = (like_tokens(advantage, logp, mask) >= 0) | (drift <= threshold)
    return hide(keep, mask)


def entropy_quantile_mask(
    entropy: Array,
    mask: Array | None = None,
    *,
    top: float | Array = 0.2,
) -> Array:
    """1 for the share ``top`` of tokens with the highest entropy: the forks.

    The quantile is of all tokens at hand; under accumulation or on several devices that
    is what each of them sees.

    Args:
      entropy: Entropy of each token in nats, of any shape.
      mask: 0 on tokens that do not count, of the shape of ``entropy``; None keeps all.
      top: Share of tokens to keep, in (0, 1]; 1 keeps all.

    Returns:
      Float32, 0 where masked; equal entropies at the border are all kept.

    Raises:
      ValueError: ``top`` outside (0, 1].

    Reference: Wang et al., arXiv 2506.01939; TRL's ``top_entropy_quantile``.
    """
    known = concrete(top)
    if known is not None and not 0 < known <= 1:
        raise ValueError(f"top is {top}; expected a share in (0, 1]")
    entropy = stop(hide(entropy, mask))
    known = mask_like(mask, entropy) > 0
    border = jnp.nanquantile(jnp.where(known, entropy, jnp.nan), 1 - top)
    return (known & (entropy >= border)).astype(jnp.float32)


def truncation_mask(mask: Array, finished: Array) -> Array:
    """The mask without sequences that were cut off at the length limit.

    Args:
      mask: 1 on tokens of the policy's answer, ``[..., T]``.
      finished: 1 for sequences that came to their end, ``[...]``.

    Returns:
      Float32 of the shape of ``mask``.

    Reference: DAPO's overlong filtering, arXiv 2503.14476.
    """
    require_shape("finished", finished, jnp.shape(mask)[:-1])
    require_range("finished", finished, 0, 1)
    whole = jnp.asarray(finished).astype(jnp.float32)[..., None]
    return mask_like(mask, mask) * whole


def mixed_policy_weight(
    logp: Array,
    off_policy: Array,
    mask: Array | None = None,
    *,
    shape: Literal["none", "ratio", "shaped", "advantage"] = "shaped",
    logp_old: Array | None = None,
    advantage: Array | None = None,
    c: float | Array | None = None,
) -> Array:
    """Weights of tokens that a teacher wrote into the policy's own roll-out.

    They multiply `reinforce`, and so are what stands before the gradient of
    ``logp``; the policy's tokens, of weight 1, may have another loss::

        weight = mixed_policy_weight(logp, teacher, mask)
        taught = weight * reinforce(logp, advantage, mask)
        own = ppo_clip(logp, logp_old, advantage, mask)
        loss = jnp.where(teacher > 0, taught, own)

    A teacher's tokens have 1 ("none"), ``rho = p / p_old``, the gradient of ``rho A``
    ("ratio"), or ``c p / (p + c)^2``, that of ``A p / (p + c)`` ("shaped", LUFFY's). It
    is greatest at ``p = c``: a token that the policy finds unlikely fades ``1 / c``
    times slower than with ``p``, and one that it is sure of hardly moves. Or they have
    ``p / (p + c A / 4)`` with ``A`` cut to [-4, 4], and 1 where ``A < 0`` and
    ``p < 10 c`` ("advantage", ThinkTuning's): close to 1 but for tokens of a right
    roll-out that the policy all but excludes, which fade the more the greater ``A``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      off_policy: 1 on the teacher's tokens and 0 on the policy's own, ``[..., T]``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      shape: Weight of a teacher's token: "none", "ratio", "shaped" or "advantage",
        explained above.
      logp_old: Log-probabilities of the same tokens under whoever wrote them, ``[...,
        T]``; for "ratio" only.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``, in
        standard deviations of their group; for "advantage" only.
      c: Probability at which a token of shape "shaped" weighs most, None for 0.1; or
        the shift of "advantage" at an advantage of 4, None for 0.001. Positive.

    Returns:
      Float32 ``[..., T]``, gradients stopped, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown shape, a ``logp_old``, an ``advantage``
        or a ``c`` that is missing or has no effect.

    Reference: ThinkTuning, arXiv 2508.07616, and its ``compute_policy_loss``; LUFFY,
    arXiv 2504.14945, and its ``compute_token_on_off_policy_loss``.
    """
    shapes = ("none", "ratio", "shaped", "advantage")
    own = {"shaped": 0.1, "advantage": 0.001}
    if shape not in shapes:
        raise ValueError(f"shape is {shape!r}; expected one of {shapes}")
    for name, value in (("ratio", logp_old), ("advantage", advantage)):
        if (value is not None) != (shape == name):
            what = "logp_old" if name == "ratio" else name
            raise ValueError(f'{what} is for shape "{name}" only; shape is {shape!r}')
    if c is not None and shape not in own:
        raise ValueError(f"c is for {list(own)}; shape is {shape!r}")
    shift = own.get(shape, 1.0) if c is None else c
    require_range("c", shift, 0, inside=True)
    require_range("off_policy", off_policy, 0, 1)
    teacher = mask_like(off_policy, logp, "off_policy") > 0
    p = jnp.exp(hide(logp, mask))
    weight = jnp.ones_like(p)
    if logp_old is not None:
        weight = importance_ratio(logp, logp_old, mask)
    elif advantage is not None:
        gain = jnp.clip(like_tokens(advantage, logp, mask), -4, 4)
        # What a failed roll-out has of such tokens would have a pole at p = -c A / 4.
        fades = (gain > 0) | (p >= 10 * shift)
        weight = jnp.where(fades, p / jnp.where(fades, p + shift * gain / 4, 1), 1)
    elif shape == "shaped":
        weight = shift * p / jnp.square(p + shift)
    return stop(hide(jnp.where(teacher, weight, 1), mask))


def effective_sample_size(weights: Array, mask: Array | None = None) -> Array:
    """``(sum w)^2 / (n sum w^2)`` in [0, 1]: 1 on policy, 1/n if one token has all.

    Args:
      weights: Importance weights, at least 0, of any shape.
      mask: 0 on weights that do not count, of the shape of ``weights``; None keeps all.

    Returns:
      Float32 scalar, 0 where all weights are 0 and NaN where everything is masked.
    """
    require_range("weights", weights, 0, mask=mask)
    n = jnp.sum(mask_like(mask, weights))
    total = masked_sum(weights, mask)
    square = masked_sum(jnp.square(hide(weights, mask)), mask)
    # All weights 0: no sample has any say. No weight at all: there is no score.
    return jnp.where(n > 0, divide(jnp.square(total), n * square), jnp.nan)
