"""Conditions: how they are read, dropped and refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.models import ConditionEmbed, drop_condition, sinusoidal
from jaxlib_guidance.models.layers._embed import grid_positions

TIMES = jnp.array([0.2, 0.7])
ALL = ConditionEmbed(8, classes=3, vector=2, text=5)


def test_sinusoids():
    out = sinusoidal(jnp.array([0.0, 3.0]), 4, max_period=100.0)
    want = [[1, 1, 0, 0], [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]]
    np.testing.assert_allclose(out, want, atol=1e-6)
    with pytest.raises(ValueError, match="even"):
        sinusoidal(TIMES, 5)


def test_positions_differ_by_axis():
    table = grid_positions((3, 4), 8)
    assert table.shape == (12, 8)
    assert len(np.unique(np.round(table, 4), axis=0)) == 12
    rows = table.reshape(3, 4, 8)
    np.testing.assert_array_equal(rows[:, 0, :4], rows[:, 3, :4])
    np.testing.assert_array_equal(rows[0, :, 4:], rows[2, :, 4:])
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_positions((3, 4), 6)


def test_absent_conditions_are_null():
    variables = jax.jit(ALL.init)(jax.random.key(0), TIMES, None)
    apply = jax.jit(ALL.apply)
    found = apply(variables, TIMES, None)
    null = {
        "label": jnp.array([3, 3]),
        "vector": jnp.zeros((2, 2)),
        "text": jnp.zeros((2, 1, 5)),
        "text_mask": jnp.zeros((2, 1), bool),
    }
    for a, b in zip(found, apply(variables, TIMES, null), strict=True):
        np.testing.assert_array_equal(a, b)
    for cond in (jnp.array([0, 1]), jnp.ones((2, 2)), {"label": jnp.array([0, 1])}):
        assert np.abs(apply(variables, TIMES, cond)[0] - found[0]).max() > 1e-3
    assert apply(variables, TIMES, jnp.ones((2, 4, 5)))[1].shape == (2, 4, 8)


def test_a_window_averages_the_embedding_of_the_level():
    """By a finer quadrature: what fast sines say at one level alone is gone."""
    embed, half = ConditionEmbed(8), 0.05
    variables = embed.init(jax.random.key(0), TIMES, None)
    near = jnp.linspace(0.4, 0.41, 64)
    share = np.linspace(-1, 1, 4001, dtype=np.float32)
    weights = 1 + np.cos(np.pi * share)
    around = near[:, None] + half * share
    every = jax.lax.map(lambda t: embed.apply(variables, t, None)[0], around)
    want = np.sum(np.asarray(every) * weights[:, None], 1) / weights.sum()
    smooth = embed.clone(time_window=half).apply(variables, near, None)[0]
    np.testing.assert_allclose(smooth, want, atol=2e-3)
    rough = np.abs(np.diff(embed.apply(variables, near, None)[0], axis=0)).max()
    assert np.abs(np.diff(smooth, axis=0)).max() < rough / 20
    half_precision = embed.clone(time_window=half, dtype=jnp.bfloat16)
    assert half_precision.apply(variables, near, None)[0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="time_window is -1; expected"):
        embed.clone(time_window=-1).apply(variables, near, None)


@pytest.mark.parametrize(
    ("embed", "cond", "message"),
    [
        (ALL, {"labels": jnp.array([0, 1])}, "cond has \\['labels'\\]"),
        (ALL, jnp.ones(2), "cond is float32\\(2,\\)"),
        (ALL, jnp.array([0]), "label is \\(1,\\); expected \\(2,\\)"),
        (ALL, jnp.ones((2, 3)), "vector is \\(2, 3\\); expected \\(2, 2\\)"),
        (ALL, jnp.ones((2, 4, 6)), "text is \\(2, 4, 6\\); expected \\(2, 4, 5\\)"),
        (ALL, {"text_mask": jnp.ones((2, 4), bool)}, "text_mask must come with text"),
        (ConditionEmbed(8), jnp.array([0, 1]), "built with classes=None"),
        (ALL, jnp.array([0, 4]), "cond has label 4; expected 0, ..., 2, or 3 for no"),
        (ALL, {"label": np.array([-1, 1])}, "cond has label -1; expected 0, ..., 2"),
    ],
)
def test_bad_conditions_raise(embed, cond, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: embed.init(jax.random.key(0), TIMES, cond))


def test_dropping_is_per_sample_and_has_its_rate():
    keys = rng.sample_keys(jax.random.key(0), 4000)
    cond = {"label": jnp.arange(4000), "vector": jnp.ones((4000, 2))}
    null = {"label": -1, "vector": 0.0}
    out = drop_condition(keys, cond, null, 0.1)
    dropped = np.asarray(out["label"] == -1)
    assert abs(dropped.mean() - 0.1) < 0.02
    np.testing.assert_array_equal(dropped, np.asarray(out["vector"][:, 0] == 0))
    assert out["label"].dtype == cond["label"].dtype
    part = jax.tree.map(lambda leaf: leaf[7:9], cond)
    some = drop_condition(keys[7:9], part, null, 0.1)
    np.testing.assert_array_equal(some["label"], out["label"][7:9])
    every = drop_condition(keys, cond, null, 1.0)
    assert not np.any(every["vector"])
    none = drop_condition(keys, cond, null, 0.0)
    np.testing.assert_array_equal(none["label"], cond["label"])


def test_dropping_refuses_what_does_not_fit():
    keys = rng.sample_keys(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="null has structure"):
        drop_condition(keys, jnp.arange(2), {"label": -1}, 0.1)
    with pytest.raises(TypeError, match="typed keys"):
        drop_condition(jnp.arange(2), jnp.arange(2), -1, 0.1)


def test_traced_labels_out_of_range_are_nan_for_their_own_sample_and_never_wrap():
    variables = jax.jit(ALL.init)(jax.random.key(0), jnp.zeros(5), None)
    labels = jnp.array([0, 3, 4, -1, -2])
    c = jax.jit(lambda labels: ALL.apply(variables, jnp.zeros(5), labels)[0])(labels)
    np.testing.assert_array_equal(np.isnan(c).all(1), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(np.isnan(c).any(1), [0, 0, 1, 1, 1])
