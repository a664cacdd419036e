"""Critics' targets against enumeration and sums by hand."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import ensemble_min, sac_target

Q = np.array([[3.0, -1.0], [2.0, 5.0], [4.0, 0.0]], np.float32)


def test_minimum_of_all_and_of_some():
    np.testing.assert_array_equal(ensemble_min(Q, take=3), Q.min(0))
    draw = jax.vmap(lambda key: ensemble_min(Q, key, take=2))
    got = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    pairs = np.array([Q[list(pair)].min(0) for pair in combinations(range(3), 2)])
    assert {tuple(row) for row in got} == {tuple(row) for row in pairs}
    np.testing.assert_allclose(got.mean(0), pairs.mean(0), atol=0.1)


def test_target():
    """SAC, arXiv 1801.01290: an end has no future, the entropy is optional."""
    args = np.ones(3), np.array([2.0, 2.0, 4.0]), np.array([0.5, 0.5, 1.0])
    over = np.array([False, True, False])
    got = sac_target(*args, over, gamma=0.5, alpha=0.2)
    np.testing.assert_allclose(got, [1 + 0.5 * 1.9, 1, 1 + 0.5 * 3.8], rtol=1e-6)
    np.testing.assert_allclose(sac_target(*args, over, gamma=0.5), [2, 1, 3])
    slope = jax.grad(
        lambda q: jnp.sum(sac_target(args[0], q, args[2], over, gamma=0.5))
    )(jnp.array(args[1], jnp.float32))
    assert not slope.any()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ensemble_min(Q), "key is None; expected a key, for take 2 of 3"),
        (lambda: ensemble_min(Q, take=4), r"take is 4; expected an integer in \[1, 3"),
        (lambda: ensemble_min(np.float32(1)), "q is a scalar"),
        (
            lambda: sac_target(np.ones(2), np.ones(3), np.ones(2), np.ones(2)),
            "q_next has shape",
        ),
        (
            lambda: sac_target(np.ones(2), *[np.ones(2)] * 3, gamma=1.5),
            "gamma is 1.5",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_over_or_left_out_reaches_nothing():
    over = sac_target(
        jnp.ones(2), jnp.array([jnp.inf, jnp.nan]), jnp.zeros(2), jnp.ones(2)
    )
    np.testing.assert_array_equal(over, 1)
    left = sac_target(1.0, 2.0, -jnp.inf, False, gamma=0.5)
    assert float(left) == 2
