"""Reward by back-propagation: gradients of a differentiable reward through a sampler.

Which steps it goes through is a property of the sampler, so it is a wrapper around one:
the others run as constants, and on the backward pass cost nothing but their forward
pass's states.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling import Interval, Sampler
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree, at_least_float32


def _through(sampler: Sampler, chosen: Callable[[Interval], Array], inputs: bool):
    """The sampler with gradients through chosen steps only."""

    def step(denoise, x, state, guidance_state, interval):
        constant = jax.lax.stop_gradient

        def live(x, state, guidance_state):
            if not inputs:
                x, state, guidance_state = constant((x, state, guidance_state))
            return sampler.step(denoise, x, state, guidance_state, interval)

        def frozen(x, state, guidance_state):
            x, state, guidance_state = constant((x, state, guidance_state))
            return constant(sampler.step(denoise, x, state, guidance_state, interval))

        return jax.lax.cond(chosen(interval), live, frozen, x, state, guidance_state)

    return sampler._replace(step=step)


def through_last(sampler: Sampler, k: Any) -> Sampler:
    """The sampler with gradients through its last ``k`` steps only: DRaFT-K.

    Samples are unchanged. With ``sample(..., remat=True)`` the steps that are
    differentiated are computed again on the backward pass, and the others are not::

        x, _ = sample(keys, denoiser, through_last(ddim(), 1), grid, ..., remat=True)
        loss = -reward(x)

    Args:
      sampler: Solver whose last steps are differentiated.
      k: Number of steps that are differentiated: 0 stops the gradient, the number of
        steps or more lets all of it through. May be traced: AlignProp's random
        truncation compiles once.

    Returns:
      The solver, which draws the same samples.

    Reference: Clark et al., arXiv 2309.17400, section 3; Prabhudesai et al., AlignProp,
    arXiv 2310.03739.
    """
    return _through(sampler, lambda interval: interval.left <= k, inputs=True)


def through_step(sampler: Sampler, index: Any) -> Sampler:
    """The sampler with a gradient through one step's estimate and nothing else: ReFL.

    ReFL scores the estimate that a late step makes of the data, not the end of the
    trajectory::

        sampler = through_step(ddim(), j)
        _, x0 = sample(..., sampler, ..., trace=lambda info: info.x0, remat=True)
        loss = refl_loss(reward(x0[j]))

    Args:
      sampler: Solver of which one step is differentiated.
      index: Number of that step, from 0; may be traced. ReFL draws it from 30 to 39 of
        40.

    Returns:
      The solver, which draws the same samples.

    Reference: Xu et al., ImageReward, arXiv 2304.05977, algorithm 1.
    """
    return _through(sampler, lambda interval: interval.index == index, inputs=False)


def refl_loss(reward: Array, *, margin: float = 2.0, weight: float = 1e-3) -> Array:
    """``weight max(margin - r, 0)`` for each sample: no push beyond a good reward.

    Args:
      reward: Reward ``r`` of each sample, of any shape.
      margin: Reward that is good enough.
      weight: Weight against the denoising loss, which ReFL keeps as a regulariser.

    Returns:
      Loss of each sample, float32 at least, of the shape of ``reward``.

    Reference: Xu et al., arXiv 2304.05977, eq. 4; constants as in the authors' code.
    """
    return weight * jax.nn.relu(margin - at_least_float32(reward))


def draft_lv(
    keys: Array,
    denoiser: Denoiser,
    x: Array,
    t: Any,
    cond: PyTree = None,
    *,
    reward: Callable[[Array], Array],
    n: int = 2,
    process: Process | None = None,
) -> Array:
    """DRaFT-LV: the last step's reward, averaged over fresh noise at the same sample.

    ``(1/n) sum_i reward(D(alpha x + sigma eps_i, t))``. The sample is a constant, so it
    is DRaFT-1 with less variance, for ``n`` evaluations more.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network; for a guided one, a `Denoiser` around its guidance.
      x: Samples of the current model ``[B, *S]``, taken as constants.
      t: Last time of the grid above 0, scalar or ``[B]``.
      cond: Condition pytree, every leaf ``[B, ...]``; None for a network without one.
      reward: Differentiable function ``[B, *S] -> [B]``.
      n: Number of noisings; the paper uses 2.
      process: Noise process; None takes the denoiser's.

    Returns:
      Mean reward of each sample ``[B]``.

    Raises:
      ValueError: ``n`` below 1, or a reward of another shape.

    Reference: Clark et al., arXiv 2309.17400, section 3.3.
    """
    process = process_of(denoiser, process)
    if n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    x = jax.lax.stop_gradient(x)
    streams = rng.fold(keys, rng.NOISING)

    def one(i):
        eps = rng.normal(rng.fold(streams, i), x.shape[1:], x.dtype)
        value = reward(denoiser(perturb(process, x, eps, t), t, cond).x0)
        require_shape("reward(x)", value, x.shape[:1])
        return value

    return jnp.mean(jax.lax.map(one, jnp.arange(n)), axis=0)
