"""Plans drawn from a denoiser of trajectories, and how they are carried out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.planning._trajectories import Layout, Trajectory
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling import Sampler, inpaint, sample
from jaxlib_guidance.types import Array, PyTree, at_least_float32


def plan(
    keys: Array,
    denoiser: Any,
    sampler: Sampler,
    grid: Array,
    layout: Layout,
    state: Array,
    horizon: int,
    *,
    conditioned: bool = False,
    guidance: Any = None,
    **options: Any,
) -> Trajectory:
    """Draws trajectories that begin in given states.

    The first state is put back before each step, noised to match, so that it is the
    given one to the bit. What the plan is for is said by ``guidance``: the energies of
    this room go into `guidance.energy` by `Layout.energy`.

    Args:
      keys: Typed keys ``[B]``, one a plan.
      denoiser: Denoiser of arrays ``[B, T, A + S]``, or several.
      sampler: Solver.
      grid: Times ``[N + 1]``.
      layout: How trajectories are arrays.
      state: Where each plan begins ``[B, S]``.
      horizon: Number ``T`` of steps, those of the denoiser.
      conditioned: Whether the denoiser's condition is the first state in unit scale at
        every step ``[B, T, S]``, see `first_state`; False is a denoiser without one.
      guidance: Term or chain; None is none.
      **options: Of `sampling.sample`.

    Returns:
      Actions ``[B, T, A]`` and states ``[B, T, S]`` in the units of the world.

    Raises:
      ValueError: A state of another shape, a horizon below 2; anything that `sample`
        refuses.

    Reference: Janner et al., Diffuser, arXiv 2205.09991; Liang et al., DexHandDiff,
      arXiv 2411.18562.
    """
    require_shape("state", state, (keys.shape[0], layout.states))
    if horizon < 2:
        raise ValueError(f"horizon is {horizon}; expected at least 2")
    state = jnp.asarray(state, jnp.float32)
    shape = horizon, layout.actions + layout.states
    scaled = layout.scale(state)
    source = jnp.zeros((len(keys), *shape)).at[:, 0, layout.actions :].set(scaled)
    known = jnp.zeros(shape).at[0, layout.actions :].set(1.0)
    cond = first_state(layout, state, horizon) if conditioned else None
    x, _ = sample(
        *(keys, denoiser, inpaint(sampler, source, known), grid, shape, cond),
        guidance=guidance,
        **options,
    )
    actions, states = layout.unpack(x)
    # Scaled and back, a state is a rounding off.
    return Trajectory(actions, states.at[:, 0].set(state))


def first_state(layout: Layout, state: Array, horizon: int) -> Array:
    """A state in unit scale at every step, as the condition of a denoiser.

    Args:
      layout: How trajectories are arrays.
      state: States ``[..., S]``.
      horizon: Number ``T`` of steps.

    Returns:
      ``[..., T, S]``.
    """
    scaled = layout.scale(state)[..., None, :]
    return jnp.broadcast_to(scaled, (*scaled.shape[:-2], horizon, layout.states))


def roll_out(
    dynamics: Callable[[Array, Array], Array], state: Array, actions: Array
) -> Trajectory:
    """Where actions lead, one after another, ``s_{t+1} = f(s_t, a_t)``.

    Args:
      dynamics: Function ``(states [..., S], actions [..., A]) -> [..., S]``, known or
        learned (`Planner.dynamics`).
      state: States to begin in ``[..., S]``.
      actions: Actions ``[..., T, A]``.

    Returns:
      The actions, and the states in which they are taken ``[..., T, S]``.

    Raises:
      ValueError: Actions without a step, or for other states than are given.
    """
    actions, state = jnp.asarray(actions), jnp.asarray(state)
    if jnp.ndim(actions) < 2 or jnp.shape(actions)[-2] < 1:
        raise ValueError(
            f"actions have shape {jnp.shape(actions)}; expected [..., T, A] with T >= 1"
        )
    require_shape("state", state, (*jnp.shape(actions)[:-2], *jnp.shape(state)[-1:]))
    actions, state = at_least_float32(actions), at_least_float32(state)

    def one(state, action):
        return dynamics(state, action), state

    _, states = jax.lax.scan(one, state, jnp.moveaxis(actions, -2, 0))
    return Trajectory(actions, jnp.moveaxis(states, 0, -2))


def choose(
    plans: Trajectory,
    dynamics: Callable[[Array, Array], Array],
    energy: Callable[[Trajectory], Array],
    steps: int | None = None,
) -> Trajectory:
    """Of several plans the one whose *actions* lead to the lowest energy.

    What a plan says of its own states is not believed: they are rolled out. So plans
    may be drawn under any guidance, at several weights of it too, and a plan that only
    dreams of its goal is not taken. But learned dynamics dream as well, and of many
    plans that one is chosen whose error is most to the liking of the energy: roll out
    no further than they can be trusted, such as the actions that will be taken.

    Args:
      plans: Actions ``[B, M, T, A]`` and states ``[B, M, T, S]``, ``M`` plans from the
        same first state.
      dynamics: Function ``(states [..., S], actions [..., A]) -> [..., S]``.
      energy: Function ``trajectory [B, T, ...] -> [B]`` of one plan of each sample.
      steps: Actions of a plan that are rolled out and judged, from 1; None is all but
        the last, which leads beyond the plan.

    Returns:
      Actions ``[B, T, A]`` and the plan's own states ``[B, T, S]``. A plan or an energy
      with what is not finite is taken only where there is no other.

    Raises:
      ValueError: Plans of another shape.
    """
    actions, states = plans
    shapes = jnp.shape(actions), jnp.shape(states)
    if any(len(s) != 4 for s in shapes) or shapes[0][:3] != shapes[1][:3]:
        raise ValueError(
            f"plans have actions {shapes[0]} and states {shapes[1]}; expected "
            "[B, M, T, A] and [B, M, T, S]"
        )
    if shapes[0][1] < 1 or shapes[0][2] < 2:
        raise ValueError(f"plans have actions {shapes[0]}; expected M >= 1 and T >= 2")
    last = actions.shape[2] - 1
    if steps is not None and not 1 <= steps <= last:
        raise ValueError(f"steps is {steps}; expected 1 to {last}, or None")
    first = actions[:, :, : (last if steps is None else steps) + 1]
    led = roll_out(dynamics, states[:, :, 0], first)
    cost = jax.vmap(energy, 1, 1)(led)
    require_shape("what energy returned", cost, actions.shape[:2])
    whole = [jnp.all(jnp.isfinite(x), axis=(2, 3)) for x in (actions, states)]
    sound = jnp.isfinite(cost) & whole[0] & whole[1]
    best = jnp.argmin(jnp.where(sound, cost, jnp.inf), axis=1)
    take = jax.vmap(lambda each, i: each[i])
    return Trajectory(take(actions, best), take(states, best))


class Episode(NamedTuple):
    """What was done and met.

    Attributes:
      trajectory: Actions ``[B, N, A]`` and the states in which they were taken
        ``[B, N, S]``.
      rewards: Rewards ``[B, N]``.
      planned: Of every plan, the states that it expected ``[B, P, T, S]``.
      state: The world at the end.
    """

    trajectory: Trajectory
    rewards: Array
    planned: Array
    state: PyTree


def carry_out(
    keys: Array,
    make_plan: Callable[[Array, Array], Trajectory],
    step: Callable[[PyTree, Array], tuple[PyTree, Array, Array]],
    state: PyTree,
    observation: Array,
    *,
    plans: int,
    execute: int,
) -> Episode:
    """Plans, takes the first actions, and plans again: a receding horizon.

    Args:
      keys: Typed keys ``[B]``, one an episode.
      make_plan: Function ``(keys [B], observation [B, S]) -> Trajectory``, such as
        `plan` with all else filled in.
      step: The world ``(state, actions [B, A]) -> (state, observation [B, S], rewards
        [B])``, for a whole batch.
      state: The world at first.
      observation: What is seen of it ``[B, S]``.
      plans: Number ``P`` of plans.
      execute: Actions of each plan that are taken, at most its horizon; ``N = P
        execute``.

    Returns:
      The episodes.

    Raises:
      ValueError: No plans, or more actions than a plan has.
    """
    if plans < 1:
        raise ValueError(f"plans is {plans}; expected at least 1")

    def one(carry, i):
        state, seen = carry
        made = make_plan(rng.fold(keys, i), seen)
        horizon = made.actions.shape[1]
        if not 1 <= execute <= horizon:
            raise ValueError(
                f"execute is {execute}; expected 1 to {horizon}, the plan's horizon"
            )

        def act(carry, action):
            state, seen = carry
            state, after, reward = step(state, action)
            return (state, after), (action, seen, reward)

        first = jnp.moveaxis(made.actions[:, :execute], 1, 0)
        carry, taken = jax.lax.scan(act, (state, seen), first)
        return carry, (taken, made.states)

    (state, _), (taken, planned) = jax.lax.scan(
        one, (state, observation), jnp.arange(plans)
    )
    # [P, E, B, ...] to [B, P E, ...].
    joined = (jnp.moveaxis(x, 2, 0) for x in taken)
    actions, states, rewards = (x.reshape(len(x), -1, *x.shape[3:]) for x in joined)
    return Episode(
        Trajectory(actions, states), rewards, jnp.moveaxis(planned, 0, 1), state
    )
