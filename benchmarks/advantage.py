"""Flow policies that learned from flights of mixed quality, steered by advantage.

    python benchmarks/advantage.py               # docs/planning.md, 25 minutes
    python benchmarks/advantage.py --seeds 1 --flights 40 --updates 300

In `worlds.slalom` a script makes mistakes: past most pillars it aims too near the
middle. What flew is recorded with its noise until something is touched, which costs 1,
discounted. A value of what is seen and a critic of chunks of 8 pushes learn these
returns; the advantage of a chunk is the critic less the value. A policy imitates all
chunks, those of flights that came far, or each by the exponential of its advantage; or
it is told whether a chunk is among the best, not told in a tenth of the rows, and
guided by that. Or the policy that imitates all is led by the critic's gradient, or
draws 8 chunks of which the critic chooses one, at the end or on the way. Each row's
setting is the best of its list with two other sets of data, policies and flights,
without delay; with a delay of 2 the new chunk is inpainted on the old one, too.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from advantage_policies import (
    HORIZON,
    Config,
    Flights,
    flights,
    fly,
    learn_critic,
    learn_energy,
    learn_policy,
)
from drawing import picture

import jaxlib_guidance as jg
from jaxlib_guidance import planning

DELAYS, HELD_OUT, LARGEST = (0, 2), 100, 100.0
TEMPERATURES = (0.003, 0.01, 0.02, 0.04, 0.1, 0.3)
SHARES, SHARP = (0.5, 0.3, 0.1, 0.03), (3.0, 10.0, 30.0, 100.0)
SCALES = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0)


class Row(NamedTuple):
    """How a policy is trained and steered."""

    data: str
    """What it imitates: "all", "far", "weighted" or "told"."""
    settings: tuple[tuple[float, ...], ...]
    """Settings that are tried: one of what is trained, then one of the steering."""
    steer: str = "none"
    """"cfg", "energy", "contrast", "best", "drawn", "particles", or some of them."""


def pairs(*parts: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """All settings of several lists."""
    return tuple(
        tuple(float(x) for x in each)
        for each in np.stack(np.meshgrid(*parts, indexing="ij"), -1).reshape(
            -1, len(parts)
        )
    )


ROWS = {
    "imitation of all": Row("all", ((0.0, 0.0),)),
    "of those that came far": Row("far", pairs((1, 2, 3, 4), (0,))),
    "weighted by advantage": Row("weighted", pairs(TEMPERATURES, (0,))),
    "told that it is good": Row("told", pairs(SHARES, (0,)), "cfg"),
    "guided by that": Row("told", pairs(SHARES[:2], (0.5, 1, 2, 4)), "cfg"),
    "energy of the critic": Row("all", pairs((0,), SCALES), "energy"),
    "energy by contrast": Row("all", pairs(SHARP, (1, 2)), "contrast"),
    "best of 8": Row("all", ((0.0, 0.0),), "best"),
    "best of 8, with noise": Row("all", ((0.0, 0.0),), "noisy best"),
    "8 particles, one drawn": Row("all", pairs((0,), SHARP), "drawn"),
    "8 particles, the best": Row("all", pairs((0,), SHARP), "particles"),
    "energy, best of 8": Row("all", pairs((0,), SCALES), "energy best"),
    "weighted, best of 8": Row("weighted", pairs(TEMPERATURES, (0,)), "best"),
}


class Bench:
    """One seed: its flights, critic and policies."""

    def __init__(self, config: Config, seed: int, programs: dict[str, Any]):
        self.config, self.seed, self.programs = config, seed, programs
        self.data = data = flights(config, seed)
        kept = planning.Trajectory(data.chunks[data.rows], data.seen[data.rows])
        self.layout = planning.fit_layout(kept)
        self.key = jax.random.key(seed)
        self.critic, self.value = (
            self.jitted(learn_critic, horizon)(self.layout, data, self.key)
            for horizon in (HORIZON, 0)
        )
        self.advantages = self.judge(data)
        self.policies: dict[Any, Any] = {}
        self.energies: dict[float, Any] = {}

    def jitted(self, function: Any, *known: Any) -> Any:
        """One program for all seeds."""
        if (function, known) not in self.programs:
            self.programs[function, known] = jax.jit(
                partial(function, self.config, *known)
            )
        return self.programs[function, known]

    def judge(self, data: Flights) -> Any:
        """Advantage of each chunk, the critic less the value."""
        critic = jax.jit(planning.apply_critic)
        usual = critic(self.value, self.layout, data.seen)
        return critic(self.critic, self.layout, data.seen, data.chunks) - usual

    def policy(self, data: str, setting: float) -> Any:
        """Parameters of a policy of some kind of data."""
        setting = 0.0 if data == "all" else setting
        if (data, setting) not in self.policies:
            advantages = self.advantages
            weights, told = jnp.ones(len(advantages)), jnp.zeros(len(advantages))
            if data == "far":
                weights = (self.data.passed >= setting).astype(jnp.float32)
            elif data == "weighted":
                weights = jnp.exp(jnp.minimum(advantages / setting, jnp.log(LARGEST)))
            elif data == "told":
                line = jnp.quantile(advantages[self.data.rows], 1 - setting)
                told = jnp.where(advantages > line, 1.0, -1.0)
            layout = planning.with_advantage(self.layout)
            self.policies[data, setting] = self.jitted(learn_policy)(
                layout, self.data, weights, told, self.key
            )
        return self.policies[data, setting]

    def energy(self, sharpness: float) -> Any:
        """Parameters of an energy by contrast."""
        if sharpness not in self.energies:
            self.energies[sharpness] = self.jitted(learn_energy)(
                *(self.layout, self.data, self.policy("all", 0), self.critic),
                *(sharpness, self.key),
            )
        return self.energies[sharpness]

    def solved(self, row: Row, setting: tuple[float, ...], delay: int) -> float:
        """Share of flights that arrive."""
        energy = self.energy(setting[0]) if row.steer == "contrast" else None
        params = self.policy(row.data, setting[0]), self.critic, energy
        keys = jg.sample_keys(jax.random.key(self.seed), self.config.flights)
        run = self.jitted(fly, row.steer, delay)
        return float(run(self.layout, params, keys, setting[1]))


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every row at its best setting."""
    counts = "flights", "seeds", "tuning", "updates", "data", "steps", "particles"
    for name in (*counts, "width"):
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    begin, programs = time.perf_counter(), {}
    clean = flights(config, HELD_OUT, 0.0).success
    others = [Bench(config, HELD_OUT + i, programs) for i in range(config.tuning)]
    best, found = {}, {name: {"done": []} for name in ROWS}
    for name, row in ROWS.items():
        tried = {}
        for each in row.settings if len(row.settings) > 1 else ():
            parts = [other.solved(row, each, DELAYS[0]) for other in others]
            tried[each] = round(float(np.mean(parts)), 3)
        best[name] = max(tried, key=lambda x: tried[x]) if tried else row.settings[0]
        print(name, tried, f"{time.perf_counter() - begin:.0f} s", flush=True)
        used = [i for i in (0, 1) if len({each[i] for each in row.settings}) > 1]
        found[name]["setting"] = ", ".join(f"{best[name][i]:g}" for i in used) or "–"
    recorded, other = [], others[0]
    for seed in range(config.seeds):
        bench = Bench(config, seed, programs)
        recorded.append(bench.data.success)
        # Of the other seed's flights, which this critic has not seen.
        rows, unseen = other.data.rows, bench.judge(other.data)
        judged = jax.jit(planning.apply_critic)(
            *(bench.critic, bench.layout, other.data.seen, other.data.chunks)
        )
        usual, truth = judged - unseen, other.data.returns
        for name, one, two in (
            ("returns", judged, truth),
            ("advantages", unseen, truth - usual),
        ):
            pair = np.corrcoef(np.asarray(one[rows]), np.asarray(two[rows]))[0, 1]
            print(f"seed {seed}: correlation of {name} {pair:.3f}", flush=True)
        for name, row in ROWS.items():
            done = [bench.solved(row, best[name], delay) for delay in DELAYS]
            found[name]["done"].append(done)
            print(seed, name, np.round(done, 3), flush=True)
        print(f"{time.perf_counter() - begin:.0f} s", flush=True)
    for each in found.values():
        each["done"] = np.array(each["done"])
    print(f"the script: {np.mean(recorded):.3f}, without mistakes {clean:.3f}")
    return found


