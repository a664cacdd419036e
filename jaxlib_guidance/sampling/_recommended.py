"""The sampler to take without reading a table: one solver and its grid."""

from typing import NamedTuple

from jaxlib_guidance.diffusion import flow_grid, require_positive
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling._multistep import adams
from jaxlib_guidance.sampling._sa import sa_solver
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Process


class Recommended(NamedTuple):
    """A solver and the time grid that goes with it.

    Attributes:
      sampler: Solver, for `sample`.
      grid: Times ``[n + 1]``, for `sample`.
    """

    sampler: Sampler
    grid: Array


def recommended(
    process: Process,
    n: int,
    *,
    scale: float = 1.0,
    stochastic: bool = False,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Recommended:
    """Solver and grid for ``n`` network evaluations, on any process and network.

    ``adams(4, adaptive=True)`` on a `flow_grid` whose steps shrink quadratically
    towards the data: of fourth order where the network is smooth on the scale of the
    steps, and of second where it is not, for each sample and step apart.
    docs/samplers.md compares it with other solvers on problems on which it was not
    chosen.

    Args:
      process: The noise process.
      n: Number of steps, which is the number of network evaluations.
      scale: Scale of the data, to a factor of two: `data_scale` of examples, or the
        ``data_scale`` of one of our models. The default 1 suits vectors and small
        pictures; pictures of 32x32 want five times as much, and without it are left
        three to four times as far off.
      stochastic: Whether noise is added in every step: `sa_solver`, the reverse-time
        SDE, whose distribution of samples and not their path is what is approximated.
      t_min: Bound that no time but the last is below; None is the process's.
      t_max: First time; None is the process's.

    Returns:
      ``(sampler, grid)``.

    Raises:
      TypeError: ``process`` is not a noise process, or ``scale`` no number.
      ValueError: ``n`` below 1, ``scale`` not above 0 or no scalar, or times out of
        order.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0.5 * x, jg.VPCosine())
      >>> sampler, grid = jg.recommended(denoiser.process, 10)
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, sampler, grid, (8, 8))
      >>> x.shape
      (4, 8, 8)
    """
    require_positive(scale, "scale")
    require_shape("scale", scale, ())
    sampler = sa_solver() if stochastic else adams(4, scale=scale, adaptive=True)
    shift, rho = (scale, 1.0) if stochastic else (1.5 * scale, 2.0)
    return Recommended(sampler, flow_grid(process, n, shift, t_min, t_max, rho=rho))
