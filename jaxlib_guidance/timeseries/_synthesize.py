"""Synthetic windows, and how well forecasters do that were fitted to them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.sampling import Sampler, ddpm, sample
from jaxlib_guidance.timeseries._baselines import fit_ridge, scale_context
from jaxlib_guidance.timeseries._layout import Layout
from jaxlib_guidance.timeseries._metrics import wql
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree


def synthesize(
    keys: Array,
    denoiser: Denoiser,
    layout: Layout,
    cond: PyTree = None,
    *,
    grid: Any,
    sampler: Sampler | None = None,
    process: Process | None = None,
) -> Array:
    """Windows from the model alone, in the scaled space: their unit is 1.

    Args:
      keys: Typed keys ``[N]``, one for each window.
      denoiser: Denoiser of windows ``[N, L, C]``.
      layout: Layout of the network's inputs.
      cond: Condition ``[N, L, F]`` if the layout has features, None otherwise. Zeros
        for lags and observed steps are "unknown"; see `without_past`.
      grid: Times of the solver.
      sampler: Solver; None is ``ddpm()``.
      process: Noise process; None takes the denoiser's.

    Returns:
      Scaled windows ``[N, L]``, or ``[N, L, D]`` of joint series.
    """
    sampler = ddpm() if sampler is None else sampler
    shape = (layout.length, layout.channels)
    x, _ = sample(keys, denoiser, sampler, grid, shape, cond, process=process)
    x = x[..., : layout.joint]
    one = jnp.ones((len(x), layout.joint)) if layout.joint > 1 else jnp.ones(len(x))
    return layout.restore(x[..., 0] if layout.joint == 1 else x, one)


def without_past(layout: Layout, cond: Array) -> Array:
    """A condition of which only the covariates are left.

    Args:
      layout: Layout of the network's inputs.
      cond: Condition ``[N, L, F]``.

    Returns:
      ``[N, L, F]``, 0 ("unknown") for lags and observed steps.
    """
    past = layout.features - layout.covariates
    return jnp.where(jnp.arange(layout.features) < past, 0, cond)


def downstream_score(
    windows: Array,
    context: Array,
    target: Array,
    fit: Callable[[Array, Array], Callable[[Array], Array]],
) -> Array:
    """Test loss of a forecaster that was fitted to windows, real or synthetic.

    The forecaster maps a window's first steps to its last, as many as ``target`` has.
    Test contexts are cut to what it takes and divided by their mean absolute value, and
    its forecasts multiplied by that. The score is `wql`.

    Args:
      windows: Windows to fit to ``[M, L]``, scaled and finite; they are not divided by
        anything here.
      context: Real contexts ``[N, P]`` with ``P >= L - H``, NaN where missing.
      target: Real targets ``[N, H]``, NaN where missing.
      fit: Function of ``x [M, L - H]`` and ``y [M, H]`` that returns a forecaster,
        which maps ``x [N, L - H]`` to samples ``[N, S, H]``.

    Returns:
      A number; NaN where no target is known.

    Raises:
      ValueError: Windows that are no longer than the horizon, or longer than the test
        contexts; a forecaster whose samples have another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, section 4.3; the scaling is that of
      the released code.
    """
    horizon = target.shape[1]
    inputs = windows.shape[1] - horizon
    if not 1 <= inputs <= context.shape[1]:
        raise ValueError(
            f"windows have {windows.shape[1]} steps; expected more than the horizon "
            f"{horizon} and at most {context.shape[1] + horizon}"
        )
    forecaster = fit(windows[:, :inputs], windows[:, inputs:])
    x, scale = scale_context(context[:, -inputs:])
    samples = forecaster(x)
    if samples.ndim != 3 or samples.shape[::2] != target.shape:
        raise ValueError(
            f"fit's forecaster gave {samples.shape}; expected [{len(x)}, S, {horizon}]"
        )
    return wql(samples * scale[:, None, None], target)


def linear_predictive_score(
    windows: Array, context: Array, target: Array, alpha: float = 1.0
) -> Array:
    """Test loss of a ridge regression that was fitted to windows.

    It is the `downstream_score` of a point forecast, and so its normalised deviation.

    Args:
      windows: Windows to fit to ``[M, L]``, scaled and finite.
      context: Real contexts ``[N, P]`` with ``P >= L - H``, NaN where missing.
      target: Real targets ``[N, H]``, NaN where missing.
      alpha: Weight of the ridge's penalty; 1 in the released code.

    Returns:
      A number; NaN where no target is known.

    Raises:
      ValueError: Windows that are no longer than the horizon, or longer than the test
        contexts.

    Reference: Kollovieh et al., arXiv 2307.11494, section 4.3.
    """

    def fit(x, y):
        ridge = fit_ridge(x, y, alpha)
        return lambda x: ridge(x)[:, None]

    return downstream_score(windows, context, target, fit)
