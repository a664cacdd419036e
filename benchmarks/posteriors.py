"""Posterior methods beside DPS: a mixture whose posterior is known, and real networks.

    python benchmarks/posteriors.py                       # mixture and digits
    python benchmarks/posteriors.py --models emoji --count 32
    python benchmarks/posteriors.py --minutes 4           # in pieces: it goes on

Every method is tuned alike: four settings of its one number, tried with a seed of its
own, on the mixture by the distance to the posterior, on pictures by the error against
*training* pictures; a star marks a setting at the end of what was tried. Then three
other seeds, on held-out pictures. What is measured is kept in --cache as it comes.

distance    sliced Wasserstein-2 to samples of the exact posterior of 3 observations
mean        distance of the mean to the exact one's
psnr        of samples against the pictures that were observed, dB
seen        root mean square of y - A x over the noise: 1 is what the truth has
frechet     of the judge's features to those of other held-out pictures
accuracy    the judge finds the class of the picture that was observed
evaluations of the network, for a sample; those that are differentiated count once
"""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance import guidance as g
from jaxlib_guidance import testing
from jaxlib_guidance.data import embed_words, load_images
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.sampling import d_flow, daps, diffpir, dsg, pnp_flow, red_diff

SEEDS = (0, 1, 2)
TUNING_SEED = 100
SCALES = (0.1, 0.3, 1.0, 3.0)
SMALL = (0.01, 0.03, 0.1, 0.3)
WEIGHTS = (0.5, 1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and how much of it."""

    models: tuple[str, ...] = ("mixture", "digits")
    only: tuple[str, ...] = ()
    """Methods, by name; all by default."""
    tasks: tuple[str, ...] = ("half", "4x smaller", "blur")
    count: int = 100
    steps: int = 20
    minutes: float = 0
    """Time after which no new row begins; 0 is none."""
    cache: Path = Path("out/posteriors.json")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method with the settings that are tried.

    Attributes:
      settings: Values of its one number.
      term: Function ``(measurement, setting) -> guidance``.
      solver: Function ``(measurement, setting) -> solver``.
      share: Steps of the grid over --steps, for methods that evaluate more in each.
      evaluations: Network evaluations of a step.
    """

    settings: tuple[float, ...] = (1.0,)
    term: Callable[[Any, Any], Any] | None = None
    solver: Callable[[Any, Any], jg.Sampler] = lambda seen, s: jg.ddpm()
    share: float = 1.0
    evaluations: int = 1


def _matched(make: Callable[..., Any], **options: Any) -> Callable[[Any, Any], Any]:
    return lambda seen, s: make(g.norm_energy, s, seen, **options)


def _tfg(seen, s):
    return g.tfg(g.norm_energy, params=seen, weight=s)


def _inpaint(seen, s):
    return g.inpaint_flow(seen.y, seen.operator.mask, s)


ENTRIES: dict[str, Entry] = {
    "no guidance": Entry(),
    "DPS": Entry(SCALES, _matched(jg.energy)),
    "likelihood of the estimate": Entry(
        SMALL, lambda seen, s: jg.energy(g.gaussian_energy, s, seen)
    ),
    "PiGDM (data variance)": Entry(
        SCALES, lambda seen, s: g.pigdm(seen, data_variance=s)
    ),
    "TMPD": Entry(WEIGHTS, lambda seen, s: g.tmpd(seen, s)),
    "MMPS": Entry(WEIGHTS, lambda seen, s: g.mmps(seen, s)),
    "MMPS, 3 iterations": Entry(WEIGHTS, lambda seen, s: g.mmps(seen, s, iterations=3)),
    "inpaint_flow (w_max)": Entry((2.0, 5.0, 10.0, 20.0), _inpaint),
    "LGD-MC": Entry(
        SMALL, lambda seen, s: g.lgd_mc(g.gaussian_energy, s, seen, samples=4)
    ),
    "MPGD": Entry(SCALES, _matched(g.mpgd)),
    "FreeDoM": Entry((0.05, 0.1, 0.2, 0.4), _matched(g.freedom)),
    "TFG": Entry(SCALES, _tfg),
    "DSG (rate)": Entry(
        (0.05, 0.1, 0.2, 0.4),
        solver=lambda seen, s: dsg(jg.ddpm(), g.norm_energy, seen, rate=s),
    ),
    "DAPS, 1 flow step (data variance)": Entry(
        (0.03, 0.1, 0.3, 1.0),
        solver=lambda seen, s: daps(seen, ode_steps=1, data_variance=s),
    ),
    "DAPS, 3 flow steps (data variance)": Entry(
        (0.03, 0.1, 0.3, 1.0),
        solver=lambda seen, s: daps(seen, ode_steps=3, data_variance=s),
        share=1 / 3,
        evaluations=3,
    ),
    "DiffPIR (trust)": Entry(
        (0.3, 1.0, 3.0, 10.0),
        solver=lambda seen, s: diffpir(seen, trust=s, zeta=0.5),
    ),
    "RED-diff (weight)": Entry(
        (0.03, 0.1, 0.3, 1.0), solver=lambda seen, s: red_diff(seen, weight=s)
    ),
    "PnP-Flow (rate)": Entry(
        (0.4, 0.8, 1.3, 1.9), solver=lambda seen, s: pnp_flow(seen, rate=s, power=0.5)
    ),
    "D-Flow (weight)": Entry((0.0, 0.001, 0.01, 0.1)),
}
FLOW_STEPS, OPTIMISED = 6, 8  # D-Flow's trajectory, and steps of its search.


def draw(entry, name, seen, setting, keys, network, grid_of, shape, cond, steps):
    """Samples of one method ``[B, *S]``."""
    if name.startswith("D-Flow"):
        own = dict(seen=seen, weight=setting, steps=OPTIMISED)
        grid = grid_of(FLOW_STEPS)
        return d_flow(keys, network, jg.ddim(), grid, shape, cond, **own)[0]
    grid = grid_of(max(2, round(entry.share * steps)))
    term = None if entry.term is None else entry.term(seen, setting)
    solver = entry.solver(seen, setting)
    return jg.sample(keys, network, solver, grid, shape, cond, guidance=term)[0]


def cost(name: str, entry: Entry, steps: int) -> int:
    """Network evaluations of a sample."""
    if name.startswith("D-Flow"):
        return OPTIMISED * FLOW_STEPS * 5 + FLOW_STEPS
    return max(2, round(entry.share * steps)) * entry.evaluations


def mixture(config: Config) -> Callable[[str, Entry], dict[str, Any] | None]:
    """Measures a method on a mixture in 8 dimensions, seen through 3 projections."""
    rng, size = np.random.default_rng(0), 8
    means = 1.2 * rng.normal(size=(4, size))
    roots = rng.normal(size=(4, size, size)) / size**0.5
    covs = 0.3 * roots @ roots.swapaxes(1, 2) + 0.03 * np.eye(size)
    prior = testing.gaussian_mixture([0.4, 0.3, 0.2, 0.1], means, covs)
    matrix, noise = rng.normal(size=(3, size)) / size**0.5, 0.2
    process = jg.VPCosine()
    network = testing.exact_denoiser(prior, process)
    directions = rng.normal(size=(64, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    truths = np.asarray(testing.draw_exact(prior, jax.random.key(7), 3))
    operator = g.projection(matrix)
    observed = truths @ matrix.T + noise * rng.normal(size=(3, 3))
    grid_of = partial(jg.logsnr_grid, process, t_max=0.995)
    count = 1000

    def scores(samples, y):
        joint = testing.given_observation(prior, matrix, y, noise)
        exact = np.asarray(testing.draw_exact(joint, jax.random.key(5), count))
        ends = (np.sort(a @ directions.T, axis=0) for a in (np.asarray(samples), exact))
        one, two = ends
        far = np.linalg.norm(np.asarray(samples).mean(0) - exact.mean(0))
        return {"distance": np.sqrt(np.mean((one - two) ** 2)), "mean": far}

    def measured(name, entry):
        if name.startswith("inpaint_flow"):
            return None

        @jax.jit
        def run(y, setting, seed):
            keys = jg.sample_keys(jax.random.key(seed), count)
            seen = g.measurement(y, operator, noise)
            rest = network, grid_of, (size,), None, config.steps
            return draw(entry, name, seen, setting, keys, *rest)

        def at(setting, seed, y):
            y = jnp.asarray(y, jnp.float32)
            return scores(run(y, jnp.float32(setting), seed), y)

        def over(setting, seed):
            rows = [at(setting, seed, y) for y in observed]
            return {key: np.mean([row[key] for row in rows]) for key in rows[0]}

        def far(setting):
            return np.nan_to_num(over(setting, TUNING_SEED)["distance"], nan=np.inf)

        best = min(entry.settings, key=far)
        return {"setting": best} | collected([over(best, seed) for seed in SEEDS])

    return measured


def collected(each: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Columns of rows, as numbers that can be kept."""
    return {key: [float(row[key]) for row in each] for key in each[0]}


def pictures(
    model_name: str, task: str, config: Config
) -> Callable[[str, Entry], dict[str, Any] | None]:
    """Measures a method on pictures of which a task hides something."""
    model, params = load_pretrained(model_name)
    judge, judge_params = load_pretrained(f"{model_name}_judge")
    score = jax.jit(partial(judge, judge_params))
    shape, count = model.shape, config.count
    noise = 0.05
    held, train = (load_images(model_name, split) for split in ("test", "train"))
    far = score(jnp.asarray(held.images[count:]))
    match task:
        case "half":
            operator = g.masking(jnp.ones(shape).at[:, shape[1] // 2 :].set(0))
        case "4x smaller":
            operator = g.pooling((4, 4, 1), shape)
        case "blur":
            width = shape[0] / 8
            operator = g.blurring(g.gaussian_kernel(width, round(2 * width)), shape)
        case _:
            raise ValueError(f"task is {task!r}; expected half, 4x smaller or blur")
    cond: Any = jnp.full(count, model.classes)
    if getattr(model.module, "text", None) is not None:
        text, mask = embed_words([""] * count)
        cond = {"label": cond, "text": text, "text_mask": mask}

    def measured(name, entry):
        if name.startswith("inpaint_flow") and task != "half":
            return None

        @jax.jit
        def run(params, y, setting, seed):
            keys = jg.sample_keys(jax.random.key(seed), count)
            seen = g.measurement(y, operator, noise)
            rest = model.denoiser(params), model.grid, shape, cond, config.steps
            return draw(entry, name, seen, setting, keys, *rest).clip(-1, 1)

        def at(setting, seed, images, labels=None):
            source = jnp.asarray(images[:count])
            clean = operator(source)
            eps = jax.random.normal(jax.random.key(1000 + seed), clean.shape)
            y = clean + noise * eps
            x = run(params, y, jnp.float32(setting), seed)
            error = g.measurement(y, operator).error(x)
            known = getattr(operator, "mask", jnp.ones(error.shape[1:]))
            seen = jnp.sqrt(jnp.sum(error**2) / jnp.sum(known) / count) / noise
            psnr = 10 * jnp.log10(4 / jnp.mean((x - source) ** 2))
            row = {"psnr": psnr, "seen": seen}
            if labels is not None:
                judged = testing.judge_samples(score(x), far, labels[:count])
                row |= {key: judged[key] for key in ("frechet", "accuracy")}
            return row

        def worth(setting):
            found = float(at(setting, TUNING_SEED, train.images)["psnr"])
            return np.nan_to_num(found, nan=-np.inf)

        best = max(entry.settings, key=worth)
        each = [at(best, seed, held.images, held.labels) for seed in SEEDS]
        return {"setting": best} | collected(each)

    return measured


def table(rows: dict[str, dict[str, Any]], config: Config) -> str:
    """Rows of one part as markdown."""
    columns = [key for key in next(iter(rows.values())) if key != "setting"]
    text = "| method | setting | evaluations | " + " | ".join(columns) + " |\n"
    text += "|---|---:|---:|" + "---:|" * len(columns) + "\n"
    for name, row in rows.items():
        cells = (
            f"{np.mean(row[key]):.3f} ± {np.std(row[key], ddof=1):.3f}"
            for key in columns
        )
        entry = ENTRIES[name]
        setting = "–" if name == "no guidance" else f"{row['setting']:g}"
        if len(entry.settings) > 1:
            ends = entry.settings[0], entry.settings[-1]
            setting += " *" if row["setting"] in ends else ""
        spent = cost(name, ENTRIES[name], config.steps)
        text += f"| {name} | {setting} | {spent} | " + " | ".join(cells) + " |\n"
    return text


def main(config: Config) -> dict[str, Any]:
    """Measures every row that the time allows."""
    begin = time.monotonic()
    config.cache.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(config.cache.read_text()) if config.cache.exists() else {}
    for model in config.models:
        for task in ("",) if model == "mixture" else config.tasks:
            part = f"{model} {task}".strip()
            rows = kept.setdefault(part, {})
            measured = None
            for name in config.only or ENTRIES:
                late = config.minutes and time.monotonic() - begin > 60 * config.minutes
                if name in rows or late:
                    continue
                if measured is None:
                    measured = (
                        mixture(config)
                        if model == "mixture"
                        else pictures(model, task, config)
                    )
                row = measured(name, ENTRIES[name])
                if row is None:
                    continue
                rows[name] = row
                config.cache.write_text(json.dumps(kept, indent=1))
                print(f"{time.monotonic() - begin:4.0f} s  {part}: {name}", flush=True)
    for part, rows in kept.items():
        if rows:
            order = {name: rows[name] for name in ENTRIES if name in rows}
            print(f"\n**{part}**\n\n{table(order, config)}")
    return kept


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
