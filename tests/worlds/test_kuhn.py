from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.worlds._kuhn import (
    best_responses,
    equilibrium,
    exploitability,
    play,
    value,
)

RANDOM = np.random.default_rng(0).uniform(size=12).astype(np.float32)


def walk(zero, one):
    """Player 0's mean winnings, by walking the tree with a policy for each seat."""
    total = 0.0
    for a, b in permutations(range(3), 2):
        win = 1 if a > b else -1
        for bet, answer, call in product((0, 1), repeat=3):
            second = (6 if bet else 3) + b
            chance = zero[a] if bet else 1 - zero[a]
            chance *= one[second] if answer else 1 - one[second]
            chance *= zero[9 + a] if call else 1 - zero[9 + a]
            if bet:
                won = 2 * win if answer else 1
            else:
                won = (2 * win if call else -1) if answer else win
            total += chance * won / 6
    return total


@pytest.mark.parametrize("policy", [np.full(12, 0.5, np.float32), RANDOM])
def test_values_equal_the_walked_tree(policy):
    np.testing.assert_allclose(value(policy), walk(policy, policy), atol=1e-6)
    pure = [np.array(bits, float) for bits in product((0, 1), repeat=6)]

    def as_zero(bits):
        return np.concatenate([bits[:3], np.zeros(6), bits[3:]])

    def as_one(bits):
        return np.concatenate([np.zeros(3), bits, np.zeros(3)])

    best = [
        max(walk(as_zero(bits), policy) for bits in pure),
        max(-walk(policy, as_one(bits)) for bits in pure),
    ]
    np.testing.assert_allclose(best_responses(policy), best, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_equilibria(alpha):
    policy = equilibrium(alpha)
    np.testing.assert_allclose(value(policy), -1 / 18, atol=1e-6)
    np.testing.assert_allclose(best_responses(policy), [-1 / 18, 1 / 18], atol=1e-6)
    assert exploitability(policy.at[1].set(0.1)) > 1e-3


def test_uniform_play():
    # OpenSpiel's tests give NashConv 11/12 for uniform play.
    np.testing.assert_allclose(exploitability(jnp.full(12, 0.5)), 11 / 24, atol=1e-6)


def test_games_follow_the_rules_and_the_policy():
    keys = rng.sample_keys(jax.random.key(0), 20_000)
    games = jax.tree.map(np.asarray, play(keys, jnp.asarray(RANDOM)))
    mean = games.payoff.mean(0)
    error = 4 * games.payoff[:, 0].std() / 20_000**0.5
    assert abs(mean[0] - value(RANDOM)) < error
    np.testing.assert_array_equal(games.payoff.sum(1), 0)
    for index in range(12):
        here = (games.sets == index) & (games.mask > 0)
        count = here.sum()
        assert abs(games.bold[here].mean() - RANDOM[index]) < 2 / count**0.5
    third = ~games.bold[:, 0] & games.bold[:, 1]
    np.testing.assert_array_equal(
        games.mask, np.stack([third * 0 + 1] * 2 + [third], 1)
    )
    alone = play(keys[7:8], jnp.asarray(RANDOM))
    np.testing.assert_array_equal(alone.payoff[0], games.payoff[7])


def test_bad_input():
    with pytest.raises(ValueError, match=r"policy has shape \(6,\); expected \(12,\)"):
        value(jnp.ones(6))
    with pytest.raises(ValueError, match="alpha is 0.5; expected 0 to 1/3"):
        equilibrium(0.5)
