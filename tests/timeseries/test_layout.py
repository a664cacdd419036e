"""Layouts: what goes where, in which unit, and that no hidden value gets through."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.timeseries import Layout, blackout_end, forecast_mask

CUT = {"context": 6, "horizon": 3, "lags": (2, 5)}
CONDITIONAL = Layout(
    **CUT, view=4, conditional=True, covariates=2, values="root", centre=0.7
)
DIFFUSED = Layout(**CUT, diffuse_lags=True)
SEGMENTS = jnp.asarray(np.random.default_rng(0).uniform(1, 9, (2, 14)), jnp.float32)
CLOCK = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 2)), jnp.float32)
MASK = forecast_mask(6, 3)


def test_sizes():
    assert (CONDITIONAL.length, CONDITIONAL.channels, CONDITIONAL.features) == (
        7,
        1,
        2 * 2 + 2 + 2,
    )
    assert (DIFFUSED.length, DIFFUSED.channels, DIFFUSED.features) == (9, 3, 0)
    joint = dataclasses.replace(DIFFUSED, joint=2)
    assert (joint.channels, joint.features) == (6, 0)
    again = Layout(**dataclasses.asdict(CONDITIONAL))
    assert again == CONDITIONAL


def test_entries_by_hand():
    inputs = CONDITIONAL.inputs(SEGMENTS, MASK, CLOCK, truth=True)
    values = np.asarray(SEGMENTS)
    scale = np.abs(values[:, 5:11]).mean(1)
    root = np.sqrt(values / scale[:, None]) - 0.7
    np.testing.assert_allclose(inputs.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(inputs.x[..., 0], root[:, 7:], rtol=1e-4, atol=1e-6)
    assert (inputs.mask == 1).all()
    short, long = inputs.cond[..., 0], inputs.cond[..., 1]
    np.testing.assert_allclose(long, root[:, 2:9], rtol=1e-4, atol=1e-6)
    # The last lag of 2 would be inside the horizon.
    known = np.array([1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(short, root[:, 5:12] * known, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(inputs.cond[0, :, 2], known)
    np.testing.assert_array_equal(inputs.cond[..., 3], 1)
    seen = np.array([1, 1, 1, 1, 0, 0, 0])
    past = root[:, 7:] * seen
    np.testing.assert_allclose(inputs.cond[..., 4], past, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(inputs.cond[0, :, 5], seen)
    np.testing.assert_array_equal(inputs.cond[..., 6:], CLOCK[:, 2:])


@pytest.mark.parametrize("layout", [CONDITIONAL, DIFFUSED])
@pytest.mark.parametrize("mask", [MASK, blackout_end(6, 3, 2)])
def test_no_hidden_value_reaches_an_input(layout, mask):
    clock = CLOCK if layout.covariates else None
    hidden = np.concatenate([np.zeros(5, bool), ~np.asarray(mask)])
    moved = jnp.where(hidden, 1e3 * SEGMENTS, SEGMENTS)
    plain = layout.inputs(SEGMENTS, mask, clock)
    for a, b in zip(plain, layout.inputs(moved, mask, clock), strict=True):
        assert a is None or np.array_equal(a, b)
    # With the truth to train on, the condition and the scale stay blind.
    truth = layout.inputs(moved, mask, clock, truth=True)
    np.testing.assert_array_equal(truth.scale, plain.scale)
    if layout.features:
        np.testing.assert_array_equal(truth.cond, plain.cond)
    known = plain.mask > 0
    np.testing.assert_allclose(truth.x[known], plain.x[known], rtol=1e-4, atol=1e-5)
    assert (np.asarray(plain.x)[~known] == 0).all()
    assert np.abs(truth.x[~known]).max() > 10


@pytest.mark.parametrize("values", ["plain", "root"])
def test_values_come_back(values):
    layout = Layout(6, 3, values=values, centre=0.9, spread=0.4)
    scale = jnp.array([2.0, 30.0])
    y = SEGMENTS[:, None, 5:]
    np.testing.assert_allclose(
        layout.restore(layout.standardise(y, scale), scale), y, rtol=1e-5
    )
    joint = jnp.stack([y, 2 * y], -1)
    scales = jnp.stack([scale, 3 * scale], -1)
    back = layout.restore(layout.standardise(joint, scales), scales)
    np.testing.assert_allclose(back, joint, rtol=1e-5)
    inputs = layout.inputs(SEGMENTS[:, 5:], MASK)
    plain = layout.standardise(SEGMENTS[:, 5:], inputs.scale)
    np.testing.assert_allclose(inputs.x[:, :6, 0], plain[:, :6], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("values", ["plain", "root"])
@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e-30, 1e35, 1e37])
def test_inputs_are_the_same_in_any_unit(unit, values):
    layout = Layout(50, 10, values=values)
    segments = jnp.full((1, 60), unit)
    inputs = layout.inputs(segments, forecast_mask(50, 10))
    np.testing.assert_allclose(inputs.scale / unit, 1, rtol=1e-6)
    np.testing.assert_allclose(inputs.x[:, :50, 0], 1, rtol=1e-6)
    back = layout.restore(inputs.x[..., 0], inputs.scale) / unit
    np.testing.assert_allclose(back[:, :50], 1, rtol=1e-6)
    # The unit of the lags' history as well.
    layout = Layout(2, 1, lags=(50,))
    segments = jnp.full((1, 53), unit).at[:, 50:].set(jnp.nan)
    scale = layout.inputs(segments, forecast_mask(2, 1)).scale
    np.testing.assert_allclose(scale / unit, 1, rtol=1e-6)


def test_joint_series_keep_their_own_scale():
    layout = Layout(6, 3, lags=(2,), joint=2, diffuse_lags=True)
    pair = jnp.stack([SEGMENTS[:, 3:], 50 * SEGMENTS[:, 3:]], -1)
    inputs = layout.inputs(pair, MASK, truth=True)
    assert inputs.x.shape == (2, 9, 4)
    assert inputs.scale.shape == (2, 2)
    np.testing.assert_allclose(inputs.x[..., 0], inputs.x[..., 1], rtol=1e-4)
    np.testing.assert_allclose(inputs.x[..., 2], inputs.x[..., 3], rtol=1e-4)


LAGS, CONTEXT, NEW = slice(0, 5), slice(5, 11), slice(11, 14)


def quiet(context, lags=4000.0, new=5000.0):
    """Two windows: one whose context says nothing, and one as any other."""
    odd = SEGMENTS[0].at[LAGS].set(lags).at[CONTEXT].set(context).at[NEW].set(new)
    return jnp.stack([odd, SEGMENTS[1]])


LAYOUTS = [Layout(**CUT), dataclasses.replace(CONDITIONAL, covariates=0), DIFFUSED]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("context", [0.0, jnp.nan])
def test_a_context_that_says_nothing_takes_the_unit_of_its_lags(layout, context):
    inputs = layout.inputs(quiet(context), MASK, truth=True)
    np.testing.assert_allclose(inputs.scale[0], 4000)
    one = layout.standardise(jnp.array([5000.0]), jnp.array([4000.0]))[0]
    np.testing.assert_allclose(inputs.x[0, -3:, 0], one, rtol=1e-5)
    assert np.abs(inputs.x).max() < 10
    assert inputs.cond is None or np.abs(inputs.cond).max() < 10
    np.testing.assert_array_equal(inputs.mask[0, -3:, 0], 1)
    # The other window, and what the first may see, are none the wiser.
    plain = layout.inputs(SEGMENTS, MASK, truth=True)
    for a, b in zip(inputs, plain, strict=True):
        assert a is None or np.array_equal(a[1], b[1])
    hidden = layout.inputs(quiet(context, new=9.0), MASK)
    np.testing.assert_array_equal(hidden.scale, inputs.scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nothing", [0.0, jnp.nan])
def test_then_that_of_the_series_and_then_no_weight_to_train_on(layout, nothing):
    segments = quiet(nothing, lags=nothing)
    usual = jnp.array([2500.0, 7.0])
    inputs = layout.inputs(segments, MASK, scale=usual, truth=True)
    np.testing.assert_allclose(inputs.scale, [2500, SEGMENTS[1, CONTEXT].mean()])
    two = layout.standardise(jnp.array([5000.0]), jnp.array([2500.0]))[0]
    np.testing.assert_allclose(inputs.x[0, -3:, 0], two, rtol=1e-5)
    np.testing.assert_array_equal(inputs.mask[0, -3:, 0], 1)
    for scale in (None, jnp.array([0.0, 7.0])):
        inputs = layout.inputs(segments, MASK, scale=scale, truth=True)
        np.testing.assert_array_equal(inputs.x[0], 0)
        np.testing.assert_array_equal(inputs.mask[0], 0)
        np.testing.assert_array_equal(inputs.mask[1, -3:, 0], 1)
        assert inputs.cond is None or np.abs(inputs.cond[0]).max() < 10
        # Zeros that were seen are known in any unit.
        seen = layout.inputs(segments, MASK, scale=scale)
        np.testing.assert_array_equal(seen.mask[0, :-3, 0], 1.0 if nothing == 0 else 0)


def test_joint_series_fall_back_each_for_itself():
    layout = Layout(**CUT, joint=2)
    pair = jnp.stack([quiet(0.0), jnp.full_like(SEGMENTS, 3.0)], -1)
    inputs = layout.inputs(pair, MASK, truth=True)
    np.testing.assert_allclose(inputs.scale[0], [4000, 3])
    none = jnp.stack([quiet(0.0, lags=0.0), jnp.full_like(SEGMENTS, 3.0)], -1)
    inputs = layout.inputs(none, MASK, truth=True)
    np.testing.assert_array_equal(inputs.mask[0, ..., 0], 0)
    np.testing.assert_array_equal(inputs.mask[0, ..., 1], 1)
    given = layout.inputs(none, MASK, scale=jnp.full((2, 2), 50.0), truth=True)
    np.testing.assert_allclose(given.scale[0], [50, 3])
    with pytest.raises(ValueError, match=r"scale has shape \(2,\); expected \(2, 2\)"):
        layout.inputs(none, MASK, scale=jnp.ones(2))


def test_what_is_refused():
    with pytest.raises(ValueError, match="view is 7; expected 0 to 6"):
        Layout(6, 3, view=7)
    with pytest.raises(ValueError, match="values is 'log'; expected one of"):
        Layout(6, 3, values="log")
    with pytest.raises(ValueError, match="spread is 0"):
        Layout(6, 3, spread=0.0)
    for name, value in [
        ("view", 6.0),
        ("view", -1),
        ("joint", 0),
        ("joint", True),
        ("covariates", -1),
        ("covariates", 2.0),
    ]:
        with pytest.raises(ValueError, match=f"{name} is {value}; expected a whole"):
            Layout(6, 3, **{name: value})
    for name in ("centre", "spread"):
        for value in (jnp.nan, jnp.inf):
            with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
                Layout(6, 3, **{name: float(value)})
    with pytest.raises(ValueError, match="lags are"):
        Layout(6, 3, lags=(0,))
    with pytest.raises(ValueError, match=r"covariates have shape None; expected \(2"):
        CONDITIONAL.inputs(SEGMENTS, MASK)
    with pytest.raises(ValueError, match=r"\(2, 9, 2\); expected None"):
        DIFFUSED.inputs(SEGMENTS, MASK, CLOCK)
    with pytest.raises(ValueError, match="covariates are not all finite"):
        CONDITIONAL.inputs(SEGMENTS, MASK, CLOCK.at[1, 8, 0].set(jnp.nan))
    pair = jnp.stack([SEGMENTS, SEGMENTS], -1)
    with pytest.raises(ValueError, match=r"\(2, 14, 2\); expected \[B, T\] for a lay"):
        DIFFUSED.inputs(pair, MASK)
    joint = dataclasses.replace(DIFFUSED, joint=2)
    with pytest.raises(ValueError, match=r"\(2, 14\); expected \[B, T, 2\] for a lay"):
        joint.inputs(SEGMENTS, MASK)


def test_square_roots_refuse_what_is_negative():
    layout = Layout(**CUT, values="root")
    # In the context, and as a lag.
    for column in (6, 1):
        below = SEGMENTS.at[1, column].set(-1)
        with pytest.raises(
            ValueError, match="1 windows have negative values, of which"
        ):
            layout.inputs(below, MASK)
        dataclasses.replace(layout, values="plain").inputs(below, MASK)
    # What is hidden is none of a forecast's business, but a truth to train on is.
    hidden = SEGMENTS.at[1, 12].set(-1)
    layout.inputs(hidden, MASK)
    with pytest.raises(ValueError, match="1 windows have negative values"):
        layout.inputs(hidden, MASK, truth=True)


@pytest.mark.parametrize("c", [9e37, 2e38, 3e38])
def test_a_constant_near_the_largest_number_is_one(c):
    layout = Layout(context=50, horizon=10)
    inputs = layout.inputs(jnp.full((1, 60), c), forecast_mask(50, 10))
    np.testing.assert_allclose(inputs.x[0, :50, 0], 1, rtol=1e-6)
    back = layout.restore(inputs.x[..., 0], inputs.scale)
    np.testing.assert_allclose(back[0, :50], c, rtol=1e-6)
