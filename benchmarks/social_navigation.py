"""A robot that crosses among people, planned so that they walk as without it.

    python benchmarks/social_navigation.py       # docs/planning.md, some minutes
    python benchmarks/social_navigation.py --seeds 1 --scenes 8 --models learned

In `worlds.crowd` four people cross the way of a robot that has 8 s for 6 m. A plan of
24 actions is found by descent from eight starts, once, for `mean distance to goal + 100
collision + weight * extra`; the extra is the counterfactual shift of a forecast of the
people, or as the plain thing the nearness of people within a distance to keep. The
forecast is a network's, learned from plans by chance, or the world's own without its
noise. What is reported is the true shift: the same people and noise again without the
robot. Each row's setting is the one of least shift, on the scenes of another seed,
among those that take at most a share longer than the plan without an extra.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture
from scipy import stats
from social_scenes import AHEAD, carried_out, forecast, make_plan, scene, simulated
from social_scenes import train as train_forecast

from jaxlib_guidance.worlds import crowd

MODELS, BUDGETS, HELD_OUT = ("learned", "true"), (0.05, 0.1), 100
# What is asked beside goal and collisions: pairs of weight and distance to keep in m.
SETTINGS: dict[str, tuple[tuple[float, float], ...]] = {
    "shift": tuple(
        (w, 0.0)
        for w in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)
    ),
    "distance": tuple(
        (w * first, far)
        for far, first in ((1.2, 4.0), (1.6, 1.0), (2.2, 0.5))
        for w in (1.0, 2.0, 4.0, 8.0)
    ),
}
NAMES = {"shift": "counterfactual shift", "distance": "distance to keep"}
MEASURES = ("shift", "time", "touched", "reached")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 5
    """Forecasters and sets of scenes; the settings have one more of each."""
    scenes: int = 40
    """Scenes of each seed."""
    steps: int = 40
    """Steps of descent."""
    models: tuple[str, ...] = MODELS
    """Whose forecast of the people plans: "learned", "true" or both."""
    count: int = 10_000
    """Scenes that a forecaster learns from, and is tested on a tenth of."""
    updates: int = 3000
    """Steps of its training."""
    width: int = 128
    """Units of its two layers."""
    behind: float = 0.25
    """Share of a force that people feel from behind; 1 is all of it."""
    noise: float = 0.05
    """Standard deviation of what a step adds to people's velocities, in m/s."""
    picture: Path | None = None
    """PNG to draw shift over time and a scene in."""


