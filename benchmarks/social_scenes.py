"""Scenes of people, forecasters of their tracks, and planners of a robot among them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance import planning
from jaxlib_guidance.worlds import crowd

PAST, AHEAD, PEOPLE, DRAWS = 8, 24, 4, 8
"""Steps seen and planned, people, and draws of the noise that carry a plan out."""
MARGIN, COLLISION = 0.1, 100.0
"""Gap that a collision is counted from, in m, and its weight."""


def scene(world: Any, key: Any) -> tuple[Any, Any]:
    """People that walked for 8 steps, as a robot comes, and their places ``[8, N, 2]``.

    The robot was not there before, so that their past says nothing of it.
    """
    first, rest = jax.random.split(key)
    state, _ = crowd.reset(world, first, people=PEOPLE)
    walked, tracks = crowd.follow(world, crowd.alone(state), jnp.zeros((PAST, 2)), rest)
    return walked._replace(present=state.present), tracks.people


def wandering(key: Any) -> Any:
    """A plan by chance ``[24, 3]``: toward the goal and aside, now and then a stop."""
    aside, fast, halt, there = jax.random.split(key, 4)
    parts = 4
    speed = jax.random.uniform(fast, (parts, 1), minval=0.2, maxval=1.2)
    speed = jnp.where(jax.random.bernoulli(halt, 0.2, (parts, 1)), 0.0, speed)
    angle = jnp.pi / 2 + 0.7 * jax.random.normal(aside, (parts, 1))
    moves = speed * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return tell(jnp.repeat(moves, AHEAD // parts, axis=0)) * (
        jax.random.bernoulli(there, 0.85)
    )


def tell(actions: Any) -> Any:
    """Plans ``[..., 3]`` that say that the robot is there; all 0 says it is not."""
    return jnp.concatenate([actions, jnp.ones_like(actions[..., :1])], axis=-1)


def places(world: Any, state: Any, plan: Any) -> Any:
    """Where a robot is after each step of a plan ``[T, 2]``."""
    actions = shorten(plan[..., :2])
    return state.robot + crowd.TIME * world.speed * jnp.cumsum(actions, axis=0)


def shorten(actions: Any) -> Any:
    """Actions that the robot can carry out."""
    length = jnp.sum(actions**2, axis=-1, keepdims=True)
    return actions * jax.lax.rsqrt(jnp.maximum(length, 1.0))


def simulated(world: Any, state: Any, past: Any, plan: Any) -> Any:
    """The people's places by the true forces without their noise, ``[T, N, 2]``."""
    del past
    state = state._replace(present=plan[0, 2])
    calm = world._replace(noise=jnp.float32(0))
    return crowd.follow(calm, state, plan[:, :2], jax.random.key(0))[1].people


def _seen(world: Any, state: Any, past: Any, plan: Any) -> tuple[Any, Any]:
    """What the network sees of each person ``[N, F]``, and each one's axes."""
    now = past[-1]
    moves = (now - past[-2]) / crowd.TIME
    ahead = moves / jnp.maximum(jnp.linalg.norm(moves, axis=-1, keepdims=True), 1e-3)
    axes = jnp.stack([ahead, ahead[:, ::-1] * jnp.array([-1.0, 1.0])], axis=1)
    turn = lambda x: jnp.einsum("nij,n...j->n...i", axes, x)  # noqa: E731
    walked = turn(jnp.swapaxes(past[:-1] - now, 0, 1))
    # The others, the nearest first.
    apart = now[None] - now[:, None]
    order = jnp.argsort(jnp.sum(apart**2, -1), axis=1)[:, 1:]
    take = lambda x: jnp.take_along_axis(turn(x), order[..., None], axis=1)  # noqa: E731
    others = jnp.concatenate(
        [take(apart) / 3, take(moves[None] - moves[:, None])], axis=-1
    )
    # The robot from where each would be, as nearness: 0 without it.
    times = crowd.TIME * jnp.arange(1, AHEAD + 1)[None, :, None]
    would = now[:, None] + times * moves[:, None]
    away = turn(places(world, state, plan)[None] - would)
    far = jnp.sqrt(jnp.sum(away**2, axis=-1, keepdims=True) + 1e-6)
    near = plan[0, 2] * jnp.exp(-far) * jnp.concatenate([away, far], -1) / far
    flat = [x.reshape(PEOPLE, -1) for x in (walked, others, near)]
    return jnp.concatenate(flat, axis=1), (would, axes)


def forecast(params: Any, world: Any, state: Any, past: Any, plan: Any) -> Any:
    """The people's places by a network, ``[T, N, 2]``.

    It sees a person's past, the others and the plan from where the person would be, and
    says how far the person will be off constant velocity.
    """
    seen, (would, axes) = _seen(world, state, past, plan)
    for i, layer in enumerate(params):
        seen = seen @ layer["w"] + layer["b"]
        seen = jax.nn.silu(seen) if i < len(params) - 1 else seen
    off = jnp.einsum("nji,ntj->nti", axes, seen.reshape(PEOPLE, AHEAD, 2))
    return jnp.swapaxes(would + off, 0, 1)


