"""A benchmark's picture: a figure without a screen, and the file that it ends in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def picture(path: Path, size: tuple[float, float], dpi: int = 90) -> "Iterator[Figure]":
    """A figure of ``size`` in inches, written to ``path`` where the block ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
