"""Rules of resampling: unbiased, near their mean where they promise it, by groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import (
    Resampling,
    effective_size,
    normalize_weights,
    resample,
)

KEYS = sample_keys(jax.random.key(0), 400)
UNBIASED = ("systematic", "stratified", "multinomial", "residual", "one")
COUNTS = {}


def counts(rule, log_weights, keys=KEYS):
    drawn = COUNTS.setdefault(rule, jax.jit(lambda k, w: resample(k, w, rule)))
    drawn = np.asarray(drawn(keys, log_weights))
    assert drawn.min() >= 0
    assert drawn.max() < drawn.shape[1]
    return np.stack([np.bincount(row, minlength=drawn.shape[1]) for row in drawn])


def weights(seed=0, particles=8):
    raw = 3 * jax.random.normal(jax.random.key(seed), (400, particles))
    return jax.nn.log_softmax(raw)


def test_systematic_counts_are_within_one():
    for seed in range(5):
        logs = weights(seed)
        gap = counts("systematic", logs) - 8 * np.exp(np.asarray(logs, np.float64))
        assert np.abs(gap).max() < 1


def test_residual_keeps_what_is_whole():
    logs = weights()
    whole = np.floor(8 * np.exp(np.asarray(logs)))
    assert (counts("residual", logs) >= whole).all()


@pytest.mark.parametrize("rule", UNBIASED)
def test_descendants_are_as_many_as_weights_on_average(rule):
    row = jnp.log(jnp.array([0.02, 0.0, 0.31, 0.17, 0.05, 0.2, 0.15, 0.1]))
    found = counts(rule, jnp.broadcast_to(row, (400, 8)))
    want = 8 * np.exp(np.asarray(row))
    error = found.std(0) / 20 + 1e-9
    assert (np.abs(found.mean(0) - want) < 4 * error + 1e-6).all()
    # A particle of weight 0 has no descendant, by any draw.
    assert not found[:, 1].any()


def test_one_and_best_choose_for_the_whole_group():
    for rule in ("one", "best"):
        assert set(np.unique(counts(rule, weights()))) == {0, 8}
    best = np.asarray(weights()).argmax(1)
    assert (counts("best", weights()).argmax(1) == best).all()


def test_groups_do_not_see_each_other():
    logs = weights()
    other = logs.at[::2].set(weights(1)[::2])
    for rule in UNBIASED:
        both = [counts(rule, each)[1::2] for each in (logs, other)]
        np.testing.assert_array_equal(*both)


def test_weights_that_are_not_known_are_zero():
    row = jnp.array([jnp.nan, 0.0, -jnp.inf, 0.0])
    found = counts("systematic", jnp.broadcast_to(row, (400, 4)))
    assert not found[:, [0, 2]].any()
    assert effective_size(row[None]) == 2
    # A group with no weight at all goes on as it is.
    dead = jnp.full((400, 4), -jnp.inf)
    assert (counts("systematic", dead) == 1).all()
    assert float(effective_size(dead[:1])[0]) == pytest.approx(4)


def test_effective_size():
    logs = jnp.log(jnp.array([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [3, 1, 0, 0]]))
    np.testing.assert_allclose(effective_size(logs), [4, 1, 16 / 10], rtol=1e-6)
    np.testing.assert_allclose(effective_size(logs + 7), [4, 1, 1.6], rtol=1e-6)
    np.testing.assert_allclose(normalize_weights(logs)[1], np.log([1, 1, 4]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "even"}, "rule is 'even'; expected one of"),
        ({"threshold": 1.5}, "threshold is 1.5; expected a number from 0 to 1"),
        ({"every": 0}, "every is 0; expected a whole number from 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Resampling(**change)


def test_bad_arguments():
    with pytest.raises(ValueError, match="rule is 'even'"):
        resample(KEYS, weights(), "even")
    with pytest.raises(ValueError, match=r"log_weights has shape \(400,\)"):
        resample(KEYS, weights()[:, 0])
    with pytest.raises(TypeError, match="typed keys"):
        resample(jnp.zeros(400, jnp.uint32), weights())
