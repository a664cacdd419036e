"""The measured cells of quality_emoji.py as tables in Markdown."""

from typing import Any

import numpy as np
from emoji_methods import ENTRIES

COLUMNS = ("frechet", "kernel", "accuracy", "caption", "coverage")
Cells = dict[str, dict[str, Any]]


def seeds_of(cells: Cells, start: str) -> tuple[str, dict[str, np.ndarray]]:
    """What stands between ``start`` and ", seed", and the columns over the seeds."""
    names = [n for n in cells if n.startswith(start + ",") and ", seed " in n]
    if not names:
        return "", {}
    rows = [cells[name] for name in sorted(names)]
    middle = names[0][len(start) + 1 :].rpartition("seed ")[0].strip(", ")
    return middle, {k: np.array([row[k] for row in rows]) for k in rows[0]}


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
    rows = []
    if none:
        rows.append(["no guidance", "0", *scores(none), "1.00", str(steps), "1"])
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
    return table(("samples", "weight", *COLUMNS, "scale", "evaluations", "time"), rows)


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
            weight, found = seeds_of(cells, f"{task}, {kind}")
            if not found:
                continue
            name = f"{task}, {f'PAG {weight}' if weight else 'no guidance'}"
            errors = [number(found.get(k, np.nan)) for k in ("hidden", "visible")]
            picked = [scores(found)[i] for i in (0, 1, 4)]
            rows.append([name, *errors, *picked])
    head = ("samples", "error, hidden", "error, visible", "frechet", "kernel")
    return table((*head, "coverage"), rows)


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
