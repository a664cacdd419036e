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
      logp: Log-probability of each step under the trained policy ``[B, K]``, as
        `rescore` gives it in `Trajectory.logp`.
      logp_old: Log-probability of each step under the policy that drew it ``[B, K]``;
        None takes the score function (DDPO-SF), which is right for one update only.
      advantage: Advantage of each sample ``[B]`` or of each step ``[B, K]``.
      mask: `Trajectory.mask` ``[B, K]``, 0 for steps that do not count; None
        counts all.
      clip: Bound ``c`` on the ratio's distance from 1; the default 1e-4 belongs to
        log-probabilities reduced by "mean".
      advantage_clip: Bound on the size of advantages; 10 in the authors' code, 5 in its
        port and in Flow-GRPO.

    Returns:
      Loss of each step ``[B, K]``, for `aggregate`.

    Reference: Black et al., arXiv 2305.13301, section 4.3; constants as in the authors'
    code.
    """
    bounded = jnp.clip(at_least_float32(advantage), -advantage_clip, advantage_clip)
    if logp_old is None:
        return reinforce(logp, bounded, mask)
    return ppo_clip(logp, logp_old, bounded, mask, clip_low=clip, clip_high=clip)


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
      logp: Log-probability of each step under the trained policy ``[B, K]``, as
        `rescore` gives it in `Trajectory.logp`.
      logp_old: Log-probability of each step under the policy that drew it ``[B, K]``.
      advantage: Advantage of each sample ``[B]`` or of each step ``[B, K]``; in the
        paper ``R - V(x_t, t)``.
      gap: Distance to the base model at each step ``[B, K]``; in the authors' code
        `prediction_gap` of "eps", which is `step_kl` up to a factor of time.
      mask: `Trajectory.mask` ``[B, K]``, 0 for steps that do not count; None
        counts all.
      clip: Bound ``c`` on the ratio's distance from 1.
      weight: Weight of the reward.
      beta: Weight of the gap.

    Returns:
      Loss of each step ``[B, K]``, for `aggregate`.

    Raises:
      ValueError: A ``gap`` of another shape than ``logp``.

    Reference: Fan et al., arXiv 2305.16381, algorithm 1; constants as in the authors'
    code.
    """
    require_shape("gap", gap, jnp.shape(logp))
    rho = importance_ratio(logp, logp_old, mask)
    clipped = jnp.clip(rho, 1 - clip, 1 + clip)
    reward = weight * like_tokens(advantage, logp, mask) * clipped
    return beta * hide(gap, mask) - reward


def prediction_gap(
    process: Process, t: Array, x0: Array, x0_ref: Array, kind: Prediction = "eps"
) -> Array:
    """``mean (f - f_ref)^2`` of two networks' predictions at one state.

    DPOK holds a policy to its base by that of "eps", DiffusionNFT by "velocity".

    Args:
      process: Noise process of the state.
      t: Time of the state, scalar or ``[B]``; ``sigma(t)`` must not be 0.
      x0: Estimate of the trained network ``[B, *S]``.
      x0_ref: Estimate of the reference network ``[B, *S]``, taken as a constant.
      kind: Prediction ``f`` that is compared, such as "eps" or "velocity".

    Returns:
      Mean squared gap of each sample ``[B]``.

    Raises:
      ValueError: Estimates of different shapes.
    """
    require_shape("x0_ref", x0_ref, x0.shape)
    t = jnp.broadcast_to(at_least_float32(t), x0.shape[:1])
    error = at_least_float32(x0) - jax.lax.stop_gradient(at_least_float32(x0_ref))
    each = jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))
    return prediction_weight(process, t, kind) * each
