"""Particles against truths, their cost, and rewards on the digits model, measured.

    python benchmarks/particles.py                     # all parts
    python benchmarks/particles.py --parts product     # one of them

product    the product that CFG aims at, of N(0, 1) and N(1, .25), at S = 2
posterior  mean, variance and evidence of a Gaussian and of a mixture, by each method,
           beside exact numbers
cost       the share of resampling in a step of 64 particles on the emoji model
digits     a digit of a given class from the model without labels, by a classifier as
           the reward; judged by another one, by which nothing is steered. Every
           method's strength is the best of four, drawn with another seed: by accuracy
           and, within .01 of the best, by the least Frechet distance to training
           digits. Methods with particles and gradient guidance with "more steps"
           evaluate the network as often.
"""

import dataclasses
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
from jaxlib_guidance.data import embed_words, load_digits
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.sampling import (
    Resampling,
    best_of_n,
    best_particle,
    cfg_corrector,
    draw_particle,
    resample,
    sample_particles,
    steering,
    svdd,
    twisted,
)
from jaxlib_guidance.testing import (
    GaussianMixture,
    exact_denoiser,
    gaussian_mixture,
    given_observation,
    judge_samples,
    log_density,
)

TUNING_SEED = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and how much."""

    parts: tuple[str, ...] = ("product", "posterior", "cost", "digits")
    groups: int = 64
    """Groups of 1,024 particles for the product."""
    count: int = 240
    """Digits of a row, for each seed."""
    tuning: int = 120
    """Digits of a setting that is tried."""
    seeds: int = 3
    steps: int = 20
    particles: int = 8
    repeats: int = 8
    """Of what is timed."""
    out: Path | None = None
    """Markdown file to write the tables to."""


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Markdown; numbers in four digits."""
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def ratio_error(z: np.ndarray, a: np.ndarray) -> tuple[float, float]:
    """``sum a / sum z`` of groups, and its standard error."""
    value = a.sum() / z.sum()
    return value, float((a - value * z).std() / z.mean() / np.sqrt(z.size))


def product(config: Config) -> str:
    """CFG at S = 2 of two Gaussians, without and with its weights."""
    pair = gaussian_mixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[0.25]]])
    process, null, batch = jg.VE(), jnp.int32(0), 16
    rows: list[list[Any]] = [["exact product", "–", 8 / 7, "–", 1 / 7, "–", "–"]]
    for name, kind, weighed in (
        ("CFG, reverse SDE", "small", False),
        ("Feynman-Kac", "small", True),
        ('Feynman-Kac, `ddpm("middle")`', "middle", True),
    ):
        for steps in (100, 200, 400):
            grid = np.asarray(jg.karras_grid(process, steps))
            solver = jg.ddpm(kind)

            @jax.jit
            def run(keys, grid=grid, solver=solver, weighed=weighed):
                out = sample_particles(
                    *(keys, exact_denoiser(pair, process), solver, grid, (1,)),
                    jnp.ones(batch, jnp.int32),
                    potential=cfg_corrector(1.0, null),
                    particles=1024,
                    resampling=Resampling(threshold=0.5 if weighed else 0),
                )
                w, x = jnp.exp(out.log_weights), out.x[..., 0]
                if not weighed:
                    w = jnp.full_like(w, 1 / 1024)
                z = jnp.exp(out.log_z) if weighed else jnp.ones(batch)
                sums = [z * jnp.sum(w * x**k, axis=1) for k in range(3)]
                return jnp.stack(sums), out.ess.min()

            keys = jg.sample_keys(jax.random.key(0), config.groups)
            found = [run(keys[i : i + batch]) for i in range(0, config.groups, batch)]
            z, first, second = np.concatenate(
                [np.asarray(a, np.float64) for a, _ in found], axis=1
            )
            mean, error = ratio_error(z, first)
            square = second - 2 * mean * first + mean**2 * z
            variance, wide = ratio_error(z, square)
            least = min(float(e) for _, e in found) if weighed else "–"
            rows.append([name, steps, mean, error, variance, wide, least])
    columns = ["", "steps", "mean", "s.e.", "variance", "s.e.", "least ESS of 1,024"]
    return table(columns, rows)


