"""Choices among strategies, actions and nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    best_of_n,
    first_success,
    lookahead_select,
    nll,
    quality_values,
    uct_scores,
)

pytestmark = pytest.mark.usefixtures("one_program")


def test_first_success():
    success = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]])
    index, solved = first_success(success)
    np.testing.assert_array_equal(index, [1, 0, 0])
    np.testing.assert_array_equal(solved, [1, 0, 1])
    _, tried = first_success(success, np.array([[1, 0, 0], [1, 1, 1], [1, 1, 1]]))
    np.testing.assert_array_equal(tried, [0, 0, 1])

    def slope(logits, target, weight):
        def loss(x):
            logp = jax.nn.log_softmax(x)
            picked = jnp.take_along_axis(logp, target[:, None], 1)[:, 0]
            return jnp.sum(nll(picked, weight))

        return jax.grad(loss)(logits)

    # Toward what solved it; unsolved tasks and a single strategy teach nothing.
    toward = slope(np.zeros((3, 3)), index, solved)
    assert float(toward[0, 1]) < 0
    assert not np.any(toward[1])
    assert not np.any(slope(np.zeros((3, 1)), 0 * index, solved))


def test_lookahead():
    scores = np.array([[[1.0, 0, 0], [0.5, 0.5, 0.5]], [[1, 1, 1], [0, 0, 0]]])
    choice, means = lookahead_select(scores)
    np.testing.assert_array_equal(choice, [1, 0])
    np.testing.assert_allclose(means[0], [1 / 3, 0.5], rtol=1e-6)
    greedy, _ = lookahead_select(scores[..., :1])
    np.testing.assert_array_equal(greedy, jnp.argmax(scores[..., 0], -1))
    early = np.ones(scores.shape)
    early[1, 0] = 0
    assert int(lookahead_select(scores, early)[0][1]) == 1


def test_quality_values():
    """ReST-MCTS*, arXiv 2406.03816: ``v += (1 - v) / (m + 1) s`` by hand."""
    good = quality_values(np.ones(3), np.array([2, 1, 0]))
    np.testing.assert_allclose(good, [1 / 3, 2 / 3, 1], rtol=1e-6)
    wrong = quality_values(np.array([0, 1, 0]), np.array([2, 1, 1]))
    np.testing.assert_allclose(wrong, [0, 0.5, 0.25], rtol=1e-6)


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_quality_values_of_mixed_precision(x64):
    for of_correct, of_rest in (("f4", "f8"), ("f8", "f4"), ("i4", "f8")):
        good = quality_values(np.ones(3, of_correct), np.array([2, 1, 0], of_rest))
        np.testing.assert_allclose(good, [1 / 3, 2 / 3, 1], rtol=1e-6)


def test_best_of_n():
    scores = np.array([[1.0, 3, 2, 3], [np.nan, 0, -1, 9], [1, 2, 3, 4]])
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
    index, best = best_of_n(scores, mask)
    np.testing.assert_array_equal(index, [1, 1, 0])
    np.testing.assert_array_equal(best, [3, 0, -np.inf])


def test_uct():
    values, visits = np.array([0.5, 0.4, 0.1]), np.array([10, 1, 0])
    got = uct_scores(values, visits, np.array(11))
    expected = [
        0.5 + 0.7 * np.sqrt(2 * np.log(11) / 10),
        0.4 + 0.7 * np.sqrt(2 * np.log(11)),
        1.1,
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    greedy = uct_scores(values[:2], visits[:2], np.array(11), c=0.0)
    np.testing.assert_allclose(greedy, values[:2])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: first_success(np.ones(3), np.ones(2)), "mask has shape"),
        (lambda: quality_values(np.ones((2, 3)), np.ones((2, 3))), r"expected \[S\]"),
        (lambda: quality_values(np.ones(3), np.ones(2)), "remaining has shape"),
        (lambda: uct_scores(np.ones(3), np.ones(3), np.ones(3)), "parent_visits"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
