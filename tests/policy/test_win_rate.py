"""Preferences that contradict themselves are refused where they can be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import win_rate

RPS = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]], np.float32)


def test_a_preference_and_its_reverse_add_up_to_one():
    both_win = RPS.copy()
    both_win[1, 0] = 1
    with pytest.raises(ValueError, match=r"add up to 1 but for 1; expected P \+ P\^T"):
        win_rate(both_win)
    with pytest.raises(ValueError, match="but for nan|but for 1"):
        win_rate(np.stack([RPS, both_win]))
    # A judge asked both ways, as the docstring says, is right again.
    asked = (both_win + 1 - both_win.T) / 2
    np.testing.assert_allclose(win_rate(asked).sum(), 1.5, rtol=1e-6)


def test_what_is_not_read_is_not_checked():
    """The diagonal, pairs without a verdict, pairs with one, and what is traced."""
    odd = RPS.copy()
    odd[1, 0] = 1
    np.fill_diagonal(odd, np.nan)
    mask = np.ones((3, 3), bool)
    mask[1, 0] = False
    np.testing.assert_allclose(win_rate(odd, mask=mask), [0.5, 1, 0.5])
    np.testing.assert_allclose(jax.jit(win_rate)(odd), [0.5, 1, 0.5])


def test_rounded_verdicts_are_verdicts():
    p = np.random.default_rng(0).uniform(size=(6, 6))
    p = np.triu(p, 1) + np.tril(1 - p.T, -1)
    for rounded in (np.round(p, 2), jnp.asarray(p, jnp.bfloat16)):
        np.testing.assert_allclose(win_rate(rounded).sum(), 3, atol=0.05)
