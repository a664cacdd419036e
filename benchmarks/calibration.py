"""Calibrated solvers beside the best fixed ones, on starts that neither was chosen on.

    python benchmarks/calibration.py  # the table of docs/calibration.md
    python benchmarks/calibration.py --counts 4 --weights none --out out/four.json
    python benchmarks/calibration.py --model emoji --starts 64 --test 64 --fine 50

For each number of evaluations, without guidance and with classifier-free guidance, a
bundled model is drawn by every fixed solver on every grid, by `recommended`, and by a
solver calibrated on starts of other keys, as `jg.calibrate` does it by default. Their
conditions are the digits' first eight classes, or captions of the emoji that the model
was trained on. An error is the mean L2 distance to the end of UniPC-3 in
``--fine`` steps from the same noise. The best fixed row is chosen **for each column on
the very starts that it is judged by**; the calibrated one has seen none of them:

keys          other keys, with conditions from those of calibration
conditions    other keys, with the other two classes or the held-out captions
frechet       of all of them to the held-out pictures, in the eyes of the judge
medians       of the distances of the first two: where the flow divides, one start
              of forty may hold half of their mean
nearer        the share of starts at which calibrated ends nearer than `recommended`
seconds       what the calibration took, with its reference and compilation

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
from jaxlib_guidance.data import embed_words, load_digits, load_emoji
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.sampling import Calibrated, tabulate
from jaxlib_guidance.testing import judge_samples

SEEN = 8  # classes that calibration may use
FIXED = {
    "ddim": jg.ddim(),
    "dpmpp_2m": jg.dpmpp_2m(),
    "dpmpp_3m": jg.dpmpp_3m(),
    "unipc(2)": jg.unipc(2),
    "unipc(3)": jg.unipc(3),
    "deis(2)": jg.deis(2),
    "deis(3)": jg.deis(3),
    "lms(4)": jg.lms(4),
    "pndm(4)": jg.pndm(4),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    model: str = "digits"
    """Bundled model, "digits" or "emoji", or a file of train/images.py or
    train/emoji.py, of either."""
    counts: tuple[int, ...] = (4, 6, 8, 10)
    """Numbers of evaluations."""
    weights: tuple[str, ...] = ("none", "2")
    """Weights of classifier-free guidance; none is without."""
    starts: int = 512
    """Starts to calibrate on."""
    test: int = 200
    """Starts to judge by."""
    few: int = 16
    """Of those, starts that the fixed rows are first ranked by."""
    fine: int = 100
    """Steps of the reference."""
    batch: int = 32
    """Starts at once."""
    steps: int = 8
    """Steps of least squares, at most."""
    time_window: float = 0.0
    """Half of the range of the level over which its embedding is averaged."""
    out: Path = Path("out/calibration.json")
    """File of the cells that are done."""


def solvers(model: Any) -> dict[str, Any]:
    """The fixed solvers; scales of `adams` are shares of the data's."""
    return FIXED | {
        f"adams({order}{'' if correct else ', False'}, scale={scale})": jg.adams(
            order, correct, scale * model.data_scale
        )
        for scale in (0.4, 0.7, 1.0)
        for order in (1, 2, 3)
        for correct in (False, True)
        if order > 1 or correct
    }


def grids(model: Any, n: int) -> dict[str, Any]:
    """The spacings, each to where it is at its best.

    They begin at log-SNR -7.5, which is all noise, as the reference does; two, from the
    same noise, also at -4.5 and -3.5: few steps have none to lose where there is no
    signal. Shifts are shares of the data's scale.
    """
    scale = model.data_scale
    at = lambda level: float(model.process.t_of_logsnr(jnp.float32(level)))  # noqa: E731
    found = {"uniform": jg.uniform_grid(model.process, n, t_max=at(-7.5))}
    for end in (4.0, 5.5, 7.5):
        ends = {"t_min": at(end), "t_max": at(-7.5)}
        found[f"logsnr to {end:g}"] = jg.logsnr_grid(model.process, n, **ends)
        found[f"karras to {end:g}"] = jg.karras_grid(model.process, n, **ends)
    for shift in (0.3, 0.5, 0.7, 1.0):
        made = jg.flow_grid(model.process, n, shift * scale, t_max=at(-7.5))
        found[f"flow, shift {shift:g}"] = made
    for shift in (1.0, 1.5):
        for level, name in (
            (-7.5, ""),
            (-4.5, ", from -4.5"),
            (-3.5, ", from -3.5"),
        ):
            ends = {"t_max": at(level), "rho": 2.0}
            made = jg.flow_grid(model.process, n, shift * scale, **ends)
            found[f"flow, shift {shift:g}, rho 2{name}"] = made
    return found


