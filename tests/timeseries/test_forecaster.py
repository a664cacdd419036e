"""A stored model's windows: what its reader cuts, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.data.timeseries import load_series
from jaxlib_guidance.timeseries.forecaster import read_windows, usual_scale
from jaxlib_guidance.timeseries.layout import Layout

LAYOUT = Layout(6, 3, lags=(4,))


def test_the_usual_scale_is_of_what_came_before():
    values = np.array([[np.nan, 2.0, -4.0, np.nan, 0.0], [0, 0, 0, 0, 8]], np.float32)
    want = [[0, 0, 2, 3, 3, 2], [0, 0, 0, 0, 0, 1.6]]
    np.testing.assert_allclose(usual_scale(values), want, rtol=1e-6)
    pair = np.stack([values, 2 * values], -1)
    np.testing.assert_allclose(usual_scale(pair)[..., 1], 2 * np.array(want), rtol=1e-6)


def test_a_reader_knows_the_unit_of_a_series_that_fell_silent():
    values = np.full((2, 40), 300.0, np.float32)
    values[0, 10:25] = 0
    reader = read_windows(load_series(values), LAYOUT)
    rows, starts = np.array([0, 1]), np.array([16, 16])
    # Neither context nor lags of the first window say how large the series is.
    want = [300 * 10 / 16, 300]
    np.testing.assert_allclose(reader.inputs(rows, starts).scale, want)
    cut = jax.jit(reader.cut)(rows, starts)
    inputs = LAYOUT.inputs(observed=jnp.arange(9) < 6, truth=True, **cut)
    np.testing.assert_allclose(inputs.scale, want)
    # A unit from before the window knows nothing of what follows.
    values[0, 16:] = 1e6
    later = read_windows(load_series(values), LAYOUT)
    np.testing.assert_allclose(later.cut(rows, starts)["scale"], cut["scale"])
