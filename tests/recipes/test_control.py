"""Benchmarks of docs/control.md: at small sizes the tables say the same."""

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]


def test_delay_defeats_linucb_alone():
    import bandits

    curves = bandits.main(bandits.Config(horizon=4000, seeds=2, scales=(1.0, 0.1)))
    regret, best = curves["delayed"]
    linucb, dynlin = regret[..., -1].mean(-1)
    np.testing.assert_allclose(best[-1], 10, rtol=1e-3)
    assert dynlin.min() < linucb.min() / 4
    assert (regret[0, ..., -1] > 8 * regret[0, ..., 399]).all()


def test_games_are_learned(capsys):
    import robust_game

    config = robust_game.Config(updates=300, seeds=2)
    actors, multipliers = robust_game.main(config)
    *alone, two, narrow = actors[: len(robust_game.TRAINED)].mean(-1)
    np.testing.assert_allclose(alone, 0.618, atol=0.04)
    np.testing.assert_allclose([two, narrow], [0.758, 0.932], atol=0.02)
    assert multipliers[-1, :, -1].min() > 5 > 2 > multipliers[-4, :, -1].max()
    assert "| game, sqrt(eta) = 1.5 |" in capsys.readouterr().out


def test_rates_and_swaps():
    import concept_shift

    config = concept_shift.Config(epochs=1, seeds=2, rates=(0.03, 0.1), swaps=(0, 16))
    scores = concept_shift.main(config)
    constant, _, homeostatic = scores.mean(-1)
    assert constant[0, 1] > 0.7
    # Swaps cost more than the rule can do.
    assert (homeostatic[1] < constant[0] - 0.1).all()


def test_paid_punishment_carries_cooperation():
    import punishment

    config = punishment.Config(episodes=200, seeds=2, rates=(0.3,))
    found = punishment.main(config)["cooperation"][..., -40:].mean((-3, -2, -1))
    paid, costly = found
    assert paid[1:].min() > 0.8
    assert costly[1:].max() < 0.5
