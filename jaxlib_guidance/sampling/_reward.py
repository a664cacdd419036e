"""Candidates: reward methods that keep one of several, as settings of particles."""

from collections.abc import Callable
from typing import Any

from jaxlib_guidance.sampling._checks import is_zero, require_between, require_whole
from jaxlib_guidance.sampling._resample import Resampling
from jaxlib_guidance.sampling._steering import Steering, steering
from jaxlib_guidance.types import Array, PyTree


def best_of_n(function: Callable[..., Array], params: PyTree = None) -> Steering:
    """Best of N: particles that never meet, and a reward at the end.

    `best_particle` then has the one of largest reward. Any solver will do, with noise
    or without.

    Args:
      function: ``(x0 [R, *S], ctx) -> [R]``, the reward, or ``(params, x0, ctx)`` with
        ``params``.
      params: Pytree that ``function`` receives first; None for a function without one.

    Returns:
      A potential for `sample_particles`, with N particles.

    Raises:
      TypeError: A function that cannot be called.
    """
    # So rarely due that the reward is evaluated at the first step and the last state.
    never = Resampling("best", 0, every=2**30)
    return steering(function, 1.0, params, resampling=never)


def svdd(
    function: Callable[..., Array],
    temperature: Any = 0.0,
    params: PyTree = None,
    *,
    every: int = 1,
) -> Steering:
    """Soft value-based decoding: of M candidates for the next state one goes on.

    Each sample draws M next states, a candidate's value is the reward of its estimate
    of the data, and one is kept with probability ``softmax(v / temperature)``, or the
    best at 0. The next M are drawn from it. With ``every`` above 1 the M go on by
    themselves for as many steps, and then one is kept (CoDe). `draw_particle` chooses
    among the last M in the same way, `best_particle` the best.

    The M first candidates differ in their noise at the start, which is chosen too; for
    one start, give ``x`` as ``[B, M, *S]`` with equal entries.

    Args:
      function: ``(x0 [R, *S], ctx) -> [R]``, the value, or ``(params, x0, ctx)`` with
        ``params``.
      temperature: Temperature of the choice, a scalar of at least 0; the default 0
        takes the best.
      params: Pytree that ``function`` receives first; None for a function without one.
      every: Number of steps between two choices.

    Returns:
      A potential for `sample_particles`, with M particles.

    Raises:
      TypeError: A function that cannot be called.
      ValueError: A temperature below 0.

    Reference: Li et al., SVDD, arXiv 2408.08252, algorithm 1; in blocks: Singh et al.,
    CoDe, arXiv 2502.00968.
    """
    require_between(temperature, "temperature", 0)
    require_whole(every, "every", 1)
    greedy = is_zero(temperature)
    scale = 1.0 if greedy else 1 / temperature
    # Candidates of one parent: that the values' differences weigh changes no choice.
    rule = Resampling("best" if greedy else "one", None, every)
    return steering(function, scale, params, resampling=rule)
