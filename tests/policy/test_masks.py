"""Masks and splices token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import brake_point, nll, overthink_score, splice, step_mask

pytestmark = pytest.mark.usefixtures("one_program")


def test_step_mask():
    steps = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 2]])
    bad = np.array([[0, 1, 0], [1, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    got = step_mask(steps, bad, mask)
    np.testing.assert_array_equal(got, [[1, 1, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1]])
    # Nothing bad: plain supervised training. Bad tokens: gradient exactly 0.
    np.testing.assert_array_equal(step_mask(steps, 0 * bad, mask), mask)
    logits = jnp.arange(36.0).reshape(2, 6, 3) ** 0.5

    def loss(x):
        return jnp.sum(nll(jax.nn.log_softmax(x)[..., 0], got))

    slope = jax.grad(loss)(logits)
    np.testing.assert_array_equal(jnp.any(slope != 0, -1), got > 0)


BAD = np.array([1, 2, 30, 31, 32])
GOOD = np.array([1, 2, 3, 4])
THOUGHT = np.array([90, 91])


def one(**extra):
    arguments = {"error": 4, "prefix": 2, "length": 9} | extra
    out = splice(BAD, THOUGHT, GOOD, **arguments)
    n = int(out.valid.sum())
    assert not np.any(out.tokens[n:])
    assert not np.any(out.mask[n:])
    return out.tokens[:n].tolist(), out.mask[:n].tolist()


def test_splice():
    assert one() == ([1, 2, 30, 31, 90, 91, 3, 4], [0, 0, 0, 0, 1, 1, 1, 1])
    # An error right after the prefix: the good path with a thought in it.
    assert one(error=2) == ([1, 2, 90, 91, 3, 4], [0, 0, 1, 1, 1, 1])
    # Padded inputs; too little room; nothing left of the good path.
    short = one(thought_length=1, good_length=3)
    assert short == ([1, 2, 30, 31, 90, 3], [0, 0, 0, 0, 1, 1])
    assert one(length=5) == ([1, 2, 30, 31, 90], [0, 0, 0, 0, 1])
    assert one(good_length=2) == ([], [])
    jitted = jax.jit(lambda e: splice(BAD, THOUGHT, GOOD, error=e, prefix=2, length=9))
    np.testing.assert_array_equal(jitted(4).tokens[:8], one()[0])


def test_overthinking():
    """Self-Braking Tuning, arXiv 2505.14604: ``.9 (1 - 4/10) + .1 * 2/100`` = .542."""
    got = overthink_score(np.array([4.0, 10, 10]), 10.0, np.array([2.0, 0, 50]), 100.0)
    np.testing.assert_allclose(got, [0.542, 0, 0.05], atol=1e-6)
    # An empty chain has not thought too much.
    zero = np.zeros(2, np.float32)
    tokens = np.array([0, 100], np.float32)
    got = overthink_score(zero, zero, np.array([0, 50], np.float32), tokens)
    np.testing.assert_allclose(got, [0, 0.05], rtol=1e-6)


def test_brake_point():
    scores = np.array([0.0, 0.1, 0.2, 0.22, 0.24, 0.3, 0.1])
    got = brake_point(scores)
    np.testing.assert_array_equal(got.train, [1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(got.keep, [1, 1, 1, 1, 1, 0, 0])
    mask = np.array([1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(brake_point(scores, mask).keep, mask)
    calm = brake_point(0 * scores)
    assert np.all(calm.keep)
    assert np.all(calm.train)


def test_bad_arguments():
    with pytest.raises(ValueError, match="bad has shape"):
        step_mask(np.zeros((2, 3), jnp.int32), np.zeros(3))
    with pytest.raises(ValueError, match="thought has shape"):
        splice(BAD, THOUGHT[None], GOOD, error=2, prefix=2, length=9)
