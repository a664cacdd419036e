"""What train/timeseries.py may be told: options, presets and where series come from."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxlib_guidance.data import Series, load_series, parse_freq
from jaxlib_guidance.timeseries import DAILY_LAGS, HOURLY_LAGS
from jaxlib_guidance.training import Hosts, Log, Scale

# What the options that were left out are; "paper" is as published, with the released
# code's guidance, to which the published scales belong.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "data": {"lags": (168, 336, 504, 672)},
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
        "data": {},
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

    source: str = "pedestrians"
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
    context: int = 336
    """Steps of which the scale is taken, and that guidance may use."""
    horizon: int = 24
    lags: tuple[int, ...] | None = None
    """Steps back of further channels; None is four weeks ("cpu"), or the published ones
    of hourly or daily series ("paper"). Where they are told and not diffused, lags
    shorter than the view would tell the context that guidance is to bring."""
    rolls: int = 7
    """Forecasts of each series to test on, at its end; as many before to validate."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network and what it is told."""

    preset: Literal["cpu", "paper"] = "cpu"
    """"paper" diffuses all lags, at plain values, of the whole context, and trains as
    published, 128,000 steps; "cpu" is told them and the calendar, and sees the last
    days of it, of counts the square roots. What is None below is the preset's."""
    view: int | None = None
    """Steps of the context that "cpu" sees; None is 72."""
    told: bool = False
    """Whether the network is told what is observed (TSDiff-Cond), or guided there."""
    init_skip: bool = False
    """Whether the network's output is added to its input, as published for traffic,
    exchange rates and air quality."""
    width: int | None = None
    blocks: int | None = None
    state: int | None = None
    """Conjugate pairs of a state space."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam: "cpu" warms up and decays to 0 linearly, "paper" keeps its rate."""

    steps: int | None = None
    """3,000; "paper" 128,000, or 12,800 where the network is told."""
    batch: int = 64
    learning_rate: float | None = None
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
    """1, 4, 16; "paper" 1, 2, 4, 8. Empty for none; a finished run can be searched
    again."""
    form: Literal["posterior", "estimate", "after"] | None = None
    """"posterior"; "paper" "after"."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int | None = None
    """20; "paper" 100."""
    samples: int | None = None
    """8; "paper" 16."""
    batch: int = 19
    """Windows forecast at once."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/pedestrians")
    seed: int = 0
    data: Data = Data()
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    search: Search = Search()
    log: Log = Log(every=50, save_every=500)
    scale: Annotated[Scale, tyro.conf.arg(name="")] = Scale()
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts()


def read_series(data: Data) -> Series:
    """The series of a source."""
    return load_series(
        data.source,
        freq=data.freq,
        start=data.start,
        long=data.long,
        shortest=data.shortest,
    )


def complete(config: Config, freq: str) -> Config:
    """The configuration with the preset's values where none were given.

    Raises:
      ValueError: An option that the preset has no use for; lags that were neither given
        nor published for series of this frequency.
    """
    model, presets = config.model, PRESETS[config.model.preset]
    data, optim = dict(presets["data"]), dict(presets["optimiser"])
    if model.preset == "paper":
        if model.view is not None:
            raise ValueError('view would have no effect: "paper" sees all the context')
        optim["steps"] = 12_800 if model.told else 128_000
        if config.data.lags is None:
            published = {
                (3600, "seconds"): HOURLY_LAGS,
                (86_400, "seconds"): DAILY_LAGS,
                (1, "weekdays"): DAILY_LAGS,
            }
            if not freq or parse_freq(freq) not in published:
                raise ValueError(
                    f"freq is {freq!r}, and lags were published for hourly and daily "
                    "series alone: pass --data.lags, or --data.freq if they are"
                )
            data["lags"] = published[parse_freq(freq)]
    elif model.view is None:
        model = dataclasses.replace(model, view=min(config.data.context, 72))

    def filled(part, given):
        left_out = {k: v for k, v in given.items() if getattr(part, k) is None}
        return dataclasses.replace(part, **left_out)

    search = filled(config.search, presets["search"])
    if search.sampler == "ddim" and search.form != "estimate" and not model.told:
        # Said now, and not when all steps have been taken.
        raise ValueError(
            f'form {search.form!r} moves by a step\'s variance, and "ddim" has none: '
            "take --search.form estimate"
        )
    return dataclasses.replace(
        config,
        model=model,
        data=filled(config.data, data),
        optimiser=filled(config.optimiser, optim),
        search=search,
    )
