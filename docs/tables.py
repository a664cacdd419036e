"""Writes the tables of docs/guidance.md from the catalogue of guidance methods.

The table of exact laws is made from the tests that carry ``pytest.mark.exact``.

    python docs/tables.py

A test compares; run this after adding or changing a row.
"""

import ast
import inspect
from pathlib import Path

from jaxlib_guidance.guidance import FAMILIES, METHODS, Method

PAGE = Path(__file__).parent / "guidance.md"
BEGIN = "<!-- Made by docs/tables.py from guidance.METHODS: edit the rows there. -->\n"
END = "<!-- End of what docs/tables.py makes. -->\n"
LAWS = (
    "<!-- Made by docs/tables.py from tests marked exact: edit the marks there. -->\n"
)
LAWS_END = "<!-- End of the exact laws. -->\n"
TESTS = Path(__file__).parents[1] / "tests"
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


def laws() -> str:
    """A table of the exact laws of guidance, from the marks on tests."""
    rows = []
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.exact(" not in text:
            continue
        for node in ast.parse(text).body:
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and "mark.exact" in ast.unparse(
                    mark.func
                ):
                    law = ast.literal_eval(mark.args[0])
                    where = f"`{path.relative_to(TESTS.parent)}`"
                    used = {
                        name.id if isinstance(name, ast.Name) else name.attr
                        for name in ast.walk(node)
                        if isinstance(name, ast.Name | ast.Attribute)
                    }
                    methods = ", ".join(f"`{name}`" for name in METHODS if name in used)
                    rows.append(
                        f"| {law} | {methods or '–'} | `{node.name}` | {where} |"
                    )
    head = "| Law | Methods | Test | File |\n|---|---|---|---|\n"
    return f"{len(rows)} exact laws stand:\n\n{head}" + "\n".join(rows) + "\n\n"


def page(text: str) -> str:
    """The page with its tables made anew."""
    for begin, end, made in ((BEGIN, END, tables()), (LAWS, LAWS_END, laws())):
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{made}{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
