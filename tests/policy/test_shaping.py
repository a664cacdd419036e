"""Shaped rewards at the points that their papers give or that follow by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import policy
from jaxlib_guidance.policy import (
    blend,
    combine_dimensions,
    inverse_length,
    laser_level,
    laser_targets,
    length_step,
    log_sigmoid_centered,
    outcome_reward,
    overlong_penalty,
    par_sigmoid,
    potential_shaping,
    rule_reward,
    score_rewards,
    shortest_correct,
    subgoal_bonus,
    verification_reward,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)


def test_par_golden():
    """PAR, arXiv 2502.18770: the mean of three sigmoids, by hand."""
    refs = np.array([[0.0, 1, 2], [0, 1, 2]])
    got = par_sigmoid(np.array([1.0, 3.0]), refs)
    np.testing.assert_allclose(got, [0.5, 0.8548], atol=5e-5)
    # Shifts of both do not matter; bounded; steepest at the reference.
    np.testing.assert_allclose(
        par_sigmoid(np.array([8.0, 10.0]), refs + 7), got, rtol=1e-5
    )
    wild = par_sigmoid(np.array([-1e4, 1e4]), refs)
    np.testing.assert_allclose(wild, [0, 1], atol=1e-6)
    slope = jax.vmap(jax.grad(lambda r: par_sigmoid(r, np.zeros(1), k=2.0)))(
        jnp.linspace(-2, 2, 9)
    )
    assert int(jnp.argmax(slope)) == 4
    one = par_sigmoid(np.zeros(2), refs * jnp.nan, np.zeros((2, 3)))
    np.testing.assert_array_equal(one, [0, 0])


def test_log_sigmoid_centered_golden():
    """PAR's ``reward_shaper.py``: at mean + 1.0364 std it is log 1/2."""
    refs = np.array([[0.0, 1, 2], [0, 1, 2], [0, 1, 2]])
    q = 1 + 1.0364333894937898 * np.sqrt(2 / 3)
    got = log_sigmoid_centered(np.array([q, 0, 50], np.float32), refs)
    np.testing.assert_allclose(
        got, [np.log(0.5), -np.log1p(np.exp(q)), 0], rtol=1e-5, atol=1e-6
    )
    # The median is the mean; shifts of both do not matter; what is masked neither.
    half = log_sigmoid_centered(np.array([8.0]), refs[:1] + 7, quantile=0.5)
    np.testing.assert_allclose(half, np.log(0.5), rtol=1e-6)
    hidden = np.array([[0, 1, 2, np.nan]])
    mask = np.array([[1, 1, 1, 0]])
    again = log_sigmoid_centered(np.array([0.0]), hidden, mask)
    np.testing.assert_allclose(again, got[1:2], rtol=1e-6)
    none = log_sigmoid_centered(np.array([1.0]), hidden, 0 * mask)
    np.testing.assert_allclose(none, -np.log1p(np.exp(-1)), rtol=1e-6)


def test_laser_step():
    """LASER, arXiv 2505.15612, and its ``length_penalty.py``: a step of 1/2 at 4096."""
    c, n = np.array([1.0, 1, 0]), np.array([3000.0, 5000, 100])
    for kind, expected in (
        ("reward", [1.5, 1, 0]),
        ("penalty", [1, 0.5, 0]),
        ("hybrid", [1.5, 0.5, 0]),
    ):
        np.testing.assert_allclose(length_step(c, n, 4096, kind=kind), expected)
    np.testing.assert_array_equal(length_step(c, n, 4096, alpha=0.0), c)
    # LASER-DE: wrong, long, and not repeating itself.
    wrong, long = np.zeros(3), np.array([5000.0, 5000, 100])
    got = length_step(wrong, long, 4096, wrong=-0.5, explore=np.array([1, 0, 1]))
    np.testing.assert_allclose(got, [0, -0.5, -0.5])
    # Targets by sample; a right answer is never worth less than a wrong one.
    right = GEN.integers(0, 2, size=50).astype(np.float32)
    lengths = GEN.integers(1, 9000, size=50).astype(np.float32)
    got = np.asarray(
        length_step(right, lengths, lengths[::-1].copy(), explore=np.ones(50))
    )
    assert got[right > 0].min() >= got[right == 0].max()


def test_laser_targets_against_a_loop():
    correct = GEN.integers(0, 2, size=(40, 8)).astype(np.float32)
    correct[:10], correct[10:20] = 1, 0
    lengths = GEN.integers(100, 4000, size=(40, 8)).astype(np.float32)
    thresholds = np.arange(250, 4000, 250).astype(np.float32)
    got = laser_targets(correct, lengths, thresholds)
    accuracy = correct.mean(1)
    for level, (of_level, promised) in enumerate(
        (
            (accuracy >= 2 / 3, 5),
            ((accuracy >= 1 / 3) & (accuracy < 2 / 3), 2),
            (accuracy < 1 / 3, 1),
        )
    ):
        np.testing.assert_array_equal(
            np.asarray(laser_level(correct)) == level, of_level
        )
        some = lengths[of_level].ravel()
        enough = [t for t in thresholds if np.floor((some <= t).mean() * promised) >= 1]
        assert float(got[level]) == min([*enough, lengths.max()])
    np.testing.assert_array_equal(
        laser_level(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])), [0, 1, 2]
    )


