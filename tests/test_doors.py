"""Doors and files: what is public can be reached, and is all that is used from outside.

A package of the library is a door: its ``__init__`` names what is public and its files
are private. These tests hold both directions, from the code to the door and its page
and from the door back to the code.
"""

import ast
import doctest
import graphlib
import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import get_origin

import grimp
import pytest

import jaxlib_guidance as jg

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxlib_guidance"
ROOMS = jg._ROOMS
PACKAGES = [room for room in ROOMS if (PACKAGE / room).is_dir()]


def plain(body):
    """Names of the functions and classes of a file that have no underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = (node.name for node in body if isinstance(node, kinds))
    return [name for name in defined if not name.startswith("_")]


def parse(path):
    return ast.parse(path.read_text()).body


def public(module):
    """What a room promises: its door's names, or all of a file of the ground."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return plain(parse(Path(module.__file__)))


def files_of(room):
    return [path for path in (PACKAGE / room).rglob("*.py") if path.stem != "__init__"]


def imported(path):
    """What a file imports: ``package.module`` or ``package.module.name``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# What every room imports, and what takes longest in most.
PRELOADED = ("jax",)


@pytest.fixture
def fresh(interpreter):
    """Runs code in a process that has imported nothing of ours, from the checkout."""

    def run(code):
        passed, printed = interpreter(code, fork=True)
        assert passed, printed
        return printed

    return run


def names_by_room():
    return {room: public(getattr(jg, room)) for room in ROOMS}


@pytest.mark.share(3)
@pytest.mark.parametrize("room", ROOMS)
def test_a_room_alone_gives_all_its_names(room, fresh):
    """Imported first of all, and found through the facade, it is the same module."""
    fresh(
        f"import importlib; room = importlib.import_module('jaxlib_guidance.{room}')\n"
        f"for name in {public(getattr(jg, room))}: getattr(room, name)\n"
        f"import jaxlib_guidance as jg; assert jg.{room} is room"
    )


def test_worlds_are_listed_alone():
    assert dir(jg.worlds) == sorted(jg.worlds.__all__)


@pytest.mark.parametrize("name", jg.worlds.__all__)
def test_a_world_lists_what_it_defines_and_its_constants(name):
    """And neither private names nor imports, which a completion would offer."""
    world = getattr(jg.worlds, name)
    body = parse(Path(world.__file__))
    kinds = (ast.Import, ast.ImportFrom)
    imports = (
        alias for node in body if isinstance(node, kinds) for alias in node.names
    )
    foreign = {alias.asname or alias.name for alias in imports}
    listed = set(dir(world))
    assert set(plain(body)) <= listed
    assert not [each for each in listed & foreign if not each.isupper()]
    assert not [each for each in listed if each.startswith("_")]


@pytest.mark.parametrize("order", ["facade first", "rooms first, in reverse"])
def test_every_name_is_reached_in_any_order(order, fresh):
    rooms = names_by_room()
    if order == "facade first":
        load = "import jaxlib_guidance as jg"
    else:
        rooms = dict(reversed(rooms.items()))
        load = (
            "import importlib\n"
            f"for room in {list(rooms)}: "
            "importlib.import_module(f'jaxlib_guidance.{room}')\n"
            "import jaxlib_guidance as jg"
        )
    code = (
        f"{load}\nfor name in jg.__all__: getattr(jg, name)\n"
        f"for room, names in {rooms}.items():\n"
        "    for name in names: getattr(getattr(jg, room), name)\n"
        "print(sum(map(len, " + repr(rooms) + ".values())))"
    )
    assert int(fresh(code)) == sum(map(len, rooms.values())) > 500


def test_the_facade_is_a_first_page():
    names = dir(jg)
    assert len(names) < 85
    assert set(ROOMS) <= set(names)
    folders = {path.name for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    assert {name.removesuffix(".py") for name in folders} == {*ROOMS, "py.typed"}


def test_a_door_names_each_thing_once():
    for room, names in names_by_room().items():
        twice = [name for name, count in Counter(names).items() if count > 1]
        assert not twice, f"{room} has {twice} twice"
    for name in jg.__all__:
        homes = [room for room in ROOMS if name in public(getattr(jg, room))]
        assert homes, f"jg.{name} is in no room"
        assert all(getattr(jg, name) is getattr(getattr(jg, r), name) for r in homes)


@pytest.mark.parametrize("room", PACKAGES)
def test_a_file_is_at_the_door_with_all_its_names_or_none(room):
    """A file with no name at the door is plumbing: another file of the room uses it."""
    door = getattr(jg, room)
    names, files = set(public(door)), files_of(room)
    # A world is a namespace: its file stands at the door as a module.
    modules = {
        Path(getattr(door, name).__file__)
        for name in names
        if isinstance(getattr(door, name), ModuleType)
    }
    used = Counter(
        name.rpartition(".")[0]
        for path in files
        for name in imported(path)
        if name.startswith("jaxlib_guidance.")
    )
    for path in set(files) - modules:
        found = plain(parse(path))
        missing = [name for name in found if name not in names]
        if missing == found:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert used[module], f"{module}: no name at the door, and no file uses it"
        else:
            assert not missing, (
                f"{path.relative_to(ROOT)}: {missing} not in jg.{room}.__all__. Name "
                "them there, give them an underscore, or move them to a file of "
                "plumbing"
            )


@pytest.mark.parametrize("room", PACKAGES)
def test_files_of_a_room_are_private(room):
    assert not [path.name for path in files_of(room) if path.name[0] != "_"]


def test_nobody_reaches_past_a_door():
    """In a room and in its tests private modules are used; elsewhere doors alone."""
    trespass = []
    for top in ("jaxlib_guidance", "train", "sample", "benchmarks", "colab", "tests"):
        for path in sorted((ROOT / top).rglob("*.py")):
            inside = path.relative_to(ROOT / top).parts
            own = inside[0] if top in ("jaxlib_guidance", "tests") else None
            for name in imported(path):
                package, *parts = name.split(".")
                private = any(part[0] == "_" for part in parts[1:])
                if package == "jaxlib_guidance" and private and parts[0] != own:
                    trespass.append(f"{path.relative_to(ROOT)}: {name}")
    assert not trespass


def is_data(thing):
    """Constants, and names of types, have no docstring that a page could take."""
    return get_origin(thing) is not None or not callable(thing)


def has_own_docstring(thing):
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # Dataclasses and named tuples without a docstring get their signature as one.
    return bool(text) and not text.startswith((f"{thing.__name__}(", "Alias for"))


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_at_a_door_is_described(room):
    door = getattr(jg, room)
    for name in public(door):
        thing = getattr(door, name)
        if not is_data(thing) or inspect.ismodule(thing):
            assert has_own_docstring(thing), f"jg.{room}.{name} has no docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_stands_on_the_page_of_its_room(room):
    """What `automodule` does not find is written down: constants, names of a world."""
    door, page = getattr(jg, room), (ROOT / f"docs/api/{room}.md").read_text()
    _, _, described = page.partition(f".. automodule:: jaxlib_guidance.{room}\n")
    options = re.findall(r"   :([\w-]+):", described.partition("```")[0])
    for name in public(door):
        thing = getattr(door, name)
        if inspect.ismodule(thing):
            _, _, section = page.partition(
                f".. currentmodule:: {door.__name__}.{name}\n"
            )
            section = section.partition("\n## ")[0]
            listed = re.findall(r"auto(?:class|function):: (\w+)", section)
            assert set(plain(parse(Path(thing.__file__)))) == set(listed)
        elif is_data(thing):
            assert f".. py:data:: {name}\n" in page, f"docs/api: no {room}.{name}"
        else:
            assert {"members", "undoc-members"} <= set(options)
            assert "imported-members" in options or room not in PACKAGES
    assert set(re.findall(r"py:data:: (\w+)", page)) <= set(public(door))


def test_pages_list_the_facade_and_every_room():
    page = (ROOT / "docs/api/facade.md").read_text()
    listed = re.findall(r"~jaxlib_guidance\.(\w+)\.(\w+)", page)
    assert [name for _, name in listed] == jg.__all__
    assert all(name in public(getattr(jg, room)) for room, name in listed)
    contents = (ROOT / "docs/api/index.md").read_text().split()
    assert {"facade", *ROOMS} <= set(contents)


def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_nb")
    pytest.importorskip("sphinx_book_theme")
    # Without the functions in the menus, which are written anew on every page.
    quick = "-D", "toc_object_entries=0"
    command = "-m", "sphinx", "-W", "--keep-going", "-q", *quick, "docs", str(tmp_path)
    out = subprocess.run(
        (sys.executable, *command), cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr


def test_no_circle_of_imports():
    graph = grimp.build_graph("jaxlib_guidance", cache_dir=None)
    found = {
        name: graph.find_modules_directly_imported_by(name) for name in graph.modules
    }
    assert len(found) > 100
    graphlib.TopologicalSorter(found).prepare()  # A circle raises, and is named.


@pytest.mark.share(3)
@pytest.mark.parametrize("name", jg.__all__)
def test_example_of_the_facade(name):
    thing = getattr(jg, name)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    example = parser.get_doctest(inspect.getdoc(thing) or "", {}, f"jg.{name}", None, 0)
    assert example.examples, f"jg.{name} has no example"
    printed = []
    runner.run(example, out=printed.append)
    assert not runner.failures, "".join(printed)


def test_files_are_read_in_one_sitting():
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for top in ("jaxlib_guidance", "train", "sample")
        for path in (ROOT / top).rglob("*.py")
        # A door is a list of names, as long as its room has names.
        if path.name != "__init__.py"
        if (lines := len(path.read_text().splitlines())) > 350
    ]
    assert not long


@pytest.mark.parametrize("text", ["Likewise", "specs/", "process: Any"])
def test_no_file_of_the_project_says(text):
    """What a reader of the repository cannot follow, and a type that is known."""
    tops = ("jaxlib_guidance", "train", "sample", "benchmarks", "docs", "tests")
    paths = (path for top in tops for path in (ROOT / top).rglob("*.[mp][dy]"))
    said = [path.name for path in paths if text in path.read_text()]
    assert said in ([], ["test_doors.py"])
