"""Draws what runs logged: a metric against steps, one curve a run.

    python sample/curves.py runs/reason
    python sample/curves.py runs/selftrain/right? --metric accuracy greedy
    python sample/curves.py runs/a runs/b --metric loss --smooth 20 --out curves.png

Every recipe of train/ writes metrics.jsonl into its folder, and this reads it, also
while the run goes on. Runs whose names differ in a number at the end, as
``--compare`` makes them, are seeds of one method: they share a colour, and their mean
is drawn over them.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from panels import require_writable

from jaxlib_guidance.training import usage_errors


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or files of metrics."""
    metric: tuple[str, ...] = ()
    """Names of metrics, a panel each; none is all that were evaluated, or the loss."""
    smooth: int = 1
    """Records over which a running mean is taken."""
    out: Path = Path("out/curves.png")
    """Picture to write."""


def read(place: Path) -> list[dict[str, float]]:
    """Records of a run, the later of two of one step."""
    file = place / "metrics.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise ValueError(f"runs has {str(place)!r}, in which there is no metrics.jsonl")
    records = {}
    lines = file.read_bytes().splitlines()
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            numbers = {name: float(x) for name, x in record.items() if x is not None}
            step = record["step"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if i == len(lines) - 1:  # It is being written.
                continue
            raise ValueError(
                f"{file} has no record of a run in line {i + 1} ({error!r})"
            ) from error
        records[step] = records.get(step, {}) | numbers
    if not records:
        raise ValueError(f"runs has {str(place)!r}, which has logged nothing yet")
    return [records[step] for step in sorted(records)]


def curve(
    records: list[dict[str, float]], metric: str, smooth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, with a running mean."""
    found = [(x["step"], x[metric]) for x in records if metric in x]
    steps, values = np.array(found, float).reshape(-1, 2).T
    if not len(values):
        return steps, values
    width = min(smooth, len(values))
    # A value that is not finite leaves a gap, as wide as the mean, and no more.
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    return steps[width - 1 :], windows.mean(1)


def method_of(place: Path) -> str:
    """A run's path without the number of its seed, "runs/vote" of "runs/vote2"."""
    folder = place.resolve()
    folder = folder.parent if place.suffix == ".jsonl" else folder
    # The end of a number with a point, as of a rate, is no seed.
    name = re.sub(r"(?<![\d.])\d+$", "", folder.name) or folder.name
    return str(folder.with_name(name))


def wanted(config: Config, runs: list[list[dict[str, float]]]) -> list[str]:
    """Names of the panels."""
    known = list(dict.fromkeys(name for run in runs for x in run for name in x))
    for name in config.metric:
        if name not in known:
            raise ValueError(f"metric has {name!r}; expected some of {sorted(known)}")
    if config.metric:
        return list(config.metric)
    # Evaluations come less often than what each record has.
    often = {name for run in runs for name in run[0]}
    rare = [name for name in known if name not in often]
    if not rare and "loss" not in known:
        raise ValueError(f"metric is empty; expected some of {sorted(known)}")
    return rare or ["loss"]


def draw(config: Config) -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = [read(place) for place in config.runs]
    names = wanted(config, runs)
    shape = {"figsize": (4.2 * len(names), 3.2), "layout": "constrained"}
    figure, axes = plt.subplots(1, len(names), squeeze=False, **shape)
    methods: dict[str, list[int]] = {}
    for i, place in enumerate(config.runs):
        methods.setdefault(method_of(place), []).append(i)
    labels = [Path(name).name for name in methods]
    if len(set(labels)) < len(labels):
        labels = list(methods)
    for axis, metric in zip(axes[0], names, strict=True):
        for color, (label, seeds) in enumerate(
            zip(labels, methods.values(), strict=True)
        ):
            # A legend leaves out what begins with an underscore.
            method = label.lstrip("_") or label
            found = [curve(runs[i], metric, config.smooth) for i in seeds]
            marker = "o" if max(len(x[0]) for x in found) == 1 else None
            style = {"color": f"C{color % 10}", "marker": marker}
            alone = len(seeds) == 1
            same = all(np.array_equal(found[0][0], x[0]) for x in found)
            for seed, (steps, values) in enumerate(found):
                thin = {} if alone else {"alpha": 0.35, "lw": 0.8}
                told = alone or (not same and seed == 0)
                axis.plot(
                    steps, values, label=method if told else None, **style, **thin
                )
            if not alone and same:
                mean = np.mean([x[1] for x in found], 0)
                axis.plot(found[0][0], mean, label=method, **style)
        axis.set(xlabel="step", ylabel=metric)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(config.out, dpi=110)
    plt.close(figure)
    print(f"{config.out}: {', '.join(names)} of {len(runs)} runs")


def main(config: Config) -> None:
    """Checks the options and draws."""
    if not config.runs:
        raise ValueError("runs is empty; expected folders of runs")
    if config.smooth < 1:
        raise ValueError(f"smooth is {config.smooth}; expected at least 1")
    require_writable(config.out)
    draw(config)


if __name__ == "__main__":
    with usage_errors():
        main(tyro.cli(Config, description=__doc__))
