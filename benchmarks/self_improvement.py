"""A planner that learns a new goal from its own roll-outs, with and without a prior.

    python benchmarks/self_improvement.py         # docs/planning.md, some minutes
    python benchmarks/self_improvement.py --seeds 1 --hands 20 --iterations 2
    python benchmarks/self_improvement.py --picture out/self_improvement.png

In `worlds.door` a planner of states, whose actions an inverse model finds, has 50
demonstrations of opening a door to .3, .6 and .9, and is to open it to 1.4. The prior
is such a planner that saw all angles, yet as films of another camera: no actions, every
second frame, and all places .1 aside. The two are composed as SAIL has it, in noise
``p_0 + w (p_c + g d_c - p_0)``, for 4 iterations of 100 roll-outs and 400 steps of
fine-tuning of the small planner and the inverse, on all roll-outs or on those that
succeed, half of them demonstrations. The prior is never trained. Weights are those with
the most successes at 1.2, of another seed and before any iteration; without the prior
they are those of classifier-free guidance.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from drawing import picture

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, guidance, planning
from jaxlib_guidance.worlds import door

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import planner as recipe

HORIZON, EXECUTE, PLANS, BATCH = 16, 4, 24, 256
GOALS, NEW, TUNED = (0.3, 0.6, 0.9), 1.4, 1.2
# An unknown goal is the middle one, and an entry says that it is unknown.
MIDDLE, SPREAD = 0.8, 0.4
WIDE = tuple(np.linspace(0.2, 1.5, 27).tolist())
SCALES, SHARES = (1.0, 2.5), (0.03, 0.1, 0.3, 0.5)
# Networks, and the weights ``w, g`` that are tried.
NETS = {
    "prior": tuple((w, 0.0) for w in SCALES),
    "small": tuple((w, 0.0) for w in SCALES),
    "both": tuple((w, g) for w in SCALES for g in SHARES),
}
# Which networks plan, and what is kept of roll-outs.
ROWS = {
    "prior, no filter": ("both", None),
    "prior, successes alone": ("both", np.asarray),
    "no prior, no filter": ("small", None),
    "no prior, successes alone": ("small", np.asarray),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 5
    """Runs of each row, each with its own demonstrations."""
    hands: int = 100
    """Roll-outs of an iteration."""
    iterations: int = 4
    """Iterations."""
    demonstrations: int = 50
    """Episodes that the small planner begins with."""
    updates: int = 2000
    """Steps of training of the small planner and of the inverse."""
    finetuning: int = 400
    """Steps of an iteration."""
    films: int = 1500
    """Episodes of the prior."""
    prior: int = 5000
    """Steps of training of the prior."""
    steps: int = 8
    """Steps of the solver."""
    picture: Path | None = None
    """PNG to draw success by iteration in."""


def scripted(angles: tuple[float, ...], count: int, seed: int) -> dict[str, Any]:
    """Episodes of the script, and the goal of each."""
    length = PLANS * EXECUTE
    config = recipe.Config(goals=angles, count=count, seed=seed, length=length)
    goals = np.resize(np.array(angles, np.float32), count)
    return recipe.scripted(config)._asdict() | {"goals": goals}


def windows_of(episodes: dict[str, Any]) -> tuple[Any, Any]:
    """Windows of a state and what follows it ``[M, 17, 7]``, and goals ``[M]``."""
    states = episodes["states"]
    # After the end nothing moves.
    states = np.concatenate([states, np.repeat(states[:, -1:], HORIZON, 1)], 1)
    cut = planning.windows(planning.Trajectory(states, states), HORIZON + 1).states
    goals = np.repeat(episodes["goals"], cut.shape[1])
    return cut.reshape(-1, *cut.shape[2:]).astype(np.float32), goals


def descend(loss: Any, params: Any, updates: int, rate: float, key: Any) -> Any:
    """Adam, its rate a cosine to 0."""
    tx = optax.adam(optax.cosine_decay_schedule(rate, updates))

    def update(carry, key):
        params, state = carry
        change, state = tx.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    keys = jax.random.split(key, updates)
    return jax.lax.scan(update, (params, tx.init(params)), keys)[0][0]


class Bench:
    """The prior, and the parts of the loop."""

    def __init__(self, config: Config):
        self.config = config
        films = scripted(WIDE, config.films, 1)
        states = films["states"].reshape(-1, door.STATES)
        mean, std = jnp.array(states.mean(0)), jnp.array(states.std(0))
        more = lambda x, *rest: jnp.concatenate([x, jnp.array(rest)])  # noqa: E731
        # What is drawn are states; what is seen are a state, a goal, and whether it is
        # known.
        self.layout = planning.Layout(
            mean, std, more(mean, MIDDLE, 0.5), more(std, SPREAD, 0.5)
        )
        unit = jnp.zeros(door.ACTIONS), jnp.ones(door.ACTIONS)
        self.inverse = planning.Layout(*unit, mean, std)
        filmed = films["states"][:, ::2].copy()
        filmed[..., :2] += 0.1
        filmed[..., [2, 3, 5]] *= 2  # Velocities are changes from frame to frame.
        self.plan_learner = jax.jit(self.learn_plans, static_argnums=(2, 3))
        self.inverse_learner = jax.jit(self.learn_inverse, static_argnums=(2, 3))
        self.roll_jit = jax.jit(self.roll, static_argnums=0)
        self.prior = self.plan_learner(
            jax.random.key(0),
            planning.init_flow_policy(jax.random.key(1), self.layout, HORIZON),
            *(config.prior, 1e-3, *windows_of(films | {"states": filmed})),
        )

    def learn_plans(self, key, params, updates, rate, windows, goals):
        """A planner of what follows a state, whose goal is unknown now and then."""
        layout = self.layout

        def loss(params, key):
            rows, noise, at, hide = jax.random.split(key, 4)
            i = jax.random.randint(rows, (BATCH,), 0, len(windows))
            known = jax.random.uniform(hide, (BATCH,)) > 0.15
            x = layout.scale_actions(windows[i, 1:])
            each = diffusion.denoising_loss(
                planning.flow_policy(params),
                x,
                jax.random.normal(noise, x.shape),
                jax.random.uniform(at, (BATCH,), minval=1e-3),
                layout.scale(see(windows[i, 0], goals[i], known)),
                weighting="velocity",
            )
            return jnp.mean(each)

        return descend(loss, params, updates, rate, key)

    def learn_inverse(self, key, params, updates, rate, actions, before, after):
        """A network that says which action led from a state to the next."""

        def loss(params, key):
            i = jax.random.randint(key, (BATCH,), 0, len(actions))
            made = planning.apply_inverse(params, self.inverse, before[i], after[i])
            return jnp.mean((made - actions[i]) ** 2)

        return descend(loss, params, updates, rate, key)

    def begin(self, demonstrations, key):
        """The small planner and the inverse, of demonstrations alone."""
        first, second = jax.random.split(key)
        params = {
            "plans": planning.init_flow_policy(first, self.layout, HORIZON),
            "inverse": planning.init_inverse(second, self.inverse),
        }
        return self.learn(key, params, self.config.updates, 1e-3, demonstrations)

    def learn(self, key, params, updates, rate, episodes):
        """Both networks, trained on episodes."""
        first, second = jax.random.split(jax.random.fold_in(key, 1))
        actions, states = episodes["actions"], episodes["states"]
        flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
        parts = flat(actions[:, :-1]), flat(states[:, :-1]), flat(states[:, 1:])
        plans, inverse = params["plans"], params["inverse"]
        data = windows_of(episodes)
        return {
            "plans": self.plan_learner(first, plans, updates, rate, *data),
            "inverse": self.inverse_learner(second, inverse, updates, rate, *parts),
        }

    def finetune(self, demonstrations, key, params, episodes):
        """Trained further, on as many demonstrations as roll-outs."""
        # As many of each, so that one program serves all iterations.
        count, data = self.config.hands, np.random.default_rng(self.seed_of(key))
        pick = data.integers(0, len(episodes["goals"]), count)
        some = {name: x[pick] for name, x in episodes.items()}
        again = np.arange(count) % len(demonstrations["goals"])
        more = {name: x[again] for name, x in demonstrations.items()}
        both = {name: np.concatenate([some[name], more[name]]) for name in some}
        return self.learn(key, params, self.config.finetuning, 3e-4, both)

    @staticmethod
    def seed_of(key):
        """A number for numpy."""
        return int(jax.random.bits(key, dtype=jnp.uint32))

    def roll(self, nets, params, keys, goal, weights):
        """Episodes, and whether each door is open to the goal at the end."""
        scale, share = weights
        count, layout = len(keys), self.layout
        grid = jg.flow_grid(jg.RectifiedFlow(), self.config.steps)
        goals = jnp.full(count, goal)

        def make(keys, seen):
            prior = planning.flow_policy(self.prior)
            small = planning.flow_policy(params["plans"])
            null = layout.scale(see(seen, goals, jnp.zeros(count, bool)))
            term = guidance.cfg(scale - 1, null)
            denoiser = {"prior": prior, "small": small, "both": (prior, small)}[nets]
            if nets == "both":
                term = guidance.chain(term, guidance.compose(scale * share))
            after = planning.draw_chunk(
                *(keys, denoiser, jg.euler(), grid, layout),
                see(seen, goals, jnp.ones(count, bool)),
                HORIZON,
                guidance=term,
            )
            states = jnp.concatenate([seen[:, None], after[:, :-1]], axis=1)
            actions = planning.apply_inverse(
                params["inverse"], self.inverse, states, after
            )
            return planning.Trajectory(jnp.clip(actions, -1, 1), states)

        doors = door.Door(goals, jnp.zeros(count))
        start = jax.vmap(door.reset)(doors, jg.rng.fold(keys, 0))

        def step(state, action):
            state, seen, reward, _ = jax.vmap(door.step)(doors, state, action, keys)
            return state, seen, reward

        made = planning.carry_out(
            *(jg.rng.fold(keys, 1), make, step, *start), plans=PLANS, execute=EXECUTE
        )
        episodes = made.trajectory._asdict() | {"goals": goals}
        return episodes, made.rewards[:, -1]

    def success(self, nets, params, key, goal, weights):
        """Share of doors that are open to the goal."""
        return float(self.episodes(nets, goal, weights, key, params)[1].mean())

    def episodes(self, nets, goal, weights, key, params):
        """What `roll` makes, of one key."""
        keys = jg.sample_keys(key, self.config.hands)
        return self.roll_jit(nets, params, keys, goal, weights)

    def loop(self, row, weights, params, demonstrations, key):
        """Success by iteration ``[N + 1]``."""
        nets, keep = ROWS[row]
        return planning.improve(
            key,
            params,
            partial(self.episodes, nets, NEW, weights),
            partial(self.finetune, demonstrations),
            iterations=self.config.iterations,
            keep=keep,
        ).success


def see(states: Any, goals: Any, known: Any) -> Any:
    """What a planner sees, ``[B, 9]``: a state, a goal, and whether it is known."""
    told = jnp.where(known, goals, MIDDLE)
    parts = states, told[:, None], known[:, None].astype(jnp.float32)
    return jnp.concatenate(parts, axis=1)


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every row at its best weights."""
    for name in ("seeds", "hands", "demonstrations", "updates", "finetuning"):
        if getattr(config, name) < 1:
            value = getattr(config, name)
            raise ValueError(f"{name} is {value}; expected at least 1")
    begin, bench = time.perf_counter(), Bench(config)

    def start(seed):
        shown = scripted(GOALS, config.demonstrations, 10 + seed)
        return shown, bench.begin(shown, jax.random.key(10 + seed))

    shown, params = start(1000)
    best = {}
    for nets, several in NETS.items():
        tried = {
            each: bench.success(nets, params, jax.random.key(5), TUNED, each)
            for each in several
        }
        best[nets] = max(tried, key=lambda each: tried[each])
        print(nets, tried, f"{time.perf_counter() - begin:.0f} s", flush=True)
    names = ["prior alone", *ROWS]
    found: dict[str, dict[str, Any]] = {name: {"success": []} for name in names}
    for seed in range(config.seeds):
        shown, params = start(seed)
        key = jax.random.key(seed)
        alone = bench.success("prior", params, key, NEW, best["prior"])
        found["prior alone"]["success"].append([alone] * (config.iterations + 1))
        for row, (nets, _) in ROWS.items():
            done = bench.loop(row, best[nets], params, shown, key)
            found[row]["success"].append(done)
            print(seed, row, np.round(done, 2), f"{time.perf_counter() - begin:.0f} s")
            sys.stdout.flush()
    for name in names:
        weights = best["prior" if name not in ROWS else ROWS[name][0]]
        found[name]["weights"] = ", ".join(f"{w:g}" for w in weights)
        found[name]["success"] = np.array(found[name]["success"])
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: success by iteration."""
    count = next(iter(found.values()))["success"].shape[1]
    head = " | ".join(["at first", *(f"after {i}" for i in range(1, count))])
    lines = [f"| | w, g | {head} |", "|---|---:|" + "---:|" * count]
    for row, each in found.items():
        done = each["success"]
        spread = done.std(0, ddof=1) if len(done) > 1 else np.zeros(count)
        cells = [
            f"{m:.2f} ± {s:.2f}" for m, s in zip(done.mean(0), spread, strict=True)
        ]
        if row not in ROWS:
            cells = [cells[0]] + ["–"] * (count - 1)
        lines.append(f"| {row} | {each['weights']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Success over iterations, a line a row and a dot a seed."""
    with picture(path, (7.4, 3.2), dpi=110) as fig:
        axis = fig.subplots()
        for i, (row, each) in enumerate(found.items()):
            done, style = each["success"], "-" if row in ROWS else ":"
            axis.plot(done.mean(0), f"C{i}{style}", label=row, lw=1.5)
            for one in done if row in ROWS else ():
                axis.plot(one, f"C{i}o", ms=2.5)
        axis.set(
            xlabel="iteration", ylabel=f"doors opened to {NEW}", ylim=(-0.02, 1.02)
        )
        axis.set_xticks(range(done.shape[1]))
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def main(config: Config) -> str:
    """Measures, prints and draws."""
    found = measure(config)
    text = table(found)
    print(text)
    if config.picture is not None:
        draw(found, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