def posterior(config: Config) -> str:
    """Prior times ``exp(-(x - .9)^2 / .5)``: mean, variance and evidence."""
    process, steps, particles, y = jg.VPCosine(), 50, 16, 0.9
    grid = np.asarray(jg.logsnr_grid(process, steps))
    priors = {
        "Gaussian": gaussian_mixture([1.0], [[0.3]], [[[0.4]]]),
        "mixture": gaussian_mixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.05]], [[0.2]]]),
    }

    def reward(x0, ctx=None):
        return -2 * (x0[:, 0] - y) ** 2

    methods = {
        "twisted": twisted(reward),
        "twisted, half the gradient": twisted(reward, 0.5),
        "steering, diff": steering(reward),
        "steering, max": steering(reward, kind="max"),
        "steering, add": steering(reward, kind="add"),
        "steering, add, every 10": steering(
            reward, kind="add", resampling=Resampling(every=10)
        ),
        "SVDD, temperature 1": svdd(reward, 1.0),
        "SVDD, the best": svdd(reward),
        "best of 16": best_of_n(reward),
    }
    keys = jg.sample_keys(jax.random.key(0), 1000)
    rows = []
    for prior, mixture in priors.items():
        exact = given_observation(mixture, [[1.0]], [y], 0.5)
        weights = np.exp(np.asarray(exact.log_weights, np.float64))
        means = np.asarray(exact.means, np.float64)[:, 0]
        mean = weights @ means
        spread = weights @ (np.asarray(exact.variances)[:, 0] + means**2) - mean**2
        z = evidence(mixture, reward)
        rows.append([f"**{prior}**, exact", mean, spread, z, "–", "–"])
        denoiser = exact_denoiser(mixture, process)
        term = jg.energy(lambda x0, ctx: -reward(x0))
        x = jax.jit(
            lambda d=denoiser, term=term: jg.sample(
                keys, d, jg.ddpm("middle"), grid, (1,), guidance=term
            )[0]
        )()
        rows.append(["gradient alone", float(x.mean()), float(x.var()), "–", "–", "–"])
        for name, potential in methods.items():
            out = jax.jit(
                lambda d=denoiser, p=potential: sample_particles(
                    *(keys, d, jg.ddpm("middle"), grid, (1,)),
                    potential=p,
                    particles=particles,
                )
            )()
            chooses = name.startswith(("SVDD", "best"))
            best = best_particle(out) if "best" in name else draw_particle(keys, out)
            log_z, w, x = (
                np.asarray(a, np.float64)
                for a in (out.log_z, out.log_weights, out.x[..., 0])
            )
            z, w = np.exp(log_z)[:, None], np.exp(w)
            if chooses:
                x, total, z = np.asarray(best, np.float64), np.ones((1000, 1)), None
            else:
                total = z * w
            mean = (total * x).sum() / total.sum()
            variance = (total * (x - mean) ** 2).sum() / total.sum()
            told = (
                ["–", "–"]
                if z is None
                else [float(z.mean()), float(z.std() / np.sqrt(z.size))]
            )
            rows.append([name, mean, variance, *told, float(out.ess.mean())])
    columns = ["", "mean", "variance", "evidence", "s.e.", "mean ESS of 16"]
    return table(columns, rows)


def evidence(mixture: GaussianMixture, reward: Callable[[Any], Any]) -> float:
    """``E exp(reward)`` by a fine sum."""
    x = jnp.linspace(-6, 6, 20001)[:, None]
    density = np.exp(np.asarray(log_density(mixture, x) + reward(x), np.float64))
    return float(density.sum() * 12 / 20000)


