"""Series in JSON lines, as GluonTS and Monash write them.

One object a line: ``{"start": "2015-01-01 00:00:00", "target": [1, 2.5, "NaN"], ...}``.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlib_guidance.data.series._series import Series, _read_stamp, finish_series

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
# What stands beside a set without being one.
NOTES = ("metadata", "readme", "license")


def load_json_series(
    source: str | Path, *, split: str | None = None, freq: str | None = None
) -> Series:
    """Loads a folder or a file of JSON lines, as GluonTS and Monash write them.

    ``target`` is the series, with null or "NaN" where missing; ``start`` its first
    stamp, unknown if it is null or not there; ``item_id`` its name if all have one of
    their own. Other fields (static features, covariates) are not read. Of a rolling
    test split, in which every series of the training split comes back several times,
    longer each time, the longest are kept.

    Args:
      source: A file; a folder of files; or a folder with sub-folders such as "train"
        and "test", and the spacing in "metadata/metadata.json" or "metadata.json".
      split: Name of the sub-folder; None is "train" when there is one.
      freq: Spacing as pandas writes it; None takes that of the metadata.

    Returns:
      `Series` that end together.

    Raises:
      ValueError: No such place; no series in it; a file of another kind; a line that is
        no series, or whose start is no stamp.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise ValueError(f"source {str(source)!r} is neither a known set nor a path")
    folder = root
    if root.is_dir() and (split is not None or (root / "train").is_dir()):
        folder = root / (split or "train")
        if not folder.is_dir():
            raise ValueError(f"{root} has no folder {split!r}")
    elif split is not None:
        raise ValueError(f"split is {split!r}, but {root} is a file")
    rows = list(_read(folder))
    if not rows:
        raise ValueError(f"{folder} has no series; expected files {SUFFIXES}")
    if folder != root and split != "train" and (root / "train").is_dir():
        rows = _last_of_each(rows, sum(1 for _ in _read(root / "train")))
    freq = freq or _metadata_freq(root) or _metadata_freq(root.parent) or ""
    each, starts, names = zip(*rows, strict=True)
    if None in names or len(set(names)) < len(names):
        names = tuple(range(len(names)))
    return finish_series(each, names, np.array(starts, "datetime64[s]"), freq)


def _read(folder: Path) -> Iterator[tuple]:
    """``(values, start, name or None)`` of every line of every file."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    for path in files:
        if path.name.startswith(".") or path.name.lower().startswith(NOTES):
            continue
        if not path.name.endswith(SUFFIXES):
            if path.is_dir():
                continue
            raise ValueError(
                f"{path} is not read; expected {SUFFIXES}. Load it by itself, or take "
                "it out of the folder"
            )
        opened = gzip.open if path.name.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _series(line, f"{path} line {number}")


def _series(line, place):
    try:
        row = json.loads(line)
        target = row["target"]
        # float reads "NaN" as well as numbers.
        values = [np.nan if value is None else float(value) for value in target]
        start = _stamp(row.get("start"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place} is no series; expected an object with 'target', a list of "
            f"numbers, and 'start', a stamp: {error}"
        ) from error
    return np.array(values), start, row.get("item_id")


def _stamp(start):
    """A stamp as written by GluonTS, which writes a week as its first and last day."""
    text = start.strip() if isinstance(start, str) else ""
    quarter = re.fullmatch(r"(\d{4})Q([1-4])", text)
    if quarter:
        return _read_stamp(f"{quarter[1]}-{3 * int(quarter[2]) - 2:02}")
    week = re.fullmatch(r"(\d{4}-[^/]*)/(\d{4}-[^/]*)", text)
    if week:
        first, last = map(_read_stamp, week.groups())
        if first <= last:
            return first
    return _read_stamp(start)


def _last_of_each(rows, count):
    """The longest of each series, if the rows are rolls of ``count`` series."""
    if not count or len(rows) % count or len(rows) == count:
        return rows
    longest = rows[-count:]
    for i, (values, start, _) in enumerate(rows):
        whole, first, _ = longest[i % count]
        same = start == first or np.isnat(start)
        if not same or not np.array_equal(values, whole[: len(values)], True):
            return rows
    return longest


def _metadata_freq(root: Path) -> str | None:
    for place in (root / "metadata" / "metadata.json", root / "metadata.json"):
        if place.is_file():
            return json.loads(place.read_text(encoding="utf-8")).get("freq")
    return None
