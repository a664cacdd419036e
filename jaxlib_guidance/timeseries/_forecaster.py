"""A trained model of windows with all that its use needs: layout, clock and guidance.

The training recipe writes these beside the weights and `load_forecaster` reads them.
Nothing is jitted here: wrap `Forecaster.paths` in `jax.jit` where it is called often.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.data import Series, parse_freq
from jaxlib_guidance.diffusion import VPDiscrete
from jaxlib_guidance.models import DiffusionModel, from_config, read_pretrained
from jaxlib_guidance.timeseries._forecast import forecast
from jaxlib_guidance.timeseries._guidance_settings import SAMPLERS, GuidanceSettings
from jaxlib_guidance.timeseries._layout import Inputs, Layout
from jaxlib_guidance.timeseries._positions import calendar
from jaxlib_guidance.timeseries._windows import cut_segments, forecast_mask
from jaxlib_guidance.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A model of windows with its settings; the parameters are kept apart.

    Attributes:
      model: Network, noise process and parametrisation.
      layout: Layout of the network's inputs.
      guidance: Settings that did best on validation windows, by the energy's name.
      about: Configuration that was stored with the weights, as JSON.
    """

    model: DiffusionModel
    layout: Layout
    guidance: Mapping[str, GuidanceSettings] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def grid(self, steps: int) -> Array:
        """Times of a solver; evenly spaced where the process is a table of betas.

        Args:
          steps: Number of steps.

        Returns:
          ``[steps + 1]``, falling to 0.
        """
        if isinstance(self.model.process, VPDiscrete):
            return jnp.linspace(1.0, 0.0, steps + 1)
        return self.model.grid(steps)

    def require_series(
        self,
        series: Series,
        name: str = "series",
        hint: str = "pass freq to load_series",
    ) -> None:
        """Raises for what is no set of series, or one of another frequency.

        Args:
          series: What the caller gave.
          name: What to call it in the error.
          hint: What to do where only the source does not say its frequency.

        Raises:
          TypeError: Something else than a `Series`.
          ValueError: Series of another frequency than the model's, or of an unknown
            one where the model has one.
        """
        if not isinstance(series, Series):
            raise TypeError(
                f"{name} is {type(series).__name__}; expected a Series, as load_series "
                "makes of arrays, tables and frames"
            )
        freq = self.about.get("freq")
        if freq and (not series.freq or parse_freq(series.freq) != parse_freq(freq)):
            raise ValueError(
                f"{name} has the frequency {series.freq or 'unknown'!r}, but the model "
                f"is of series of {freq!r}; {hint} if only the source is silent"
            )

    def paths(
        self,
        params: PyTree,
        keys: Array,
        inputs: Inputs,
        samples: int,
        guidance: GuidanceSettings,
    ) -> Array:
        """Paths of windows in the unit of their series; see `forecast`.

        Args:
          params: Parameters of the model.
          keys: Typed keys ``[N]``, one for each window.
          inputs: Inputs of the windows, from `WindowReader.inputs`.
          samples: Number ``S`` of paths of each window.
          guidance: Settings of the sampling; without an energy for a conditional
            network.

        Returns:
          ``[N, S, L]``, or ``[N, S, L, D]`` of joint series.

        Raises:
          ValueError: An unknown sampler, or what `forecast` refuses.
        """
        if guidance.sampler not in SAMPLERS:
            raise ValueError(
                f"sampler is {guidance.sampler!r}; expected one of {tuple(SAMPLERS)}"
            )
        energy = guidance.energy
        return forecast(
            keys,
            self.model.denoiser(params),
            self.layout,
            inputs,
            samples,
            grid=self.grid(guidance.steps),
            energy="quantile" if energy is None else energy,
            scale=0.0 if energy is None else guidance.scale,
            # Without guidance a form is nothing, and "after" a wasted evaluation.
            form="posterior" if energy is None else guidance.form,
            sampler=SAMPLERS[guidance.sampler](),
        )


def load_forecaster(path: str | os.PathLike) -> tuple[Forecaster, PyTree]:
    """A forecaster and its parameters, as train/timeseries.py stores them.

    A model whose layout takes the square root of values (``layout.values`` is "root")
    is of series that are never negative, and its inputs refuse others.

    Args:
      path: File of weights; or "pedestrians", the model of Auckland's hourly counts
        that comes with the package.

    Returns:
      The `Forecaster`, and its parameters as a pytree of arrays.

    Raises:
      FileNotFoundError: No such file.
      ValueError: A file of another kind.
    """
    params, about = read_pretrained(path)
    if "layout" not in about:
        raise ValueError(f"{path} has no layout: it is not of train/timeseries.py")
    about = _current(about)
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    fields = [field.name for field in dataclasses.fields(GuidanceSettings)]
    found = {
        name: GuidanceSettings(**{k: v for k, v in each.items() if k in fields})
        for name, each in about["guidance"].items()
    }
    made = Forecaster(model, Layout(**about["layout"]), found, about)
    return made, jax.tree.map(jnp.asarray, params)


def _current(about: Any) -> Any:
    """A stored configuration with today's names: weights outlive them."""
    if not isinstance(about, Mapping):
        return about
    renamed = {"told": "conditional"}
    return {renamed.get(name, name): _current(value) for name, value in about.items()}


