"""Minimax winners against linear programs, and crowds counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxlib_guidance.worlds import raters as world

GEN = np.random.default_rng(0)


def test_a_crowd_is_counted():
    got = world.circle(0.5, 0.3)
    # A beats B for the first and the third, B beats C for the first two.
    np.testing.assert_allclose(got, [[0.5, 0.7, 0.5], [0.3, 0.5, 0.8], [0.5, 0.2, 0.5]])
    tied = world.crowd(np.array([[1, 1, 0]]))
    np.testing.assert_allclose(tied, [[0.5, 0.5, 1], [0.5, 0.5, 1], [0, 0, 0.5]])


@pytest.mark.parametrize("size", [3, 5, 6])
def test_winners_are_those_of_a_linear_program(size):
    for _ in range(4):
        p = world.crowd(GEN.normal(size=(5, size)), GEN.uniform(size=5))
        found = world.solve(p)
        # max v with p^T P >= v: its value is a half, and the winner reaches it.
        bound = np.hstack([-p.T, np.ones((size, 1))])
        whole = np.append(np.ones(size), 0)[None]
        solved = linprog(
            np.append(np.zeros(size), -1), bound, np.zeros(size), whole, [1]
        )
        np.testing.assert_allclose(-solved.fun, 0.5, atol=1e-8)
        np.testing.assert_allclose((found @ p).min(), 0.5, atol=1e-8)
        np.testing.assert_allclose(found.sum(), 1)
        np.testing.assert_allclose(world.exploitability(p, found), 0, atol=1e-6)


def test_exploitability_and_verdicts():
    p = world.circle(1 / 3, 1 / 3)
    np.testing.assert_allclose(world.solve(p), 1 / 3, atol=1e-9)
    corner = world.exploitability(p, jnp.eye(3))
    np.testing.assert_allclose(corner, 1 / 6, atol=1e-6)
    first, second = np.zeros(4000, int), np.ones(4000, int)
    said = world.compare(world.circle(0.5, 0.3), first, second, jax.random.key(0))
    np.testing.assert_allclose(said.mean(), 0.7, atol=0.03)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.crowd(np.ones(3)), r"expected \[M, A\]"),
        (lambda: world.crowd(np.ones((2, 3)), np.array([1.0, -1])), "weights is"),
        (lambda: world.circle(0.8, 0.3), "first is 0.8 and second 0.3"),
        (lambda: world.solve(np.ones((2, 3))), r"expected \[A, A\]"),
        (lambda: world.solve(np.ones((2, 2))), "do not add up to 1"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
