"""A trained model of windows with all that its use needs: layout, clock and guidance.

The training recipe writes these beside the weights and `load_forecaster` reads them.
Nothing is jitted here; jit around `Forecaster.paths`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.data import Series
from jaxlib_guidance.diffusion import VPDiscrete
from jaxlib_guidance.guidance import ObservationEnergy
from jaxlib_guidance.models import DiffusionModel, from_config, read_pretrained
from jaxlib_guidance.sampling import ddim, ddpm
from jaxlib_guidance.timeseries._forecast import Form, forecast
from jaxlib_guidance.timeseries._layout import Inputs, Layout
from jaxlib_guidance.timeseries._positions import calendar
from jaxlib_guidance.timeseries._windows import cut_segments, forecast_mask
from jaxlib_guidance.types import Array, PyTree, concrete

SAMPLERS = {"ddpm": ddpm, "ddim": ddim}


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How to sample: a scale belongs to a form, a solver and a number of steps.

    Attributes:
      energy: "quantile", "square" or a function; None is no guidance.
      scale: Guidance scale; 0 without an energy.
      form: See `observation` and `guided_after`.
      sampler: "ddpm" or "ddim".
      steps: Steps of the solver.

    Raises:
      ValueError: A scale without an energy, unless it is traced.
    """

    energy: str | ObservationEnergy | None = None
    scale: Any = 0.0
    form: Form = "posterior"
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int = 20

    def __post_init__(self):
        known = concrete(self.scale)
        if self.energy is None and known is not None and known.any():
            raise ValueError(
                f"scale is {self.scale!r}, but without an energy it would have no "
                "effect; name one, or leave the scale at 0"
            )


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A model of windows; parameters are apart.

    Attributes:
      model: Network, noise process and parametrisation.
      layout: Of its inputs.
      guidance: What was found on validation windows, by name.
      about: The whole configuration that was stored with the weights.
    """

    model: DiffusionModel
    layout: Layout
    guidance: Mapping[str, Guidance] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def grid(self, steps: int) -> Array:
        """Times of a sampler ``[steps + 1]``; evenly spaced for a table of betas."""
        if isinstance(self.model.process, VPDiscrete):
            return jnp.linspace(1.0, 0.0, steps + 1)
        return self.model.grid(steps)

    def paths(
        self,
        params: PyTree,
        keys: Array,
        inputs: Inputs,
        samples: int,
        guidance: Guidance,
    ) -> Array:
        """Paths ``[N, S, L]`` of windows; see `forecast`.

        Args:
          params: The model's parameters.
          keys: Typed keys ``[N]``.
          inputs: Of ``N`` windows.
          samples: ``S``.
          guidance: How; its energy is None where the network is told.

        Raises:
          ValueError: See `forecast`; an unknown sampler.
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
    """A forecaster and its parameters, from what train/timeseries.py wrote.

    A model whose layout takes the square root of values (``layout.values`` is "root")
    is of series that are never negative, and its inputs refuse others.

    Args:
      path: A file, or "pedestrians", of Auckland's hourly counts, which comes with the
        package.

    Raises:
      FileNotFoundError: No such file.
      ValueError: A file of another kind.
    """
    params, about = read_pretrained(path)
    if "layout" not in about:
        raise ValueError(f"{path} has no layout: it is not of train/timeseries.py")
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    fields = [field.name for field in dataclasses.fields(Guidance)]
    found = {
        name: Guidance(**{k: v for k, v in each.items() if k in fields})
        for name, each in about["guidance"].items()
    }
    made = Forecaster(model, Layout(**about["layout"]), found, about)
    return made, jax.tree.map(jnp.asarray, params)


@dataclasses.dataclass(frozen=True)
class WindowReader:
    """Windows of a set of series as a layout's inputs.

    Attributes:
      layout: Of the model.
      values: ``[S, T]``, NaN where missing.
      clock: Covariates ``[S, T + horizon, F]``, or None.
      usual: ``[S, T + 1]``, from `usual_scale`, for windows whose context and lags are
        all zero or missing; or None.
    """

    layout: Layout
    values: Array
    clock: Array | None = None
    usual: Array | None = None

    def cut(self, rows: Any, starts: Any) -> dict[str, Any]:
        """``layout.inputs``' arguments "segments", "covariates", "scale" of windows."""
        layout = self.layout
        cut = {"context": layout.context, "horizon": layout.horizon}
        batch = {
            "segments": cut_segments(self.values, rows, starts, **cut, lags=layout.lags)
        }
        if self.clock is not None:
            batch["covariates"] = cut_segments(self.clock, rows, starts, **cut)
        if self.usual is not None:
            # The column of a window's start is what was known before it.
            starts = jnp.clip(jnp.asarray(starts), 0, self.usual.shape[1] - 1)
            batch["scale"] = self.usual[jnp.asarray(rows), starts]
        return batch

    def inputs(self, rows: Any, starts: Any, observed: Any = None) -> Inputs:
        """The inputs of forecasts, or of windows with other masks."""
        layout = self.layout
        if observed is None:
            observed = forecast_mask(layout.context, layout.horizon)
        return layout.inputs(observed=observed, **self.cut(rows, starts))

    def whole(self, rows: Any, starts: Any, past: int = 0) -> Array:
        """Values of windows, horizon and all, and of ``past`` steps before."""
        layout = self.layout
        cut = {"context": layout.context, "horizon": layout.horizon}
        lags = (past,) if past else ()
        return cut_segments(self.values, rows, starts, **cut, lags=lags)


def usual_scale(values: Array | np.ndarray) -> np.ndarray:
    """The mean absolute value of each series before each column, 0 where unknown.

    Args:
      values: ``[S, T]`` (or ``[S, T, D]``), NaN where missing.

    Returns:
      float32 ``[S, T + 1]`` (or ``[S, T + 1, D]``): entry ``i`` is that of ``values[:,
      :i]``, so no window's scale knows what comes after its start.
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
    usual = jnp.asarray(usual_scale(series.values))
    return WindowReader(layout, jnp.asarray(series.values), clock, usual)


def in_batches(function: Callable[..., Any], size: int, *rows: PyTree) -> np.ndarray:
    """``function`` of rows, ``size`` at a time; the last batch is filled up.

    Args:
      function: Of pytrees with leading ``size``, to an array likewise; usually jitted.
      size: Rows of a call.
      *rows: Its arguments, with leading ``N``.

    Returns:
      The results for all ``N`` rows.

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
