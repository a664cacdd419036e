"""Pictures of series: what was known, and the spread of what was drawn."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def require_writable(out: Path) -> None:
    """Raises where a picture and the numbers beside it could not be written.

    Args:
      out: File of the picture; the numbers have its name and end in ``.npz``.

    Raises:
      ValueError: A picture of another kind; a place that cannot be written.
      OSError: A folder that cannot be made.
      ModuleNotFoundError: matplotlib is not installed.
    """
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(
            f"out is {str(out)!r}; expected a name with .png, .pdf or .svg"
        )
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install 'jaxlib-guidance[timeseries]'"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in (out, out.with_suffix(".npz")):
        place = path if path.exists() else path.parent
        if path.is_dir() or not os.access(place, os.W_OK):
            raise ValueError(f"out is {str(out)!r}, but {path} cannot be written")


def draw_panels(
    out: Path,
    names: list[str],
    truth: np.ndarray | None,
    paths: np.ndarray,
    horizon: int,
    hidden: np.ndarray | None = None,
    dates: np.ndarray | None = None,
) -> None:
    """History, median and bands of 50 and 90 %, one panel for each window.

    Windows of which nothing was observed have their paths alone.

    Args:
      out: File of the picture.
      names: Titles of the panels ``[N]``.
      truth: Observed values ``[N, L]``, NaN where unknown; None if nothing was.
      paths: Drawn paths ``[N, S, L]``.
      horizon: Steps of forecast at the end of each window.
      hidden: Steps of the history that the model did not see, bool ``[N, L]``; None
        hides none.
      dates: Stamps of the steps ``[N, L]``; None counts steps from the forecast on.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5 * columns, 2.2 * lines), squeeze=False
    )
    length = paths.shape[-1]
    steps = np.tile(np.arange(length) - (length - horizon), (len(names), 1))
    steps = steps if dates is None else dates
    for i, axis in enumerate(axes.flat):
        if i >= len(names):
            axis.axis("off")
            continue
        hours = steps[i]
        low, q1, mid, q3, high = np.quantile(paths[i], (0.05, 0.25, 0.5, 0.75, 0.95), 0)
        axis.fill_between(hours, low, high, color="C0", alpha=0.2, lw=0)
        axis.fill_between(hours, q1, q3, color="C0", alpha=0.35, lw=0)
        label = "median, 50 % and 90 %" if paths.shape[1] > 1 else "synthetic"
        axis.plot(hours, mid, color="C0", lw=1.2, label=label)
        if truth is not None:
            axis.plot(hours, truth[i], color="0.15", lw=0.9, label="observed")
        if truth is not None and hidden is not None and hidden.any():
            axis.plot(
                hours,
                np.where(hidden[i], truth[i], np.nan),
                ".",
                color="C3",
                ms=3,
                label="hidden",
            )
        if horizon:
            axis.axvline(hours[-horizon], color="0.6", lw=0.8, ls="--")
        axis.set_title(names[i], fontsize=9)
        axis.tick_params(labelsize=7)
        if dates is not None:
            axis.tick_params(axis="x", rotation=20)
        axis.margins(x=0.01)
    axes.flat[0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