def cost(config: Config) -> str:
    """Steps of 64 particles of one picture, with and without resampling."""
    (model, params), particles, steps = load_pretrained("emoji"), 64, 4
    grid, keys = model.grid(steps), jg.sample_keys(jax.random.key(0), 1)
    text, mask = embed_words(["red apple"])
    none = np.full(1, model.classes, np.int32)
    cond = {"label": none, "text": text, "text_mask": mask}

    @jax.jit
    def plain(params, keys):
        keys = jg.sampling.particle_keys(keys, particles)
        return jg.sample(
            *(keys, model.denoiser(params), jg.ddpm(), grid, model.shape),
            jg.sampling.per_particle(cond, particles),
        )[0]

    @jax.jit
    def weighed(params, keys):
        reward = steering(lambda x0, ctx: jnp.mean(x0, axis=(1, 2, 3)), 10.0)
        return sample_particles(
            *(keys, model.denoiser(params), jg.ddpm(), grid, model.shape),
            cond,
            potential=reward,
            particles=particles,
            resampling=Resampling(threshold=None),
        ).x

    @jax.jit
    def alone(keys, weights, x, mean):
        at = resample(keys, weights)[0]
        return x[at], mean[at]

    x = jax.random.normal(jax.random.key(1), (particles, *model.shape))
    weights = jax.random.normal(jax.random.key(2), (1, particles))
    times: dict[str, list[float]] = {"plain": [], "weighed": [], "alone": []}
    runs = {
        "plain": lambda: plain(params, keys),
        "weighed": lambda: weighed(params, keys),
        "alone": lambda: alone(keys, weights, x, x),
    }
    for i in range(config.repeats + 1):
        for name, run in runs.items():
            # Of the processor: by the clock, others' work is counted too.
            begin = time.process_time()
            jax.block_until_ready(run())
            if i:  # The first compiles.
                times[name].append(time.process_time() - begin)
    before, after = np.asarray(times["plain"]), np.asarray(times["weighed"])
    share = np.asarray(times["alone"]) * steps / before
    return table(
        ["", "median", "least"],
        [
            [
                "a step of 64 particles, s of the processor",
                *_median_least(before / steps),
            ],
            ["resampling alone, of a step, %", *_median_least(100 * share)],
            [
                "weighing and resampling, of a step, %",
                float(100 * np.median(after / before - 1)),
                float(100 * (after.min() / before.min() - 1)),
            ],
        ],
    )


def _median_least(a: np.ndarray) -> tuple[float, float]:
    return float(np.median(a)), float(a.min())


class Digits:
    """The model without labels, a classifier as the reward, and a judge."""

    def __init__(self, config: Config):
        self.config = config
        self.model, self.params = load_pretrained("digits")
        self.classifier, self.weights = load_pretrained("digits_classifier")
        judge, judge_params = load_pretrained("digits_judge")
        self.judge = jax.jit(partial(judge, judge_params))
        self.train, self.test = (
            self.judge(load_digits(split)[0]) for split in ("train", "test")
        )

    def reward(self, params: Any, x0: Any, ctx: Any) -> Any:
        """Log-probability of the label that the condition's entry "label" asks for."""
        t = jnp.full(x0.shape[:1], self.model.process.t_min)
        logits = self.classifier.logits(params[0], x0, t)
        log_prob = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(log_prob, params[1][:, None], axis=1)[:, 0]

    def draw(self, method: str, strength: Any, seed: int, count: int) -> Any:
        """``count`` digits, classes in turn."""
        labels = jnp.arange(count) % self.model.classes
        keys = jg.sample_keys(jax.random.key(seed), count)
        made = RUNS.setdefault((method, count), jax.jit(self._run(method, count)))
        return made(self.params, self.weights, keys, labels, strength)

    def _run(self, method: str, count: int) -> Callable[..., Any]:
        config, blank = self.config, jnp.full(count, self.model.classes)
        p, gradient = config.particles, method.startswith("gradient")
        steps = config.steps * (p if method == "gradient, more steps" else 1)

        def run(params, weights, keys, labels, strength):
            single = method in ("none", "gradient", "gradient, more steps")
            wide = labels if single else jg.sampling.per_particle(labels, p)
            strong, scale = strength if method == "gradient + add" else (strength,) * 2
            guidance = (
                jg.classifier_guidance(self.classifier.logits, strong, wide, weights)
                if gradient
                else None
            )
            start = keys, self.model.denoiser(params), jg.ddpm()
            end = self.model.grid(steps), self.model.shape, blank
            if single:
                return jg.sample(*start, *end, guidance=guidance)[0]
            asked = weights, wide
            match method:
                case "best of all":
                    potential = best_of_n(self.reward, asked)
                case "SVDD":
                    potential = svdd(self.reward, strength, asked)
                case _:
                    kind = method.split()[-1]
                    potential = steering(self.reward, scale, asked, kind=kind)
            out = sample_particles(
                *(*start, *end), potential=potential, particles=p, guidance=guidance
            )
            best = method == "best of all"
            return best_particle(out) if best else draw_particle(keys, out)

        return run

    def score(self, x: Any, against: Any) -> dict[str, float]:
        labels = np.arange(len(x)) % self.model.classes
        return judge_samples(self.judge(x), against, labels)


