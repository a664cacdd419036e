"""Options and presets of train/timeseries.py, and where its series come from."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from timeseries_windows import steps_of, window_sizes

from jaxlib_guidance.data import Series, load_series
from jaxlib_guidance.training import Hosts, Log, Scale

# What the options that were left out are; "paper" is as published, with the released
# code's guidance, to which the published scales belong.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "optimiser": {
            "steps": 3000,
            "learning_rate": 2e-3,
            "warmup": 100,
            "weight_decay": 0.01,
            "clip": 1.0,
            "ema": 0.999,
        },
        "search": {
            "scales": (1.0, 4.0, 16.0),
            "form": "posterior",
            "steps": 20,
            "samples": 8,
        },
    },
    "paper": {
        "optimiser": {
            "learning_rate": 1e-3,
            "warmup": 0,
            "weight_decay": 0.0,
            "clip": 0.5,
            "ema": 0.0,
        },
        "search": {
            "scales": (1.0, 2.0, 4.0, 8.0),
            "form": "after",
            "steps": 100,
            "samples": 16,
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Data:
    """What to learn, and what to hold out."""

    source: Annotated[str, tyro.conf.arg(aliases=["--source"])] = "pedestrians"
    """A name or a folder of `load_series`; or a file: .npy, an array [series, time];
    .csv or .parquet, with stamps in the first column and a series in each other."""
    freq: str | None = None
    """Spacing of the steps, such as "h", where the source does not say."""
    start: str | None = None
    """Stamp of the first column of an array; without it there is no calendar."""
    long: tuple[str, str, str] | None = None
    """Columns of names, stamps and values of a .csv or .parquet in long form."""
    shortest: int = 0
    """Leave out series of fewer steps."""
    context: int | str | None = None
    """Steps of which the scale is taken, and that guidance may use, or a time such as
    4W: two weeks, of daily series four, see timeseries_windows.py; "paper" 336 hours or
    360 days."""
    horizon: int | str | None = None
    """Steps of forecast, or a time such as 7D: a day, of daily series a week, of months
    and quarters a year; "paper" 24 hours or 30 days."""
    lags: tuple[int | str, ...] | None = None
    """Steps back of further channels, or times such as 1W 2W: one to four weeks, one to
    three years of months, "paper" the published ones. Where they are conditions, lags
    shorter than the view would bring the context that guidance is to bring. "paper"
    knows those of "h", "D" and "B" alone."""
    rolls: int = 7
    """Forecasts of each series to test on, at its end; as many before to validate."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network and its condition."""

    preset: Literal["cpu", "paper"] = "cpu"
    """"paper" diffuses all lags, at plain values, of the whole context, and trains as
    published, 128,000 steps; "cpu" has lags and calendar as its condition, and sees the
    last days of the context, of counts the square roots. What is None below is the
    preset's."""
    view: int | None = None
    """Steps of the context that "cpu" sees: three days, of daily series a week, of
    others a horizon or a year."""
    conditional: bool = False
    """Whether observed steps are a condition (TSDiff-Cond), or guide the sampler."""
    init_skip: bool = False
    """Whether the network's output is added to its input, as published for traffic,
    exchange rates and air quality."""
    width: int | None = None
    """Features of a step."""
    blocks: int | None = None
    """Residual blocks."""
    state: int | None = None
    """Conjugate pairs of a state space."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam: "cpu" warms up and decays to 0 linearly, "paper" keeps its rate."""

    steps: Annotated[int | None, tyro.conf.arg(aliases=["--steps"])] = None
    """3,000; "paper" 128,000, or 12,800 of a conditional network."""
    batch: Annotated[int, tyro.conf.arg(aliases=["--batch"])] = 64
    """Windows of a step."""
    learning_rate: Annotated[
        float | None, tyro.conf.arg(aliases=["--learning-rate"])
    ] = None
    """2e-3; "paper" 1e-3."""
    warmup: int | None = None
    """100; "paper" 0."""
    weight_decay: float | None = None
    """0.01; "paper" 0."""
    clip: float | None = None
    """Largest norm of a gradient: 1; "paper" 0.5."""
    ema: float | None = None
    """0.999; "paper" 0, which is no average."""


