"""SA-Solver: stochastic Adams steps, a setting of `multistep`."""

from collections.abc import Callable
from typing import Any

from jaxlib_guidance.sampling._multistep import multistep
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array


def sa_solver(
    tau: Any | Callable[[Array], Array] = 1.0, order: int = 2, corrector: bool = True
) -> Sampler:
    """SA-Solver: stochastic Adams-Bashforth-Moulton steps, exact in the linear part.

    With ``c = 1 + tau^2`` and ``h`` the step in ``lambda = log(alpha / sigma)``

      ``x' = sigma'/sigma e^(-tau^2 h) x + alpha' int_0^h c e^(-c u) x0(lambda' - u) du
      + sigma' sqrt(1 - e^(-2 tau^2 h)) z``

    with a polynomial through past estimates for ``x0``. The corrector keeps ``z`` and
    waits for the next step's estimate, so that every step is Gaussian given the state
    and the history. At ``tau = 0`` it is UniPC without ``B_2``; ``order=1`` without
    corrector is DDIM there, and DDPM at ``tau = 1``. A step to ``sigma = 0`` is the
    estimate itself.

    Args:
      tau: Level of noise: a scalar, which may be traced, or a function of the time at
        which a step starts. The default 1 is the reverse-time SDE, 0 the ODE.
      order: Number of estimates that the predictor uses, 1 to 4; the corrector
        adds one.
      corrector: Whether every step but the last is corrected.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      ValueError: ``order`` out of range.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.sa_solver(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Xue et al., arXiv 2309.05019, eq. 12-17 and algorithm 1.
    """
    eta = (lambda t: tau(t) ** 2) if callable(tau) else tau**2
    return multistep("logsnr", order, corrector, eta=eta)
