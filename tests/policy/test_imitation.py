"""Transport against the exact assignment; schedules at points by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxlib_guidance.policy import (
    advance_progress,
    discount_schedule,
    handover,
    intervention_rewards,
    longest_increasing,
    sinkhorn,
    transport_rewards,
    waypoint_index,
    waypoint_rewards,
)

GEN = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("one_program")


def test_interventions():
    """RLIF, arXiv 2311.12996: -1 where the next step is the expert's, else 0."""
    got = intervention_rewards(np.array([0, 0, 1, 1, 1, 0, 0, 1]))
    np.testing.assert_array_equal(got, [0, -1, 0, 0, 0, 0, -1, 0])
    assert not np.any(intervention_rewards(np.zeros(5)))


def test_sinkhorn_against_the_assignment():
    cost = GEN.uniform(size=(8, 8)).astype(np.float32)
    rows, columns = linear_sum_assignment(cost)
    got = sinkhorn(cost, epsilon=0.003, steps=1000)
    assert float(got.error) < 1e-3
    np.testing.assert_allclose(got.cost, cost[rows, columns].mean(), atol=2e-3)
    np.testing.assert_allclose(got.plan.sum(0), 1 / 8, rtol=1e-4)
    total = transport_rewards(got.plan, cost, scale=2.0).sum()
    np.testing.assert_allclose(total, -2 * got.cost, rtol=1e-4)


def test_transport_is_blind_to_order():
    """ADS, arXiv 2310.07433: hence the longest increasing run."""
    expert = np.arange(12.0)
    shuffled = GEN.permutation(expert)
    for agent, expected in ((expert, 0), (shuffled, 0), (expert + 1, 1)):
        cost = np.abs(agent[:, None] - expert)
        got = sinkhorn(cost, epsilon=0.01, steps=600)
        np.testing.assert_allclose(got.cost, expected, atol=1e-2)
    assert longest_increasing(expert) == 12
    assert longest_increasing(shuffled) < 12


@pytest.mark.parametrize(
    ("x", "expected"),
    [([0, 1, 2, 3], 4), ([3, 2, 1, 0], 1), ([0, 2, 1, 3], 3), ([1, 1, 1, 1], 1)],
)
def test_longest_increasing(x, expected):
    assert longest_increasing(np.array(x)) == expected


def test_discounts():
    got = discount_schedule(np.array([10, 25, 50, 100, 125, 500]))
    expected = (0.851340, 0.937651, 0.968324, 0.984034, 0.987207, 0.996786)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def reference_progress(k, agent, shown, share=0.9, quantile=0.9, most=5):
    """ADS by loops: nearest steps, the longest run by trying all, one k at a time."""

    def run(a, b, k):
        apart = np.linalg.norm(a[:k, None] - b[None, :k], axis=-1)
        nearest = apart.argmin(1)
        best = [1] * k
        for i in range(k):
            for j in range(i):
                if nearest[j] < nearest[i]:
                    best[i] = max(best[i], best[j] + 1)
        return max(best)

    for _ in range(most):
        have = [run(a, d, k) for a in agent for d in shown]
        pairs = [(i, j) for i in range(len(shown)) for j in range(i + 1, len(shown))]
        want = np.median([run(shown[i], shown[j], k) for i, j in pairs])
        if np.quantile(have, quantile) < int(share * want) or k == shown.shape[1]:
            break
        k += 1
    return k


def test_progress_advances_with_what_is_done_in_order():
    """ADS, arXiv 2310.07433: the expert's own steps pass, shuffled ones do not."""
    line = np.linspace(0, 1, 12)[:, None]
    shown = line + GEN.normal(size=(3, 12, 1)) * 0.02
    backward = shown[:, ::-1]
    assert int(advance_progress(3, shown, shown)) == 8
    assert int(advance_progress(10, shown, shown)) == 12
    assert int(advance_progress(8, backward, shown)) == 8
    for k, noise in ((3, 0.05), (6, 0.3)):
        agent = shown[:2] + GEN.normal(size=(2, 12, 1)) * noise
        got = advance_progress(k, agent, shown, most=3)
        assert int(got) == reference_progress(k, agent, shown, most=3)


def test_waypoints():
    """KAGI, arXiv 2407.10341: the sparse reward where there is one, else the way."""
    way = np.array([[1.0, 0], [1, 2]])
    points = np.array([[0.0, 0], [0.95, 0], [1, 1], [0, 0], [1, 2]])
    index = waypoint_index(points, way, radius=0.1)
    np.testing.assert_array_equal(index, [0, 1, 1, 1, 1])
    got = waypoint_rewards(points, way, index, np.array([0, 0, 0, 0, 1.0]))
    left = [1 + 2, np.hypot(0.05, 2), 1, np.hypot(1, 2)]
    np.testing.assert_allclose(got, [*(-np.array(left) / 2), 1], rtol=1e-6)
    sparse = waypoint_rewards(points, way, index, np.arange(5) // 4, scale=0.0)
    np.testing.assert_array_equal(sparse, [0, 0, 0, 0, 1])


def test_handover():
    """van Hecke et al., arXiv 1603.08047: both rates count, each of its own class."""
    true = np.array([0.5, 0.5, 0.6, 1, 2, 3, 4, 5])
    got = handover(true, true + 0.05, near=0.7)
    assert bool(got.ready)
    said = true.copy()
    said[[0, 3]] = 0.9, 0.5
    got = handover(true, said, near=0.7, allowed=0.2)
    np.testing.assert_allclose([got.misses, got.false_alarms], [1 / 3, 1 / 5])
    assert not got.ready
    assert bool(handover(true, said, np.arange(8) % 3 > 0, near=0.7).ready)
    constant = handover(true, np.full(8, 9.0), near=0.7)
    assert (float(constant.misses), float(constant.false_alarms)) == (1, 0)
    # Where nothing was ever near, nothing is known.
    far = handover(true, true, true > 0.7, near=0.7)
    assert np.isnan(far.misses)
    assert not far.ready


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: intervention_rewards(np.ones((2, 3))), r"expected \[T\]"),
        (lambda: sinkhorn(np.ones(3)), r"expected \[N, M\]"),
        (lambda: sinkhorn(np.ones((3, 3)), epsilon=2.0), "epsilon is 2.0"),
        (lambda: transport_rewards(np.ones((2, 3)), np.ones((3, 3))), "plan has"),
        (lambda: longest_increasing(np.ones((2, 3))), r"expected \[T\]"),
        (
            lambda: advance_progress(1, np.ones((2, 3, 1)), np.ones((2, 4, 1))),
            r"expected \[E, T, D\] and \[M, T, D\]",
        ),
        (
            lambda: advance_progress(1, np.ones((2, 3, 1)), np.ones((1, 3, 1))),
            "demonstrations has 1 row",
        ),
        (
            lambda: advance_progress(4, np.ones((2, 3, 1)), np.ones((2, 3, 1))),
            r"progress is 4; expected a number in \[1, 3\]",
        ),
        (
            lambda: waypoint_index(np.ones(3), np.ones((2, 1)), radius=1.0),
            "points and waypoints have shapes",
        ),
        (
            lambda: waypoint_rewards(
                np.ones((3, 1)), np.ones((2, 1)), np.ones(2, int), np.ones(3)
            ),
            "index has shape",
        ),
        (lambda: handover(np.ones(3), np.ones(2), near=1.0), "learned has shape"),
        (
            lambda: handover(np.ones(3), np.ones(3), near=1.0, allowed=2.0),
            "allowed is 2.0",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
