"""Pages hold: every block of Python on them runs, outside of pytest's process."""

import inspect
import re
from pathlib import Path

import pytest

import jaxlib_guidance as jg

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)")

# What a page leaves in its variables when it has been read to the end.
CLAIMS = {
    "README.md": (
        "off = abs(again - x0)\n"
        "assert off[:, :4].mean() < 0.5 * off[:, 4:].mean()  # the energy's work"
    ),
    "docs/policy.md": (
        "assert history[0] < 0.2 and sum(history[-10:]) > 8.5\n"
        "assert 0 < float(report['kl']) < 10\n"
        "assert abs(float(before) - 0.6931) < 1e-3  # log 2 at the reference\n"
        "assert float(pair_loss(tuned, ref)) < 0.685"
    ),
}


def blocks(text):
    """The page with all but its Python blocks left blank: lines keep their numbers."""
    kept, inside = [], None
    for line in text.splitlines():
        fence = FENCE.match(line)
        if fence:
            inside = fence[1] if inside is None else None
        kept.append(line if inside == "python" and not fence else "")
    return "\n".join(kept)


NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
WITH_CODE = [name for name in NAMES if blocks((ROOT / name).read_text()).strip()]


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_of_a_page_runs(page, interpreter):
    """In order and in one namespace, as someone would who reads it from the top."""
    code = blocks((ROOT / page).read_text())
    passed, printed = interpreter(f"{code}\n{CLAIMS.get(page, '')}", page)
    assert passed, printed


def test_pages_with_code_are_found():
    assert {"README.md", "docs/policy.md", *CLAIMS} <= set(WITH_CODE)
    assert blocks("a\n```python\nx = 1\n```\n```bash\nls\n```\n```\nno\n```") == (
        "\n\nx = 1\n\n\n\n\n\n\n"
    )


@pytest.mark.parametrize("page", NAMES)
def test_what_a_page_names_exists(page):
    """Links to files of the checkout, and names written as ``room.name``."""
    path = ROOT / page
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert not [link for link in linked if not (path.parent / link).exists()]
    named = re.findall(rf"`(?:jg\.)?({'|'.join(jg._ROOMS)})\.(\w+)", path.read_text())
    missing = [
        f"{r}.{n}" for r, n in named if n != "py" and not hasattr(getattr(jg, r), n)
    ]
    assert not missing


def dir_of(room):
    """Names at a door, and in a file of the ground those that it defines."""
    door = getattr(jg, room)
    own = [
        n for n, x in vars(door).items() if getattr(x, "__module__", 0) == door.__name__
    ]
    return getattr(door, "__all__", [name for name in own if name[0] != "_"])


def test_every_function_is_named_on_a_page():
    """Of methods and what carries them, the pages of the API apart."""
    code = r"`([^`\n]+)`|```python(.*?)```"
    found = (re.findall(code, path.read_text(), re.S) for path in PAGES)
    words = {
        word for page in found for a, b in page for word in re.findall(r"\w+", a + b)
    }
    unnamed = [
        f"{room}.{name}"
        for room in jg._ROOMS
        for name, thing in vars(getattr(jg, room)).items()
        if inspect.isfunction(thing) and name in dir_of(room) and name not in words
    ]
    assert not unnamed
