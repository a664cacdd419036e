"""Edits of real pictures whose true result is known: emoji in another colour.

    python benchmarks/editing.py --evaluations 60   # the table of docs/editing.md
    python benchmarks/editing.py --minutes 9        # in pieces: it goes on
    python benchmarks/editing.py --pairs 4 --tuned 4 --evaluations 20 --cache out/small

"red circle" is to become "blue circle", and the set has both. Each method turns the
picture of one caption into the other, guided by the emoji model, with as many
evaluations of the network. Its settings are searched on hearts, six for each method;
the setting of the least error is judged on circles and squares. Results are kept in
``--cache`` method by method, for these sizes. The judge of colours is trained first
(benchmarks/editing_judge.py), which takes about a minute.

error     root of the mean squared distance of a pixel to the true picture, in [-1, 1]
nearer    share of pairs whose result is nearer to the truth than the picture was
inside    the error where truth and picture differ
outside   the distance to the picture that was changed, where truth and picture agree
accuracy  share of results that the judge, who guides nothing and has seen neither
          circles nor squares, finds in the asked colour, of seven and none of them;
          outside the result is the picture
seconds   for one picture, of this machine's processors
"""

import dataclasses
import itertools
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture
from editing_judge import Judge, held_out, train_judge
from editing_methods import Method, methods

import jaxlib_guidance as jg
from jaxlib_guidance.data import embed_words, load_emoji, save_grid
from jaxlib_guidance.models import load_pretrained

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
TUNED, JUDGED = ("heart",), ("circle", "square")
COLUMNS = ("error", "nearer", "inside", "outside", "accuracy")


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    pairs: int = 28
    """Pairs of pictures that are judged."""
    tuned: int = 7
    """Pairs that settings are searched on, and that are edited at once."""
    evaluations: int = 100
    """Evaluations of the network for a picture, about."""
    seeds: int = 3
    judge_steps: int = 600
    """Steps of training of the judge."""
    minutes: float = 60
    """Time after which no further method begins."""
    cache: Path = Path("out/editing")
    out: Path = Path("out/editing.png")
    curve: Path = Path("out/editing_curve.png")


@cache
def known() -> dict[str, np.ndarray]:
    """Pictures by caption."""
    sets = map(load_emoji, ("train", "test"))
    return {c: x for e in sets for c, x in zip(e.captions, e.images, strict=True)}


def pairs_of(kinds: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """Captions of a picture and of what it is to become, spread over all there are."""
    found = [
        (f"{one} {kind}", f"{other} {kind}")
        for kind in kinds
        for one, other in itertools.permutations(COLOURS, 2)
        if {f"{one} {kind}", f"{other} {kind}"} <= set(known())
    ]
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).round()
    return [found[int(i)] for i in chosen]


def rms(a: np.ndarray, where: Any = True) -> np.ndarray:
    """Root of the mean square of each picture, over the places of a mask."""
    axes = (1, 2, 3)
    return np.sqrt(np.mean(a**2, axes, where=np.broadcast_to(where, a.shape)))


class Pairs:
    """Pictures, truths and conditions of some pairs, and how results are judged."""

    def __init__(self, model: Any, kinds: tuple[str, ...], count: int, judge: Judge):
        """Reads the pictures."""
        self.judge = judge
        self.pairs = pairs_of(kinds, count)
        sides = list(zip(*self.pairs, strict=True))
        self.before, self.truth = (np.stack([known()[c] for c in s]) for s in sides)
        self.changed = np.abs(self.truth - self.before).max(-1, keepdims=True) > 0.1
        self.conds = [self._condition(model, list(side)) for side in sides]

    def _condition(self, model, captions):
        text, mask = embed_words(captions)
        label = np.full(len(captions), model.classes)
        return {"label": label, "text": text, "text_mask": mask}

    def judged(self, edited: np.ndarray) -> dict[str, float]:
        """The columns of the table."""
        error, away = rms(edited - self.truth), rms(self.before - self.truth)
        whole = np.where(self.changed, edited, self.before)
        asked = [COLOURS.index(target.partition(" ")[0]) for _, target in self.pairs]
        values = {
            "error": error,
            "nearer": error < away,
            "inside": rms(edited - self.truth, self.changed),
            "outside": rms(edited - self.before, ~self.changed),
            "accuracy": self.judge(whole) == np.array(asked),
        }
        return {name: float(np.mean(value)) for name, value in values.items()}


def measured(method: Method, tuned: Pairs, judged: Pairs, seeds: int) -> dict[str, Any]:
    """What each setting reaches on the one, and the best of them on the other."""
    model, params = load_pretrained("emoji")

    @cache
    def compiled(fixed):
        edit = method.make(*fixed)

        @jax.jit
        def run(params, keys, x, source, target, *numbers):
            found = edit(keys, model.denoiser(params), x, source, target, *numbers)
            return jnp.clip(found, -1, 1)

        return run

    def edited(pairs, setting, seed):
        """As many at once as settings are searched on, so that one program serves."""
        fixed, numbers = setting
        run, at_once = compiled(fixed), len(tuned.truth)
        keys = jg.sample_keys(jax.random.key(seed), len(pairs.truth))
        found = []
        for start in range(0, len(keys), at_once):
            rows = np.arange(start, start + at_once) % len(keys)
            given = jax.tree.map(lambda a, r=rows: a[r], (pairs.before, *pairs.conds))
            found.append(run(params, keys[rows], *given, *map(np.float32, numbers)))
        return np.concatenate(found)[: len(keys)]

    searched = [tuned.judged(edited(tuned, s, 100)) for s in method.settings]
    best = method.settings[int(np.argmin([row["error"] for row in searched]))]
    begin = time.monotonic()
    drawn = [edited(judged, best, s) for s in range(seeds if method.draws else 1)]
    seconds = (time.monotonic() - begin) / (len(drawn) * len(judged.truth))
    return {
        "setting": [*best[0], *best[1]],
        "searched": searched,
        "rows": [judged.judged(each) for each in drawn],
        "seconds": seconds,
        "drawn": drawn[0].tolist(),
    }


