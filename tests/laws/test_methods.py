"""Every row of the catalogue of guidance methods: laws, and what the row says."""

import dataclasses
import importlib.util
import pathlib
import re

import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import METHODS, collect_methods, method

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.share(3)
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


def test_tables_of_the_page_are_the_catalogue():
    """`python docs/tables.py` writes them."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = (ROOT / "docs/guidance.md").read_text()
    assert text == made.page(text), "run python docs/tables.py"
    assert all(f"`{name}(" in text for name in METHODS)


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
