"""The Gaussian bandit against a program over both counts, and against simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import gaussian_bandit as world


def both_counts(prior, horizon, gamma, points=801):
    """Value by a program that may come back to arm 1 at any time, in numpy.

    Expectations by the trapezoid rule on the grid, not by quadrature.
    """
    m = prior + np.linspace(-6, 6, points)
    variance = 1 / (1 + np.arange(horizon + 2.0))
    kernels = []
    for n in range(horizon):
        spread = np.sqrt(variance[n] - variance[n + 1])
        k = np.exp(-0.5 * ((m[None] - m[:, None]) / spread) ** 2)
        kernels.append(k / k.sum(1, keepdims=True))
    later = np.zeros((horizon + 1, points))
    for t in reversed(range(horizon)):
        now = np.zeros_like(later)
        for n in range(t + 1):
            stay = gamma * later[n]
            pull = m + gamma * kernels[n] @ later[n + 1]
            now[n] = np.maximum(stay, pull)
        later = now
    return np.interp(prior, m, later[0])


@pytest.mark.parametrize(("horizon", "gamma"), [(1, 1.0), (5, 0.9)])
def test_value_is_that_of_a_program_over_both_counts(horizon, gamma):
    """So coming back to the unknown arm is never worth it."""
    found = world.solve(world.Bandit(), horizon, gamma=gamma)
    want = both_counts(-0.25, horizon, gamma)
    np.testing.assert_allclose(found.value, want, atol=1e-3)


def test_value_is_what_the_player_gets():
    """Followed along `step`, thresholds on `posterior` earn what `solve` says."""
    bandit, horizon, number = world.Bandit(), 8, 20_000
    found = world.solve(bandit, horizon)
    assert bool((jnp.diff(found.thresholds) > 0).all())
    # At the last pull only the mean counts.
    np.testing.assert_allclose(found.thresholds[-1], 0, atol=1e-3)

    def episode(key):
        begin, key = jax.random.split(key)
        mean, _ = world.reset(bandit, begin)

        def pull(carry, inputs):
            mean, pulls, total = carry
            threshold, key = inputs
            above = world.posterior(bandit, pulls, total)[0] > threshold
            action = above.astype(jnp.int32)
            mean, _, reward, _ = world.step(bandit, mean, action, key)
            return (mean, pulls + action.astype(jnp.float32), total + reward), reward

        keys = jax.random.split(key, horizon)
        return jax.lax.scan(pull, (mean, 0.0, 0.0), (found.thresholds, keys))[1].sum()

    earned = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), number))
    error = float(earned.std()) / number**0.5
    assert abs(float(earned.mean() - found.value)) < 4 * error
    np.testing.assert_allclose(found.total, found.value, rtol=1e-5)


def test_who_does_not_look_ahead_and_worlds_without_structure_stop_at_once():
    short = world.solve(world.Bandit(), 20, gamma=0.0)
    loose = world.solve(world.Bandit(structured=False), 20)
    assert float(short.total) == float(loose.total) == 0
    good = world.solve(world.Bandit(prior_mean=0.5, structured=False), 20)
    np.testing.assert_allclose(good.total, 10, rtol=1e-4)


def test_structure_is_a_mean_that_stays():
    keys = jax.random.split(jax.random.key(0), 4)
    for structured in (True, False):
        bandit = world.Bandit(structured=structured)
        mean, seen = world.reset(bandit, keys[0])
        after, _, reward, ended = world.step(bandit, mean, world.SAFE, keys[1])
        assert (float(after) == float(mean)) == structured
        assert (float(reward), bool(ended), seen.shape) == (0, False, (0,))


def test_bad_arguments():
    with pytest.raises(ValueError, match="horizon is 0"):
        world.solve(world.Bandit(), 0)
    with pytest.raises(ValueError, match=r"gamma is 1.5; expected 0 to 1"):
        world.solve(world.Bandit(), 2, gamma=1.5)
