"""Langevin dynamics: moves within a noise level, as a corrector or on its own.

``x <- x + eps score(x, t) + sqrt(2 eps) z`` with ``eps = 2 (snr sigma)^2`` leaves
``p_t`` invariant up to order ``snr^2``. As in Song et al., ``snr`` is the ratio of the
score's part of a move to the noise's, with ``|score|^2`` at ``D / sigma^2``, its
expectation where noise dominates. A step size that followed the measured norm would
depend on the state and bend the law it samples.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.sampling._sampler import Denoise, Sampler, Stepped, stateless
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import Array, PyTree, expand


def _langevin_move(x: Array, x0: Array, alpha: Any, sigma: Any, snr: Any) -> Transition:
    """One unadjusted Langevin move at a noise level.

    ``mean = x + eps (alpha x0 - x) / sigma^2``, ``std = sqrt(2 eps)``,
    ``eps = 2 (snr sigma)^2``.

    Args:
      x: State ``[B, *S]``.
      x0: Estimate ``[B, *S]``; the score is Tweedie's.
      alpha: Scalar or ``[B]``.
      sigma: Scalar or ``[B]``.
      snr: Signal-to-noise ratio of the move.

    Reference: Song et al., arXiv 2011.13456, algorithms 4 and 5.
    """
    drift = 2 * jnp.asarray(snr, x.dtype) ** 2
    mean = x + drift * (expand(alpha, x) * x0 - x)
    return Transition(mean, jnp.sqrt(2 * drift) * sigma)


def _run(
    denoise: Denoise,
    x: Array,
    guidance_state: PyTree,
    interval: Any,
    steps: int,
    snr: Any,
) -> tuple[Array, PyTree]:
    """``steps`` moves at the interval's first time."""
    keys = rng.fold(interval.keys, rng.CORRECTOR)

    def move(carry, i):
        x, guidance_state = carry
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        law = _langevin_move(x, x0, interval.alpha, interval.sigma, snr)
        return (draw(law, rng.fold(keys, i)), guidance_state), None

    return jax.lax.scan(move, (x, guidance_state), jnp.arange(steps))[0]


def _require(steps, least):
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps is {steps!r}; expected a whole number from {least}")


def with_corrector(sampler: Sampler, steps: int = 1, snr: Any = 0.16) -> Sampler:
    """Predictor-corrector sampling: Langevin moves before each step of a solver.

    The moves are made at a step's first time, which is where the step before arrived;
    so the last step, to ``sigma = 0``, stays the last. A step's transition is its law
    given the corrected state.

    Args:
      sampler: The predictor, best one without state: moves in between are no part of
        what a multistep solver extrapolates.
      steps: Langevin moves before each of its steps.
      snr: Signal-to-noise ratio of a move; may be traced. Song et al. use 0.16 for VE
        and VP on images.

    Raises:
      ValueError: ``steps`` below 1.

    Reference: Song et al., arXiv 2011.13456, section 4.2 and appendix G.
    """
    _require(steps, 1)

    def step(denoise, x, state, guidance_state, interval):
        x, guidance_state = _run(denoise, x, guidance_state, interval, steps, snr)
        return sampler.step(denoise, x, state, guidance_state, interval)

    return Sampler(
        sampler.init,
        step,
        stochastic=sampler.stochastic,
        evaluations=sampler.evaluations + steps,
    )


def annealed_langevin(steps: int = 10, snr: Any = 0.16) -> Sampler:
    """Annealed Langevin dynamics: ``steps`` moves at each noise level, no solver.

    The state is handed to the next level as it is. The last step, to ``sigma = 0``, is
    the posterior mean in place of its last move.

    Args:
      steps: Moves at each level.
      snr: Signal-to-noise ratio of a move; ``eps = 2 (snr sigma)^2``. May be traced.

    Raises:
      ValueError: ``steps`` below 1.

    Reference: Song and Ermon, arXiv 1907.05600, algorithm 1; final denoising:
      Jolicoeur-Martineau et al., 2009.05475, section 3.
    """
    _require(steps, 1)

    def step(denoise, x, state, guidance_state, interval):
        if steps > 1:
            x, guidance_state = _run(
                denoise, x, guidance_state, interval, steps - 1, snr
            )
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        law = _langevin_move(x, x0, interval.alpha, interval.sigma, snr)
        final = interval.sigma_next == 0
        mean = jnp.where(
            expand(final, x), expand(interval.alpha_next, x) * x0, law.mean
        )
        law = Transition(mean, jnp.where(final, 0, law.std))
        return Stepped(law, x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True, evaluations=steps)
