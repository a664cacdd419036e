"""The page on policies: its example learns, and what it names exists."""

import pathlib
import re

from jaxlib_guidance import policy

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/policy.md").read_text()


def test_the_example_learns():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    scope = {}
    exec(compile(block, "docs/policy.md", "exec"), scope)
    history = scope["history"]
    assert history[0] < 0.2
    assert sum(history[-10:]) > 8.5
    assert 0 < float(scope["report"]["kl"]) < 10


def test_what_the_page_names_exists():
    named = re.findall(r"`policy\.(\w+)`", PAGE)
    assert len(named) > 25
    assert not set(named) - set(policy.__all__)
