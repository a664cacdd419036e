"""What guidance does to the emoji model: methods of every family, measured.

    python benchmarks/quality_emoji.py                  # all tables and pictures
    python benchmarks/quality_emoji.py --minutes 4      # in pieces: it goes on
    python benchmarks/quality_emoji.py --part pictures  # one part alone

What is measured is kept cell by cell in --cache, which belongs to the weights and sizes
that it was made with.

Every method is tuned alike: four settings of its weight, drawn with one seed's keys for
captions of *training* pictures; the least Frechet distance to other training pictures
is taken. Then other seeds draw a sample for each of --count held-out categories and
captions, at that weight ("tuned") and at the one whose effective scale is --scale
("equal"). PAG, SEG and TPG act in the block that the search on unconditional samples
found for PAG.

frechet     between Gaussian fits to the judge's features, against held-out pictures
kernel      unbiased squared maximum mean discrepancy of the features, times 100
accuracy    the judge finds the category that was asked for
caption     the caption that was asked for is among the five of 186 nearest to what a
            ridge regression on the judge's features makes of the picture; chance .027
coverage    share of held-out pictures with a sample nearer than their fifth neighbour
scale       effective scale: 1 without guidance, 1 + w under CFG
evaluations of the network, for a sample
time        of the processor, relative to no guidance, which runs right before
"""

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from emoji_judging import Judge
from emoji_methods import BLOCKS, ENTRIES
from emoji_tables import tables

import jaxlib_guidance as jg
from jaxlib_guidance.data import embed_words, save_grid
from jaxlib_guidance.guidance import Chain, measure_scale
from jaxlib_guidance.models import load_pretrained

TUNING_SEED = 100
SEARCHED = (0.5, 1.5, 3.0)
REPEATS = (0, 1, 2, 3)
REPEATS_GUIDED = (0, 1)  # Twice the evaluations of a step.
PROMPTS = (
    *("red apple", "green apple", "yellow heart", "blue circle", "smiling face"),
    *("cat face", "dog", "pizza", "rocket", "house"),
    *("tree", "red car", "sun", "woman singer", "flag japan"),
    *("guitar", "soccer ball", "umbrella", "fish", "clock"),
)

