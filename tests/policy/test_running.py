"""Baselines with memory against their loops."""

import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxlib_guidance.policy import (
    adapt_entropy_coef,
    adapt_kl_coef,
    init_prompt_stats,
    init_role_ema,
    prompt_norm,
    role_ema,
)
from jaxlib_guidance.policy.advantages import _running as running

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)


def test_role_ema_golden():
    """SPIRAL, arXiv 2506.24119: ``A = R - b``, ``b <- .95 b + .05 R``, by hand."""
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


def test_what_is_masked_moves_no_memory():
    """Padding, whose rewards may be NaN and whose roles anything."""
    rewards, mask = np.array([1.0, np.nan, 3, np.nan]), np.array([1, 0, 1, 0])
    roles, at = np.array([0, 0, 1, -7]), np.array([0, 2])
    for fn, state in (
        (running.role_ema, init_role_ema(2) + 0.5),
        (functools.partial(running.prompt_norm, min_count=2), init_prompt_stats(2, 3)),
    ):
        want, gains = fn(state, rewards[at], roles[at])
        for call in (fn, jax.jit(fn)):
            got, padded = call(state, rewards, roles, mask=mask)
            jax.tree.map(np.testing.assert_array_equal, got, want)
            np.testing.assert_allclose(padded[at], gains, rtol=1e-6)
            assert not np.any(np.delete(padded, at))


def test_ids_out_of_range():
    rewards, ids = np.array([1.0, 2, 3]), np.array([0, 2, -1])
    for fn, state, match in (
        (running.role_ema, init_role_ema(2), r"roles has \[-1  2\]; expected"),
        (running.prompt_norm, init_prompt_stats(2), r"prompts has \[-1  2\]; expected"),
    ):
        with pytest.raises(ValueError, match=match):
            fn(state, rewards, ids)
        # While they are traced: NaN, and no memory is touched, not the last one either.
        got, gains = jax.jit(fn)(state, rewards, ids)
        assert np.isnan(gains[1:]).all()
        assert np.isfinite(gains[0])
        want = fn(state, rewards[:1], ids[:1])[0]
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_prompt_norm_on_eight_devices():
    """Devices that see parts of the batch remember all of it, and compare with it."""
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    fn = functools.partial(running.prompt_norm, min_count=3)

    def part(stats, rewards, prompts, mask):
        return fn(stats, rewards, prompts, mask=mask, axis_name="data")

    split = jax.jit(
        jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(P(), P("data"), P("data"), P("data")),
            out_specs=(P(), P("data")),
            check_vma=False,
        )
    )
    mine = theirs = init_prompt_stats(5, 4)
    for _ in range(3):
        rewards = GEN.normal(size=16).astype(np.float32)
        prompts, mask = GEN.integers(0, 5, size=16), GEN.uniform(size=16) < 0.8
        mine, got = split(mine, rewards, prompts, mask)
        theirs, want = prompt_norm(theirs, rewards, prompts, mask=mask, min_count=3)
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


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
