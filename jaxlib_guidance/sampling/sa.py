"""SA-Solver: the stochastic Adams method, predicted and corrected."""

from collections.abc import Callable
from typing import Any

from jaxlib_guidance.sampling.loop import Sampler
from jaxlib_guidance.sampling.multistep import multistep
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
    and the memory. At ``tau = 0`` it is UniPC without ``B_2``; ``order=1`` without
    corrector is DDIM there, and DDPM at ``tau = 1``. A step to ``sigma = 0`` is the
    estimate itself.

    Args:
      tau: Noise level, scalar or a function of a step's first time; may be traced.
      order: Estimates that the predictor uses, 1 to 4. The corrector adds one.
      corrector: Whether to correct.

    Raises:
      ValueError: ``order`` out of range.

    Reference: Xue et al., arXiv 2309.05019, eq. 12-17 and algorithm 1.
    """
    eta = (lambda t: tau(t) ** 2) if callable(tau) else tau**2
    return multistep("logsnr", order, corrector, eta=eta)
