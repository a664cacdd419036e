"""The page on policies names everything that the room offers, and nothing else."""

import pathlib
import re

from jaxlib_guidance import policy

PAGE = (pathlib.Path(__file__).parents[2] / "docs/policy.md").read_text()


def test_the_page_names_what_is_public_and_no_more():
    named = set(re.findall(r"`policy\.(\w+)`", PAGE))
    rooms = {"losses", "advantages", "rewards", "select", "explore"}
    assert named == set(policy.__all__) | rooms
