"""Calibrated solvers beside the best fixed ones, on starts that neither was chosen on.

    python benchmarks/calibration.py  # the table of docs/calibration.md
    python benchmarks/calibration.py --counts 4 --weights none --out out/four.json

For each number of evaluations, without guidance and with classifier-free guidance, the
bundled digits are drawn by every fixed solver on every grid and by a solver calibrated
on 192 starts of the first eight classes, begun at a fixed one that was chosen on those.
An error is the mean L2 distance to the end of UniPC-3 in 200 steps from the same noise.
The best fixed row is chosen **for each column on the very starts that it is judged
by**; the calibrated one has seen none of them:

new keys      400 other keys, those of the eight classes
new classes   those keys of the other two classes
frechet       of all of them to the held-out digits, in the eyes of the judge
seconds       what the calibration took, with its 100-step reference and compilation

``--out`` keeps each cell as it is done, and goes on from there.
"""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_digits
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.sampling import tabulate
from jaxlib_guidance.testing import judge_samples

SEEN = 8  # classes that calibration may use
SOLVERS = {
    "ddim": jg.ddim(),
    "dpmpp_2m": jg.dpmpp_2m(),
    "dpmpp_3m": jg.dpmpp_3m(),
    "unipc(2)": jg.unipc(2),
    "unipc(3)": jg.unipc(3),
    "deis(2)": jg.deis(2),
    "deis(3)": jg.deis(3),
    "lms(4)": jg.lms(4),
    "pndm(4)": jg.pndm(4),
} | {
    f"adams({order}{'' if correct else ', False'}, scale={scale})": jg.adams(
        order, correct, scale
    )
    for scale in (0.4, 0.7, 1.0)
    for order in (1, 2, 3)
    for correct in (False, True)
    if order > 1 or correct
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    counts: tuple[int, ...] = (4, 6, 8, 10)
    """Numbers of evaluations."""
    weights: tuple[str, ...] = ("none", "2")
    """Weights of classifier-free guidance; none is without."""
    starts: int = 192
    """Starts to calibrate on."""
    test: int = 400
    """Starts to judge by."""
    steps: int = 6
    """Steps of least squares, at most."""
    out: Path = Path("out/calibration.json")
    """File of the cells that are done."""


def grids(model: Any, n: int) -> dict[str, Any]:
    """The spacings, from log-SNR -7.5 to where each is at its best."""
    at = lambda level: float(model.process.t_of_logsnr(jnp.float32(level)))  # noqa: E731
    found = {"uniform": jg.uniform_grid(model.process, n, t_max=at(-7.5))}
    for end in (4.0, 5.5, 7.5):
        ends = {"t_min": at(end), "t_max": at(-7.5)}
        found[f"logsnr to {end:g}"] = jg.logsnr_grid(model.process, n, **ends)
        found[f"karras to {end:g}"] = jg.karras_grid(model.process, n, **ends)
    for shift in (0.3, 0.5, 0.7, 1.0):
        made = jg.flow_grid(model.process, n, shift, t_max=at(-7.5))
        found[f"flow, shift {shift:g}"] = made
    return found


class Digits:
    """Starts of the digits, the ends of their flows, and what is measured of samples.

    Attributes:
      model: The digits model.
      denoiser: Its denoiser.
      guidance: The chain of guidance, or None.
      seen: Keys and labels to calibrate on.
      other: Keys and labels to judge by.
      seen_ends: Ends of the flow from the former.
      other_ends: Ends of the flow from the latter.
      seconds: Time that the former ends took.
    """

    def __init__(self, config: Config, weight: str):
        self.model, params = load_pretrained("digits")
        self.denoiser = self.model.denoiser(params)
        self.guidance = None if weight == "none" else jg.cfg(float(weight), null=10)
        judge, judge_params = load_pretrained("digits_judge")
        self.judge = jax.jit(partial(judge, judge_params))
        self.real = self.judge(load_digits("test")[0])
        root, ids = jax.random.key(2026), jnp.arange(config.starts)
        self.seen = jg.sample_keys(root, ids), ids % SEEN
        ids = 100_000 + jnp.arange(config.test)
        self.other = jg.sample_keys(root, ids), ids % self.model.classes
        self._table = jax.jit(self._draw)
        began = time.perf_counter()
        self.seen_ends = self._exact(self.seen)
        self.seconds = time.perf_counter() - began
        self.other_ends = self._exact(self.other)

    def _sample(self, sampler, grid, keys, labels):
        shape, options = self.model.shape, {"guidance": self.guidance}
        return jg.sample(keys, self.denoiser, sampler, grid, shape, labels, **options)[
            0
        ]

    def _draw(self, made, keys, labels):
        return self._sample(made.sampler, made.grid, keys, labels)

    def _exact(self, starts):
        first = float(self.model.process.t_of_logsnr(jnp.float32(-7.5)))
        grid = jg.logsnr_grid(self.model.process, 200, t_max=first)
        draw = jax.jit(partial(self._sample, jg.unipc(3), grid))
        return self._each(draw, starts)

    def _each(self, draw, starts, size=64):
        count = len(starts[1])
        ids = np.resize(np.arange(count), (-(-count // size), size))
        parts = [draw(*(leaf[part] for leaf in starts)) for part in ids]
        return np.concatenate(parts)[:count]

    def errors(self, made: Any, starts: Any, ends: np.ndarray) -> np.ndarray:
        """Distance of each sample from its flow's end; one program for all tables."""
        x = self._each(partial(self._table, made), starts)
        return np.linalg.norm((x - ends).reshape(len(x), -1), axis=1)

    def frechet(self, x: np.ndarray) -> float:
        """Frechet distance of samples to held-out digits in the judge's features."""
        return judge_samples(self.judge(jnp.asarray(x)), self.real, None)["frechet"]

    def row(self, made: Any) -> dict[str, float]:
        """The columns of a solver."""
        x = self._each(partial(self._table, made), self.other)
        off = np.linalg.norm((x - self.other_ends).reshape(len(x), -1), axis=1)
        new = np.asarray(self.other[1]) >= SEEN
        keys, classes = float(off[~new].mean()), float(off[new].mean())
        return {"keys": keys, "classes": classes, "frechet": self.frechet(x)}


def cell(config: Config, digits: Digits, n: int) -> dict[str, Any]:
    """One number of evaluations: the best fixed row of each column, and calibration."""
    process, few = digits.model.process, 32
    table = jax.jit(tabulate, static_argnums=0)
    tables = {
        f"{name} on {where}": (name, grid, table(solver, grid, process))
        for name, solver in SOLVERS.items()
        for where, grid in grids(digits.model, n).items()
    }
    # Most rows are far from the best: all are drawn from a few starts, some from all.
    starts = tuple(leaf[:few] for leaf in digits.other)
    first = {
        key: digits.errors(made, starts, digits.other_ends[:few]).mean()
        for key, (*_, made) in tables.items()
    }
    first = {key: error for key, error in first.items() if np.isfinite(error)}
    best = sorted(first, key=first.__getitem__)[:8]
    rows = {key: digits.row(tables[key][2]) for key in best}
    fixed = {
        column: min((row[column], key) for key, row in rows.items())
        for column in ("keys", "classes", "frechet")
    }
    starts = tuple(leaf[:few] for leaf in digits.seen)
    begin = {
        key: digits.errors(tables[key][2], starts, digits.seen_ends[:few]).mean()
        for key in best
    }
    name, grid, _ = tables[min(begin, key=begin.__getitem__)]
    made, report = jg.calibrate(
        digits.seen[0],
        digits.denoiser,
        n,
        digits.model.shape,
        digits.seen[1],
        guidance=digits.guidance,
        start=(SOLVERS[name], grid),
        reference=digits.seen_ends,
        steps=config.steps,
    )
    return {
        "fixed": fixed,
        "start": min(begin, key=begin.__getitem__),
        "calibrated": digits.row(made),
        "seen": [report.train_before, report.train_after],
        "held out": [report.held_out_before, report.held_out_after],
        "seconds": report.seconds,
        "reference": digits.seconds,
        "grid": np.asarray(made.grid).tolist(),
        "converged frechet": digits.frechet(digits.other_ends),
    }


def report(cells: dict[str, Any]) -> str:
    """The cells as Markdown: fixed, calibrated, and their quotient."""
    lines = [
        "| CFG | evaluations | new keys | new classes | Frechet | of the converged | "
        "seconds | best fixed solver, new keys |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, found in cells.items():
        weight, n = key.split(":")
        shown = []
        for column in ("keys", "classes", "frechet"):
            fixed, after = found["fixed"][column][0], found["calibrated"][column]
            quotient = "" if column == "frechet" else f" ({after / fixed:.2f})"
            shown.append(f"{fixed:.3f} → {after:.3f}{quotient}")
        lines.append(
            f"| {weight} | {n} | {' | '.join(shown)} | "
            f"{found['converged frechet']:.3f} | "
            f"{found['seconds'] + found['reference']:.0f} | "
            f"{found['fixed']['keys'][1]} |"
        )
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measures every cell that the file does not have."""
    cells = json.loads(config.out.read_text()) if config.out.exists() else {}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    for weight in config.weights:
        wanted = [n for n in config.counts if f"{weight}:{n}" not in cells]
        digits = Digits(config, weight) if wanted else None
        for n in wanted:
            cells[f"{weight}:{n}"] = cell(config, digits, n)
            config.out.write_text(json.dumps(cells, indent=1))
            print(report(cells).splitlines()[-1], flush=True)
    print(report(cells))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
