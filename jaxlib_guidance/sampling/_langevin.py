"""Langevin dynamics: moves within a noise level, as a corrector or on its own.

``x <- x + eps score(x, t) + sqrt(2 eps) z`` with ``eps = 2 (snr sigma)^2`` leaves
``p_t`` invariant up to order ``snr^2``. As in Song et al., ``snr`` is the ratio of the
score's part of a move to the noise's, with ``|score|^2`` at ``D / sigma^2``, its
expectation where noise dominates. A step size that followed the measured norm would
depend on the state and bend the distribution it samples.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.sampling._checks import require_whole
from jaxlib_guidance.sampling._sampler import (
    Denoise,
    Interval,
    Level,
    Sampler,
    Stepped,
    stateless,
)
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import Array, PyTree, expand


def _langevin_move(x: Array, x0: Array, level: Level, snr: Any) -> Transition:
    """One unadjusted Langevin move at a noise level.

    ``mean = x + eps (alpha x0 - x) / sigma^2``, ``std = sqrt(2 eps)``,
    ``eps = 2 (snr sigma)^2``.

    Args:
      x: State ``[B, *S]``.
      x0: Estimate of the data ``[B, *S]``, which gives the score by Tweedie's formula.
      level: Noise level of ``x``.
      snr: Signal-to-noise ratio of the move, a scalar.

    Reference: Song et al., arXiv 2011.13456, algorithms 4 and 5.
    """
    drift = 2 * jnp.asarray(snr, x.dtype) ** 2
    mean = x + drift * (expand(level.alpha, x) * x0 - x)
    return Transition(mean, jnp.sqrt(2 * drift) * level.sigma)


def _run(
    denoise: Denoise,
    x: Array,
    guidance_state: PyTree,
    interval: Interval,
    steps: int,
    snr: Any,
) -> tuple[Array, PyTree]:
    """``steps`` moves at the interval's first time."""
    keys = rng.fold(interval.keys, rng.CORRECTOR)

    def move(carry, i):
        x, guidance_state = carry
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        transition = _langevin_move(x, x0, interval.start, snr)
        return (draw(transition, rng.fold(keys, i)), guidance_state), None

    return jax.lax.scan(move, (x, guidance_state), jnp.arange(steps))[0]


def with_corrector(sampler: Sampler, steps: int = 1, snr: Any = 0.16) -> Sampler:
    """Predictor-corrector sampling: Langevin moves before each step of a solver.

    The moves are made at a step's first time, which is where the step before arrived;
    so the last step, to ``sigma = 0``, stays the last. A step's transition is its
    distribution given the corrected state.

    Args:
      sampler: Predictor, best a solver without state: the moves in between are no part
        of what a multistep solver extrapolates.
      steps: Number of Langevin moves before each step of the predictor.
      snr: Signal-to-noise ratio of a move, a scalar, which may be traced. Song et al.
        use the default 0.16 for VE and VP on images.

    Returns:
      The solver, with ``steps`` evaluations more in each step.

    Raises:
      ValueError: ``steps`` below 1.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> sampler = jg.with_corrector(jg.ddim(), steps=1)
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Song et al., arXiv 2011.13456, section 4.2 and appendix G.
    """
    require_whole(steps, "steps", 1)

    def step(denoise, x, state, guidance_state, interval):
        x, guidance_state = _run(denoise, x, guidance_state, interval, steps, snr)
        return sampler.step(denoise, x, state, guidance_state, interval)

    return Sampler(
        sampler.init,
        step,
        stochastic=sampler.stochastic,
        evaluations=sampler.evaluations + steps,
        grid=sampler.grid,
    )


def annealed_langevin(steps: int = 10, snr: Any = 0.16) -> Sampler:
    """Annealed Langevin dynamics: ``steps`` moves at each noise level, no solver.

    The state is handed to the next level as it is. The last step, to ``sigma = 0``, is
    the posterior mean in place of its last move.

    Args:
      steps: Number of moves at each noise level.
      snr: Signal-to-noise ratio of a move, ``eps = 2 (snr sigma)^2``; a scalar, which
        may be traced.

    Returns:
      The solver, with ``steps`` evaluations in each step.

    Raises:
      ValueError: ``steps`` below 1.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys, sampler = jg.sample_keys(jax.random.key(0), 4), jg.annealed_langevin(2)
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Song and Ermon, arXiv 1907.05600, algorithm 1; final denoising:
      Jolicoeur-Martineau et al., 2009.05475, section 3.
    """
    require_whole(steps, "steps", 1)

    def step(denoise, x, state, guidance_state, interval):
        if steps > 1:
            x, guidance_state = _run(
                denoise, x, guidance_state, interval, steps - 1, snr
            )
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        mean, std = _langevin_move(x, x0, interval.start, snr)
        final = interval.end.sigma == 0
        mean = jnp.where(expand(final, x), expand(interval.end.alpha, x) * x0, mean)
        transition = Transition(mean, jnp.where(final, 0, std))
        return Stepped(transition, x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True, evaluations=steps)
