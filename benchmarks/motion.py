"""Edits of motions by attention, judged by a classifier and by counted peaks.

    python benchmarks/motion.py                   # the tables of docs/motion.md
    python benchmarks/motion.py --clips 64 --steps 20
    python benchmarks/motion.py --recorded --weights runs/recorded/ema.safetensors

The bundled motion model draws synthetic clips (`data.make_motions`), of which action,
repetitions and place are known by their words or by what was drawn; a model that
train/motion.py made of recorded ones draws these. A classifier that
is trained here on other clips, and that nothing else uses, says which action a motion
is; peaks are counted in the channel that the action moves. Each edit stands beside a
drawing without it: the same words, or the target's. The setting of each edit, and the
weight of CFG of each drawing, is the best of two on other noise and words.
"""

import dataclasses
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from motion_edits import RECORDED, SYNTHETIC, WORDS, condition, edits, phrases
from motion_judging import overlap, train_judge

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.models import load_pretrained

# Edits whose setting may be traced, and those that are beside the same drawing.
NUMBERED = ("erase", "ground")
SAME_DRAWING = {
    **dict.fromkeys(("erase", "shift", "vary", "ground"), "erase"),
    **dict.fromkeys(("replace", "style"), "replace"),
}
NUMBERS = ("one", "two", "three", "four", "five")


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure."""

    parts: tuple[Literal["edits", "emphasis", "maps"], ...] = (
        *("edits", "emphasis", "maps"),
    )
    """Tables: edits, the size of motions by emphasis, what the maps say."""
    recorded: bool = False
    """Recorded clips (`data.load_motions`), which have no words of size, in place of
    synthetic ones; they need weights of train/motion.py --recorded."""
    weights: str = "motion"
    """A name of `load_pretrained`, or a file that train/motion.py wrote."""
    clips: int = 16
    """Clips of each edit and seed."""
    seeds: int = 3
    steps: int = 10
    judged: int = 200
    """Steps of training of the classifier."""

    @property
    def source(self) -> Any:
        """Where clips come from."""
        return RECORDED if self.recorded else SYNTHETIC


def beside(config: Config, model: Any, params: Any, grid: Any) -> None:
    """Each edit beside a drawing without it: searches, judges and prints."""
    judge = train_judge(config.source.draw(777, 4000), config.judged)
    held = config.source.draw(999, 1000)
    print(f"classifier: {(judge(held.poses) == held.labels).mean():.3f} of held-out, ")
    counted = config.source.count(held.poses, held.labels)
    print(f"peaks: {(counted == held.counts).mean():.3f}\n")

    @cache
    def program(name, run, static):
        @jax.jit
        def drawn(params, keys, weight, source, target, number):
            def draw(keys, weight):
                return editing.MotionDraw(
                    *(keys, model.denoiser(params), grid, model.shape, model.null),
                    weight,
                )

            chosen = edits(draw, judge, config.source)[name][run]
            setting = number if static is None else static
            return chosen(keys, source, target, weight, setting)

        return drawn

    def measured(name, run, functions, seed, weight, setting):
        texts, others, first, second = phrases(seed, config.clips, config.source)
        keys = jg.sample_keys(jax.random.key(seed), config.clips)
        conds = condition(texts), condition(others)
        # Numbers of attention need no program of their own, nor do drawings.
        if run:
            made = program(SAME_DRAWING[name], run, None)
        else:
            made = program(name, run, None if name in NUMBERED else setting)
        number = jnp.float32(0 if setting is None else setting)
        pair = made(params, keys, jnp.float32(weight), *conds, number)
        source, edited = (np.asarray(x) for x in pair)
        return {
            key: float(np.mean(measure(source, edited, first, second)))
            for key, measure in functions.items()
        }

    def score(found):
        # Peaks are for judging alone.
        kept = {k: v for k, v in found.items() if not k.endswith("peaks")}
        return sum(-v if key.endswith("(less)") else v for key, v in kept.items())

    print("| edit | measure | setting | with the edit | without it |")
    print("|---|---|---|---:|---:|")
    for name, (_, _, functions, settings) in edits(None, judge, config.source).items():
        best = []
        for run, searched in (
            (0, [(1.5, each) for each in settings]),
            (1, [(w, None) for w in (1.5, 3.0)]),
        ):
            trials = [measured(name, run, functions, 100, *each) for each in searched]
            chosen = searched[int(np.argmax([score(each) for each in trials]))]
            rows = [
                measured(name, run, functions, seed, *chosen)
                for seed in range(config.seeds)
            ]
            best.append((chosen, rows))
        for key in functions:
            cells = []
            for _, rows in best:
                values = np.array([row[key] for row in rows])
                spread = values.std(ddof=1) if len(values) > 1 else float("nan")
                cells.append(f"{values.mean():.2f} ± {spread:.2f}")
            setting = f"{best[0][0][1]}; CFG {best[1][0][0]}"
            print(f"| {name} | {key} | {setting} | {' | '.join(cells)} |", flush=True)
    print()


def emphasis(config: Config, model: Any, params: Any, grid: Any) -> None:
    """How large motions are as the word "high" gets more or less attention."""
    amounts = (-0.6, -0.3, 0.3, 0.6)
    word = jnp.eye(WORDS)[0]

    @jax.jit
    def run(params, keys, cond, amount):
        draw = editing.MotionDraw(
            keys, model.denoiser(params), grid, model.shape, model.null
        )
        return editing.emphasise_word(draw, cond, word, amount)

    print("| size of motions |", " | ".join(f"{a:+.1f}" for a in amounts), "|")
    print("|---|" + "---:|" * len(amounts))
    for text in ("high",):
        names, sided = SYNTHETIC.actions, SYNTHETIC.sided
        actions = [names[i % len(names)] for i in range(config.clips)]
        texts = [f"{text} {a}" + " left" * (a in sided) for a in actions]
        cells = []
        for amount in amounts:
            sizes = []
            for seed in range(config.seeds):
                keys = jg.sample_keys(jax.random.key(seed), config.clips)
                pair = run(params, keys, condition(texts), amount)
                ratio = np.abs(pair.edited).max((1, 2)) / np.abs(pair.source).max(
                    (1, 2)
                )
                sizes.append(float(ratio.mean()))
            cells.append(f"{np.mean(sizes):.2f} ± {np.std(sizes, ddof=1):.2f}")
        print(f'| of the drawing without, "{text}" | {" | ".join(cells)} |', flush=True)
    print()


def reading(config: Config, model: Any, params: Any) -> None:
    """Repetitions and places as attention says, for clips that are known."""

    @jax.jit
    def run(params, poses, cond, keys, columns, t):
        net, process = model.denoiser(params), model.process
        noise = jg.rng.normal(keys, poses.shape[1:])
        x = process.alpha(t) * poses + process.sigma(t) * noise
        maps = editing.read_maps(net, x, cond, t=t)
        words = jnp.sum(maps.words * columns[:, None], -1)
        return (
            editing.count_actions(maps.frames, words),
            editing.count_actions(maps.frames),
            editing.find_word(words),
        )

    print("| read from attention | right number | error | place | whole clip's |")
    print("|---|---:|---:|---:|---:|")
    for level in (0.05, 0.2, 0.4):
        rows = []
        for seed in range(config.seeds):
            held = config.source.draw(2000 + seed, 256)
            texts = [
                " ".join(
                    w
                    for w in text.split()
                    if w not in ("one", "two", "three", "four", "five")
                )
                for text in held.texts
            ]
            columns = np.zeros((256, WORDS), np.float32)
            for i, text in enumerate(texts):
                action = config.source.actions[held.labels[i]]
                columns[i, text.split().index(action)] = 1
            keys = jg.sample_keys(jax.random.key(seed), 256)
            by_word, by_contrast, place = run(
                params, held.poses, condition(texts), keys, columns, jnp.float32(level)
            )
            frame = np.arange(48)
            truth = (frame >= held.spans[:, :1]) & (frame < held.spans[:, 1:])
            found = overlap(np.asarray(place), truth).mean()
            for count in (by_word, by_contrast):
                off = np.abs(np.asarray(count) - held.counts)
                rows.append([(off == 0).mean(), off.mean(), found, truth.mean()])
        found = np.array(rows).reshape(config.seeds, 2, -1).mean(0)
        for name, row in zip(
            ("the word's frame", "greatest contrast"), found, strict=True
        ):
            cells = " | ".join(f"{v:.2f}" for v in row)
            print(f"| t = {level}, {name} | {cells} |", flush=True)
    signal = np.take_along_axis(held.poses, held.moved[:, None, None], 2)[..., 0]
    off = np.abs(np.asarray(editing.count_peaks(signal)) - held.counts)
    usual = np.bincount(held.counts).argmax()
    exact, error = (off == 0).mean(), off.mean()
    print(f"| peaks of the motion itself | {exact:.2f} | {error:.2f} | – | – |")
    print(
        f"| always {usual} | {(held.counts == usual).mean():.2f} | "
        f"{np.abs(held.counts - usual).mean():.2f} | – | – |"
    )


def main(config: Config) -> None:
    """Measures the parts."""
    model, params = load_pretrained(config.weights)
    grid = jg.uniform_grid(model.process, config.steps)
    if "edits" in config.parts:
        beside(config, model, params, grid)
    if "emphasis" in config.parts and not config.recorded:
        emphasis(config, model, params, grid)
    if "maps" in config.parts:
        reading(config, model, params)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
