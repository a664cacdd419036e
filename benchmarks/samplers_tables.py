"""Tables and verdict of `samplers.py`."""

import numpy as np
from problems import COUNTS

LIMIT = 1.1
COLUMNS = ("ours", "peer", "ratio", "chosen", "peer, our grid", "ours, their grid")


def rows_chosen(tuning, counts=COUNTS):
    """``{(process, count): row}``: the peers' row with the least geometric mean there.

    Args:
      tuning: Pairs of a problem of the tuning half and its kept results.
      counts: Numbers of evaluations.
    """
    chosen = {}
    for process in {p.process_name for p, _ in tuning}:
        tables = [r["rows"] for p, r in tuning if p.process_name == process]
        for n in counts:
            common = [
                row
                for row in tables[0]
                if all(str(n) in t.get(row, {}) for t in tables)
            ]
            if common:
                means = {
                    row: np.mean([np.log(t[row][str(n)]) for t in tables])
                    for row in common
                }
                chosen[process, n] = min(means, key=means.get)
    return chosen


def ratio(cell):
    """Ours over the peers' best, where the reference can tell them apart."""
    floor = cell["floor"]
    return max(cell["ours"], floor) / max(cell["peer"][0], floor)


def _named(pair):
    return f"{pair[0]:.2g} {pair[1]}"


def cells_table(cells, chosen) -> str:
    """A Markdown row for each problem and count; bold where ours is worse."""
    lines = [
        "| problem | evaluations | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for problem, row in cells.items():
        for n, cell in row.items():
            columns = [f"{cell['ours']:.2g}", "", "", "", ""]
            if "peer" in cell:
                r = ratio(cell)
                pick = chosen.get((problem.process_name, n))
                value = cell["rows"].get(pick)
                columns = [
                    columns[0],
                    _named(cell["peer"]),
                    f"**{r:.2f}**" if r > LIMIT else f"{r:.2f}",
                    ""
                    if pick is None
                    else (f"{value:.2g}" if value is not None else "not run")
                    + f" {pick}",
                    _named(cell["peer, our grid"]),
                ]
            columns.append(_named(cell["ours, their grid"]))
            lines.append(f"| {problem.name} | {n} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _short(value):
    """Two digits, without the noughts that a power of ten saves: 1.2e-4, .034, 5.6."""
    if value < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}e{int(power)}"
    text = f"{value:#.2g}".rstrip(".")
    return text.removeprefix("0") if value < 1 else text


def compact_table(cells) -> str:
    """A Markdown row for each problem, "ours / peer" for each count."""
    counts = list(next(iter(cells.values())))
    lines = ["| problem | " + " | ".join(map(str, counts)) + " |"]
    lines.append("|---" * (len(counts) + 1) + "|")
    for problem, row in cells.items():
        shown = []
        for cell in row.values():
            text = _short(cell["ours"])
            if "peer" in cell:
                text += " / " + _short(cell["peer"][0])
                text = f"**{text}**" if ratio(cell) > LIMIT else text
            shown.append(text)
        name = f"`{problem.name}`, {problem.process_name}"
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _mean(values):
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-12)))))


def summary(cells, counts):
    """What the table says, and how many cells are worse than allowed.

    Args:
      cells: ``{problem: {count: cell}}``.
      counts: Numbers of evaluations.

    Returns:
      ``(text, cells worse than 1.1 times the peers' best)``.
    """
    every = [
        (p, n, c) for p, row in cells.items() for n, c in row.items() if "peer" in c
    ]
    if not every:
        return "Ours alone: no peer was run.", 0
    lines = [
        "| evaluations | cells | ours best | worse than 1.1x | ours / peer | "
        "same grid, ours / peer | our grid / theirs, peer's solvers | floor |",
        "|---" * 8 + "|",
    ]
    for n in counts:
        here = [c for _, m, c in every if m == n]
        rates = [ratio(c) for c in here]
        solver = [c["ours"] / c["peer, our grid"][0] for c in here]
        grid = [c["peer, our grid"][0] / c["peer"][0] for c in here]
        floors = [c["floor"] for c in here if c["floor"]]
        floor = f"{max(floors):.1g}" if floors else "0"
        lines.append(
            f"| {n} | {len(here)} | {sum(r <= 1 for r in rates)} "
            f"| {sum(r > LIMIT for r in rates)} | {_mean(rates):.2f} "
            f"| {_mean(solver):.2f} | {_mean(grid):.2f} | {floor} |"
        )
    tried = {}
    for p, row in cells.items():
        rows = set().union(*(c.get("rows", ()) for c in row.values()))
        tried[p.process_name] = max(len(rows), tried.get(p.process_name, 0))
    lines += [
        "",
        "Means are geometric. Configurations tried: ours 1; the peers' "
        + ", ".join(f"{many} under {name}" for name, many in sorted(tried.items()))
        + ", the best of them in each cell.",
    ]
    worse = [(p, n, c) for p, n, c in every if ratio(c) > LIMIT]
    if worse:
        lines += ["", "Worse than 1.1 times the best peer:", ""]
        lines += [
            f"- {p.name} at {n}: {c['ours']:.2g} against {_named(c['peer'])}, "
            f"{ratio(c):.2f} times"
            for p, n, c in sorted(worse, key=lambda each: -ratio(each[2]))
        ]
    else:
        lines += ["", "No cell is worse than 1.1 times the best peer."]
    return "\n".join(lines), len(worse)
