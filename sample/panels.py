"""Pictures of series: what was known, and the spread of what was drawn."""

from pathlib import Path

import numpy as np


def draw_panels(
    out: Path,
    names: list[str],
    truth: np.ndarray,
    paths: np.ndarray,
    horizon: int,
    hidden: np.ndarray | None = None,
) -> None:
    """History, median and bands of 50 and 90 %, one panel for each window.

    Args:
      out: PNG file.
      names: Titles.
      truth: ``[N, L]``, NaN where unknown.
      paths: ``[N, S, L]``.
      horizon: Steps of forecast at the end.
      hidden: bool ``[N, L]``, steps of the history that the model did not see.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5 * columns, 2.2 * lines), squeeze=False
    )
    hours = np.arange(truth.shape[1]) - (truth.shape[1] - horizon)
    for i, axis in enumerate(axes.flat):
        if i >= len(names):
            axis.axis("off")
            continue
        low, q1, mid, q3, high = np.quantile(paths[i], (0.05, 0.25, 0.5, 0.75, 0.95), 0)
        axis.fill_between(hours, low, high, color="C0", alpha=0.2, lw=0)
        axis.fill_between(hours, q1, q3, color="C0", alpha=0.35, lw=0)
        axis.plot(hours, mid, color="C0", lw=1.2, label="median, 50 % and 90 %")
        axis.plot(hours, truth[i], color="0.15", lw=0.9, label="observed")
        if hidden is not None and hidden.any():
            axis.plot(
                hours,
                np.where(hidden[i], truth[i], np.nan),
                ".",
                color="C3",
                ms=3,
                label="hidden",
            )
        if horizon:
            axis.axvline(-0.5, color="0.6", lw=0.8, ls="--")
        axis.set_title(names[i], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.01)
    axes.flat[0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
