"""A solver's step with particles around it: weigh, resample, and only then draw."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.sampling._potentials import Proposal
from jaxlib_guidance.sampling._prepare import make_kernel
from jaxlib_guidance.sampling._resample import (
    Resampling,
    effective_size,
    normalize_weights,
    resample,
)
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Context, PyTree, at_least_float32


class PopulationState(NamedTuple):
    """State of a solver that moves particles; see `Particles` for what is reported."""

    solver: PyTree
    potential: PyTree
    log_weights: Array
    log_z: Array
    ess: Array
    ancestors: Array
    resamplings: Array


class Population(NamedTuple):
    """What moves ``B`` groups of ``P`` particles, rows ``[B P]``.

    Attributes:
      inner: Solver whose step proposes.
      potential: What weighs.
      resampling: When and how groups are resampled.
      particles: Number ``P`` of particles of a group.
      notes: Whether the last term of the guidance is the potential's own.
    """

    inner: Sampler
    potential: Any
    resampling: Resampling
    particles: int
    notes: bool

    @property
    def apart(self) -> bool:
        """Whether it is known that no particle takes another's place."""
        return self.particles == 1 or self.resampling.threshold == 0

    def sampler(self, context: Callable[..., Context]) -> Sampler:
        """The solver, whose transitions are those of the particles that go on.

        Args:
          context: Function ``(x, interval, kernel) -> Context``.
        """

        def kernel(x, state, interval):
            return make_kernel(self.inner, x, state.solver, interval)

        def step(denoise, x, state, guidance_state, interval):
            out = self.inner.step(denoise, x, state.solver, guidance_state, interval)
            every = self.resampling.every
            due = True if every == 1 else interval.index % every == 0
            ctx = context(x, interval, kernel(x, state, interval))
            noted = out.guidance_state[-1] if self.notes else None
            seen = Proposal(x, out.x0, ctx, out.transition, noted, due)
            factor, own = self.potential.weigh(seen, state.potential)
            # Row 0 of a group has the sample's own key. jax 0.7.2 would gather a
            # stride of keys from all devices.
            keys = interval.keys.reshape(-1, self.particles)[:, 0]
            keys = rng.fold(keys, rng.PARTICLE)
            state = self.resampled(self.weighed(state, factor), due, keys)
            out, own = self.moved((out, own), state.ancestors)
            return out._replace(state=state._replace(solver=out.state, potential=own))

        return self.inner._replace(init=self.init, step=step, kernel=kernel)

    def init(self, x: Array) -> PopulationState:
        """Even weights."""
        slots = self.slots(x.shape[0] // self.particles)
        even = jnp.full(slots.shape, -np.log(self.particles), jnp.float32)
        none = jnp.zeros(slots.shape[0], jnp.float32)
        return PopulationState(
            self.inner.init(x),
            self.potential.init(x),
            even,
            none,
            none + self.particles,
            slots,
            jnp.zeros(slots.shape[0], jnp.int32),
        )

    def slots(self, groups: int) -> Array:
        """Every particle its own ancestor, ``[B, P]``."""
        own = jnp.arange(self.particles, dtype=jnp.int32)
        return jnp.broadcast_to(own, (groups, self.particles))

    def weighed(self, state: PopulationState, factor: Array) -> PopulationState:
        """Weights times the factors, whose logarithms are ``[B P]``."""
        factor = at_least_float32(factor).reshape(state.log_weights.shape)
        log_weights, total = normalize_weights(state.log_weights + factor)
        log_weights = log_weights.astype(jnp.float32)
        return state._replace(
            log_weights=log_weights,
            log_z=state.log_z + total.astype(jnp.float32),
            ess=effective_size(log_weights),
        )

    def resampled(
        self, state: PopulationState, due: Array | bool, keys: Array
    ) -> PopulationState:
        """Ancestors of all, and even weights in the groups that are resampled."""
        slots, threshold = self.slots(keys.shape[0]), self.resampling.threshold
        if self.apart:
            return state._replace(ancestors=slots)
        go = jnp.broadcast_to(jnp.asarray(due), state.ess.shape)
        if threshold is not None:
            go &= state.ess < threshold * self.particles
        drawn = resample(keys, state.log_weights, self.resampling.rule)
        even = jnp.asarray(-np.log(self.particles), jnp.float32)
        return state._replace(
            log_weights=jnp.where(go[:, None], even, state.log_weights),
            ancestors=jnp.where(go[:, None], drawn, slots),
            resamplings=state.resamplings + go.astype(jnp.int32),
        )

    def moved(self, tree: PyTree, ancestors: Array) -> PyTree:
        """What leads with the rows, taken from the ancestors' rows."""
        groups, count = ancestors.shape

        def taken(leaf):
            if jnp.shape(leaf)[:1] != (groups * count,):
                return leaf
            rows = leaf.reshape(groups, count, *leaf.shape[1:])
            # Groups are mapped over, not indexed: where they are sharded, none is sent.
            rows = jax.vmap(lambda rows, at: rows[at])(rows, ancestors)
            return rows.reshape(leaf.shape)

        return tree if self.apart else jax.tree.map(taken, tree)
