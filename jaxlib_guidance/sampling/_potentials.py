"""Potentials: what weighs particles, step by step, so that a target comes out.

Particles move as a sampler proposes and carry weights. A potential gives what each step
multiplies a weight by; over a trajectory the factors multiply to the ratio of the
target's probability to the proposal's. A potential may bring a guidance term, which
moves the proposal towards the target and notes what the weights need of the network.
"""

from typing import NamedTuple, Protocol

from jaxlib_guidance.sampling._resample import Resampling
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Context, PyTree


class Proposal(NamedTuple):
    """What a potential sees of a step: its particles, before any is resampled.

    ``R = B P`` rows, the ``P`` particles of a sample beside each other.

    Attributes:
      x: States ``[R, *S]`` at the step's start; after the last step, the samples.
      x0: Estimates of the data ``[R, *S]``; after the last step, the samples.
      ctx: What is known of the step, with the condition ``[R, ...]`` and keys ``[R]``.
      transition: Distribution of the next states; None after the last step.
      noted: State of the potential's own guidance term; None after the last step.
      due: Whether resampling may take place now: True, or a boolean scalar.
    """

    x: Array
    x0: Array
    ctx: Context
    transition: Transition | None
    noted: PyTree
    due: Array | bool = True

    @property
    def last(self) -> bool:
        """Whether all steps are done."""
        return self.transition is None


class Potential(Protocol):
    """What weighs particles: a frozen pytree.

    Attributes:
      resampling: Rule by which the particles are resampled where the caller gives none.

    Optional members:
      term: ``() -> term``, the guidance term of the potential, which comes last in the
        chain and is part of no window; its state is `Proposal.noted`.
      require: ``(sampler, process, grid, guidance)``, which raises where these do not
        sample what the potential says; ``grid`` is None while it is traced.
    """

    @property
    def resampling(self) -> Resampling:
        """When and how particles are resampled."""
        ...

    def init(self, x: Array) -> PyTree:
        """The state of the potential; its arrays lead with the rows of ``x``."""
        ...

    def weigh(self, proposal: Proposal, state: PyTree) -> tuple[Array, PyTree]:
        """Logarithm ``[R]`` of the step's factor, and the new state."""
        ...
