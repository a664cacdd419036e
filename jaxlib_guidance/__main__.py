"""The command ``jg``, or ``python -m jaxlib_guidance``: what is here, and its recipes.

    jg info                      # versions, devices, and what comes with the package
    jg sample --guide cfg=3      # sample/images.py, which draws a grid of digits
    jg sample forecast           # another recipe of sample/
    jg train images --data.source my_pictures
    jg train                     # which recipes there are
    jg recipes my_fork           # copies them all, to read and to change

Everything after a recipe's name is passed on to it: ``jg train images --help``.
"""

import ast
import importlib.metadata
import platform
import runpy
import shutil
import sys
from importlib import resources
from pathlib import Path

KINDS = ("sample", "train")
# What reports of mistakes should name; the last are asked for by some recipes alone.
PACKAGES = (
    *("jaxlib_guidance", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("pandas", "matplotlib", "tensorflow-datasets", "tensorboardX", "wandb"),
)


def recipe_folder() -> Path:
    """The folder of train/ and sample/: the checkout, or a copy inside the wheel."""
    package = Path(__file__).parent
    checkout = package.parent
    here = (checkout / "pyproject.toml").is_file()
    return checkout if here and (checkout / "train").is_dir() else package / "_recipes"


def recipes(kind: str) -> dict[str, str]:
    """Recipes of "train" or "sample" by name, each with the first line of its text."""
    found = {}
    for path in sorted((recipe_folder() / kind).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in source:
            text = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = text.partition("\n")[0]
    return found


def run(kind: str, arguments: list[str]) -> None:
    """Runs a recipe as ``python train/NAME.py`` would; without one, lists them."""
    known = recipes(kind)
    if kind == "sample" and (not arguments or arguments[0].startswith("-")):
        arguments = ["images", *arguments]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: jg {kind} NAME [--help | options]\n")
        for name, line in known.items():
            print(f"  {name:15} {line}")
        return
    name, *rest = arguments
    if name not in known:
        sys.exit(f"jg {kind}: there is no recipe {name!r}; expected {', '.join(known)}")
    path = recipe_folder() / kind / f"{name}.py"
    sys.argv = [str(path), *rest]
    # Recipes import the files beside them.
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def copy(arguments: list[str]) -> None:
    """Copies all recipes into a folder that is not there yet."""
    if len(arguments) != 1:
        sys.exit("usage: jg recipes FOLDER")
    folder = Path(arguments[0]).expanduser()
    if folder.exists():
        sys.exit(f"jg recipes: {folder} is there already; expected a new folder")
    for kind in KINDS:
        shutil.copytree(
            recipe_folder() / kind,
            folder / kind,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    print(f"{folder}/train and {folder}/sample: run them as python {folder}/train/...")


def info() -> None:
    """Prints versions, devices, bundled models and where the recipes are."""
    import jax

    from jaxlib_guidance.models import pretrained_names, read_pretrained

    print(f"python {platform.python_version()}, {platform.platform()}")
    for name in PACKAGES:
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed")
    print("\ndevices: " + ", ".join(map(str, jax.devices())))
    print("\nmodels of jg.models.load_pretrained:")
    folder = resources.files("jaxlib_guidance.models") / "assets"
    for name in pretrained_names():
        params, about = read_pretrained(name)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        with resources.as_file(folder / f"{name}.safetensors") as path:
            size = path.stat().st_size / 2**20
        shape = "x".join(map(str, about.get("shape", ())))
        kind = about["network"]["kind"]
        print(f"  {name:18} {kind:10} {shape:8} {count:9,} parameters, {size:.1f} MB")
    print("\ndata of jg.data.load_images: digits, emoji")
    print(f"recipes: {recipe_folder()}")


def main() -> None:
    """Reads the command line."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in KINDS:
        run(command, arguments)
    elif command == "recipes":
        copy(arguments)
    elif command == "info":
        info()
    elif command in ("-h", "--help"):
        print(__doc__)
    elif command == "--version":
        print(importlib.metadata.version("jaxlib_guidance"))
    else:
        sys.exit(f"jg: {command!r}; expected info, sample, train or recipes")


if __name__ == "__main__":
    main()
