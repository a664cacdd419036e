"""Writes the tables of docs/guidance.md from the catalogue of guidance methods.

    python docs/tables.py

A test compares; run this after adding or changing a row.
"""

import inspect
from pathlib import Path

from jaxlib_guidance.guidance import FAMILIES, METHODS, Method

PAGE = Path(__file__).parent / "guidance.md"
BEGIN = "<!-- Made by docs/tables.py from guidance.METHODS: edit the rows there. -->\n"
END = "<!-- End of what docs/tables.py makes. -->\n"
HEAD = (
    "| Method | Estimate | Space | Off | Evaluations | Defaults "
    "| Proven by | Source |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
# Arguments that say nothing of the method.
UNTOLD = ("name", "space", "params", "labels")


def line(row: Method) -> str:
    """A row of the table."""
    parameters = inspect.signature(row.make).parameters.values()
    needed = ", ".join(p.name for p in parameters if p.default is p.empty)
    defaults = ", ".join(
        f"`{name}={value!r}`"
        for name, value in row.defaults.items()
        if name not in UNTOLD
    )
    arxiv = row.source[:4].isdigit()
    source = f"[{row.source}](https://arxiv.org/abs/{row.source})"
    cells = (
        f"`{row.name}({needed})`",
        row.formula.replace("|", "\\|"),
        "`space=`" if row.space == "argument" else row.space,
        row.off,
        "its terms'" if row.evaluations is None else str(row.evaluations),
        defaults or "–",
        f"`{row.law}`",
        source if arxiv else row.source,
    )
    return f"| {' | '.join(cells)} |\n"


def tables() -> str:
    """A table for each family that has a method, under its heading."""
    parts = []
    for family, heading in FAMILIES.items():
        rows = [line(row) for row in METHODS.values() if row.family == family]
        if rows:
            parts.append(f"**{heading}**\n\n{HEAD}{''.join(rows)}\n")
    return "".join(parts)


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
