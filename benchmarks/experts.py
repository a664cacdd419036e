"""Experts in an actor, and pushes of its weights toward good ones: MENTOR.

    python benchmarks/experts.py                 # four minutes of one core
    python benchmarks/experts.py --rounds 4
    python benchmarks/experts.py --picture experts.png

In `worlds.carry` a hand grips an object, brings it to a goal and lets go; the actor
sees a picture of both. Its trunk is one layer, or four experts of which two answer
(`policy.expert_gate`), with as many weights. Now and then the weights are moved, the
farther the more of its units sleep (`policy.dormant_ratio`, `policy.perturb_factor`),
toward a draw from the weights of the best rounds so far (`policy.perturb_toward`), or
toward fresh ones. Rates are searched for each on another seed.
"""

import dataclasses
from functools import partial
from pathlib import Path

import control_continuous as control
import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture

from jaxlib_guidance.policy import (
    dormant_ratio,
    expert_gate,
    perturb_factor,
    perturb_toward,
)
from jaxlib_guidance.worlds import carry as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    rounds: int = 40
    """Rounds of four episodes, each followed by updates."""
    updates: int = 100
    """Updates of a round, which has 160 steps."""
    length: int = 40
    """Steps of an episode."""
    demonstrations: int = 8
    """Episodes of a clumsy expert that are in the memory at the start."""
    every: int = 5
    """Rounds from one perturbation to the next."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Rates of Adam that are tried by each."""
    seeds: int = 5
    """Runs of each row."""
    search: int = 1
    """Runs of each rate, on a seed that is not reported."""
    picture: Path | None = None
    """File for what the actor sees and success over episodes; None for none."""


ALONE, FRESH, GOOD = range(3)
METHODS = {
    "one trunk": (False, ALONE),
    "one trunk, toward fresh weights": (False, FRESH),
    "one trunk, toward good weights": (False, GOOD),
    "experts": (True, ALONE),
    "experts, toward fresh weights": (True, FRESH),
    "experts, toward good weights (MENTOR)": (True, GOOD),
}
EPISODES, BATCH, KEPT = 4, 64, 5
PIXELS, EXPERTS, CHOSEN = 8, 4, 2
PLACE = world.default()
WAYS = 2 * PIXELS**2 + 1


def look(obs):
    """Picture of the hand and of the object ``[..., WAYS]``, and whether it is held."""
    hand = (obs[..., 4:6] + 1) / 2
    thing = hand + obs[..., :2] / 2
    line = (jnp.arange(PIXELS) + 0.5) / PIXELS
    pixels = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    apart = jnp.stack([hand, thing], -2)[..., None, :] - pixels
    seen = jnp.exp(-0.5 * jnp.sum(apart**2, -1) / 0.1**2)
    return jnp.concatenate([seen.reshape(*obs.shape[:-1], -1), obs[..., 6:]], -1)


def init_actor(key, experts):
    """Weights: an encoder, then a trunk or experts with a gate."""
    keys = jax.random.split(key, 3)
    encoder = control.init_mlp(keys[0], (WAYS, 32))
    if not experts:
        return {"encoder": encoder, "trunk": control.init_mlp(keys[1], (32, 68, 6))}
    make = partial(control.init_mlp, sizes=(32, 16, 6))
    return {
        "encoder": encoder,
        "gate": control.init_mlp(keys[2], (32, EXPERTS)),
        "experts": jax.vmap(make)(jax.random.split(keys[1], EXPERTS)),
    }


def hidden(actor, obs):
    """What the encoder and the layer after it say, ``[N, H]``."""
    code = jax.nn.relu(control.mlp(actor["encoder"], look(obs)))
    if "trunk" in actor:
        layers = [jax.nn.relu(control.mlp(actor["trunk"][:1], code))]
    else:
        first = actor["experts"][0]
        inner = jnp.einsum("...i,eij->...ej", code, first["w"]) + first["b"]
        layers = [jax.nn.relu(inner).reshape(*obs.shape[:-1], -1)]
    return jnp.concatenate([code, *layers], -1)