def evaluations(config: Config, row: Row) -> int:
    """Of the policy's network, for a chunk."""
    alone = row.steer in ("none", "cfg", "energy", "contrast")
    several = 1 if alone else config.particles
    told = 2 if "cfg" in row.steer and any(s[1] for s in row.settings) else 1
    return config.steps * several * told


def table(config: Config, found: dict[str, dict[str, Any]]) -> str:
    """Markdown: success by delay."""
    head = " | ".join(f"delay {delay}" for delay in DELAYS)
    lines = [f"| | setting | evaluations | {head} |", "|---|---:|---:|---:|---:|"]
    for name, each in found.items():
        done = each["done"]
        spread = done.std(0, ddof=1) if len(done) > 1 else np.zeros(len(DELAYS))
        cells = [
            f"{m:.2f} ± {s:.2f}" for m, s in zip(done.mean(0), spread, strict=True)
        ]
        count = evaluations(config, ROWS[name])
        lines.append(f"| {name} | {each['setting']} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Success of each row, a dot a seed."""
    with picture(path, (7, 3.6), dpi=110) as fig:
        axis = fig.subplots()
        names = list(found)
        for j, delay in enumerate(DELAYS):
            for i, name in enumerate(names):
                done, at = found[name]["done"][:, j], -i - 0.2 * j
                axis.plot(done, np.full(len(done), at), f"C{j}o", ms=2.5, alpha=0.6)
                label = f"delay {delay}" if i == 0 else None
                axis.plot(done.mean(), at, f"C{j}|", ms=10, mew=2, label=label)
        axis.set_yticks(-np.arange(len(names)) - 0.1, names, fontsize=8)
        axis.set(xlabel="flights that arrive", xlim=(-0.02, 1.02))
        axis.grid(axis="x", lw=0.3)
        axis.legend(fontsize=7, loc="lower left")


def main(config: Config) -> str:
    """Measures, prints and draws."""
    found = measure(config)
    text = table(config, found)
    print(text)
    if config.picture is not None:
        draw(found, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