def fresh(key: Any, width: int) -> Any:
    """New parameters of `forecast`, which says constant velocity."""
    entries = 2 * (PAST - 1) + 4 * (PEOPLE - 1) + 3 * AHEAD
    sizes = (entries, width, width, 2 * AHEAD)
    keys = jax.random.split(key, 3)

    def make(i):
        kernel = jax.random.normal(keys[i], sizes[i : i + 2]) * (2 / sizes[i]) ** 0.5
        return {"w": kernel, "b": jnp.zeros(sizes[i + 1])}

    layers = [make(i) for i in range(3)]
    layers[-1] = jax.tree.map(jnp.zeros_like, layers[-1])
    return layers


@partial(jax.jit, static_argnames=("count", "updates", "width"))
def train(world: Any, key: Any, *, count: int, updates: int, width: int) -> Any:
    """Parameters, and the mean error in m of network and constant velocity.

    The error is that of scenes that were not learned from.
    """
    data, start, order = jax.random.split(key, 3)

    def make(key):
        first, second, noise = jax.random.split(key, 3)
        state, past = scene(world, first)
        plan = wandering(second)
        there = state._replace(present=plan[0, 2])
        _, tracks = crowd.follow(world, there, plan[:, :2], noise)
        return state, past, plan, tracks.people

    made = jax.vmap(make)(jax.random.split(data, count))
    held = count // 10
    tx, batch = optax.adam(optax.cosine_decay_schedule(2e-3, updates)), 128

    def off(params, made):
        run = lambda s, p, plan: forecast(params, world, s, p, plan)  # noqa: E731
        return jax.vmap(run)(*made[:3]) - made[3]

    def update(carry, key):
        params, opt = carry
        i = jax.random.randint(key, (batch,), held, count)
        some = jax.tree.map(lambda x: x[i], made)
        slope = jax.grad(lambda p: jnp.mean(off(p, some) ** 2))(params)
        change, opt = tx.update(slope, opt, params)
        return (optax.apply_updates(params, change), opt), None

    first = fresh(start, width)
    keys = jax.random.split(order, updates)
    (params, _), _ = jax.lax.scan(update, (first, tx.init(first)), keys)
    kept = jax.tree.map(lambda x: x[:held], made)
    error = lambda p: jnp.mean(jnp.linalg.norm(off(p, kept), axis=-1))  # noqa: E731
    return params, (error(params), error(first))


def starts() -> Any:
    """Plans to descend from ``[8, 24, 2]``: four ways round, at once or a little later.

    They are in a robot's own axes: the goal is ahead, in the second entry.
    """
    made = []
    for wait in (0, 5):
        for aside in (-0.9, -0.3, 0.3, 0.9):
            angle = np.where(np.arange(AHEAD) < 9 + wait, aside, -aside)
            moves = np.stack([np.sin(angle), np.cos(angle)], axis=1)
            moves[:wait] = moves[18 + wait :] = 0
            made.append(moves)
    return jnp.asarray(np.array(made), jnp.float32)


def make_plan(
    world: Any, run: Any, state: Any, past: Any, extra: str, setting: Any, steps: int
) -> Any:
    """The best of eight plans ``[24, 2]`` for one scene.

    ``run`` forecasts, ``extra`` is what is asked beside goal and collisions ("shift" or
    "distance"), and ``setting`` its weight and its distance in m.
    """
    weight, distance = setting
    null = jnp.zeros((AHEAD, 3))

    def people(plans):
        return jax.vmap(lambda plan: run(world, state, past, plan))(plans)

    def energy(actions):
        plans = tell(actions)
        robot = jax.vmap(lambda plan: places(world, state, plan))(plans)
        ahead = people(plans)
        left = jnp.sqrt(jnp.sum((robot - state.goal) ** 2, axis=-1) + 1e-6)
        touch = world.body + world.robot + MARGIN
        asked = jnp.mean(left, axis=1)
        asked += COLLISION * planning.nearness_energy(robot, ahead, touch)
        if extra == "shift":
            more = planning.counterfactual_shift(people, plans, null)
        else:
            more = planning.nearness_energy(robot, ahead, distance)
        return asked + weight * more

    tx = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    return planning.descend(energy, starts(), tx, steps=steps, project=shorten)[0]


def carried_out(world: Any, state: Any, plan: Any, key: Any) -> dict[str, Any]:
    """What a plan leads to, beside the same people and noise without the robot.

    Numbers are means over draws of the noise, tracks are those of the first.
    """

    def one(key):
        _, made = crowd.follow(world, state, plan, key)
        _, would = crowd.follow(world, crowd.alone(state), plan, key)
        off = made.people - would.people
        near = jnp.linalg.norm(made.robot - state.goal, axis=-1) <= crowd.NEAR
        steps = jnp.where(jnp.any(near), jnp.argmax(near) + 1, AHEAD)
        found = {
            "shift": jnp.mean(jnp.sum(off**2, axis=-1)),
            "time": crowd.TIME * steps,
            "touched": jnp.any(crowd.touches(world, made)).astype(jnp.float32),
            "reached": jnp.any(near).astype(jnp.float32),
        }
        return found, {"made": made, "would": would.people}

    found, tracks = jax.vmap(one)(jax.random.split(key, DRAWS))
    means = {name: jnp.mean(x) for name, x in found.items()}
    return means | jax.tree.map(lambda x: x[0], tracks)
