"""Writes the tables of guidance methods: a page for each family, and docs/guidance.md.

The tables of methods are made from the catalogue, and those of exact laws from the
tests that carry ``pytest.mark.exact``.

    python docs/tables.py

A test compares; run this after adding or changing a row.
"""

import ast
import inspect
from pathlib import Path
from typing import NamedTuple

from jaxlib_guidance.guidance import FAMILIES, METHODS, Method

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
PAGES = {
    "contrast": "contrasts.md",
    "combine": "combinations.md",
    "attention": "perturbed_attention.md",
    "perturb": "perturbed_inputs.md",
    "energy": "classifiers.md",
    "posterior": "posteriors.md",
    "reshape": "reshaping.md",
    "when": "schedules.md",
    "step": "step_methods.md",
}
BEGIN = "<!-- Made by docs/tables.py from guidance.METHODS: edit the rows there. -->\n"
END = "<!-- End of what docs/tables.py makes. -->\n"
LAWS = (
    "<!-- Made by docs/tables.py from tests marked exact: edit the marks there. -->\n"
)
LAWS_END = "<!-- End of the exact laws. -->\n"
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


class Law(NamedTuple):
    """An exact law, the test that holds it, and the methods that the test names."""

    law: str
    test: str
    file: str
    methods: tuple[str, ...]

    def line(self) -> str:
        """A row of the table."""
        methods = ", ".join(f"`{name}`" for name in self.methods)
        return f"| {self.law} | {methods or '–'} | `{self.test}` | `{self.file}` |\n"


def laws() -> list[Law]:
    """The exact laws of guidance, from the marks on tests."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.exact(" not in text:
            continue
        for node in ast.parse(text).body:
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and "mark.exact" in ast.unparse(
                    mark.func
                ):
                    used = {
                        name.id if isinstance(name, ast.Name) else name.attr
                        for name in ast.walk(node)
                        if isinstance(name, ast.Name | ast.Attribute)
                    }
                    law = ast.literal_eval(mark.args[0])
                    where = path.relative_to(TESTS.parent).as_posix()
                    methods = tuple(name for name in METHODS if name in used)
                    found.append(Law(law, node.name, where, methods))
    return found


LAW_HEAD = "| Law | Methods | Test | File |\n|---|---|---|---|\n"


def family_tables(family: str) -> str:
    """The methods of a family, and their exact laws."""
    rows = {row.name: line(row) for row in METHODS.values() if row.family == family}
    made = HEAD + "".join(rows.values())
    held = [law.line() for law in laws() if rows.keys() & set(law.methods)]
    if held:
        made += f"\nExact laws that tests hold:\n\n{LAW_HEAD}{''.join(held)}"
    return made


def overview() -> str:
    """The families, each with its page and its methods."""
    rows = []
    for family, heading in FAMILIES.items():
        names = [f"`{row.name}`" for row in METHODS.values() if row.family == family]
        rows.append(f"| [{heading}]({PAGES[family]}) | {', '.join(names)} |\n")
    return "| Family | Methods |\n|---|---|\n" + "".join(rows)


def written(text: str, begin: str, end: str, made: str) -> str:
    """A page with what stands between two marks made anew."""
    before, mark, rest = text.partition(begin)
    _, closing, after = rest.partition(end)
    if not (mark and closing):
        raise ValueError(f"a page has no {begin.strip()} ... {end.strip()}")
    return f"{before}{begin}\n{made}\n{end}{after}"


def pages() -> dict[str, tuple[str, str]]:
    """Each page by its name: what it holds, and what it should hold."""
    found = {}
    for family, name in PAGES.items():
        text = (DOCS / name).read_text()
        found[name] = text, written(text, BEGIN, END, family_tables(family))
    text = (DOCS / "guidance.md").read_text()
    held = laws()
    table = f"{len(held)} exact laws stand:\n\n{LAW_HEAD}"
    table += "".join(law.line() for law in held)
    made = written(written(text, BEGIN, END, overview()), LAWS, LAWS_END, table)
    found["guidance.md"] = text, made
    return found


if __name__ == "__main__":
    for name, (_, made) in pages().items():
        (DOCS / name).write_text(made)
