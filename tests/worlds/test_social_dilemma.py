"""The dilemma by enumeration, and when punishment ends it."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import social_dilemma as world

PAYOFFS = {(0, 0): (3, 3), (0, 1): (0, 4), (1, 0): (4, 0), (1, 1): (1, 1)}


def test_payoffs_of_the_released_code():
    """``MatrixGame/IPDGame.py``; a round tells both players what was played."""
    game = world.prisoners()
    state, seen = world.reset(game, jax.random.key(0))
    np.testing.assert_array_equal(seen, 2)
    for acts, payoffs in PAYOFFS.items():
        after, seen, reward, over = world.step(game, state, jnp.array(acts), None)
        np.testing.assert_array_equal(reward, payoffs)
        np.testing.assert_array_equal(after, acts)
        np.testing.assert_array_equal(seen, [acts[::-1], acts])
        assert not over


def test_deterrence():
    """A third of a punishment of 3; below it defecting still pays somewhere."""
    game = world.prisoners()
    need = float(world.deterrence(game, 3.0))
    assert need == pytest.approx(1 / 3)
    for met in (need - 0.01, need + 0.01):
        better = [4 - 3 * met < 3, 1 - 3 * met < 0]
        assert all(better) == (met > need)
    assert float(world.deterrence(world.Game(game.payoff[::-1]), 3.0)) < 0


@pytest.mark.parametrize(
    ("punishers", "just", "cooperate"), [(0, 2, 0), (1, 2, 1), (2, 2, 1), (2, -3, 0)]
)
def test_best_answers_are_found_by_enumeration(punishers, just, cooperate):
    solution = world.solve(
        world.prisoners(), punishers=punishers, penalty=3, just=just, unjust=-10
    )
    punish = [-10 > 0, just > 0]
    np.testing.assert_array_equal(solution.punish, punish)

    def pay(own, other):
        return PAYOFFS[own, other][0] - 3 * punishers * punish[own]

    stable = [
        (a, b)
        for a, b in product((0, 1), repeat=2)
        if pay(a, b) >= pay(1 - a, b) and pay(b, a) >= pay(1 - b, a)
    ]
    assert stable == [(1 - cooperate, 1 - cooperate)]
    assert bool(solution.cooperate) == bool(cooperate)
    assert float(solution.payoff) == pay(*stable[0])


def test_shapes_are_refused():
    with pytest.raises(ValueError, match=r"payoff has shape \(3, 2\)"):
        world.deterrence(world.Game(jnp.zeros((3, 2))), 3.0)
