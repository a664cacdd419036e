"""The sampler's step and its grid for terms that need them; an error elsewhere."""

from collections.abc import Callable

from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Context


def step_kernel(
    ctx: Context, term: str, *, stochastic: bool = False
) -> Callable[[Array], Transition]:
    """The step's distribution of the next state, as a function of the estimate.

    Two calls with two estimates give the two Gaussians between which a likelihood
    ratio of the step is taken; ``std`` is 0 in a last step to clean data.

    Args:
      ctx: The evaluation at hand.
      term: Name of the term that needs it, for the error.
      stochastic: Whether the term needs a step that draws noise.

    Returns:
      Function ``x0 [B, *S] -> Transition`` with mean ``[B, *S]`` and ``std`` a scalar
      or ``[B]``.

    Raises:
      ValueError: There is no step, it has several evaluations, or it draws no noise
        though that is needed.
    """
    if ctx.kernel is None:
        raise ValueError(
            f"{term} needs the transition of the sampler's step, which is known inside "
            "sample under a solver with one evaluation a step, such as ddim() or "
            "ddpm(), and nowhere else"
        )
    if stochastic and not ctx.stochastic:
        raise ValueError(
            f"{term} needs a solver that draws noise, such as ddpm() or ddim(eta=1); "
            "this one's steps are deterministic and have no density"
        )
    return ctx.kernel


def step_grid(ctx: Context, term: str) -> Array:
    """All times of the trajectory ``[N + 1]``, for schedules that need the whole grid.

    Args:
      ctx: The evaluation at hand.
      term: Name of the term that needs them, for the error.

    Returns:
      Times ``[N + 1]``; the step at hand goes from entry ``ctx.step`` to the next.

    Raises:
      ValueError: There is no grid: outside `sample`, or under an adaptive solver.
    """
    if ctx.grid is None:
        raise ValueError(
            f"{term} needs the time grid, which is known inside sample and not under "
            "an adaptive solver"
        )
    return ctx.grid
