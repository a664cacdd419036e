"""Energies: their values, their slopes, and no slope where nothing was observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.guidance import (
    Observed,
    find_energy,
    quantile_energy,
    spread_levels,
    square_energy,
)

X = np.array([[[0.0], [1.0], [2.0], [3.0]]] * 2, np.float32)
MASK = np.array([[[1], [1], [0], [1]], [[1], [0], [0], [0]]], np.float32)
Y = np.where(MASK > 0, 1.5, np.nan).astype(np.float32)
LEVEL = jnp.array([0.9, 0.2])
OBSERVED = Observed(jnp.asarray(Y), jnp.asarray(MASK), LEVEL)


def test_values_by_hand():
    np.testing.assert_allclose(
        square_energy(jnp.asarray(X), OBSERVED), [1.5**2 + 0.5**2 + 1.5**2, 1.5**2]
    )
    first = 0.9 * 1.5 + 0.9 * 0.5 + 0.1 * 1.5
    np.testing.assert_allclose(
        quantile_energy(jnp.asarray(X), OBSERVED), [first, 0.2 * 1.5], rtol=1e-6
    )


@pytest.mark.parametrize("energy", [square_energy, quantile_energy])
def test_slopes_and_exactly_none_where_masked(energy):
    total = lambda x: jnp.sum(energy(x, OBSERVED))  # noqa: E731
    grad = np.asarray(jax.grad(total)(jnp.asarray(X)))
    assert (grad[MASK == 0] == 0).all()
    for at in np.argwhere(MASK > 0):
        move = np.zeros_like(X)
        move[tuple(at)] = 1e-2
        slope = (total(jnp.asarray(X + move)) - total(jnp.asarray(X - move))) / 2e-2
        np.testing.assert_allclose(grad[tuple(at)], slope, rtol=1e-2)
    # An estimate that hits a missing value's place-holder, and the value itself.
    at_zero = jax.grad(total)(jnp.zeros_like(X))
    assert (np.asarray(at_zero)[MASK == 0] == 0).all()


def test_the_quantile_energy_is_symmetric_in_level_and_sign():
    mirrored = Observed(-OBSERVED.y, OBSERVED.mask, 1 - LEVEL)
    np.testing.assert_allclose(
        quantile_energy(-jnp.asarray(X), mirrored),
        quantile_energy(jnp.asarray(X), OBSERVED),
        rtol=1e-6,
    )


def test_the_level_is_the_quantile_that_it_finds():
    y = jax.random.normal(jax.random.key(0), (1, 4001, 1))
    known = Observed(y, jnp.ones_like(y), 0.8)
    constant = lambda c: quantile_energy(c * jnp.ones_like(y), known)[0]  # noqa: E731
    at = float(jnp.quantile(y, 0.8))
    assert constant(at) < min(constant(at - 0.1), constant(at + 0.1))


def test_levels_are_spread_and_names_are_known():
    np.testing.assert_allclose(spread_levels(4), [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    assert find_energy("square") is square_energy
    assert find_energy(quantile_energy) is quantile_energy
    with pytest.raises(ValueError, match="energy is 'mse'; expected one of"):
        find_energy("mse")
    with pytest.raises(ValueError, match=r"expected x0's, \(2, 4, 1\)"):
        square_energy(jnp.asarray(X), OBSERVED._replace(mask=OBSERVED.mask[:, 1:]))
    with pytest.raises(ValueError, match="level has shape"):
        quantile_energy(jnp.asarray(X), OBSERVED._replace(level=jnp.ones(3)))
