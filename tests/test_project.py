"""The checkout itself: linters, floors, what ships, and what the documents claim."""

import ast
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter

import pytest

import jaxlib_guidance as jg

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {
    "flax", "orbax", "optax", "chex", "tensorflow_datasets", "grain", "tensorflow",
    "torch", "matplotlib", "PIL", "tyro",
}  # fmt: skip
STATES = ("shown", "function", "part", "planned", "none")
OURS = re.compile(r"jaxlib_guidance\b")
RECIPES = ("train", "sample", "benchmarks", "colab")


def run(*command, **environment):
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def tracked():
    """Files of the checkout; outside git, all that are not hidden."""
    listed = run("git", "ls-files", "-z")
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if "/." not in p.as_posix()]
    return [path for path in found if path.is_file()]


def table(document, heading):
    """Rows of the markdown table under a heading, as lists of cells."""
    text = (ROOT / document).read_text()
    assert heading in text, f"{document} has no heading {heading!r}"
    section = re.split(r"^#+ ", text.split(heading, 1)[1], maxsplit=1, flags=re.M)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1, f"{document}: ragged table"
    return rows[2:]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def defined(path):
    """Whether ``room.name`` stands at the room's door."""
    room, _, name = path.partition(".")
    door = getattr(jg, room)
    return name in getattr(door, "__all__", vars(door))  # The ground has no door.


def require_references(where, functions, tests):
    missing = [name for name in functions if not defined(name)]
    missing += [name for name in tests if not (ROOT / name).is_file()]
    assert not missing, f"{where} names what does not exist: {missing}"
    text = "".join((ROOT / name).read_text() for name in tests)
    words = set(re.findall(r"\w+", text))
    unused = [name for name in functions if name.partition(".")[2] not in words]
    assert not unused, f"{where}: {tests} do not use {unused}"


