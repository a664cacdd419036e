"""DiffusionNFT: reward as a contrast of two regressions; no likelihood, any solver.

What a good sample pulls the network towards, a bad one pushes it away from, as a
regression on noised samples. Estimates of x0 are affine in the paper's velocities,
``x0 = x_t - t v`` for a flow, so its mixtures are the same here, for any process.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def optimality(advantages: Array, clip: float = 5.0) -> Array:
    """``r = clip(A, -clip, clip) / (2 clip) + 1/2``, in [0, 1], a constant.

    Args:
      advantages: Advantages of any shape, such as `policy.group_normalize` gives.
      clip: Size of an advantage at which ``r`` reaches 0 or 1.

    Returns:
      ``r``, of the shape of ``advantages``.
    """
    a = jax.lax.stop_gradient(at_least_float32(advantages))
    return jnp.clip(a, -clip, clip) / (2 * clip) + 0.5


def nft_loss(
    x0: Array,
    x0_old: Array,
    target: Array,
    reward: Array,
    *,
    beta: Any = 1.0,
    adaptive: bool = True,
) -> Array:
    """``r / beta |x+ - x|^2 / w+ + (1 - r) / beta |x- - x|^2 / w-``, for each sample.

    ``x+ = beta x0 + (1 - beta) x0_old`` and ``x- = (1 + beta) x0_old - beta x0`` are
    the implicit estimates of the better and the worse policy; ``w = mean |x+- - x|``,
    bounded below by 1e-5, is a constant, as ``x`` and ``x0_old`` are. Where the two
    networks agree, the gradient without ``w`` is ``2 r - 1`` times that of ``mean (x0 -
    x)^2``: a sample of ``r = 1/2`` teaches nothing, ``r = 1`` attracts as ``r = 0``
    repels.

    Args:
      x0: Estimate of the trained network at a noised sample ``[B, *S]``.
      x0_old: Estimate of the network that drew the samples, or of its slow average,
        ``[B, *S]``; taken as a constant.
      target: Clean samples ``[B, *S]``, taken as constants.
      reward: Optimality ``r`` of each sample in [0, 1], ``[B]``; see `optimality`.
      beta: Strength of the implicit policies; the authors' code uses 1 for one reward,
        0.1 for several and for text.
      adaptive: Whether to divide by ``w``.

    Returns:
      Loss of each sample ``[B]``, means over its elements. The authors' code multiplies
      this by the clip of its advantages, 5, and adds 1e-4 of `prediction_gap` of
      "velocity": without the factor that pull is 5 times what theirs is, so scale the
      loss by 5 or take 2e-5 of the gap.

    Raises:
      ValueError: Arrays whose shapes do not fit that of ``x0``.

    Reference: Zheng et al., arXiv 2509.16117, eq. 6; the adaptive
    weight as in the authors' code.
    """
    require_shape("x0_old", x0_old, x0.shape)
    require_shape("target", target, x0.shape)
    require_shape("reward", reward, x0.shape[:1])
    x0 = at_least_float32(x0)
    old, target, r = jax.lax.stop_gradient(
        [at_least_float32(each) for each in (x0_old, target, reward)]
    )
    axes = tuple(range(1, x0.ndim))

    def fit(estimate):
        error = estimate - target
        each = jnp.mean(error**2, axis=axes)
        if not adaptive:
            return each
        size = jax.lax.stop_gradient(jnp.mean(jnp.abs(error), axis=axes))
        return each / jnp.maximum(size, 1e-5)

    better = beta * x0 + (1 - beta) * old
    worse = (1 + beta) * old - beta * x0
    return (r * fit(better) + (1 - r) * fit(worse)) / beta


def old_decay(
    step: Any, rate: float = 1e-3, start: int = 0, max_decay: float = 0.5
) -> Array:
    """``min(rate max(step - start, 0), max_decay)``: lag of the old network.

    ``old <- decay old + (1 - decay) new`` (`training.ema_update`) after each
    round of samples: at once in the beginning, ever more slowly later.

    Args:
      step: Number of rounds so far.
      rate: Growth of the decay with each round; 1e-3 in the authors' first schedule,
        0.0075 in their second.
      start: Round at which the decay starts to grow; 0 in the authors' first schedule,
        75 in their second.
      max_decay: Bound on the decay; 0.5 in the authors' first schedule, 0.999 in their
        second.

    Returns:
      Decay in [0, max_decay], float32, of the shape of ``step``.

    Reference: Zheng et al., arXiv 2509.16117; constants as in the authors' code.
    """
    taken = jnp.maximum(jnp.asarray(step, jnp.float32) - start, 0)
    return jnp.minimum(rate * taken, max_decay)