def net(actor, obs):
    """Mean and log standard deviation of the action, ``[..., 6]``."""
    code = jax.nn.relu(control.mlp(actor["encoder"], look(obs)))
    if "trunk" in actor:
        return control.mlp(actor["trunk"], code)
    share = expert_gate(control.mlp(actor["gate"], code), k=CHOSEN)
    said = jax.vmap(lambda e: control.mlp(e, code), out_axes=-2)(actor["experts"])
    return jnp.sum(share[..., None] * said, -2)


def play(policy, key, config):
    """An episode: 1 at success, and before it the way that is left, below 0."""
    reset, step = partial(world.reset, PLACE), partial(world.step, PLACE)
    rows, states = control.rollout(policy, reset, step, key, config.length)
    to = jnp.linalg.norm(states.hand - states.thing, axis=-1)
    left = jnp.linalg.norm(states.thing - PLACE.goal, axis=-1)
    left += jnp.where(states.held > 0, 0.0, to)
    return rows._replace(reward=jnp.where(rows.reward > 0, 1.0, -left))


def clumsy(obs, state, key):
    """What a clumsy expert does."""
    action = world.guide(PLACE, state)
    return jnp.clip(action + 0.7 * jax.random.normal(key, (3,)), -1.0, 1.0)


def perturbed(method, agent, checkpoints, returns, key, obs):
    """Weights moved, as far as the actor sleeps, and Adam's moments anew."""
    actor = agent.nets["actor"]
    fresh_key, key = jax.random.split(key)
    ratio = dormant_ratio(hidden(actor, obs))
    fresh = init_actor(fresh_key, "experts" in actor)
    # Slots that were not filled yet hold the weights now.
    filled = lambda now: jnp.isfinite(returns).reshape(-1, *[1] * now.ndim)  # noqa: E731
    target = jax.tree.map(
        lambda new, old, now: jnp.where(
            method == FRESH, new, jnp.where(filled(now), old, now)
        ),
        fresh,
        checkpoints,
        actor,
    )
    moved = perturb_toward(key, actor, target, perturb_factor(ratio))
    nets = agent.nets | {"actor": moved}
    return control.Agent(nets, agent.slow, optax.scale_by_adam().init(nets))


def learn(config, experts, method, rate, key):
    """Success, return and dormant ratio after each round, ``[rounds, 3]``."""
    make, actor_key, show, key = jax.random.split(key, 4)
    agent = control.init_agent(make, 7, 3, critics=2)
    nets = agent.nets | {"actor": init_actor(actor_key, experts)}
    agent = control.Agent(nets, agent.slow, optax.scale_by_adam().init(nets))
    settings = control.Settings(rate=rate, gamma=0.95)
    size = (config.rounds * EPISODES + config.demonstrations) * config.length
    shown = jax.vmap(lambda k: play(clumsy, k, config))(
        jax.random.split(show, config.demonstrations)
    )
    replay = control.add(control.init_replay(size, 7, 3), control.flat(shown))
    kept = jax.tree.map(lambda x: jnp.stack([x] * KEPT), nets["actor"])

    def one(carry, inputs):
        agent, replay, kept, returns = carry
        number, key = inputs
        keys = jax.random.split(key, 5)
        actor = agent.nets["actor"]
        noisy = lambda obs, state, key: control.draw(actor, obs, key, net)[0]  # noqa: E731
        rows = jax.vmap(lambda k: play(noisy, k, config))(
            jax.random.split(keys[0], EPISODES)
        )
        replay = control.add(replay, control.flat(rows))

        def step(agent, key):
            pick, use = jax.random.split(key)
            batch = control.sample(replay, pick, BATCH)
            return control.update(agent, batch, use, settings, net=net), None

        agent, _ = jax.lax.scan(step, agent, jax.random.split(keys[1], config.updates))
        best = lambda obs, state, key: control.act(agent.nets["actor"], obs, net)  # noqa: E731
        seen = jax.vmap(lambda k: play(best, k, config))(jax.random.split(keys[2], 32))
        success = jnp.mean(jnp.max(seen.terminated * seen.weight, 1))
        # What stays undone at the end goes on costing.
        total = jnp.sum(seen.reward * seen.weight, 1)
        worth = jnp.mean(total)
        worst = jnp.argmin(returns)
        better = worth > returns[worst]
        kept = jax.tree.map(
            lambda old, new: old.at[worst].set(jnp.where(better, new, old[worst])),
            kept,
            agent.nets["actor"],
        )
        returns = returns.at[worst].set(jnp.maximum(returns[worst], worth))
        obs = control.sample(replay, keys[3], BATCH).obs
        ratio = dormant_ratio(hidden(agent.nets["actor"], obs))
        moved = perturbed(method, agent, kept, returns, keys[4], obs)
        now = (number % config.every == 0) & (number < config.rounds)
        now &= method != ALONE
        agent = jax.tree.map(lambda a, b: jnp.where(now, a, b), moved, agent)
        return (agent, replay, kept, returns), jnp.stack([success, worth, ratio])

    numbers = jnp.arange(1, config.rounds + 1)
    start = agent, replay, kept, jnp.full(KEPT, -jnp.inf)
    inputs = numbers, jax.random.split(key, config.rounds)
    return jax.lax.scan(one, start, inputs)[1]