RUNS: dict[tuple[str, int], Callable[..., Any]] = {}
SETTINGS: dict[str, tuple[Any, ...]] = {
    "none": (0.0,),
    "gradient": (2.0, 4.0, 8.0, 16.0),
    "gradient, more steps": (2.0, 4.0, 8.0, 16.0),
    "best of all": (0.0,),
    "SVDD": (0.03, 0.1, 0.3, 1.0),
    "steering diff": (1.0, 3.0, 10.0, 30.0),
    "steering max": (1.0, 3.0, 10.0, 30.0),
    "steering add": (0.3, 1.0, 3.0, 10.0),
    "gradient + add": ((2.0, 0.3), (2.0, 3.0), (8.0, 0.3), (8.0, 3.0)),
}


def digits(config: Config) -> str:
    """Every method at its best of four settings, over seeds."""
    bench, rows = Digits(config), []
    for method, settings in SETTINGS.items():
        tried = []
        for setting in settings if len(settings) > 1 else ():
            x = bench.draw(method, setting, TUNING_SEED, config.tuning)
            score = bench.score(x, bench.train)
            tried.append((score["accuracy"], score["frechet"], setting))
        best = max((a for a, _, _ in tried), default=0)
        chosen = min(
            ((f, setting) for a, f, setting in tried if a >= best - 0.01),
            key=lambda pair: pair[0],
            default=(0, settings[0]),
        )[1]
        found = [
            bench.score(bench.draw(method, chosen, s, config.count), bench.test)
            for s in range(config.seeds)
        ]
        many = method not in ("none", "gradient", "gradient, more steps")
        evaluations = config.steps * (
            config.particles if many or "more" in method else 1
        )
        told = "–" if len(settings) == 1 else str(chosen)
        row: list[Any] = [method, told, evaluations]
        for name in ("accuracy", "frechet", "coverage"):
            values = [score[name] for score in found]
            row.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        rows.append(row)
        print(method, tried, row, flush=True)
    columns = ["", "strength", "evaluations", "accuracy", "Frechet", "coverage"]
    return table(columns, rows)


def main(config: Config) -> str:
    """Measures every part that is asked for."""
    parts = {
        "product": product,
        "posterior": posterior,
        "cost": cost,
        "digits": digits,
    }
    unknown = [name for name in config.parts if name not in parts]
    if unknown:
        raise SystemExit(f"--parts has {unknown}; expected some of {list(parts)}")
    text = ""
    for name in config.parts:
        made = parts[name](config)
        print(made, flush=True)
        text += f"{made}\n\n"
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(text)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
