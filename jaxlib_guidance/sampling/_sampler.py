"""What a solver is: a pair of pure functions, and what a step sees and returns."""

from collections.abc import Callable
from typing import NamedTuple

from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Process, PyTree


class Level(NamedTuple):
    """A point of the noise schedule.

    Attributes:
      alpha: Scale of the data, scalar or ``[B]``.
      sigma: Standard deviation of the noise, scalar or ``[B]``.
      step: Place in the time grid, 0 for its first time.
    """

    alpha: Array
    sigma: Array
    step: Array | int = 0


class Interval(NamedTuple):
    """One step of the time grid, as a solver sees it. Times are scalars or ``[B]``.

    Attributes:
      index: Number of the step in the whole grid, int32.
      t: Time at which the step starts.
      t_next: Time at which the step ends.
      start: Noise level at ``t``.
      end: Noise level at ``t_next``.
      keys: Typed keys of this step ``[B]``, one for each sample.
      process: Noise process, for levels at times in between.
      left: Number of steps to the end of the grid, this one included; a very large
        number where it is not known, as under an adaptive solver.
    """

    index: Array
    t: Array
    t_next: Array
    start: Level
    end: Level
    keys: Array
    process: Process
    left: Array | int = 2**30


class Stepped(NamedTuple):
    """What a solver's step returns.

    Attributes:
      transition: Distribution of the next state; a standard deviation of 0 is a plain
        ODE step.
      x0: Estimate of the data ``[B, *S]``.
      state: New state of the solver.
      guidance_state: New state of the guidance, as the last `denoise` call returned it.
    """

    transition: Transition
    x0: Array
    state: PyTree
    guidance_state: PyTree


Denoise = Callable[[Array, Array, PyTree], tuple[Array, PyTree]]


class Sampler(NamedTuple):
    """A solver: a pair of pure functions, from which `sample` makes its loop.

    Attributes:
      init: Function ``x -> state`` that makes the solver's initial state; `stateless`
        for a solver without one.
      step: Function ``(denoise, x, state, guidance_state, interval) -> Stepped``, where
        ``denoise(x, t, guidance_state) -> (x0, guidance_state)`` is the guided network.
      stochastic: Whether the loop must draw noise from the step's transition.
      evaluations: Number of network evaluations in a step.
      reversible: Whether the solver can run with growing noise, as inversion does.
      grid: The one time grid ``[N + 1]`` that the solver's coefficients belong to; None
        for a solver that takes any.
      kernel: Function ``(x, state, interval) -> (x0 -> Transition)`` that gives the
        step's distribution as a function of the estimate, for a solver whose step does
        more than that; None takes it from ``step``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> from jaxlib_guidance.sampling import Stepped, stateless
      >>> from jaxlib_guidance.transition import Transition
      >>> def step(denoise, x, state, guidance_state, interval):
      ...     x0, guidance_state = denoise(x, interval.t, guidance_state)
      ...     point = Transition(interval.end.alpha * x0, jnp.zeros(()))
      ...     return Stepped(point, x0, state, guidance_state)
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> sampler = jg.Sampler(stateless, step)
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)
    """

    init: Callable[[Array], PyTree]
    step: Callable[[Denoise, Array, PyTree, PyTree, Interval], Stepped]
    stochastic: bool = False
    evaluations: int = 1
    reversible: bool = False
    grid: Array | None = None
    kernel: (
        Callable[[Array, PyTree, Interval], Callable[[Array], Transition] | None] | None
    ) = None

    def __repr__(self) -> str:
        """Which solver, and what the loop asks of it; not where its functions are."""
        made = getattr(self.step, "__qualname__", type(self.step).__name__)
        return (
            f"Sampler({made.partition('.')[0]}, stochastic={self.stochastic}, "
            f"evaluations={self.evaluations}, reversible={self.reversible})"
        )


class StepInfo(NamedTuple):
    """What a trace function sees of a step.

    Attributes:
      index: Number of the step in the whole grid, int32.
      t: Time at which the step starts.
      t_next: Time at which the step ends.
      x: State ``[B, *S]`` before the step.
      x_next: State ``[B, *S]`` after the step.
      x0: Estimate of the data ``[B, *S]``.
      transition: Distribution from which ``x_next`` was drawn.
      state: State of the solver after the step.
    """

    index: Array
    t: Array
    t_next: Array
    x: Array
    x_next: Array
    x0: Array
    transition: Transition
    state: PyTree = ()


class SampleState(NamedTuple):
    """A trajectory between two of its steps: what `sample` needs to go on.

    Attributes:
      x: State of the samples ``[B, *S]``; look at it, or replace it by an edited one.
      state: State of the solver.
      guidance_state: State of the guidance.
      step: Number of steps taken, int32 scalar: the next one starts at ``grid[step]``.
      t: Time of ``x``, scalar: what ``grid[step]`` must be.
    """

    x: Array
    state: PyTree
    guidance_state: PyTree
    step: Array | int
    t: Array


def stateless(x: Array) -> PyTree:
    """The `Sampler.init` of a solver without state."""
    return ()
