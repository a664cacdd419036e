"""A stored model's windows: what its reader cuts, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.data import load_series
from jaxlib_guidance.models import from_config, tsdiff_cpu
from jaxlib_guidance.timeseries import (
    GuidanceSettings,
    Layout,
    default_scale,
    in_batches,
    load_forecaster,
    read_windows,
)

LAYOUT = Layout(6, 3, lags=(4,))


def test_the_default_scale_is_of_what_came_before():
    values = np.array([[np.nan, 2.0, -4.0, np.nan, 0.0], [0, 0, 0, 0, 8]], np.float32)
    want = [[0, 0, 2, 3, 3, 2], [0, 0, 0, 0, 0, 1.6]]
    np.testing.assert_allclose(default_scale(values), want, rtol=1e-6)
    pair = np.stack([values, 2 * values], -1)
    np.testing.assert_allclose(
        default_scale(pair)[..., 1], 2 * np.array(want), rtol=1e-6
    )


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


def test_a_model_of_square_roots_refuses_series_with_negative_values():
    values = np.ones((3, 40), np.float32)
    values[1, 39] = -0.5
    series = load_series(values, names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"series \['b'\] have negative values"):
        read_windows(series, Layout(6, 3, values="root"))
    read_windows(series, LAYOUT)


def test_guidance_without_an_energy_has_no_scale():
    with pytest.raises(ValueError, match=r"scale is 8\.0, but without an energy it"):
        GuidanceSettings(scale=8.0)
    assert GuidanceSettings("square", 8.0).scale == 8.0
    # Traced, it may be 0.
    assert jax.jit(lambda s: GuidanceSettings(scale=s).scale)(0.0) == 0


def test_weights_of_before_a_name_was_changed_are_read(tmp_path):
    from jaxlib_guidance.files import export_weights

    layout = {"context": 6, "horizon": 3, "lags": [4], "told": True}
    made = Layout(6, 3, lags=(4,), conditional=True)
    about = tsdiff_cpu(made.length, made.channels, made.features)
    about["network"] |= {"width": 4, "blocks": 1, "state": 2}
    params = from_config(about).init(jax.random.key(0))
    about |= {"layout": layout, "guidance": {"told": {"energy": None, "steps": 3}}}
    about["training"] = {"model": {"preset": "cpu", "told": True}}
    export_weights(tmp_path / "w.safetensors", params, about)
    forecaster, _ = load_forecaster(tmp_path / "w.safetensors")
    assert forecaster.layout == made
    assert forecaster.guidance["conditional"].steps == 3
    assert forecaster.about["training"]["model"]["conditional"] is True
    shipped, _ = load_forecaster("pedestrians")
    assert not shipped.layout.conditional
    assert {"quantile", "square"} <= set(shipped.guidance)


def test_rows_are_taken_in_batches():
    rows, more = np.arange(7.0), {"a": np.ones((7, 2))}

    def function(row, tree):
        assert row.shape == (3,)
        return jnp.asarray(row) + tree["a"].sum(1)

    np.testing.assert_array_equal(in_batches(function, 3, rows, more), rows + 2)
    with pytest.raises(ValueError, match=r"the arguments have \[0\] rows"):
        in_batches(function, 3, rows[:0], {"a": np.ones((0, 2))})
    with pytest.raises(ValueError, match=r"the arguments have \[6, 7\] rows"):
        in_batches(function, 3, rows[1:], more)
    with pytest.raises(ValueError, match="size is 0"):
        in_batches(function, 0, rows, more)
