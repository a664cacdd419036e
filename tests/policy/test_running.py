"""Baselines with memory against their loops."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy.running import (
    adapt_entropy_coef,
    adapt_kl_coef,
    init_prompt_stats,
    init_role_ema,
    prompt_norm,
    role_ema,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)


def test_role_ema_golden():
    """specs/policy_llm.md, section 3.30."""
    rewards = np.array([1.0, 1, -1, 1])
    state, advantages = role_ema(init_role_ema(1), rewards, np.zeros(4, jnp.int32))
    np.testing.assert_allclose(advantages, [1, 0.95, -1.0975, 0.957375], rtol=1e-6)
    np.testing.assert_allclose(state, [0.0904938], rtol=1e-5)
    _, constant = role_ema(init_role_ema(1), np.ones(9), np.zeros(9, jnp.int32))
    np.testing.assert_allclose(constant, 0.95 ** np.arange(9), rtol=1e-5)


def test_role_ema_in_a_zero_sum_game():
    """The first seat wins 7 of 10: baselines go to +-(2 p - 1), however batches cut."""
    wins = np.tile([1, 1, 1, -1, 1, 1, -1, 1, 1, -1], 40).astype(np.float32)
    rewards = np.stack([wins, -wins], 1).ravel()
    roles = np.tile([0, 1], 400)
    state, whole = role_ema(init_role_ema(2), rewards, roles, decay=0.99)
    np.testing.assert_allclose(state, [0.4, -0.4], atol=0.03)
    first, a = role_ema(init_role_ema(2), rewards[:301], roles[:301], decay=0.99)
    second, b = role_ema(first, rewards[301:], roles[301:], decay=0.99)
    np.testing.assert_array_equal(second, state)
    np.testing.assert_array_equal(np.concatenate([a, b]), whole)


def test_prompt_norm_against_deques():
    stats, memory = init_prompt_stats(3, 4), [deque(maxlen=4) for _ in range(3)]
    step = jax.jit(lambda *a: prompt_norm(*a, min_count=3))
    for _ in range(5):
        rewards = GEN.normal(size=6).astype(np.float32)
        prompts = GEN.integers(0, 3, size=6)
        stats, got = step(stats, rewards, prompts)
        for r, p in zip(rewards, prompts, strict=True):
            memory[p].append(r)
        for r, p, a in zip(rewards, prompts, np.asarray(got), strict=True):
            seen = np.array(memory[p] if len(memory[p]) >= 3 else rewards, np.float64)
            expected = (r - seen.mean()) / (seen.std() + 1e-6)
            np.testing.assert_allclose(a, expected, rtol=1e-4, atol=1e-5)
    same = prompt_norm(init_prompt_stats(1), np.full(5, 0.1), np.zeros(5, jnp.int32))
    assert not np.any(same[1])


def test_coefficients():
    kl = [adapt_kl_coef(1.0, k, target=2.0, horizon=100, samples=10) for k in (2, 9, 0)]
    np.testing.assert_allclose(kl, [1, 1.02, 0.98])
    got = [adapt_entropy_coef(jnp.float32(c), h) for c, h in ((0, 0.1), (0, 1), (1, 0))]
    np.testing.assert_allclose(got, [0.005, 0, 1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="roles has shape"):
        role_ema(init_role_ema(1), np.ones(3), np.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match="min_count is 16; expected 1 to the size, 8"):
        prompt_norm(init_prompt_stats(1, 8), np.ones(2), np.zeros(2, jnp.int32))