def kind(model: Any) -> str:
    """Which of the two sets of pictures a model has learned."""
    return "digits" if model.shape == (8, 8, 1) else "emoji"


def held_out(model: Any) -> np.ndarray:
    """Pictures of that set that the model was not trained on."""
    digits = kind(model) == "digits"
    return load_digits("test")[0] if digits else load_emoji("test").images


def unseen(model: Any, ids: np.ndarray) -> np.ndarray:
    """Which starts have conditions that a calibration may not use.

    As many of the digits as there are such classes, and half of the emoji.
    """
    return ids % 10 >= SEEN if kind(model) == "digits" else ids % 2 == 1


def conditions(model: Any, ids: np.ndarray, new: np.ndarray) -> Any:
    """Conditions of starts: known ones, and where ``new`` is true the other ones."""
    if kind(model) == "digits":
        return jnp.asarray(
            np.where(new, SEEN + ids % (model.classes - SEEN), ids % SEEN)
        )
    # An odd stride visits the captions, which lie by category, all over.
    splits = load_emoji("train"), load_emoji("test")
    chosen = [splits[int(n)] for n in new]
    rows = [i * 37 % len(each.captions) for i, each in zip(ids, chosen, strict=True)]
    pairs = list(zip(chosen, rows, strict=True))
    text, mask = embed_words([each.captions[row] for each, row in pairs])
    label = np.array([each.labels[row] for each, row in pairs], np.int32)
    return jax.tree.map(jnp.asarray, {"label": label, "text": text, "text_mask": mask})