def table(kept: dict[str, dict[str, Any]], judged: Pairs) -> None:
    """Prints the rows, the picture unchanged first."""
    print("| method | setting | " + " | ".join(COLUMNS) + " | seconds |")
    print("|---|---|" + "---:|" * (len(COLUMNS) + 1))
    plain = [f"{judged.judged(judged.before)[name]:.3f}" for name in COLUMNS]
    print(f"| the picture unchanged | – | {' | '.join(plain)} | – |")
    for name, row in kept.items():
        cells = []
        for column in COLUMNS:
            values = [each[column] for each in row["rows"]]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        setting = ", ".join(f"{number:g}" for number in row["setting"])
        print(f"| {name} | {setting} | {' | '.join(cells)} | {row['seconds']:.2f} |")


def compare(kept: dict[str, dict[str, Any]], judged: Pairs) -> None:
    """Prints how much nearer to the truth than the first method, pair by pair."""

    def errors(row):
        return rms(np.array(row["drawn"]) - judged.truth)

    first, *others = kept
    print(f"\n| error less than that of {first}, first seed | mean and 95 % of it |")
    print("|---|---:|")
    for name in others:
        less = errors(kept[first]) - errors(kept[name])
        half = 1.96 * less.std(ddof=1) / np.sqrt(len(less))
        print(f"| {name} | {less.mean():.3f} ± {half:.3f} |")


def draw_curve(kept: dict[str, dict[str, Any]], plan: dict[str, Method], out: Path):
    """What is reached inside and kept outside, along the searched settings."""
    with picture(out, (11, 4.6), dpi=110) as figure:
        panels = figure.subplots(1, 2)
        for i, (name, row) in enumerate(kept.items()):
            style = {
                "color": f"C{i}",
                "marker": "os^Dv<>pX*hP8d"[i % 14],
                "markersize": 5,
            }
            # There are ten colours.
            style["ls"] = ("-", "--")[i // 10 % 2]
            for panel, column in zip(panels, ("inside", "accuracy"), strict=True):
                # A line for each fixed part and all numbers but the weight of CFG.
                lines: dict[Any, list[dict[str, float]]] = {}
                pairs = zip(plan[name].settings, row["searched"], strict=True)
                for (fixed, numbers), found in pairs:
                    lines.setdefault((fixed, numbers[1:]), []).append(found)
                for k, rows in enumerate(lines.values()):
                    x, y = ([r[c] for r in rows] for c in ("outside", column))
                    panel.plot(x, y, **style, lw=1, label=None if k else name)
        panels[0].set_ylabel("error inside, to the truth (less is better)")
        panels[1].set_ylabel("accuracy of the judge (more is better)")
        for panel in panels:
            panel.set_xlabel("distance to the picture outside (less is better)")
            panel.grid(alpha=0.3)
        panels[1].legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.6))


def main(config: Config) -> None:
    """Searches on hearts, judges on circles and squares, prints and draws."""
    begin = time.monotonic()
    model, _ = load_pretrained("emoji")
    plan = methods(model, config.evaluations)
    config.cache.mkdir(parents=True, exist_ok=True)
    kept_judge = config.cache / "judge.npz"
    judge = train_judge(known(), COLOURS, config.judge_steps, kept_judge)
    told = held_out(judge, known(), COLOURS)
    tuned = Pairs(model, TUNED, config.tuned, judge)
    judged = Pairs(model, JUDGED, config.pairs, judge)
    kept = {}
    for name, method in plan.items():
        path = config.cache / f"{name}.json"
        if not path.exists():
            if time.monotonic() - begin > 60 * config.minutes:
                continue
            path.write_text(json.dumps(measured(method, tuned, judged, config.seeds)))
            print(f"{time.monotonic() - begin:4.0f} s  {name}", flush=True)
        kept[name] = json.loads(path.read_text())
    right, wrong = (len(told[name]) for name in ("right", "wrong"))
    print(f"judge: {right} of {right + wrong} pictures of kinds that it has not seen, ")
    print(f"all but {told['wrong']}; of the truths {judged.judged(judged.truth)}\n")
    table(kept, judged)
    compare(kept, judged)
    draw_curve(kept, plan, config.curve)
    shown = slice(0, len(judged.truth), max(1, len(judged.truth) // 8))
    drawn = [
        judged.before,
        judged.truth,
        *(np.array(r["drawn"]) for r in kept.values()),
    ]
    rows = np.concatenate([each[shown] for each in drawn])
    save_grid(config.out, rows, len(judged.truth[shown]), 3)
    print(f"\n{config.out}: picture, truth, then the methods as above")
    print(f"{config.curve}: hearts, along the settings")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
