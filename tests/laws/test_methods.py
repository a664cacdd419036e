"""Every row of the catalogue of guidance methods: laws, and what the row says."""

import dataclasses
import importlib.util
import pathlib
import re

import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import FAMILIES, METHODS, collect_methods, method

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.share(5)
@pytest.mark.parametrize("name", METHODS)
def test_methods_obey_the_laws(name):
    jg.testing.check_method(name)


def test_rows_name_tests_that_exist():
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    tests = set(re.findall(r"^def (test_\w+)", written, re.M))
    assert not [row.name for row in METHODS.values() if row.law not in tests]


def test_sources_are_arxiv_numbers_or_addresses():
    form = re.compile(r"\d{4}\.\d{4,5}|https://\S+|10\.\d+/\S+")
    assert not [r.name for r in METHODS.values() if not form.fullmatch(r.source)]


def load_tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_tables_of_the_pages_are_the_catalogue():
    """`python docs/tables.py` writes them: one page a family."""
    made = load_tables()
    assert set(made.PAGES) == set(FAMILIES)
    pages = made.pages()
    stale = [name for name, (text, wanted) in pages.items() if text != wanted]
    assert not stale, "run python docs/tables.py"
    for row in METHODS.values():
        assert f"`{row.name}(" in pages[made.PAGES[row.family]][0]


def test_the_catalogue_has_sixty_methods_and_twenty_five_exact_laws():
    """Windows, schedules and what only reshapes not counted."""
    own = [r for r in METHODS.values() if r.family not in ("when", "reshape")]
    assert len(own) >= 60
    guidance = [law for law in load_tables().laws() if "/editing/" not in law.file]
    assert len(guidance) >= 25


@pytest.mark.parametrize(
    "name", [row.name for row in METHODS.values() if row.strength is not None]
)
def test_a_strength_that_is_nan_is_named(name):
    """And no sample is drawn, each of which would be NaN."""
    row = dataclasses.replace(METHODS[name], after=False)
    with pytest.raises(ValueError, match=f"({row.strength}|weight) is nan"):
        jg.testing.method_term(row, float("nan"))


def test_rows_that_do_not_fit_are_refused():
    def add(**row):
        def shift(weight, null):
            return None

        row = {"space": "x0", "evaluations": 2, "source": "", "law": ""} | row
        return method(row.pop("family", "contrast"), "", **row)(shift)

    with pytest.raises(ValueError, match="'shift' has family 'other'; expected one"):
        add(family="other")
    with pytest.raises(ValueError, match="'shift' has space 'x1'; expected one"):
        add(space="x1")
    with pytest.raises(ValueError, match="'shift' has strength 'scale'; expected one"):
        add(strength="scale")
    with pytest.raises(ValueError, match="two guidance methods are called 'auto'"):
        collect_methods({"a": jg.autoguidance, "b": add(name="auto")})


def test_a_row_says_at_what_it_is_checked():
    """Images and a condition of numbers, of which the null is 0."""
    row = dataclasses.replace(METHODS["cfg"], shape=(4, 4, 1), vector=True)
    assert jg.testing.method_shape(row) == (4, 4, 1)
    assert jg.guidance.fixed(jg.testing.method_term(row).cond) == 0.0
    jg.testing.check_method(row, only=["acts", "evaluations"])


def test_a_wrong_number_of_evaluations_is_found():
    with pytest.raises(AssertionError, match=r"2\.0 evaluations .* expected 3"):
        jg.testing.check_method("cfg", evaluations=3, only=["evaluations"])