def distances(x: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Of samples from their flows' ends, ``[B]``."""
    return np.linalg.norm((x - ends).reshape(len(x), -1), axis=1)


class Bench:
    """Starts of a model, the ends of their flows, and what is measured of samples.

    Attributes:
      model: The model.
      denoiser: Its denoiser.
      guidance: The chain of guidance, or None.
      seen: Keys and conditions to calibrate on.
      other: Keys and conditions to judge by.
      new: Which of the latter have conditions that calibration may not use.
      seen_ends: Ends of the flow from the former.
      other_ends: Ends of the flow from the latter.
      seconds: Time that the former ends took.
    """

    def __init__(self, config: Config, weight: str):
        self.config = config
        model, params = load_pretrained(config.model)
        self.model = model.smoothed(config.time_window)
        self.denoiser = self.model.denoiser(params)
        null = self.model.null
        self.guidance = None if weight == "none" else jg.cfg(float(weight), null=null)
        judge, judge_params = load_pretrained(f"{kind(self.model)}_judge")
        self.judge = jax.jit(partial(judge, judge_params))
        self.real = self.judge(held_out(self.model))
        root, ids = jax.random.key(2026), np.arange(config.starts)
        self.seen = (
            jg.sample_keys(root, ids),
            conditions(self.model, ids, np.zeros(len(ids), bool)),
        )
        ids = np.arange(config.test)
        self.new = unseen(self.model, ids)
        keys = jg.sample_keys(root, 100_000 + ids)
        self.other = keys, conditions(self.model, 5 * config.starts + ids, self.new)
        self._program = jax.jit(
            lambda made, *start: self._sample(made.sampler, made.grid, *start)
        )
        began = time.perf_counter()
        self.seen_ends = self._exact(self.seen)
        self.seconds = time.perf_counter() - began
        self.other_ends = self._exact(self.other)

    def _sample(self, sampler, grid, keys, cond):
        shape, options = self.model.shape, {"guidance": self.guidance}
        return jg.sample(keys, self.denoiser, sampler, grid, shape, cond, **options)[0]

    @property
    def first(self) -> float:
        """The first time of all grids, past which the state is all noise."""
        return float(self.model.process.t_of_logsnr(jnp.float32(-7.5)))

    def _exact(self, starts):
        process, fine = self.model.process, self.config.fine
        grid = jg.logsnr_grid(process, fine, t_max=self.first)
        draw = jax.jit(partial(self._sample, jg.unipc(3), grid))
        return self._each(draw, starts)

    def _each(self, draw, starts):
        count = len(starts[0])
        size = min(count, self.config.batch)
        ids = np.resize(np.arange(count), (-(-count // size), size))
        some = lambda part: jax.tree.map(lambda leaf: leaf[part], starts)  # noqa: E731
        return np.concatenate([draw(*some(part)) for part in ids])[:count]

    def draws(self, made: Any) -> Any:
        """A function from starts to samples; one program for all tables of a length."""
        if isinstance(made, Calibrated):
            return partial(self._program, made)
        return jax.jit(partial(self._sample, *made))

    def frechet(self, x: np.ndarray) -> float:
        """Frechet distance of samples to held-out pictures in the judge's features."""
        return judge_samples(self.judge(jnp.asarray(x)), self.real, None)["frechet"]

    def error(self, draw: Any, starts: Any, ends: np.ndarray) -> float:
        """Mean distance of samples from their flows' ends."""
        return float(distances(self._each(draw, starts), ends).mean())

    def row(self, draw: Any) -> dict[str, float]:
        """The columns of a solver."""
        x = self._each(draw, self.other)
        off, row = distances(x, self.other_ends), {"frechet": self.frechet(x)}
        for column, chosen in (("keys", ~self.new), ("conditions", self.new)):
            row[column] = float(off[chosen].mean())
            row[f"{column}, median"] = float(np.median(off[chosen]))
        return row

    def nearer(self, draw: Any, than: Any) -> dict[str, float]:
        """The share of starts at which one solver ends nearer than another."""
        off, other = (
            distances(self._each(each, self.other), self.other_ends)
            for each in (draw, than)
        )
        return {
            "keys": float((off < other)[~self.new].mean()),
            "conditions": float((off < other)[self.new].mean()),
        }


def cell(config: Config, bench: Bench, n: int) -> dict[str, Any]:
    """One number of evaluations: the best fixed row of each column, and calibration."""
    process, few = bench.model.process, config.few
    table = jax.jit(tabulate, static_argnums=0)
    tables = {
        f"{name} on {where}": table(solver, grid, process)
        for name, solver in solvers(bench.model).items()
        for where, grid in grids(bench.model, n).items()
    }
    # Most rows are far from the best: all are drawn from a few starts, some from all.
    starts, ends = jax.tree.map(
        lambda leaf: leaf[:few], (bench.other, bench.other_ends)
    )
    first = {
        key: bench.error(bench.draws(made), starts, ends)
        for key, made in tables.items()
    }
    first = {key: error for key, error in first.items() if np.isfinite(error)}
    best = sorted(first, key=first.__getitem__)[:8]
    rows = {key: bench.row(bench.draws(tables[key])) for key in best}
    own = jg.recommended(process, n, scale=bench.model.data_scale, t_max=bench.first)
    rows["recommended"] = bench.row(bench.draws(own))
    fixed = {
        column: min((row[column], key) for key, row in rows.items())
        for column in rows["recommended"]
    }
    made, report = jg.calibrate(
        bench.seen[0],
        bench.denoiser,
        n,
        bench.model.shape,
        bench.seen[1],
        guidance=bench.guidance,
        scale=bench.model.data_scale,
        reference=bench.seen_ends,
        steps=config.steps,
        batch=config.batch,
    )
    return {
        "fixed": fixed,
        "recommended": rows["recommended"],
        "calibrated": bench.row(bench.draws(made)),
        "nearer": bench.nearer(bench.draws(made), bench.draws(own)),
        "seen": [report.train_before, report.train_after],
        "held out": [report.held_out_before, report.held_out_after],
        "seconds": report.seconds,
        "reference": bench.seconds,
        "grid": np.asarray(made.grid).tolist(),
        "converged frechet": bench.frechet(bench.other_ends),
    }


def report(cells: dict[str, Any]) -> str:
    """The cells as Markdown: fixed, calibrated, and their quotients."""
    lines = [
        "| CFG | evaluations | new keys | new conditions | Frechet | converged | "
        "seconds | best fixed solver, new keys |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, found in cells.items():
        weight, n = key.split(":")
        fixed = {column: best for column, (best, _) in found["fixed"].items()}
        after, shown = found["calibrated"], []
        for column in ("keys", "conditions", "frechet"):
            text = f"{fixed[column]:.3f} → {after[column]:.3f}"
            if column != "frechet":
                middle = f"{column}, median"
                text += f" ({after[column] / fixed[column]:.2f}; "
                text += f"median {after[middle] / fixed[middle]:.2f}; "
                text += f"nearer at {100 * found['nearer'][column]:.0f} %)"
            shown.append(text)
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
        bench = Bench(config, weight) if wanted else None
        for n in wanted:
            cells[f"{weight}:{n}"] = cell(config, bench, n)
            config.out.write_text(json.dumps(cells, indent=1))
            print(report(cells).splitlines()[-1], flush=True)
    print(report(cells))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