def main(config: Config) -> dict[str, np.ndarray]:
    """Prints the table; returns curves ``[seed, round, 3]`` of each method."""
    others = jax.random.split(jax.random.key(100), config.search)
    keys = jax.random.split(jax.random.key(0), config.seeds)
    both, found = jnp.concatenate([others, keys]), {}
    for experts in (False, True):
        each = partial(learn, config, experts)
        for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
            each = jax.vmap(each, axes)
        rates = jnp.array(config.rates)
        found[experts] = np.asarray(jax.jit(each)(jnp.arange(3), rates, both))
    curves = {}
    print(
        "| actor | rate | episodes to 80 % (seeds) | success, all rounds | last five "
        "(seeds) | dormant |"
    )
    print("|---|---|---|---|---|---|")
    for name, (experts, method) in METHODS.items():
        tried = found[experts][method, :, : config.search, :, 0]
        at = int(tried.mean((1, 2)).argmax())
        rate, curve = config.rates[at], found[experts][method, at, config.search :]
        curves[name] = curve
        reached = curve[..., 0] >= 0.8
        never = config.rounds + 1
        first = EPISODES * np.where(reached.any(1), reached.argmax(1) + 1, never)
        said = " ".join(str(x) if x < EPISODES * never else "never" for x in first)
        last = curve[:, -5:, 0].mean(1)
        each_last = " ".join(f"{x:.2f}" for x in last)
        print(
            f"| {name} | {rate:g} | {first.mean():.0f} ({said}) | "
            f"{curve[..., 0].mean():.2f} | {last.mean():.2f} ({each_last}) | "
            f"{curve[:, -5:, 2].mean():.2f} |"
        )
    for name, experts in (("one trunk", False), ("experts", True)):
        actor = init_actor(jax.random.key(0), experts)
        count = sum(x.size for x in jax.tree.leaves(actor))
        print(f"Weights of an actor, {name}: {count}.")
    if config.picture is not None:
        draw(config, curves)
    return curves


def draw(config, curves):
    """A frame, what the actor sees of it, and success over episodes."""
    state, obs = world.reset(PLACE, jax.random.key(3))
    with picture(config.picture, (9.6, 2.8)) as figure:
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 2))
        axes[0].imshow(world.render(PLACE, state, size=120))
        seen = np.asarray(look(obs)[:-1]).reshape(2, PIXELS, PIXELS)[:, ::-1]
        axes[1].imshow(1 - np.stack([seen[0], seen.sum(0), seen[1]], -1).clip(0, 1))
        for axis, title in zip(
            axes, ("hand, object, goal", "what the actor sees"), strict=False
        ):
            axis.set(title=title, xticks=[], yticks=[])
        for number, (name, curve) in enumerate(curves.items()):
            x = EPISODES * np.arange(1, config.rounds + 1)
            line = "--" if number < 3 else "-"
            axes[2].plot(
                x, curve[..., 0].mean(0), line, color=f"C{number % 3}", label=name
            )
        axes[2].set(xlabel="episodes", title="success", ylim=(0, 1))
        axes[2].legend(fontsize=6)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
