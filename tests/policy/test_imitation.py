"""Transport against the exact assignment; schedules at points by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxlib_guidance.policy import (
    discount_schedule,
    intervention_rewards,
    longest_increasing,
    sinkhorn,
    transport_rewards,
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


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: intervention_rewards(np.ones((2, 3))), r"expected \[T\]"),
        (lambda: sinkhorn(np.ones(3)), r"expected \[N, M\]"),
        (lambda: sinkhorn(np.ones((3, 3)), epsilon=2.0), "epsilon is 2.0"),
        (lambda: transport_rewards(np.ones((2, 3)), np.ones((3, 3))), "plan has"),
        (lambda: longest_increasing(np.ones((2, 3))), r"expected \[T\]"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
