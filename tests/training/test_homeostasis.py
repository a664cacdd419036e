"""The rule of github.com/kingsonman/homeostatic-neural-networks, case by case."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.training import homeostatic_rate, shifted_rate


def by_hand(rate, kept, tried, label):
    """The last lines of the decision in ``lrh.py``, in plain Python."""
    if tried > kept:
        rate += 1e-4 if label >= 5 else -1e-4
        if rate < 0:
            rate = 1e-8
    return rate


def test_every_case():
    cases = product([1e-3, 5e-5], [0.4, 0.45, 0.5], [0.4, 0.45, 0.5], [3, 7])
    rows = np.array(list(cases), np.float32)
    want = [by_hand(*map(float, row)) for row in rows]
    got = homeostatic_rate(*rows[:, :3].T, rows[:, 3] >= 5, step=1e-4)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_wrong_answer_moves_the_rate_the_wrong_way():
    """A 3 taken for a 7: the larger rate was tried and was better, the rate falls."""
    trial = shifted_rate(0.1, True, step=0.01)
    moved = homeostatic_rate(0.1, 0.5, 0.9, False, step=0.01)
    np.testing.assert_allclose([trial, moved], [0.11, 0.09], rtol=1e-6)


def test_the_rate_stays_positive():
    down = shifted_rate(jnp.array([0.005, 0.02]), jnp.array([False, False]), step=0.01)
    np.testing.assert_allclose(down, [1e-8, 0.01], rtol=1e-6)
    with pytest.raises(ValueError, match="step is 0; expected a positive number"):
        shifted_rate(0.1, True, step=0)