class Bench:
    """Forecasters and scenes of all seeds, and plans for them."""

    def __init__(self, config: Config):
        for name in ("seeds", "scenes", "steps", "updates", "width"):
            value = getattr(config, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if config.count < 20:
            raise ValueError(f"count is {config.count}; expected at least 20")
        if not config.models or not set(config.models) <= set(MODELS):
            raise ValueError(f"models is {config.models}; expected some of {MODELS}")
        self.config = config
        self.world = crowd.default()._replace(
            behind=jnp.float32(config.behind), noise=jnp.float32(config.noise)
        )
        # The last seed is the one that settings are chosen with.
        self.seeds = [*range(config.seeds), HELD_OUT]
        self.scenes, self.params, self.errors = [], [], []
        draw = jax.jit(jax.vmap(partial(scene, self.world)))
        for seed in self.seeds:
            first, second, third = jax.random.split(jax.random.key(seed), 3)
            states, past = draw(jax.random.split(second, config.scenes))
            noise = jax.random.split(third, config.scenes)
            self.scenes.append((states, past, noise))
            params, errors = None, (jnp.nan, jnp.nan)
            if "learned" in config.models:
                sizes = {k: getattr(config, k) for k in ("count", "updates", "width")}
                params, errors = train_forecast(self.world, first, **sizes)
            self.params.append(params)
            self.errors.append([float(e) for e in errors])
        self.programs: dict[Any, Any] = {}

    def planned(self, model: str, extra: str, setting: Any, which: int) -> Any:
        """Measures ``[scenes]`` of the seed ``which``, and the tracks."""
        if (model, extra) not in self.programs:

            def program(params, scenes, setting):
                run = simulated if model == "true" else partial(forecast, params)

                def one(state, past, key):
                    given = state, past, extra, setting, self.config.steps
                    plan = make_plan(self.world, run, *given)
                    return carried_out(self.world, state, plan, key)

                return jax.vmap(one)(*scenes)

            self.programs[model, extra] = jax.jit(program)
        run = self.programs[model, extra]
        given = tuple(map(jnp.float32, setting))
        return run(self.params[which], self.scenes[which], given)

    def straight(self, which: int) -> Any:
        """Measures of a robot that sees nobody and goes straight on."""
        plan = jnp.tile(jnp.array([0.0, 1.0]), (AHEAD, 1)).at[18:].set(0)
        states, _, noise = self.scenes[which]
        return jax.vmap(lambda s, key: carried_out(self.world, s, plan, key))(
            states, noise
        )


def means(found: Any) -> np.ndarray:
    """Shift, time, touched and reached."""
    return np.array([float(found[name].mean()) for name in MEASURES])


def choose(tried: dict[Any, np.ndarray], plain: np.ndarray, budget: float) -> Any:
    """The setting of least shift that takes little longer and arrives as often."""
    fit = {
        setting: got[0]
        for setting, got in tried.items()
        if got[1] <= (1 + budget) * plain[1] and got[3] >= plain[3] - 0.03
    }
    return min(fit, key=lambda setting: fit[setting]) if fit else (0.0, 0.0)


def measure(config: Config) -> tuple[Bench, dict[Any, Any], dict[Any, Any]]:
    """The bench, what was tried on the held-out seed, and all rows ``[seeds, 4]``."""
    begin = time.perf_counter()
    bench = Bench(config)
    print(f"trained in {time.perf_counter() - begin:.0f} s", flush=True)
    last, tried, rows = config.seeds, {}, {}
    straight = [means(bench.straight(i)) for i in range(config.seeds)]
    rows["", "straight on", None] = (None, np.array(straight))
    for model in config.models:
        run = lambda *a, model=model: means(bench.planned(model, *a))  # noqa: E731
        plain = run("distance", (0.0, 0.0), last)
        for extra, settings in SETTINGS.items():
            tried[model, extra] = {s: run(extra, s, last) for s in settings}
            for setting, got in tried[model, extra].items():
                print(model, extra, setting, np.round(got, 4), flush=True)
        tried[model, "plain"] = plain
        # Settings that two rows share are carried out once.
        done: dict[Any, np.ndarray] = {}
        for budget in (None, *BUDGETS):
            for extra in SETTINGS if budget else ("distance",):
                setting = (0.0, 0.0)
                if budget:
                    setting = choose(tried[model, extra], plain, budget)
                if (extra, setting) not in done:
                    many = [run(extra, setting, i) for i in range(config.seeds)]
                    done[extra, setting] = np.array(many)
                name = extra if budget else "goal and collisions"
                rows[model, name, budget] = (setting, done[extra, setting])
        print(f"{model}: {time.perf_counter() - begin:.0f} s", flush=True)
    return bench, tried, rows


def table(rows: dict[Any, Any]) -> str:
    """Markdown: what each row comes to, ± over seeds."""
    lines = [
        "| forecast | asked beside | longer by | setting | shift, m² | time, s | "
        "touched | arrived |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for (model, name, budget), (setting, got) in rows.items():
        spread = got.std(0, ddof=1) if len(got) > 1 else np.zeros(4)
        mean, text = got.mean(0), "–"
        if setting and budget:
            text = f"{setting[0]:g}" + (f", {setting[1]:g} m" if setting[1] else "")
        cells = [
            *(model or "–", NAMES.get(name, name), f"{budget:.0%}" if budget else "–"),
            *(text, f"{mean[0]:.3f} ± {spread[0]:.3f}"),
            *(f"{mean[1]:.2f} ± {spread[1]:.2f}", f"{mean[2]:.2f}", f"{mean[3]:.2f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(rows: dict[Any, Any]) -> str:
    """Shift of the counterfactual's row less that of others, paired by seed."""
    lines = []
    for (model, name, budget), (_, got) in rows.items():
        if name != "shift" or len(got) < 2:
            continue
        for other, at in (("goal and collisions", None), ("distance", budget)):
            apart = got - rows[model, other, at][1]
            half = stats.t.ppf(0.975, len(got) - 1) * apart.std(0, ddof=1)
            half /= np.sqrt(len(got))
            parts = [f"{apart.mean(0)[i]:+.4f} ± {half[i]:.4f}" for i in (0, 1)]
            lines.append(
                f"{model}, {budget:.0%} longer: shift {parts[0]} m², time {parts[1]} s "
                f"against {NAMES.get(other, other)} (95 %)"
            )
    return "\n".join(lines)


def draw(bench: Bench, tried: Any, rows: Any, path: Path) -> None:
    """Shift over time on the scenes of the choice, and a scene without and with."""
    models = bench.config.models
    with picture(path, (9.6, 3.4), dpi=100) as fig:
        left, *scenes = fig.subplots(1, 3, width_ratios=(1.3, 1, 1))
        for model in models:
            full = model == "true"
            shift, distance = (
                np.array(list(tried[model, extra].values())) for extra in SETTINGS
            )
            line = np.vstack([tried[model, "plain"], shift])
            style = {"color": "C0", "ms": 3, "label": f"{NAMES['shift']}, {model}"}
            left.plot(line[:, 1], line[:, 0], "o-" if full else "o--", **style)
            style = {"color": "C1", "ms": 4, "label": f"{NAMES['distance']}, {model}"}
            left.plot(distance[:, 1], distance[:, 0], "s" if full else "x", **style)
        left.set(xlabel="time to the goal, s", ylabel="true shift, m²", yscale="log")
        ticks = [0.005, 0.01, 0.02, 0.05, 0.1]
        left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        left.set_yticks([], minor=True)
        left.legend(fontsize=7)
        model = models[-1]
        setting = rows[model, "shift", BUDGETS[-1]][0]
        plain = bench.planned(model, "distance", (0.0, 0.0), 0)
        # The scene in which the plan without an extra moves people most but for a few.
        which = int(np.argsort(np.asarray(plain["shift"]))[-3])
        for axis, found, name in (
            (scenes[0], plain, "goal and collisions"),
            (scenes[1], bench.planned(model, "shift", setting, 0), NAMES["shift"]),
        ):
            robot = np.asarray(found["made"].robot[which])
            axis.plot(*robot.T, "o-", color="C3", ms=3, lw=1)
            for i in range(found["would"].shape[2]):
                axis.plot(*np.asarray(found["would"][which, :, i]).T, color="0.7", lw=3)
                made = np.asarray(found["made"].people[which, :, i])
                axis.plot(*made.T, "o-", color="C0", ms=1.5, lw=0.8)
            shift = float(found["shift"][which])
            axis.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"{name}: {shift:.3f} m²", fontsize=8)


def main(config: Config) -> str:
    """Measures, prints and draws."""
    bench, tried, rows = measure(config)
    errors = np.mean(bench.errors[:-1], axis=0)
    text = f"{table(rows)}\n\n{differences(rows)}"
    if "learned" in config.models:
        text += (
            f"\nThe network's forecast is off by {errors[0]:.3f} m, "
            f"constant velocity by {errors[1]:.3f} m."
        )
    print(text)
    if config.picture is not None:
        draw(bench, tried, rows, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