@dataclasses.dataclass(frozen=True)
class Search:
    """The search for a guidance scale on validation windows."""

    scales: tuple[float, ...] | None = None
    """1, 4, 16; "paper" 1, 2, 4, 8. Empty for none, without which sample/forecast.py
    has no scale to forecast with; a finished run can be searched again."""
    form: Literal["posterior", "estimate", "after"] | None = None
    """"posterior"; "paper" "after"."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Solver that the scale belongs to."""
    steps: int | None = None
    """20; "paper" 100."""
    samples: int | None = None
    """8; "paper" 16."""
    batch: int = 19
    """Windows forecast at once."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path | None = None
    """Folder of the run; None is runs/ and the name of the source."""
    seed: int = 0
    """Of the weights, the order of windows and the noise."""
    data: Data = Data()
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    search: Search = Search()
    log: Log = Log(every=50, save_every=500)
    scale: Annotated[Scale, tyro.conf.arg(name="")] = Scale()
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts()


def folder_of(config: Config) -> Path:
    """The folder of the run, named after its source if none was given."""
    if config.directory is not None:
        return config.directory
    return Path("runs") / Path(config.data.source).expanduser().absolute().stem


def read_series(data: Data) -> Series:
    """The series of a source."""
    return load_series(
        data.source,
        freq=data.freq,
        start=data.start,
        long=data.long,
        shortest=data.shortest,
    )


def in_steps(data: Data, freq: str) -> Data:
    """The options with windows in steps where they were given in time."""
    of = partial(steps_of, freq=freq)
    sizes = {name: of(name, getattr(data, name)) for name in ("context", "horizon")}
    if data.lags is not None:
        sizes["lags"] = tuple(of("lags", lag) for lag in data.lags)
    return dataclasses.replace(data, **sizes)


def complete(config: Config, freq: str) -> Config:
    """The configuration with the preset's values where none were given.

    Raises:
      ValueError: An option that the preset has no use for; sizes of windows that were
        not given and are not known for series of this frequency.
    """
    model, presets = config.model, PRESETS[config.model.preset]
    optim, sizes = dict(presets["optimiser"]), window_sizes(model.preset, freq)
    config = dataclasses.replace(config, data=in_steps(config.data, freq))
    view = sizes.pop("view", None)
    needed = ("context", "horizon", "lags")
    absent = [n for n in needed if getattr(config.data, n) is None and n not in sizes]
    if absent:
        raise ValueError(
            f"freq is {freq or 'unknown'!r}, for which the preset {model.preset!r} has "
            f"no windows: pass {', '.join(f'--data.{name}' for name in absent)}, or "
            "--data.freq if only the source does not say it"
        )

    def filled(part, given):
        left_out = {k: v for k, v in given.items() if getattr(part, k) is None}
        return dataclasses.replace(part, **left_out)

    data = filled(config.data, sizes)
    if model.preset == "paper":
        if model.view is not None:
            raise ValueError('view would have no effect: "paper" sees all the context')
        optim["steps"] = 12_800 if model.conditional else 128_000
    elif model.view is None:
        longest = min(data.lags, default=data.context) if view is None else view
        model = dataclasses.replace(model, view=min(data.context, longest))
    search = filled(config.search, presets["search"])
    if search.sampler == "ddim" and search.form != "estimate" and not model.conditional:
        # Said now, and not when all steps have been taken.
        raise ValueError(
            f'form {search.form!r} moves by a step\'s variance, and "ddim" has none: '
            "take --search.form estimate"
        )
    return dataclasses.replace(
        config,
        model=model,
        data=data,
        optimiser=filled(config.optimiser, optim),
        search=search,
    )
