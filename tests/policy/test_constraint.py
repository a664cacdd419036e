"""Multipliers, several critics, sensitivity and steering, at their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import add_steering, steering_direction
from jaxlib_guidance.policy import (
    aggregate_advantages,
    hinf_slack,
    lagrangian_reward,
    multiplier_step,
    sensitivity_bound,
    soft_policy,
    total_variation,
    whiten,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)


def test_multiplier():
    """CoT Monitor+, arXiv 2505.18807: ``max(0, lambda - rate (slack + margin))``."""
    assert float(multiplier_step(0.3, 0.0, rate=0.1)) == pytest.approx(0.3)
    assert float(multiplier_step(0.3, -2.0, rate=0.1)) == pytest.approx(0.5)
    # With slack 0 it can only rise; a margin lets it fall, to 0 and not below.
    assert float(multiplier_step(0.3, -0.5, rate=0.1, margin=1.0)) == pytest.approx(
        0.25
    )
    assert float(multiplier_step(0.3, 0.0, rate=1.0, margin=1.0)) == 0
    got = lagrangian_reward(np.array([1.0, 0]), np.array([0.0, -2]), 0.5)
    np.testing.assert_allclose(got, [1, -1])


@pytest.mark.parametrize(
    ("gamma", "p"), [(10.0, 1.62254), (2.0, 1.75831), (1.5, 1.93178)]
)
def test_slack_of_the_linear_quadratic_game(gamma, p):
    """At the saddle point the slack sums to -P x0^2: policy_control.md, section 3.4."""
    c = 1 - 1 / gamma**2
    np.testing.assert_allclose((1 + np.sqrt(1 + 4 / c)) / 2, p, rtol=1e-5)
    u, w = -p / (1 + p * c), p / (gamma**2 * (1 + p * c))
    x = 1.7 * (1 + u + w) ** np.arange(200)
    slack = hinf_slack((1 + u**2) * x**2, (w * x)[:, None], eta=gamma**2)
    np.testing.assert_allclose(slack.sum(), -p * 1.7**2, rtol=1e-4)


def test_critics():
    """SLIM, arXiv 2402.00823: sizes of rewards do not matter."""
    a = GEN.normal(size=(3, 400)).astype(np.float32) * np.float32([[1], [50], [0.01]])
    w = np.array([0.5, 0.3, 0.2])
    got = aggregate_advantages(a, w)
    louder = aggregate_advantages(a * np.float32([[1000], [1], [7]]), w)
    np.testing.assert_allclose(louder, got, atol=2e-5)
    naive = [abs(np.corrcoef(a.sum(0), x)[0, 1]) for x in a]
    ours = [np.corrcoef(got, x)[0, 1] for x in a]
    assert min(naive) < 0.2
    assert min(ours) > 0.2
    alone = aggregate_advantages(a[:1], np.ones(1))
    np.testing.assert_array_equal(alone, whiten(a[0]))
    constant = aggregate_advantages(np.full((2, 5), 0.1), np.ones(2))
    np.testing.assert_array_equal(constant, 0)


def test_sensitivity():
    """The bound holds in a bandit; without entropy a nudge turns the policy round."""
    r1, r2 = (jnp.asarray(GEN.normal(size=(50, 4)), jnp.float32) for _ in range(2))
    for alpha in (0.1, 1.0):
        moved = total_variation(soft_policy(r1, alpha), soft_policy(r2, alpha))
        bound = jax.vmap(functools.partial(sensitivity_bound, alpha=alpha, gamma=0.0))
        assert bool((moved <= bound(r1, r2) + 1e-6).all())
    tied = np.array([1.0, 1.0, 0.0])
    nudge = np.array([0.01, -0.01, 0.0])
    np.testing.assert_allclose(soft_policy(tied, 0.0), [0.5, 0.5, 0])
    cliff = total_variation(
        soft_policy(tied + nudge, 0.0), soft_policy(tied - nudge, 0.0)
    )
    assert float(cliff) == 1
    smooth = total_variation(soft_policy(tied + nudge, 1.0), soft_policy(tied, 1.0))
    assert float(smooth) <= 0.005


def test_steering():
    hidden = jnp.asarray(GEN.normal(size=(6, 3)), jnp.float32)
    short, long = np.array([1, 1, 0, 0, 0, 0]), np.array([0, 0, 0, 1, 1, 1])
    v = steering_direction(hidden, short, long)
    np.testing.assert_allclose(v, hidden[:2].mean(0) - hidden[3:].mean(0), atol=1e-6)
    np.testing.assert_array_equal(steering_direction(hidden, short, 0 * long), 0)
    half = hidden.astype(jnp.bfloat16)
    np.testing.assert_array_equal(add_steering(half, v, 0.0), half)
    np.testing.assert_allclose(add_steering(hidden, v, 2.0), hidden + 2 * v, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: lagrangian_reward(np.ones(3), np.ones(2), 1.0), "safety has shape"),
        (lambda: lagrangian_reward(np.ones(3), np.ones(3), np.ones(3)), "multiplier"),
        (lambda: multiplier_step(0.3, np.ones(3), rate=0.1), "slack has shape"),
        (lambda: multiplier_step(np.ones(3), 0.1, rate=0.1), "multiplier has shape"),
        (lambda: hinf_slack(np.ones(3), np.ones(3), eta=1.0), "cost has shape"),
        (lambda: hinf_slack(np.ones(3), np.ones((3, 3)), eta=np.ones(3)), "eta has"),
        (lambda: aggregate_advantages(np.ones((2, 3)), np.ones(3)), "weights has"),
        (lambda: total_variation(np.ones(3), np.ones(2)), "q has shape"),
        (lambda: steering_direction(np.ones(3), 1, 1), r"expected \[N, D\]"),
        (lambda: add_steering(np.ones((2, 3)), np.ones(2), 1.0), "direction has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
