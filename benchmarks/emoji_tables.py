"""The measured cells of quality_emoji.py as tables in Markdown."""

import re
from typing import Any

import numpy as np
from emoji_methods import ENTRIES

from jaxlib_guidance.guidance import pareto_set

COLUMNS = ("frechet", "kernel", "accuracy", "caption", "coverage")
Cells = dict[str, dict[str, Any]]


def seeds_of(cells: Cells, start: str) -> tuple[str, dict[str, np.ndarray]]:
    """The setting between ``start`` and ", seed", and the columns over the seeds."""
    # A number: "CFG" is not to find "CFG, steps 20-80 %".
    setting = r"(?:, ([0-9][0-9.e+-]*(?:, [0-9]+ repeats)?|[0-9]+ repeats))?"
    pattern = re.compile(re.escape(start) + setting + r", seed [0-9]+")
    found = {name: match for name in cells if (match := pattern.fullmatch(name))}
    if not found:
        return "", {}
    rows = [cells[name] for name in sorted(found)]
    columns = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    return next(iter(found.values()))[1] or "", columns


def number(values: Any, digits: int = 3) -> str:
    """A mean, with the deviation over seeds where there are several."""
    values = np.atleast_1d(values)
    if not len(values) or not np.isfinite(values).all():
        return "–"
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Markdown, the first column of text."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def scores(values: dict[str, Any]) -> list[str]:
    """The cells of the judge's columns."""
    digits = (3, 2, 3, 3, 3)
    return [
        number(values.get(k, np.nan), n) for k, n in zip(COLUMNS, digits, strict=True)
    ]


def compared(cells: Cells, kind: str, steps: int) -> str:
    """Methods at their tuned weights, or at equal effective scale."""
    _, none = seeds_of(cells, "no guidance")
    rows, means = [], {}
    if none:
        rows.append(["no guidance", "0", *scores(none), "1.00", str(steps), "1"])
        means["no guidance"] = none["accuracy"].mean(), none["coverage"].mean()
    for name, entry in ENTRIES.items():
        weight, found = seeds_of(cells, f"{kind}, {name}")
        if not found:
            continue
        tried = cells.get(f"tune, {name} {weight}", {})
        scale = found["scale"] if np.isfinite(found["scale"]).all() else tried["scale"]
        cost = cells.get(f"time, {name}")
        ratio = f"{cost['guided'] / cost['none']:.1f}" if cost else "–"
        own = [f"{np.mean(scale):.2f}", f"{entry.cost * steps:.0f}", ratio]
        rows.append([name, weight, *scores(found), *own])
        means[name] = found["accuracy"].mean(), found["coverage"].mean()
    head = ("samples", "weight", *COLUMNS, "scale", "evaluations", "time")
    return f"{table(head, rows)}\n\n{unbeaten(means)}"


def unbeaten(means: dict[str, tuple[float, float]]) -> str:
    """The Pareto set of means of accuracy and coverage, as a sentence."""
    if not means:
        return ""
    kept = np.asarray(pareto_set(*np.asarray(list(means.values())).T))
    names = [name for name, stays in zip(means, kept, strict=True) if stays]
    return "No other row beats in both accuracy and coverage: " + "; ".join(names) + "."


def searched(cells: Cells) -> str:
    """The Frechet distance of each block and weight that was tried."""
    found = {
        tuple(name.split(", ")[1].split()): row["frechet"]
        for name, row in cells.items()
        if name.startswith("search, block")
    }
    weights = sorted({w for _, w in found}, key=float)
    rows = [
        [block, *(number(found.get((block, w), np.nan)) for w in weights)]
        for block in sorted({b for b, _ in found})
    ]
    none = cells.get("search, none", {}).get("frechet", np.nan)
    rows.insert(0, ["no guidance", *[number(none)] * len(weights)])
    return table(("block", *(f"PAG {w}" for w in weights)), rows)


def claimed(cells: Cells) -> str:
    """Unconditional samples, and pictures with a half hidden."""
    rows = []
    for task in ("unconditional", "inpainting"):
        for kind in ("none", "PAG"):
            setting, found = seeds_of(cells, f"{task}, {kind}")
            if found:
                name = "no guidance" if kind == "none" else "PAG"
                error = number(found.get("hidden", np.nan))
                own = f"{task}, {name} {setting}".strip()
                rows.append([own, error, *scores(found)])
    return table(("samples", "error", *COLUMNS), rows)


def tried(cells: Cells) -> str:
    """Every setting that was tried."""
    rows = [
        [name, number(row["frechet"]), number(row.get("scale", np.nan), 2)]
        for name, row in cells.items()
        if name.startswith("tune, ") or ", try " in name
    ]
    return table(("tried", "frechet, to training pictures", "scale"), rows)


def tables(cells: Cells, steps: int, scale: float, references: Cells) -> str:
    """All tables, each under its heading."""
    real = [[name, *scores(row)] for name, row in references.items()]
    parts = {
        "What no model drew": table(("pictures", *COLUMNS), real),
        "Tuned": compared(cells, "tuned", steps),
        f"Equal effective scale, {scale:g}": compared(cells, "equal", steps),
        "The search for PAG's block, unconditional": searched(cells),
        "Perturbed attention without a condition": claimed(cells),
        "Tried": tried(cells),
    }
    return "\n".join(f"## {name}\n\n{text}\n" for name, text in parts.items())