@dataclasses.dataclass(frozen=True)
class WindowReader:
    """Windows of a set of series as a layout's inputs.

    Attributes:
      layout: Layout of the model's inputs.
      values: Values ``[S, T]``, NaN where missing.
      clock: Covariates ``[S, T + horizon, F]``, or None for a layout without them.
      default_scale: Size of each series before each column ``[S, T + 1]``, from
        `default_scale`, for windows whose context and lags are all zero or missing;
        None gives these no unit.
    """

    layout: Layout
    values: Array
    clock: Array | None = None
    default_scale: Array | None = None

    def cut(self, rows: Any, starts: Any) -> dict[str, Any]:
        """Arguments of ``layout.inputs`` for windows, all but the mask.

        Args:
          rows: Which series, int ``[B]``.
          starts: Columns at which the contexts begin, int ``[B]``.

        Returns:
          ``{"segments": ..., "covariates": ..., "scale": ...}``, the last two where
          there are any.
        """
        layout = self.layout
        cut = {"context": layout.context, "horizon": layout.horizon}
        batch = {
            "segments": cut_segments(self.values, rows, starts, **cut, lags=layout.lags)
        }
        if self.clock is not None:
            batch["covariates"] = cut_segments(self.clock, rows, starts, **cut)
        if self.default_scale is not None:
            # The column of a window's start is what was known before it.
            starts = jnp.clip(jnp.asarray(starts), 0, self.default_scale.shape[1] - 1)
            batch["scale"] = self.default_scale[jnp.asarray(rows), starts]
        return batch

    def inputs(self, rows: Any, starts: Any, observed: Any = None) -> Inputs:
        """Inputs of windows for a forecast, or with another mask.

        Args:
          rows: Which series, int ``[B]``.
          starts: Columns at which the contexts begin, int ``[B]``.
          observed: Which steps are visible, ``[context + horizon]`` or with leading
            ``B``; None is `forecast_mask`.

        Returns:
          `Inputs` of the windows.
        """
        layout = self.layout
        if observed is None:
            observed = forecast_mask(layout.context, layout.horizon)
        return layout.inputs(observed=observed, **self.cut(rows, starts))

    def whole(self, rows: Any, starts: Any, past: int = 0) -> Array:
        """Values of windows, their horizon included.

        Args:
          rows: Which series, int ``[B]``.
          starts: Columns at which the contexts begin, int ``[B]``.
          past: Number of steps before each window to return as well.

        Returns:
          ``[B, past + context + horizon]``, NaN where missing.
        """
        layout = self.layout
        cut = {"context": layout.context, "horizon": layout.horizon}
        lags = (past,) if past else ()
        return cut_segments(self.values, rows, starts, **cut, lags=lags)


def default_scale(values: Array | np.ndarray) -> np.ndarray:
    """The mean absolute value of each series before each column, 0 where unknown.

    Args:
      values: Values ``[S, T]`` (or ``[S, T, D]``), NaN where missing.

    Returns:
      float32 ``[S, T + 1]`` (or ``[S, T + 1, D]``): entry ``i`` is the mean of
      ``|values[:, :i]|``, so no window's scale knows what comes after its start.
    """
    size = np.abs(np.asarray(values, np.float64))
    known = ~np.isnan(size)
    total = np.cumsum(np.where(known, size, 0), 1)
    mean = total / np.maximum(np.cumsum(known, 1), 1)
    return np.pad(mean, ((0, 0), (1, 0), *[(0, 0)] * (mean.ndim - 2))).astype(
        np.float32
    )


def read_windows(series: Series, layout: Layout) -> WindowReader:
    """The windows of a set of series, with its calendar if the layout has covariates.

    Args:
      series: Series, from `load_series`.
      layout: Layout of the model's inputs.

    Returns:
      `WindowReader` of the series.

    Raises:
      ValueError: A layout with a calendar, and series without stamps; a layout of
        square roots, and a series with negative values.
    """
    if layout.values == "root":
        below = np.flatnonzero((series.values < 0).any(1))
        if len(below):
            raise ValueError(
                f"series {[series.names[i] for i in below[:5]]} have negative values, "
                "of which the layout's values='root' has no root; take a model of "
                "'plain' values"
            )
    clock = None
    if layout.covariates:
        steps = series.values.shape[1] + layout.horizon
        clock = jnp.asarray(calendar(series.start, series.freq, steps))
    scale = jnp.asarray(default_scale(series.values))
    return WindowReader(layout, jnp.asarray(series.values), clock, scale)


def in_batches(function: Callable[..., Any], size: int, *rows: PyTree) -> np.ndarray:
    """A function of rows, called on ``size`` of them at a time.

    Args:
      function: Function of pytrees with leading axis ``size`` that returns an array
        with the same leading axis; usually jitted. The last call is filled up with
        first rows, so that all calls have one shape.
      size: Number of rows of a call.
      *rows: Arguments of the function, pytrees with leading axis ``N``.

    Returns:
      The results of all ``N`` rows, ``[N, ...]``.

    Raises:
      ValueError: No rows, or arguments with different numbers of them; a size below 1.
    """
    counts = {len(leaf) for leaf in jax.tree.leaves(rows)}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"the arguments have {sorted(counts)} rows; expected the same number of all"
            ", and at least 1"
        )
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1")
    (count,) = counts
    size, out = min(size, count), []
    for first in range(0, count, size):
        these = np.arange(first, first + size) % count
        out.append(np.asarray(function(*jax.tree.map(lambda a, i=these: a[i], rows))))
    return np.concatenate(out)[:count]
