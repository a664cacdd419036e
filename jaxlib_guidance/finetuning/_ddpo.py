"""DDPO and DPOK: a sampler's steps are actions, the reward comes after the last one.

What they optimise is what `policy` has for tokens, with a step for a token; here are
the names, the constants, and the pull towards the base model.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, prediction_weight
from jaxlib_guidance.policy import importance_ratio, like_tokens, ppo_clip, reinforce
from jaxlib_guidance.reduce import hide, require_shape
from jaxlib_guidance.types import Array, Process, at_least_float32


def ddpo(
    logp: Array,
    logp_old: Array | None,
    advantage: Array,
    mask: Array | None = None,
    *,
    clip: float = 1e-4,
    advantage_clip: float = 10.0,
) -> Array:
    """DDPO's loss of each step: score function or, given ``logp_old``, clipped ratios.

    ``-A logp`` or ``-min(rho A, clip(rho, 1 - c, 1 + c) A)``, step by step. On policy
    the two have one gradient.

    Args:
      logp: `Trajectory.logp` of `rescore`, ``[B, K]``.
      logp_old: Of the roll-out; None for DDPO-SF, which is right for one update only.
      advantage: ``[B]`` or ``[B, K]``.
      mask: `Trajectory.mask`.
      clip: ``c``; 1e-4 belongs to log-probabilities reduced by "mean".
      advantage_clip: Advantages are held within this; 10 in the authors' code, 5 in
        its port and in Flow-GRPO.

    Returns:
      ``[B, K]``, for `aggregate`.

    Reference: Black et al., arXiv 2305.13301, section 4.3; constants as in the authors'
    code.
    """
    held = jnp.clip(at_least_float32(advantage), -advantage_clip, advantage_clip)
    if logp_old is None:
        return reinforce(logp, held, mask)
    return ppo_clip(logp, logp_old, held, mask, clip_low=clip, clip_high=clip)


def dpok(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    gap: Array,
    mask: Array | None = None,
    *,
    clip: float = 1e-4,
    weight: float = 100.0,
    beta: float = 0.01,
) -> Array:
    """``-weight A clip(rho, 1 - c, 1 + c) + beta gap``, step by step.

    Unlike PPO there is no ``min``: a ratio out of range has no gradient, whichever way
    the advantage points.

    Args:
      logp: `Trajectory.logp` of `rescore`, ``[B, K]``.
      logp_old: Of the roll-out.
      advantage: ``R - V(x_t, t)`` in the paper; ``[B]`` or ``[B, K]``.
      gap: Distance to the base model, ``[B, K]``: `prediction_gap` of "eps" in the
        code, which is `step_kl` up to a factor of time.
      mask: `Trajectory.mask`.
      clip: ``c``.
      weight: Of the reward.
      beta: Of the gap.

    Reference: Fan et al., arXiv 2305.16381, algorithm 1; constants as in the authors'
    code.
    """
    require_shape("gap", gap, jnp.shape(logp))
    rho = importance_ratio(logp, logp_old, mask)
    held = jnp.clip(rho, 1 - clip, 1 + clip)
    reward = weight * like_tokens(advantage, logp, mask) * held
    return beta * hide(gap, mask) - reward


def prediction_gap(
    process: Process, t: Array, x0: Array, x0_ref: Array, kind: Prediction = "eps"
) -> Array:
    """``mean (f - f_ref)^2`` of two networks' predictions at one state.

    DPOK holds a policy to its base by that of "eps", DiffusionNFT by "velocity".

    Args:
      process: The noise process.
      t: Scalar or ``[B]``; ``sigma(t)`` must not be 0.
      x0: Estimate ``[B, *S]``.
      x0_ref: That of the reference, a constant.
      kind: Which prediction ``f``.

    Returns:
      ``[B]``.
    """
    require_shape("x0_ref", x0_ref, x0.shape)
    t = jnp.broadcast_to(at_least_float32(t), x0.shape[:1])
    error = at_least_float32(x0) - jax.lax.stop_gradient(at_least_float32(x0_ref))
    each = jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))
    return prediction_weight(process, t, kind) * each
