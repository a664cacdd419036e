"""Makes the goldens of published networks anew, with the references themselves.

    pip install -e ".[parity]"
    python tests/parity/make.py            # All families.
    python tests/parity/make.py sd15 dit   # These.
    python tests/parity/make.py sd15 --keep tiny-sd   # And leaves the folder.

Each ``family_NAME.py`` here has ``CASES``, a dict from the name of a golden to a
function ``make(folder) -> arrays``: it saves a tiny model in its published layout in
the folder, calls `published_files.randomise` there, loads the model again and returns
what it gives. The tests write the same folders without PyTorch and compare.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

from published_files import write_golden


def cases():
    """All goldens: name and function."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("family_*.py")):
        found |= importlib.import_module(path.stem).CASES
    return found


def main():
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}")
    parser.add_argument("--keep", type=Path, help="folder in which models stay")
    given = parser.parse_args()
    for name in given.names or known:
        with tempfile.TemporaryDirectory() as scratch:
            folder = given.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            path = write_golden(name, folder, known[name](folder))
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
