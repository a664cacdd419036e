"""Policies that draw chunks of actions by a flow, and are late with them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import RectifiedFlow, parametrize
from jaxlib_guidance.guidance import chain, inpaint_flow
from jaxlib_guidance.planning._layers import apply_layers, init_layers
from jaxlib_guidance.planning._trajectories import Layout, Trajectory
from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.sampling import Sampler, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree

_FREQUENCIES = 8


def init_flow_policy(
    key: Array, layout: Layout, horizon: int, widths: Sequence[int] = (256, 256, 256)
) -> PyTree:
    """New parameters of `flow_policy`.

    Args:
      key: One typed key.
      layout: How actions and observations are scaled.
      horizon: Number ``H`` of actions in a chunk.
      widths: Units of the hidden layers.

    Returns:
      Layers ``{"layer0": {"kernel", "bias"}, ...}``; the last is 0.

    Raises:
      ValueError: No actions in a chunk.
    """
    _require_chunk(horizon)
    outputs = horizon * layout.actions
    entries = outputs + layout.states + 2 * _FREQUENCIES
    return init_layers(key, entries, outputs, widths)


def flow_policy(params: PyTree) -> Denoiser:
    """A policy as the velocity ``v(x, t, o)`` of a flow to chunks of actions.

    Train it with `diffusion.denoising_loss` and ``weighting="velocity"``, on actions
    and observations in unit scale.

    Args:
      params: Parameters.

    Returns:
      A denoiser of arrays ``[B, H, A]`` on a `diffusion.RectifiedFlow`, whose condition
      is the observation in unit scale ``[B, S]``.

    Reference: Black et al., pi0, arXiv 2410.24164, eq. 1, with a small network.
    """

    def velocity(x: Array, t: Array, cond: Array) -> Array:
        angles = t[:, None] * 100.0 ** jnp.linspace(0, 1, _FREQUENCIES)
        flat = x.reshape(len(x), -1)
        parts = flat, cond, jnp.sin(angles), jnp.cos(angles)
        return apply_layers(params, jnp.concatenate(parts, axis=-1)).reshape(x.shape)

    return parametrize(velocity, RectifiedFlow(), "velocity")


def draw_chunk(
    keys: Array,
    denoiser: Any,
    sampler: Sampler,
    grid: Array,
    layout: Layout,
    observation: Array,
    horizon: int,
    *,
    held: Array | None = None,
    weights: Array | None = None,
    w_max: Array | float = 5.0,
    guidance: Any = None,
    **options: Any,
) -> Array:
    """Draws a chunk of actions, as one that goes on from the chunk before.

    Of the chunk before, what is still to be executed is inpainted with
    `guidance.inpaint_flow`; each step of the solver then costs one vector-Jacobian
    product of the denoiser more.

    Args:
      keys: Typed keys ``[B]``, one a chunk.
      denoiser: Denoiser of arrays ``[B, H, A]`` whose condition is the observation in
        unit scale ``[B, S]``, such as `flow_policy`.
      sampler: Solver.
      grid: Times ``[N + 1]``.
      layout: How actions and observations are scaled.
      observation: What is seen ``[B, S]``, in the units of the world.
      horizon: Number ``H`` of actions in a chunk.
      held: The chunk before, moved up to the present ``[B, H, A]``, in the units of the
        world; where a weight is 0 it may be anything, NaN too. None is none, and each
        chunk is drawn anew.
      weights: How firmly each action of it holds ``[H]``, from `guidance.chunk_weights`
        with ``overlap`` the horizon less the actions executed of a chunk.
      w_max: Largest weight of the inpainting, see `guidance.inpaint_flow`.
      guidance: Term or chain beside it; None is none.
      **options: Of `sampling.sample`.

    Returns:
      Actions ``[B, H, A]`` in the units of the world.

    Raises:
      ValueError: An observation or a chunk of another shape, ``held`` without
        ``weights`` or weights without it; anything that `sample` refuses.

    Reference: Black et al., real-time chunking, arXiv 2506.07339.
    """
    _require_chunk(horizon)
    require_shape("observation", observation, (keys.shape[0], layout.states))
    if (held is None) != (weights is None):
        given, other = ("weights", "held") if held is None else ("held", "weights")
        raise ValueError(f"{given} without {other}; expected both or neither")
    shape = horizon, layout.actions
    if held is not None:
        require_shape("held", held, (keys.shape[0], *shape))
        known = (held - layout.action_mean) / layout.action_std
        term = inpaint_flow(known, weights, w_max)
        guidance = term if guidance is None else chain(guidance, term)
    cond = layout.scale(jnp.asarray(observation, jnp.float32))
    x, _ = sample(
        keys, denoiser, sampler, grid, shape, cond, guidance=guidance, **options
    )
    return x * layout.action_std + layout.action_mean


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
      TypeError: Numbers that are not whole.
      ValueError: Numbers that do not fit each other or the horizon, a ``decay`` that is
        not finite, a chunk of another shape.

    Reference: Black et al., arXiv 2506.07339, section 3, and its released simulation;
      temporal averaging: Zhao et al., ACT, arXiv 2304.13705, algorithm 2.
    """
    for name, value in (("chunks", chunks), ("execute", execute), ("delay", delay)):
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is {value!r}; expected a Python integer")
    if chunks < 1:
        raise ValueError(f"chunks is {chunks}; expected at least 1")
    if decay is not None and known_false(np.isfinite, decay):
        raise ValueError(f"decay is {decay}; expected a finite number, or None")
    observation = jnp.asarray(observation)
    # Chunks and steps draw from streams of even and odd numbers.
    held = make_chunk(rng.fold(keys, 2 * chunks), observation, None)
    require_shape("what make_chunk returned", held, (len(keys), *held.shape[1:]))
    if held.ndim != 3:
        raise ValueError(
            f"what make_chunk returned has shape {held.shape}; expected [B, H, A]"
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
        drawn = make_chunk(rng.fold(keys, 2 * i), seen, held)
        require_shape("what make_chunk returned", drawn, held.shape)
        new = drawn
        if decay is not None:
            new = _average(held, drawn, counts, decay)
        ready = jnp.concatenate([held[:, :delay], new[:, delay:execute]], axis=1)

        def act(carry, taken):
            state, seen = carry
            action, j = taken
            key = rng.fold(keys, 2 * (i * execute + j) + 1)
            state, after, reward = step(state, action, key)
            return (state, after), (action, seen, reward)

        first = jnp.moveaxis(ready, 1, 0), jnp.arange(execute)
        (state, seen), taken = jax.lax.scan(act, (state, seen), first)
        carry = state, seen, shift(new, 1, jnp.nan), shift(counts + 1, 0, 0.0)
        return carry, (taken, drawn)

    carry = state, observation, held, counts
    (state, *_), (taken, drawn) = jax.lax.scan(one, carry, jnp.arange(chunks))
    # [P, E, B, ...] to [B, P E, ...].
    joined = (jnp.moveaxis(x, 2, 0) for x in taken)
    actions, seen, rewards = (x.reshape(len(x), -1, *x.shape[3:]) for x in joined)
    return ChunkedEpisode(
        Trajectory(actions, seen), rewards, jnp.moveaxis(drawn, 0, 1), state
    )


def _average(held: Array, new: Array, counts: Array, decay: Array | float) -> Array:
    """The mean of ``counts`` older chunks and a new one, weighted by age."""
    ages = jnp.arange(len(counts) + 1, dtype=counts.dtype)
    there = ages <= counts[:, None]
    weights = jax.nn.softmax(jnp.where(there, -decay * ages, -jnp.inf), axis=1)
    own = jnp.take_along_axis(weights, counts[:, None].astype(jnp.int32), 1)
    some = counts[:, None] > 0
    # Where there is none before, held is NaN, and so would be its derivative.
    return jnp.where(some, jnp.where(some, held, 0) * (1 - own) + own * new, new)


def _require_chunk(horizon: int) -> None:
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; expected at least 1")
