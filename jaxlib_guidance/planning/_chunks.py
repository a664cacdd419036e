"""Chunks of actions carried out in a world that goes on while they are made."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.planning._trajectories import Trajectory
from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array, PyTree, at_least_float32


class ChunkedEpisode(NamedTuple):
    """What was done and met by chunks that came late.

    Attributes:
      trajectory: Actions ``[B, N, A]`` and the observations in which they were taken
        ``[B, N, S]``.
      rewards: Rewards ``[B, N]``.
      chunks: Every chunk as it was drawn ``[B, P, H, A]``.
      state: The world at the end.
    """

    trajectory: Trajectory
    rewards: Array
    chunks: Array
    state: PyTree


def carry_out_chunks(
    keys: Array,
    make_chunk: Callable[[Array, Array, Array | None], Array],
    step: Callable[[PyTree, Array, Array], tuple[PyTree, Array, Array]],
    state: PyTree,
    observation: Array,
    *,
    chunks: int,
    execute: int,
    delay: int = 0,
    decay: Array | float | None = None,
) -> ChunkedEpisode:
    """Executes chunks of actions, each of which is ready some steps after it was asked.

    A chunk is asked for with what is seen then. While it is made the next ``delay``
    actions are those of the chunk before; from then on they are its own, until after
    ``execute`` actions in all the next chunk is asked for. Only the world takes time
    here: one compilation has all of it.

    Args:
      keys: Typed keys ``[B]``, one an episode.
      make_chunk: Function ``(keys [B], observation [B, S], held [B, H, A] or None) ->
        [B, H, A]``, such as `draw_chunk` with all else filled in. ``held`` is the chunk
        before, moved up to the present, NaN where it has no action; None at first.
      step: The world ``(state, actions [B, A], keys [B]) -> (state, observation [B, S],
        rewards [B])``, for a whole batch.
      state: The world at first.
      observation: What is seen of it ``[B, S]``.
      chunks: Number ``P`` of chunks.
      execute: Actions from one chunk to the next, at least 1 and ``delay``; ``N = P
        execute``.
      delay: Actions that are executed while a chunk is made, from 0 to ``H -
        execute``; 0 is a chunk that is there at once.
      decay: Rate ``m`` of temporal averaging, a scalar: an action is the mean of what
        all chunks say of its step, with weights ``exp(-m i)``, ``i`` from 0 for the
        oldest; below 0 the newest counts most. None takes the newest alone.

    Returns:
      The episodes.

    Raises:
      TypeError: Numbers that are not whole, or keys that are not typed keys.
      ValueError: Numbers that do not fit each other or the horizon, one key for all
        episodes, a ``decay`` that is no finite scalar, or a chunk, observations or
        rewards of another shape.

    Reference: Black et al., arXiv 2506.07339, section 3, and its released simulation;
      temporal averaging: Zhao et al., ACT, arXiv 2304.13705, algorithm 2.
    """
    for name, value in (("chunks", chunks), ("execute", execute), ("delay", delay)):
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is {value!r}; expected a Python integer")
    if chunks < 1:
        raise ValueError(f"chunks is {chunks}; expected at least 1")
    require_shape("decay", 0.0 if decay is None else decay, ())
    if decay is not None and known_false(np.isfinite, decay):
        raise ValueError(f"decay is {decay}; expected a finite number, or None")
    rng.require_keys(keys)
    # Whole numbers and halves would change their type on the way.
    observation = at_least_float32(jnp.asarray(observation))
    if observation.shape[:1] != keys.shape:
        raise ValueError(
            f"observation has shape {observation.shape}; expected batch {len(keys)} of "
            "keys"
        )
    # Chunks and steps draw from streams of even and odd numbers.
    held = _made(make_chunk, rng.fold(keys, 2 * chunks), observation, None)
    if held.ndim != 3 or len(held) != len(keys):
        raise ValueError(
            f"what make_chunk returned has shape {held.shape}; expected [B, H, A] with "
            f"batch {len(keys)} of keys"
        )
    horizon = held.shape[1]
    if not (0 <= delay <= execute and 1 <= execute <= horizon - delay):
        raise ValueError(
            f"horizon {horizon}, execute {execute}, delay {delay}; expected delay from "
            "0 to execute, and execute from 1 to horizon - delay"
        )
    counts = jnp.ones(horizon)

    def shift(x: Array, axis: int, fill: float) -> Array:
        rest = jax.lax.slice_in_dim(x, execute, horizon, axis=axis)
        wide = [(0, execute if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(rest, wide, constant_values=fill)

    def one(carry, i):
        state, seen, held, counts = carry
        drawn = _made(make_chunk, rng.fold(keys, 2 * i), seen, held)
        if drawn.shape != held.shape:
            raise ValueError(
                f"what make_chunk returned has shape {drawn.shape}, given held; "
                f"expected that of its first chunk, {held.shape}"
            )
        new = drawn
        if decay is not None:
            new = _average(held, drawn, counts, decay)
        ready = jnp.concatenate([held[:, :delay], new[:, delay:execute]], axis=1)

        def act(carry, taken):
            state, seen = carry
            action, j = taken
            key = rng.fold(keys, 2 * (i * execute + j) + 1)
            state, after, reward = step(state, action, key)
            require_shape("what step returned as observation", after, seen.shape)
            require_shape("what step returned as rewards", reward, keys.shape)
            after = jnp.asarray(after, seen.dtype)
            return (state, after), (action, seen, reward)

        first = jnp.moveaxis(ready, 1, 0), jnp.arange(execute)
        (state, seen), taken = jax.lax.scan(act, (state, seen), first)
        carry = state, seen, shift(new, 1, jnp.nan), shift(counts + 1, 0, 0.0)
        return carry, (taken, drawn)

    carry = state, observation, held, counts
    (state, *_), (taken, drawn) = jax.lax.scan(one, carry, jnp.arange(chunks))
    # [P, E, B, ...] to [B, P E, ...].
    joined = (jnp.moveaxis(x, 2, 0) for x in taken)
    actions, seen, rewards = (
        x.reshape(len(x), chunks * execute, *x.shape[3:]) for x in joined
    )
    return ChunkedEpisode(
        Trajectory(actions, seen), rewards, jnp.moveaxis(drawn, 0, 1), state
    )


def _made(make_chunk, keys: Array, seen: Array, held: Array | None) -> Array:
    """A chunk in the type that all of them have."""
    return at_least_float32(jnp.asarray(make_chunk(keys, seen, held)))


def _average(held: Array, new: Array, counts: Array, decay: Array | float) -> Array:
    """The mean of ``counts`` older chunks and a new one, weighted by age."""
    ages = jnp.arange(len(counts) + 1, dtype=counts.dtype)
    there = ages <= counts[:, None]
    weights = jax.nn.softmax(jnp.where(there, -decay * ages, -jnp.inf), axis=1)
    own = jnp.take_along_axis(weights, counts[:, None].astype(jnp.int32), 1)
    some = counts[:, None] > 0
    # Where there is none before, held is NaN, and so would be its derivative.
    return jnp.where(some, jnp.where(some, held, 0) * (1 - own) + own * new, new)
