"""Other forecasters of the windows of sample/forecast.py, beside the model."""

from typing import Any

import jax
import jax.numpy as jnp
from bases import BASES, history_steps, same_hour, season_steps
from forecast_setup import Setup

import jaxlib_guidance as jg
from jaxlib_guidance.timeseries import seasonal_naive, wql


def history_of(
    setup: Setup, rows: Any, starts: Any, past: int, observed: Any = None
) -> jax.Array:
    """What is known before windows, ``[N, past + context]``; NaN where it is not."""
    layout = setup.forecaster.layout
    history = setup.reader.whole(rows, starts, past)[:, : -layout.horizon]
    if observed is None:
        return history
    visible = jnp.broadcast_to(observed, (len(rows), observed.shape[-1]))
    hidden = jnp.pad(~visible[:, : layout.context], ((0, 0), (past, 0)))
    return jnp.where(hidden, jnp.nan, history)


def naive_loss(
    setup: Setup, rows: Any, starts: Any, observed: Any, future: jax.Array
) -> tuple[float, int]:
    """The weighted quantile loss of the last season once more, and its steps."""
    layout, season = setup.forecaster.layout, season_steps(setup.freq)
    past = max(0, season - layout.context)
    history = history_of(setup, rows, starts, past, observed)
    naive = seasonal_naive(history, layout.horizon, season)
    return float(wql(naive[:, None], future)), season


def base_forecast(
    setup: Setup, name: str, rows: Any, starts: Any, count: int, observed: Any = None
) -> jax.Array:
    """Another forecaster's samples ``[N, S, H]`` or point forecast ``[N, H]``.

    What is not observed of the context is missing to it too.
    """
    layout = setup.forecaster.layout
    past = history_steps(setup.freq) if name in BASES else 0
    history = history_of(setup, rows, starts, past, observed)
    if name in BASES:
        return same_hour(name, history, layout.horizon, setup.freq)
    if name == "ridge":
        return setup.ridge.mean(history)
    keys = jg.sample_keys(jax.random.key(3), len(rows))
    return setup.ridge.sample(keys, history, count)