# Of kinds that the set has many of.
COMPARED = (
    *("smiling face", "sleeping face", "pink heart", "thumbs up", "woman singer"),
    *("man artist", "panda", "flag japan", "flag france", "blue circle"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to keep it."""

    part: Literal["all", "search", "methods", "inpainting", "tables", "pictures"] = (
        "all"
    )
    minutes: float = 0
    """Time after which no new cell begins; 0 is none."""
    seeds: int = 3
    steps: int = 8
    batch: int = 93
    """Samples drawn at once, and for a setting that is tried."""
    count: int = 93
    """Samples of a cell, a multiple of the batch: for so many held-out captions."""
    rows: tuple[str, ...] = ()
    """Methods to measure; all by default."""
    scale: float = 2.0
    """Effective scale at which methods are compared."""
    cache: Path = Path("out/quality_emoji.json")
    out: Path = Path("out/quality_emoji.md")
    pictures: Path = Path("docs")
    """Folder of the pictures."""


class OutOfTimeError(Exception):
    """The minutes are over."""


def condition(model: Any, labels: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """Categories and captions as the model takes them, ``[N, ...]``."""
    text, mask = embed_words(texts)
    return {"label": np.asarray(labels, np.int32), "text": text, "text_mask": mask}


def digest(*names: str) -> str:
    """What tells weights from others."""
    folder = resources.files("jaxlib_guidance.models") / "assets"
    files = ((folder / f"{name}.safetensors").read_bytes() for name in names)
    return hashlib.sha256(b"".join(files)).hexdigest()[:16]


class Bench:
    """The model, the judge, and what is known so far."""

    def __init__(self, config: Config):
        self.config, self.judge, self.begin = config, Judge(), time.monotonic()
        self.model, params = load_pretrained("emoji")
        self.weak, weak_params = load_pretrained("emoji_weak")
        self.params = params, weak_params
        test, train = self.judge.test, self.judge.train
        shuffled = np.random.RandomState(0).permutation(len(train.labels))
        self.tuning, self.rest = shuffled[: config.batch], shuffled[config.batch :]
        held_out = np.random.RandomState(0).permutation(len(test.labels))
        self.asked = held_out[: config.count]
        none, blank = self.model.classes, [""] * config.count
        self.conditions = {
            "held-out": condition(
                self.model,
                test.labels[self.asked],
                [test.captions[i] for i in self.asked],
            ),
            "tuning": condition(
                self.model,
                train.labels[self.tuning],
                [train.captions[i] for i in self.tuning],
            ),
            "none": condition(self.model, np.full(config.count, none), blank),
        }
        self.effective = measure_scale(self.model.null)
        self.run = jax.jit(self._run)
        self.made_with = {
            "weights": digest("emoji", "emoji_weak", "emoji_judge"),
            "sizes": [config.steps, config.batch, config.count, config.scale],
        }
        self.cells = self._kept()

    def _kept(self) -> dict[str, dict[str, Any]]:
        """What was measured before with these weights and sizes."""
        if not self.config.cache.exists():
            return {}
        kept = json.loads(self.config.cache.read_text())
        return kept["cells"] if kept["made_with"] == self.made_with else {}

    def _run(self, params, guidance, keys, cond):
        end, _ = jg.sample(
            keys,
            (self.model.denoiser(params[0]), self.weak.denoiser(params[1])),
            *jg.recommended(
                self.model.process, self.config.steps, scale=self.model.data_scale
            ),
            self.model.shape,
            cond,
            guidance=guidance,
            steps=self.config.steps,  # All of them: the end comes with its states.
        )
        return end.x, end.guidance_state

    def draw(self, chain: Chain, kind: str, seed: int, count: int) -> tuple[Any, float]:
        """Pictures ``[count, 32, 32, 3]`` and their effective scale, NaN if not asked.

        Args:
          chain: Guidance.
          kind: Which of the conditions.
          seed: Number of the keys.
          count: Number of pictures.
        """
        images, scales = [], []
        for start in range(0, count, self.config.batch):
            rows = np.arange(start, start + self.config.batch)
            cond = {k: jnp.asarray(v[rows]) for k, v in self.conditions[kind].items()}
            keys = jg.sample_keys(jax.random.key(seed), rows)
            x, state = self.run(self.params, chain, keys, cond)
            images.append(np.clip(np.asarray(x), -1, 1))
            if chain.terms and chain.terms[-1] is self.effective:
                scales.append(np.nanmean(self.effective.mean(state[-1])))
        return np.concatenate(images), float(np.mean(scales)) if scales else np.nan

    def cell(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result, from what is kept or measured now."""
        if name not in self.cells:
            spent = time.monotonic() - self.begin
            if self.config.minutes and spent > 60 * self.config.minutes:
                raise OutOfTimeError
            self.cells[name] = measure()
            self.config.cache.parent.mkdir(parents=True, exist_ok=True)
            # Two processes may measure different rows.
            self.cells = self._kept() | self.cells
            kept = {"made_with": self.made_with, "cells": self.cells}
            self.config.cache.write_text(json.dumps(kept, indent=1))
            print(f"{time.monotonic() - self.begin:5.0f} s  {name}", flush=True)
        return self.cells[name]

    def tune(self, name: str, chain: Chain, kind: str) -> dict[str, Any]:
        """The Frechet distance to training pictures, and the effective scale."""

        def measure():
            x, scale = self.draw(chain, kind, TUNING_SEED, self.config.batch)
            distance = self.judge.tuning_frechet(x, self.rest)
            return {"frechet": distance, "scale": scale}

        return self.cell(name, measure)

    def report(self, name: str, chain: Chain, kind: str) -> None:
        """The columns of a row, for every seed."""
        for seed in range(self.config.seeds):

            def measure(seed=seed):
                x, scale = self.draw(chain, kind, seed, self.config.count)
                asked = self.asked if kind == "held-out" else None
                return self.judge.scores(x, asked) | {"scale": scale}

            self.cell(f"{name}, seed {seed}", measure)

    def seconds(self, chain: Chain) -> float:
        """Seconds of the processor for one batch, once it is compiled."""
        while True:
            known, begin = self.run._cache_size(), time.process_time()
            self.draw(chain, "held-out", 0, self.config.batch)
            if self.run._cache_size() == known:
                return time.process_time() - begin


def search(bench: Bench) -> tuple[str, float]:
    """Perturbed attention without a condition; returns the best block and weight.

    Every block at every weight, the best of them again with other seeds.
    """
    bench.tune("search, none", jg.chain(), "none")
    found = {
        (block, w): bench.tune(
            f"search, {block} {w:g}", jg.chain(jg.pag(w, block)), "none"
        )["frechet"]
        for block in BLOCKS
        for w in SEARCHED
    }
    block, w = min(found, key=lambda each: found[each])
    bench.report("unconditional, none", jg.chain(), "none")
    bench.report(f"unconditional, PAG, {w:g}", jg.chain(jg.pag(w, block)), "none")
    return block, w


def methods(bench: Bench) -> None:
    """Every row of the table, at its tuned weight and then at equal effective scale."""
    effective, chosen = bench.effective, bench.config.rows or tuple(ENTRIES)
    bench.report("no guidance", jg.chain(effective), "held-out")

    def made(name: str, w: float, scaled: bool) -> Chain:
        entry = ENTRIES[name]
        block = search(bench)[0] if entry.block else ""
        terms = entry.make(w, block, bench.model.null)
        return jg.chain(terms, effective) if scaled else terms

    curves = {}
    for name in chosen:
        entry = ENTRIES[name]
        tried = {
            w: bench.tune(f"tune, {name} {w:g}", made(name, w, True), "tuning")
            for w in entry.settings
        }
        curves[name] = {0.0: entry.off} | {w: row["scale"] for w, row in tried.items()}
        w = min(tried, key=lambda each: tried[each]["frechet"])
        row = made(name, w, entry.unconditional)
        bench.report(f"tuned, {name}, {w:g}", row, "held-out")
        pair = jg.chain(), made(name, w, False)
        bench.cell(
            f"time, {name}",
            lambda pair=pair: dict(
                zip(("none", "guided"), map(bench.seconds, pair), strict=True)
            ),
        )
    for name in chosen:
        w = weight_of(bench.config.scale, curves[name])
        if w is not None:
            row = made(name, w, True)
            bench.report(f"equal, {name}, {w:.3g}", row, "held-out")


def weight_of(scale: float, curve: dict[float, float]) -> float | None:
    """The least weight of an effective scale, between those tried; None beyond them."""
    points = list(curve.items())
    for (w0, a0), (w1, a1) in itertools.pairwise(points):
        if min(a0, a1) <= scale <= max(a0, a1) and a0 != a1:
            return w0 + (w1 - w0) * (scale - a0) / (a1 - a0)
    return None


def inpainting(bench: Bench) -> None:
    """The right half of pictures hidden, drawn anew by the unconditional model.

    RePaint, with as many settings for either: repetitions of a step without guidance;
    with it half as many and two weights. Neither takes more evaluations in all.
    """
    block, best = search(bench)
    train, test = (
        bench.judge.train.images[bench.tuning],
        bench.judge.test.images[bench.asked],
    )
    mask = np.zeros(train.shape[1:], np.float32)
    mask[:, : mask.shape[1] // 2] = 1

    @partial(jax.jit, static_argnames="repeats")
    def fill(params, guidance, keys, cond, source, repeats):
        solver = jg.with_recurrence(jg.inpaint(jg.ddpm(), source, mask), repeats)
        grid = jg.recommended(
            bench.model.process, bench.config.steps, scale=bench.model.data_scale
        ).grid
        network = bench.model.denoiser(params)
        return jg.sample(
            *(keys, network, solver, grid, bench.model.shape, cond), guidance=guidance
        )[0]

    def draw(real, guidance, repeats, seed):
        images, size = [], bench.config.batch
        for start in range(0, len(real), size):
            rows = np.arange(start, start + size)
            cond = {
                k: jnp.asarray(v[:size]) for k, v in bench.conditions["none"].items()
            }
            keys = jg.sample_keys(jax.random.key(seed), rows)
            x = fill(bench.params[0], guidance, keys, cond, real[rows], repeats)
            images.append(np.clip(np.asarray(x), -1, 1))
        return np.concatenate(images)

    def tried(title, guidance, repeats):
        def measure():
            x = draw(train, guidance, repeats, TUNING_SEED)
            return {"frechet": bench.judge.tuning_frechet(x, bench.rest)}

        return bench.cell(f"inpainting, try {title}", measure)["frechet"]

    plain = {(0.0, r): tried(f"{r} repeats", jg.chain(), r) for r in REPEATS}
    guided = {
        (w, r): tried(f"{r} repeats PAG {w:g}", jg.chain(jg.pag(w, block)), r)
        for w in (best / 3, best)
        for r in REPEATS_GUIDED
    }
    for title, found in (("none", plain), ("PAG", guided)):
        w, repeats = min(found, key=lambda each: found[each])
        guidance = jg.chain(jg.pag(w, block)) if w else jg.chain()
        for seed in range(bench.config.seeds):

            def measure(seed=seed, guidance=guidance, repeats=repeats):
                x = draw(test, guidance, repeats, seed)
                off = (x - test)[:, mask == 0]
                hidden = float(np.sqrt(np.mean(off**2)))
                return bench.judge.scores(x, bench.asked) | {"hidden": hidden}

            setting = f"{w:g}, {repeats} repeats" if w else f"{repeats} repeats"
            bench.cell(f"inpainting, {title}, {setting}, seed {seed}", measure)


def pictures(bench: Bench) -> None:
    """Prompts, and the same noise under several kinds of guidance, as PNG files."""
    block, _ = search(bench)
    null, folder = bench.model.null, bench.config.pictures
    folder.mkdir(parents=True, exist_ok=True)
    with_cfg = jg.chain(jg.cfg(2.0, null))
    with_both = jg.chain(jg.cfg(2.0, null), jg.pag(1.0, block))

    def draw(prompts, guidance):
        none = np.full(len(prompts), bench.model.classes)
        cond = jax.tree.map(jnp.asarray, condition(bench.model, none, prompts))
        keys = jg.sample_keys(jax.random.key(0), len(prompts))
        return np.asarray(bench.run(bench.params, guidance, keys, cond)[0])

    save_grid(folder / "emoji.png", draw(PROMPTS, with_cfg), 5, 3)
    rows = [draw(COMPARED, g) for g in (jg.chain(), with_cfg, with_both)]
    save_grid(folder / "guided.png", np.concatenate(rows), len(COMPARED), 2)


def main(config: Config) -> None:
    """Measures what is missing, and writes tables and pictures."""
    bench = Bench(config)
    parts = {
        "search": search,
        "methods": methods,
        "inpainting": inpainting,
        "pictures": pictures,
    }
    try:
        for name, part in parts.items():
            if config.part in ("all", name):
                part(bench)
    except OutOfTimeError:
        print("out of time: run it again to go on")
    text = tables(bench.cells, config.steps, config.scale, bench.judge.references())
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