def test_lengths():
    np.testing.assert_allclose(
        overlong_penalty(np.array([5.0, 12, 15, 20, 99]), 20, 10),
        [0, -0.2, -0.5, -1, -1],
        rtol=1e-6,
    )
    r, n = np.array([1.0, 1, 1, 0]), np.array([0.0, 100, 1e12, 100])
    np.testing.assert_allclose(inverse_length(r, n, 50.0), [-49, 0.5, 1, -0.5])
    np.testing.assert_allclose(inverse_length(r, n, 0.0), r)
    correct = np.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    lengths = np.array([[10.0, 20, 30, 5], [7, 7, 1, 9], [1, 2, 3, 4]])
    got = shortest_correct(correct, lengths, weight=0.4)
    np.testing.assert_allclose(
        got, [[1, 0.8, 0.6, 0], [1, 1, 0, 0], [0] * 4], rtol=1e-6
    )


def test_score_rewards():
    """Four outcomes of SCoRe, arXiv 2409.12917: ``r2 + 10 (r2 - r1)``."""
    first, second = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    two = score_rewards(first, second, stage=2, alpha=10.0)
    np.testing.assert_allclose(two[:, 1], [0, 11, -10, 1])
    np.testing.assert_allclose(two[:, 0], first)
    plain = score_rewards(first, second, stage=2, alpha=0.0)
    np.testing.assert_allclose(plain, np.stack([first, second], 1))
    one = score_rewards(first, second, stage=1)
    np.testing.assert_allclose(one, np.stack([0 * first, second], 1))


def test_rise_rewards():
    correct, parsed = np.array([1.0, 0, 1, 0]), np.array([1.0, 1, 0, 0])
    true = outcome_reward(correct, parsed)
    np.testing.assert_allclose(true, [1, -0.5, -1, -1])
    # A judge that always says what is most common gets the base rate.
    scores = np.array([1.0] * 7 + [-0.5] * 3)
    lazy = verification_reward(np.ones(10), scores, np.ones(10))
    np.testing.assert_allclose(lazy.mean(), 0.7 - 0.5 * 0.3, rtol=1e-6)
    perfect = verification_reward(scores, scores, np.ones(10))
    np.testing.assert_allclose(perfect, 1)


def test_spct_rule():
    """SPCT, arXiv 2504.02495: +1 where the best answer is strictly first."""
    scores = np.array([[8.0, 8, 0], [5, 9, 7], [9, 5, 7], [4, 9, 0], [4, 0, 0]])
    gold = np.array([[1.0, 2, 0], [0, 2, 1], [0, 2, 1], [4, 0, 0], [4, 0, 0]])
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0]])
    got = rule_reward(scores, gold, mask)
    # A tie; best first; best not first; one answer that fits; no answer.
    np.testing.assert_array_equal(got, [-1, 1, -1, 1, -1])
    hidden = jnp.where(mask > 0, scores, jnp.nan)
    np.testing.assert_array_equal(rule_reward(hidden, gold, mask), got)


def test_potential_shaping_telescopes():
    """And the end of an episode has no potential; a cut has."""
    phi = jnp.asarray(GEN.normal(size=9), jnp.float32)
    terminated = jnp.arange(8) == 7
    for ends, last in ((terminated, 0.0), (terminated & False, float(phi[-1]))):
        f = potential_shaping(phi[:-1], phi[1:], ends, gamma=0.9)
        total = np.sum(0.9 ** np.arange(8) * np.asarray(f))
        np.testing.assert_allclose(total, 0.9**8 * last - phi[0], rtol=1e-4)


def test_potential_shaping_moves_no_optimum():
    """Value iteration on random tables: same policy, values less the potential."""
    p = GEN.dirichlet(np.ones(5), size=(5, 3))
    r, phi = GEN.normal(size=(5, 3)), GEN.normal(size=5)
    f = np.asarray(
        potential_shaping(
            jnp.broadcast_to(phi[:, None, None], (5, 3, 5)),
            jnp.broadcast_to(phi, (5, 3, 5)),
            np.zeros((5, 3, 5)),
            gamma=0.9,
        )
    )

    def solve(reward):
        q = np.zeros((5, 3))
        for _ in range(300):
            q = reward + 0.9 * p @ q.max(1)
        return q

    plain, shaped = solve(r), solve(r + (p * f).sum(-1))
    np.testing.assert_allclose(shaped, plain - phi[:, None], atol=1e-5)


