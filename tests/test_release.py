"""What is published: the command, the built files, and the wheel outside the clone."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import jaxlib_guidance as jg
import jaxlib_guidance.__main__ as command

ROOT = Path(__file__).parents[1]
URL = "https://example.org/owner/name"
hook = runpy.run_path(str(ROOT / "hatch_build.py"))


def test_the_command_knows_the_recipes(capsys):
    assert command.recipe_folder() == ROOT
    assert {"images", "ddpo", "timeseries"} <= set(command.recipes("train"))
    assert {"images", "forecast", "edit"} <= set(command.recipes("sample"))
    assert all(command.recipes("train").values())
    # Options beside a recipe are no recipe.
    assert "images_options" not in command.recipes("train")
    command.run("train", [])
    assert "images " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no recipe 'image'; expected"):
        command.run("train", ["image"])


def test_recipes_are_copied_to_be_changed(tmp_path, capsys):
    command.copy([str(tmp_path / "fork")])
    assert (tmp_path / "fork/train/images_options.py").is_file()
    with pytest.raises(SystemExit, match="is there already"):
        command.copy([str(tmp_path / "fork")])


def test_info_says_what_is_here(capsys):
    command.info()
    out = capsys.readouterr().out
    for word in (f"jaxlib_guidance {jg.__version__}", "devices: ", "emoji_weak"):
        assert word in out


def test_readme_elsewhere_has_no_relative_link():
    text = (ROOT / "README.md").read_text()
    relative = re.findall(r"\]\((?!https?:|#)[^)]*\)", text)
    assert len(relative) > 20
    there = hook["absolute"](text, URL, "v1")
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", there)
    assert there.count(f"({URL}/") == len(relative)
    assert f"]({URL}/raw/v1/docs/guided.png)" in there
    plain = hook["absolute"](text, None, "v1")
    assert "docs/guided.png" not in plain
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", plain)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://example.org/a/b.git", "https://example.org/a/b"),
        ("https://name:word@example.org/a/b", None),
        ("../elsewhere", None),
        ("", None),
    ],
)
def test_address_of_the_repository(given, url, monkeypatch, tmp_path):
    monkeypatch.setenv("REPOSITORY_URL", given)
    assert hook["repository"](tmp_path) == url


def test_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", text, re.M)[1] == jg.__version__
    assert f"## {jg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def run(*arguments, **options):
    out = subprocess.run(
        [str(each) for each in arguments], capture_output=True, text=True, **options
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


@pytest.mark.slow
def test_what_is_built_passes_and_works_outside_the_clone(tmp_path):
    pytest.importorskip("build")
    pytest.importorskip("twine")
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path / "dist"),
        cwd=ROOT,
        env={**os.environ, "REPOSITORY_URL": URL},
    )
    files = sorted((tmp_path / "dist").iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    wheel, source = sorted(files, key=lambda path: path.suffix != ".whl")
    with zipfile.ZipFile(wheel) as inside:
        (name,) = [n for n in inside.namelist() if n.endswith(".dist-info/METADATA")]
        about = inside.read(name).decode()
    assert f"Project-URL: Repository, {URL}\n" in about
    with tarfile.open(source) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    assert {"tests/test_release.py", "train/images.py", "hatch_build.py"} <= names

    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh/bin/python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    # What the package depends on is what runs this; its own editable install is not.
    (site,) = (tmp_path / "fresh/lib").glob("*/site-packages")
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    places |= {path for path in sys.path if path.endswith("site-packages")}
    (site / "beside.pth").write_text("\n".join(sorted(places)))
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    outside = {"cwd": tmp_path, "env": clean | {"JAX_PLATFORMS": "cpu"}}
    where = run(
        python, "-c", "import jaxlib_guidance as j; print(j.__file__)", **outside
    )
    assert Path(where.strip()).is_relative_to(site)
    code = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    (tmp_path / "ten_lines.py").write_text("\n".join(code[:2]))
    run(python, "ten_lines.py", **outside)
    jg_command = tmp_path / "fresh/bin/jg"
    assert "_recipes" in run(jg_command, "info", **outside)
    run(jg_command, "sample", "--columns", "1", "--steps", "3", **outside)
    assert (tmp_path / "out/images.png").is_file()
    assert "--data.source" in run(jg_command, "train", "images", "--help", **outside)
