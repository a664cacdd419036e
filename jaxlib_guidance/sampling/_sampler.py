"""What a solver is: a pair of pure functions, and what a step sees and returns."""

from collections.abc import Callable
from typing import NamedTuple

from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import (
    Array,
    Process,
    PyTree,
)


class Interval(NamedTuple):
    """One step of the time grid, as a solver sees it. Times are scalars or ``[B]``.

    Attributes:
      index: Number of the step, int32.
      t, t_next: Its ends.
      alpha, sigma, alpha_next, sigma_next: Process coefficients at the ends.
      keys: Per-sample keys ``[B]`` of this step.
      process: The noise process, for coefficients at times in between.
      left: Steps to the end of the grid, this one included; many if not known.
    """

    index: Array
    t: Array
    t_next: Array
    alpha: Array
    sigma: Array
    alpha_next: Array
    sigma_next: Array
    keys: Array
    process: Process
    left: Array | int = 2**30


class Stepped(NamedTuple):
    """What a solver's step returns.

    Attributes:
      transition: Law of the next state; a standard deviation of 0 is a plain ODE step.
      x0: The step's estimate of the data ``[B, *S]``.
      state: The solver's new state.
      guidance_state: The guidance's new state, as the last `denoise` call returned it.
    """

    transition: Transition
    x0: Array
    state: PyTree
    guidance_state: PyTree


Denoise = Callable[[Array, Array, PyTree], tuple[Array, PyTree]]


class Sampler(NamedTuple):
    """A solver.

    Attributes:
      init: ``x -> state``.
      step: ``(denoise, x, state, guidance_state, interval) -> Stepped``, where
        ``denoise(x, t, guidance_state) -> (x0, guidance_state)`` is the guided network.
      stochastic: Whether the loop must draw noise.
      evaluations: Network evaluations in a step.
      reversible: Whether it can run with growing noise, as inversion does.
    """

    init: Callable[[Array], PyTree]
    step: Callable[[Denoise, Array, PyTree, PyTree, Interval], Stepped]
    stochastic: bool = False
    evaluations: int = 1
    reversible: bool = False


class StepInfo(NamedTuple):
    """What a trace function sees of a step: states before and after, estimate, law."""

    index: Array
    t: Array
    t_next: Array
    x: Array
    x_next: Array
    x0: Array
    transition: Transition


class SampleState(NamedTuple):
    """A trajectory between two of its steps: what `sample` needs to go on.

    Attributes:
      x: State of the samples ``[B, *S]``; look at it, or replace it by an edited one.
      state: State of the solver.
      guidance_state: State of the guidance.
      step: Number of steps taken, int32 scalar: the next one starts at ``grid[step]``.
    """

    x: Array
    state: PyTree
    guidance_state: PyTree
    step: Array | int


def stateless(x: Array) -> PyTree:
    """The `Sampler.init` of a solver without state."""
    return ()