def test_subgoals():
    reached = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])
    np.testing.assert_allclose(subgoal_bonus(reached), [1, 1, 0, 0])
    np.testing.assert_allclose(subgoal_bonus(reached, once=False), [1, 2, 1, 0])
    weighted = subgoal_bonus(reached, np.array([0.5, 3.0]))
    np.testing.assert_allclose(weighted, [3, 0.5, 0, 0])


def test_blend():
    r = np.array([[1.0, jnp.nan], [2.0, 3.0]])
    got = blend(r, np.array([0.5, 2.0]), np.array([[1, 0], [1, 1]]))
    np.testing.assert_allclose(got, [0.5, 7])


def test_dimensions_in_one_unit():
    """Sotopia-RL's ``merge_rewards.ipynb``: ``(goal + relationship + …) / 3 * 10``."""
    r = GEN.normal(size=(5, 6, 3)).astype(np.float32) * [1, 10, 0.1] + [0, 100, 7]
    r = r.astype(np.float32)
    mask = GEN.uniform(size=(5, 6)) < 0.7
    want, known = np.zeros((5, 6)), [r[..., k][mask] for k in range(3)]
    for k, x in enumerate(known):
        want += (r[..., k] - x.min()) / (x.max() - x.min()) / 3 * 10
    want = np.where(mask, want, 0)
    hidden = np.where(mask[..., None], r, np.float32(np.nan))
    np.testing.assert_allclose(
        jax.jit(combine_dimensions)(hidden, mask), want, rtol=1e-3, atol=1e-4
    )
    assert want.max() <= 10
    # Units do not matter; a dimension that never moves adds nothing.
    got = combine_dimensions(r * np.float32(4) - np.float32(3), mask)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    flat = np.concatenate([r[..., :1], np.full_like(r[..., :1], 5)], -1)
    alone = combine_dimensions(r[..., :1], mask, scale=1.0)
    np.testing.assert_allclose(combine_dimensions(flat, mask, scale=2.0), alone)
    np.testing.assert_array_equal(combine_dimensions(r, 0 * mask), 0)
    # Constants of other data, which a batch may exceed; neither has a gradient.
    low, high = np.float32([0, 0]), np.float32([2, 4])
    got = combine_dimensions(np.float32([[1, 1], [4, 2]]), low=low, high=high)
    np.testing.assert_allclose(got, [3.75, 12.5])
    slope = jax.grad(lambda r: combine_dimensions(r).sum())(jnp.eye(3))
    np.testing.assert_allclose(slope, 10 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: par_sigmoid(np.ones(3), np.ones((2, 4))), "rewards has shape"),
        (lambda: log_sigmoid_centered(np.ones(3), np.ones((2, 4))), "rewards has"),
        (
            lambda: log_sigmoid_centered(np.ones(2), np.ones((2, 4)), quantile=1.0),
            "quantile is 1.0",
        ),
        (lambda: length_step(np.ones(3), np.ones(2), 4), "lengths has shape"),
        (lambda: combine_dimensions(np.ones(3)), r"expected \[..., K\]"),
        (lambda: combine_dimensions(np.ones((2, 3)), np.ones(3)), "mask has shape"),
        (lambda: combine_dimensions(np.ones((2, 3)), low=np.ones(3)), "low is given"),
        (
            # By the door, which no fixture compiles: only known bounds are compared.
            lambda: policy.combine_dimensions(
                np.ones((2, 1)), low=np.ones(1), high=np.zeros(1)
            ),
            "expected low at most high, and finite",
        ),
        (
            lambda: combine_dimensions(
                np.ones((2, 3)), low=np.ones(3), high=np.ones(2)
            ),
            "high has shape",
        ),
        (lambda: combine_dimensions(np.ones((2, 3)), scale=0.0), "scale is 0"),
        (lambda: length_step(np.ones(3), np.ones(3), 4, kind="both"), "kind is"),
        (lambda: length_step(np.ones(3), np.ones(3), np.ones(2)), "target has"),
        (lambda: laser_targets(*[np.ones((2, 2))] * 3), "thresholds has shape"),
        (lambda: overlong_penalty(np.ones(2), 10, 11), "cache is 11"),
        (lambda: score_rewards(np.ones(2), np.ones(2), stage=3), "stage is 3"),
        (lambda: score_rewards(np.ones(2), np.ones(3), stage=1), "second has shape"),
        (lambda: rule_reward(np.ones(2), np.ones(3)), "gold has shape"),
        (lambda: subgoal_bonus(np.ones(3)), r"expected \[T, S\]"),
        (lambda: blend(np.ones((2, 3)), np.ones(2)), "weights has shape"),
        (
            lambda: potential_shaping(*[np.ones(2)] * 2, np.ones(3), gamma=1.0),
            "terminated has shape",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
