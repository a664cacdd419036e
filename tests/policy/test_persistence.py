"""Differences of rates against a published example, persistence by counting."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import persistence, rate, rate_difference


def shares(hits, n):
    return (np.arange(n) < hits).astype(float)


def test_difference_of_rates_as_newcombe_has_it():
    """56 of 70 against 48 of 80: 0.0524 to 0.3339 (Newcombe 1998, method 10)."""
    got = rate_difference(shares(56, 70), shares(48, 80), z=1.959964)
    np.testing.assert_allclose(got, (0.2, 0.0524, 0.3339), atol=6e-5)
    # Turned round, and masked.
    turned = rate_difference(shares(48, 80), shares(56, 70), z=1.959964)
    np.testing.assert_allclose(turned, [-got.value, -got.high, -got.low], rtol=1e-5)
    masked = rate_difference(
        shares(56, 90), shares(60, 80), np.arange(90) < 70, np.arange(80) >= 12,
        z=1.959964,
    )  # fmt: skip
    want = rate_difference(shares(56, 70), shares(48, 68), z=1.959964)
    np.testing.assert_allclose(masked, want, rtol=1e-5)


def test_difference_of_nothing():
    got = rate_difference(
        np.ones((2, 3)), np.ones((2, 5)), np.array([[1] * 3, [0] * 3])
    )
    assert np.isnan(got.value[1])
    np.testing.assert_array_equal([got.low[1], got.high[1]], [-1, 1])
    assert got.value[0] == 0


def test_persistence_counts_each_scheme_once():
    still = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 9, 9]])
    asked = np.array([[1] * 4, [1] * 4, [1] * 4, [1, 1, 0, 0]])
    schemed = np.array([True, True, False, True])
    got = persistence(np.where(asked, still, jnp.nan), schemed, asked)
    want = rate(np.array([0.75, 1, 0.5]))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    none = persistence(still * asked, 0 * schemed)
    np.testing.assert_array_equal(none, [np.nan, 0, 1])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rate_difference(np.ones(3), np.ones((2, 3))), "other has shape"),
        (lambda: rate_difference(np.ones(3), 2 * np.ones(3)), "other"),
        (lambda: persistence(np.ones((3, 2)), np.ones(2)), "schemed has shape"),
        (lambda: persistence(np.ones((2, 2)), np.array([1, np.nan])), "schemed is"),
        (
            lambda: rate_difference(np.ones(4), np.ones(3), other_mask=np.ones(4)),
            "other_mask has shape",
        ),
        (lambda: persistence(2 * np.ones((3, 2)), np.ones(3)), "deceptive"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
