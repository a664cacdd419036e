"""Edits of motions by attention, judged by a classifier and by counted peaks.

    python benchmarks/motion.py                   # the tables of docs/motion.md
    python benchmarks/motion.py --clips 64 --steps 20

The bundled motion model draws synthetic clips (`data.make_motions`), of which action,
repetitions and place are known by their words or by what was drawn. A classifier that
is trained here on other clips, and that nothing else uses, says which action a motion
is; peaks are counted in the channel that the action moves. Each edit stands beside a
drawing without it: the same words, or the target's. The setting of each edit, and the
weight of CFG of each drawing, is the best of two on other noise and words.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.data import MOTION_ACTIONS, embed_words, make_motions
from jaxlib_guidance.models import Classifier, load_pretrained

WORDS = 6
SIDED = ("kick", "punch", "wave")
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
    weights: str = "motion"
    """A name of `load_pretrained`, or a file that train/motion.py wrote."""
    clips: int = 16
    """Clips of each edit and seed."""
    seeds: int = 3
    steps: int = 10
    judged: int = 200
    """Steps of training of the classifier."""


def condition(texts: list[str]) -> dict[str, jax.Array]:
    """The condition of texts."""
    text, mask = embed_words(texts, WORDS)
    return {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}


def train_judge(steps: int) -> Callable[[Any], np.ndarray]:
    """Motions ``[N, T, C]`` to labels ``[N]``, by a classifier of clips."""
    motions = make_motions(777, 4000)
    module = Classifier(classes=len(MOTION_ACTIONS), widths=(32, 64))
    params = module.init(jax.random.key(0), jnp.zeros((1, 48, 12)))["params"]
    tx = optax.adam(2e-3)

    def logits(params, x):
        out: Any = module.apply({"params": params}, x)
        return out.logits

    @jax.jit
    def step(params, state, x, labels):
        def loss(params):
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits(params, x), labels
            )
            return each.mean()

        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    state, random = tx.init(params), np.random.default_rng(0)
    for _ in range(steps):
        rows = random.integers(0, len(motions.poses), 64)
        # A little noise: what a model draws is not as smooth.
        x = motions.poses[rows] + 0.03 * random.normal(size=(64, 48, 12))
        params, state = step(
            params, state, jnp.asarray(x, jnp.float32), motions.labels[rows]
        )
    run = jax.jit(lambda x: jnp.argmax(logits(params, x), -1))
    return lambda x: np.asarray(run(jnp.asarray(x, jnp.float32)))


def activity(x: np.ndarray) -> np.ndarray:
    """How much each frame moves away from rest ``[N, T]``."""
    return np.sqrt(np.mean(np.asarray(x) ** 2, -1))


def active(x: np.ndarray) -> np.ndarray:
    """The frames from the first to the last that is not at rest, bool ``[N, T]``."""
    moving = activity(x) > 0.25 * activity(x).max(-1, keepdims=True)
    after = np.cumsum(moving, -1) > 0
    return after & (np.cumsum(moving[:, ::-1], -1)[:, ::-1] > 0)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of frames ``[N]``."""
    return (a & b).sum(-1) / np.maximum((a | b).sum(-1), 1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of two courses ``[N, T]``."""
    a, b = (c - c.mean(-1, keepdims=True) for c in (a, b))
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return (a * b).sum(-1) / np.maximum(scale, 1e-9)


def phrases(
    seed: int, count: int
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Texts, others with another action, and the labels of both."""
    random = np.random.default_rng(seed)
    texts, others, labels = [], [], []
    for i in range(count):
        # Both have a side or neither, so that a single word differs.
        sided = i % 8 < len(SIDED)
        kinds = [a for a in MOTION_ACTIONS if (a in SIDED) == sided]
        pair = random.choice(kinds, 2, replace=False)
        speed, side = random.choice(["fast", "slow"]), random.choice(["left", "right"])
        for found, action in zip((texts, others), pair, strict=True):
            found.append(f"{speed} {action} {side if sided else ''}".strip())
        labels.append([MOTION_ACTIONS.index(action) for action in pair])
    first, second = np.array(labels).T
    return texts, others, first, second


def edits(draw: Any, judge: Any) -> dict[str, tuple]:
    """Edit, drawing without it, measures and the settings that are searched.

    An edit or a drawing is a function of keys, conditions, a weight of CFG and a
    setting; measures are functions of source, edited and labels, the higher the better
    but for those that end in "(less)".
    """
    word = jnp.eye(WORDS)[1]
    late = np.arange(48) >= 24
    shares = (0.3, 0.6)

    def redrawn(keys, source, target, weight, _):
        """The target's words from the same noise."""
        own = draw(keys, weight)
        return editing.draw_pair(own, source, target, ())

    def afresh(keys, source, target, weight, _):
        """The same words from other noise."""
        first = editing.draw_pair(draw(keys, weight), source, source, ())
        again = editing.draw_pair(
            draw(jg.rng.fold(keys, 1), weight), source, source, ()
        )
        return editing.MotionPair(first.source, again.source)

    def erased(keys, source, target, weight, gain):
        return editing.erase_word(
            draw(keys, weight), source, word, window=(0.5, 1.0), gain=gain
        )

    def replaced(keys, source, target, weight, share):
        return editing.replace_word(
            *(draw(keys, weight), source, target, word),
            self_share=share,
            cross_share=share,
        )

    def shifted(keys, source, target, weight, share):
        return editing.shift_motion(draw(keys, weight), source, 0.5, share=share)

    def styled(keys, source, target, weight, share):
        return editing.transfer_style(draw(keys, weight), source, target, share=share)

    def varied(keys, source, target, weight, chunk):
        return editing.vary_motion(draw(keys, weight), source, chunk)

    def grounded(keys, source, target, weight, amount):
        return editing.ground_word(
            draw(keys, weight), source, word, (0.0, 0.5), amount=amount
        )

    def rms(x, where):
        return np.sqrt((activity(x) ** 2 * where).sum(-1) / where.sum())

    def kept_action(source, edited, first, second):
        return judge(edited) == first

    def new_action(source, edited, first, second):
        return judge(edited) == second

    def same_place(source, edited, first, second):
        return overlap(active(source), active(edited))

    measures = {
        "erase": {
            "motion left in the second half, of the source's (less)": lambda s, e, *_: (
                rms(e, late).mean() / rms(s, late).mean() * np.ones(len(s))
            ),
            "change of the first half, of its motion (less)": lambda s, e, *_: (
                rms(e - s, ~late).mean() / rms(s, ~late).mean() * np.ones(len(s))
            ),
        },
        "replace": {"new action": new_action, "same place": same_place},
        "style": {"new action": new_action, "same place": same_place},
        "shift": {
            "action": kept_action,
            "course of the rolled source": lambda s, e, *_: correlation(
                np.roll(activity(s), 24, -1), activity(e)
            ),
        },
        "vary": {
            "action": kept_action,
            "change, of its motion": lambda s, e, *_: (
                rms(e - s, late | True) / rms(s, late | True)
            ),
        },
        "ground": {
            "action": kept_action,
            "motion in the window, of all": lambda s, e, *_: (
                (activity(e) ** 2 * ~late).sum(-1) / (activity(e) ** 2).sum(-1)
            ),
        },
    }
    return {
        "erase": (erased, afresh, measures["erase"], (0.0, 0.1)),
        "replace": (replaced, redrawn, measures["replace"], shares),
        "style": (styled, redrawn, measures["style"], shares),
        "shift": (shifted, afresh, measures["shift"], shares),
        "vary": (varied, afresh, measures["vary"], (0.125, 0.25)),
        "ground": (grounded, afresh, measures["ground"], (0.3, 0.6)),
    }


def beside(config: Config, model: Any, params: Any, grid: Any) -> None:
    """Each edit beside a drawing without it: searches, judges and prints."""
    judge = train_judge(config.judged)
    held = make_motions(999, 1000)
    print(f"classifier: {(judge(held.poses) == held.labels).mean():.3f} of held-out\n")

    @cache
    def program(name, run, static):
        @jax.jit
        def drawn(params, keys, weight, source, target, number):
            def draw(keys, weight):
                return editing.MotionDraw(
                    *(keys, model.denoiser(params), grid, model.shape, model.null),
                    weight,
                )

            chosen = edits(draw, judge)[name][run]
            setting = number if static is None else static
            return chosen(keys, source, target, weight, setting)

        return drawn

    def measured(name, run, functions, seed, weight, setting):
        texts, others, first, second = phrases(seed, config.clips)
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
        return sum(-v if key.endswith("(less)") else v for key, v in found.items())

    print("| edit | measure | setting | with the edit | without it |")
    print("|---|---|---|---:|---:|")
    for name, (_, _, functions, settings) in edits(None, judge).items():
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
        actions = [MOTION_ACTIONS[i % 8] for i in range(config.clips)]
        texts = [f"{text} {a}" + " left" * (a in SIDED) for a in actions]
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
            held = make_motions(2000 + seed, 256)
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
                columns[i, text.split().index(MOTION_ACTIONS[held.labels[i]])] = 1
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
    exact = (np.asarray(editing.count_peaks(signal)) == held.counts).mean()
    usual = np.bincount(held.counts).argmax()
    print(f"| peaks of the motion itself | {exact:.2f} | 0 | – | – |")
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
    if "emphasis" in config.parts:
        emphasis(config, model, params, grid)
    if "maps" in config.parts:
        reading(config, model, params)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
