# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/04_time_series.ipynb)
#
# # Time series: a forecaster that listens
#
# One diffusion model of a day and the three before it, trained on nothing but series.
# What you know enters while it samples: the past, a gap, a number that somebody told
# you, or the forecast of another model.
#
# 1. Forecast the next day.
# 2. Fill a gap with the same weights.
# 3. Add an energy of your own: the day's total is known.
# 4. Refine the forecast of another model.
#
# The series are hourly counts of pedestrians in Auckland (Heart of the City Auckland,
# CC BY 4.0). It takes a few minutes on a CPU.

# %% tags=["remove-cell"]
# On Colab: installs the library and leaves Colab's JAX as it is. Elsewhere it checks.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("jaxlib_guidance") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("pip install '.[notebooks,timeseries]' in a clone")
    source = (
        "https://github.com/jaxlib-guidance/jaxlib_guidance"  # @param {type:"string"}
    )
    wanted = f"jaxlib-guidance[notebooks,timeseries] @ git+{source}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)

import jax

if os.path.exists("/dev/nvidia0") and jax.default_backend() == "cpu":
    raise RuntimeError("this runtime has a GPU that JAX does not see: restart it")
FAST = bool(os.environ.get("FAST"))  # The tests run fewer steps.
print(jax.devices())

# %%
from functools import partial

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_series
from jaxlib_guidance.timeseries import seasonal_naive
from jaxlib_guidance.guidance import quantile_energy
from jaxlib_guidance.timeseries import GuidanceSettings, load_forecaster, read_windows
from jaxlib_guidance.timeseries import wql
from jaxlib_guidance.timeseries import rolling_positions
from jaxlib_guidance.timeseries import base_paths, completed, refine
from jaxlib_guidance.timeseries import blackout_end

SAMPLES = 5 if FAST else 50
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. The next day
#
# `Forecaster.paths` draws whole windows, each path guided to the observed hours at its
# own quantile level. It was trained without the last fourteen days; we forecast the
# last one.

# %%
forecaster, params = load_forecaster("pedestrians")
layout = forecaster.layout
series = load_series("pedestrians")
reader = read_windows(series, layout)
cut = {"context": layout.context, "horizon": layout.horizon, "lags": layout.lags}
rows, starts = rolling_positions(series.values, **cut, rolls=1)
if FAST:
    rows, starts = rows[:3], starts[:3]
keys = jg.sample_keys(jax.random.key(0), len(rows))
seen = reader.whole(rows, starts)[:, -layout.length :]
future = seen[:, -layout.horizon :]


@jax.jit
def draw(params, inputs):
    how = forecaster.guidance["quantile"]  # as found on validation days
    return forecaster.paths(params, keys, inputs, SAMPLES, how)


forecast = draw(params, reader.inputs(rows, starts))


def score(paths):
    return float(wql(paths[..., -layout.horizon :], future))


def show(title, *forecasts, hidden=None):
    hours = np.arange(layout.length) - layout.length + layout.horizon
    _, axes = plt.subplots(1, 3, figsize=(12, 2.6))
    for axis, i in zip(axes, (0, 1, 2) if FAST else (0, 4, 12), strict=True):
        for color, (label, paths) in zip(("C0", "C3"), forecasts, strict=False):
            low, mid, high = np.quantile(paths[i], (0.05, 0.5, 0.95), 0)
            axis.fill_between(hours, low, high, color=color, alpha=0.25, lw=0)
            axis.plot(hours, mid, color=color, lw=1.2, label=label)
        axis.plot(hours, seen[i], "k", lw=0.8, label="what happened")
        if hidden is not None:
            axis.axvspan(*hidden, color="0.9", zorder=0)
        axis.axvline(-0.5, color="0.5", ls=":")
        axis.set_title(series.names[rows[i]], fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    plt.suptitle(title)
    plt.tight_layout()
    plt.show()


show("forecast", ("median and 90 %", forecast))
print(f"weighted quantile loss {score(forecast):.3f}")

# %% [markdown]
# ## 2. A gap
#
# The same weights, the same compiled program: only the mask is another. Now the last
# two days before the forecast are lost.

# %%
lost = blackout_end(layout.context, layout.horizon, 48)
gap = draw(params, reader.inputs(rows, starts, lost))
show("two days lost", ("median and 90 %", gap), hidden=(-48.5, -0.5))
print(f"weighted quantile loss {score(gap):.3f}")

# %% [markdown]
# ## 3. What somebody told you
#
# An energy is a function of the estimate, so anything that can be computed from a
# window can steer it. Say each street's total of the day is known, from tickets or a
# gate. Add how far the estimate's total is from it, relative, to the energy that keeps
# the window on what was observed.

# %%
inputs = reader.inputs(rows, starts)
total = jnp.nansum(future, 1)


def knows_the_total(weight, total, x0, observed):
    unit = jnp.repeat(inputs.scale, SAMPLES)
    day = layout.restore(x0[:, -layout.horizon :, 0], unit)
    wanted = jnp.repeat(total, SAMPLES)
    error = (jnp.sum(day, 1) - wanted) / wanted
    return quantile_energy(x0, observed) + weight * error**2


@jax.jit
def draw_told(params, weight, total):
    energy = partial(knows_the_total, weight, total)
    how = GuidanceSettings(energy, scale=4.0)
    return forecaster.paths(params, keys, inputs, SAMPLES, how)


told = draw_told(params, 10.0, total)
show("the day's total is known", ("not told", forecast), ("told", told))
for label, paths in (("not told", forecast), ("told", told)):
    sums = jnp.sum(paths[..., -layout.horizon :], -1)
    off = jnp.mean(jnp.abs(sums / total[:, None] - 1))
    print(
        f"{label:9} total off by {off:.3f}, weighted quantile loss {score(paths):.3f}"
    )

# %% [markdown]
# ## 4. Another model's forecast
#
# The model can also say how likely a forecast is, whoever made it. Refinement moves the
# forecast, here "as yesterday", to where the model finds it likely.

# %%
before = seasonal_naive(reader.whole(rows, starts)[:, : -layout.horizon], 24, 24)
paths = base_paths(before, SAMPLES)
start = completed(inputs, layout, paths, whole=True)


@jax.jit
def improve(params, start):
    own = jg.sample_keys(jax.random.key(1), len(start.y))
    cond = jnp.repeat(inputs.cond, SAMPLES, 0)
    denoiser, process = forecaster.model.denoiser(params), forecaster.model.process
    level = process.t_of_logsnr(jnp.float32(0.0))  # as much noise as signal
    y = refine(own, denoiser, start, cond, t=level)
    y = y[:, -layout.horizon :, 0].reshape(paths.shape)
    return layout.restore(y, inputs.scale)


after = improve(params, start)
print(f"as yesterday {score(paths):.3f}, refined {score(after):.3f}")

# %% [markdown]
# ## Exercise
#
# Say the day's *peak* is known instead of its total, and steer by
# `(day.max(1) - peak) / peak`: does the median follow? Train on your own series with
# `python train/timeseries.py --data.source FILE`; the measured tables are in
# `docs/timeseries.md`.