def names_used(path):
    """``room.name`` of all that a recipe takes from the library, facade names too."""
    tree, rooms, found = ast.parse(path.read_text()), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rooms |= {
                a.asname or a.name: "" for a in node.names if "jaxlib_g" in a.name
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "")[:8] == "jaxlib_g":
            room = node.module.partition(".")[2].partition(".")[0]
            for alias in node.names:
                if not room and alias.name in jg._ROOMS:
                    rooms[alias.asname or alias.name] = alias.name
                found.add((room, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = ast.unparse(node).split(".")
            if chain[0] in rooms:
                parts = [part for part in (rooms[chain[0]], *chain[1:]) if part]
                found.add((parts[0], parts[1]) if len(parts) > 1 else ("", parts[0]))
    for room, name in found:
        if room:
            yield f"{room}.{name}"
        elif name not in jg._ROOMS:
            homes = (home for home in jg._ROOMS if hasattr(getattr(jg, home), name))
            yield from (f"{home}.{name}" for home in homes)


def test_public_names_are_documented():
    def documented(name):
        thing = getattr(jg, name)
        text = inspect.getdoc(thing) or ""
        # Dataclasses and named tuples without a docstring get their signature as one.
        return bool(text) and not text.startswith(f"{thing.__name__}(")

    undocumented = [name for name in jg.__all__ if not documented(name)]
    assert not undocumented


def test_imports_are_declared():
    extras = PROJECT["optional-dependencies"]
    everywhere = PROJECT["dependencies"] + [
        line
        for name in (
            "data",
            "timeseries",
            "tensorboard",
            "export",
            "lm",
            "emoji",
            "adroit",
            "hosts",
        )
        for line in extras[name]
    ]
    allowed = {
        "jaxlib_guidance": everywhere,
        "train": everywhere,
        "sample": everywhere,
        "tests": everywhere + extras["test"] + extras["parity"] + extras["release"],
    }
    # Read from its repository, for it is on no registry; tied to other versions; and
    # two that bring half a hundred packages with them. Tests skip where they are not.
    cloned = {"guided_diffusion", "gensbi", "hackable_diffusion", "tunix"}
    distribution = {"PIL": "pillow", "orbax": "orbax-checkpoint", "yaml": "pyyaml"}
    undeclared = set()
    for path in tracked():
        top = path.relative_to(ROOT).parts[0]
        if path.suffix != ".py" or top not in allowed:
            continue
        declared = {re.match(r"[\w-]+", line)[0].lower() for line in allowed[top]}
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for package in {name.split(".")[0] for name in names}:
                # Recipes import from files beside them, tests from benchmarks/.
                folders = (path.parent, ROOT / "benchmarks")
                beside = any((at / f"{package}.py").is_file() for at in folders)
                own = (
                    package in {"jaxlib_guidance", "train", "sample"} | cloned or beside
                )
                if own or package in sys.stdlib_module_names:
                    continue
                wanted = distribution.get(package, package).replace("_", "-").lower()
                if wanted not in {name.replace("_", "-") for name in declared}:
                    undeclared.add((str(path.relative_to(ROOT)), package))
    assert not undeclared


def test_wheel_holds_the_package_only(tmp_path):
    out = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert out.returncode == 0, out.stdout
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "jaxlib_guidance",
        f"jaxlib_guidance-{jg.__version__}.dist-info",
    }
    inside = {
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.is_relative_to(ROOT / "jaxlib_guidance")
    }
    assert inside <= set(names)
    # The recipes are there as files to run or copy, and are no modules.
    assert "jaxlib_guidance/_recipes/train/images.py" in names
    assert not [n for n in names if "_recipes" in n and n.endswith("__init__.py")]


def test_no_machine_paths_nor_large_files():
    places = r"/(?:work|root|home|mnt|opt|Users)/|/tmp/\w"
    hosts = r"pypi\.org|pythonhosted|registry\.\w|index-url|find-links"
    told, large = [], []
    for path in tracked():
        if path.stat().st_size > 6 * 2**20:
            large.append(path.name)
        text = path.read_bytes().decode("utf-8", "ignore")
        if path != pathlib.Path(__file__):
            told += [(path.name, hit) for hit in re.findall(f"{places}|{hosts}", text)]
    assert not told
    assert not large


def test_ci_runs_the_command_of_the_readme():
    readme, script = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    _, command = re.findall(r"^(?:pip|python).* && .*$", readme, re.M)[:2]
    assert re.search(r"&& pytest( -n 2)?$", command)
    assert command in script.splitlines()
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_every_paper_has_a_row():
    rows = table("docs/papers.md", "## The 78 papers")
    assert [int(row[0]) for row in rows] == list(range(1, 79))
    assert len({row[1] for row in rows}) == 78
    recipes = [path for top in RECIPES for path in (ROOT / top).rglob("*.py")]
    used = {name for path in recipes for name in names_used(path)}
    assert {"policy.grpo", "guidance.pag", "timeseries.synthesize"} <= used
    for number, _, _, state, functions, tests, measured, remains in rows:
        where = f"paper {number}"
        assert state in STATES, where
        built = state in ("shown", "function", "part")
        assert bool(quoted(functions)) == bool(quoted(tests)) == built, where
        assert remains not in ("", "–") or state == "shown", (
            f"{where}: say what remains"
        )
        require_references(where, quoted(functions), quoted(tests))
        if state == "shown":
            assert used & set(quoted(functions)), (
                f"{where}: no recipe uses its function"
            )
            pages = [name for name in quoted(measured) if name.endswith(".md")]
            assert pages, f"{where}: name the page that has its table"
            assert all("|---" in (ROOT / page).read_text() for page in pages)
    counts = Counter(row[3] for row in rows)
    text = (ROOT / "README.md").read_text()
    states = r"(\d+) of the 78 are shown, (\d+) are planned and (\d+) have nothing"
    said = [int(n) for n in re.search(states, text).groups()]
    assert said == [counts[state] for state in ("shown", "planned", "none")]
    # If any is a function with tests alone, or a part, README is to say so.
    assert sum(said) == len(rows)


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        ("docs/papers.md", "## Beyond the 78"),
        ("docs/papers.md", "## What carries them"),
        ("README.md", "## What is in it"),
    ],
)
def test_method_tables_name_what_exists(document, heading):
    rows = table(document, heading)
    assert rows
    for method, functions, *_, tests in rows:
        assert quoted(functions), method
        assert quoted(tests), method
        require_references(method, quoted(functions), quoted(tests))
