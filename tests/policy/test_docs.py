"""The page on policies: its example learns, and what it names exists."""

import importlib
import pathlib
import re

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
    """``losses.nft``, ``policy.votes``, and ``.gspo`` after one of the same module."""
    folder = ROOT / "jaxlib_guidance/policy"
    modules = {path.stem for path in folder.glob("*.py")}
    last, seen = "", 0
    for owner, name in re.findall(r"`(\w*)\.(\w+)`", PAGE):
        last = owner or last
        if owner == "policy":
            assert name in modules, name
        elif last in modules:
            module = importlib.import_module(f"jaxlib_guidance.policy.{last}")
            assert hasattr(module, name), f"{last}.{name}"
        seen += last in modules
    assert seen > 25
