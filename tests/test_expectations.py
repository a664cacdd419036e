"""The list of what users expect: what it names exists, and enough of it is here."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = re.findall(
    r"^\| (\d+)( \*)? \| (.+?) \| (here|part|none) \| (.+) \|$",
    (ROOT / "tests/expectations.md").read_text(),
    re.M,
)
# Starred ones that are not all here yet, and why the list says so.
OPEN = {2}


def test_every_expectation_has_a_row_and_most_are_here():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 54))
    here = [int(number) for number, _, _, state, _ in ROWS if state == "here"]
    assert len(here) >= 46
    starred = {int(number) for number, star, *_ in ROWS if star}
    assert len(starred) == 10
    assert starred - set(here) <= OPEN


def test_what_holds_an_expectation_exists():
    for number, _, what, state, held in ROWS:
        places = re.findall(r"`([\w./]+)(?:::(\w+))?`", held)
        assert places or state != "here", f"{number}: {what} is held by nothing"
        for name, test in places:
            path = ROOT / name
            assert path.is_file(), f"{number}: there is no {name}"
            if test:
                found = re.search(rf"^def {test}\(", path.read_text(), re.M)
                assert found, f"{number}: {name} has no {test}"
