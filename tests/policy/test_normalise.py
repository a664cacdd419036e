"""Running statistics of rewards against numpy on all rewards so far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxlib_guidance.policy import (
    init_reward_stats,
    running_clip,
    running_meanstd,
    running_minmax,
    update_reward_stats,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
# Batches of 16, far from 0: squares would lose the deviations in float32.
REWARDS = (3000 + GEN.normal(size=(5, 16))).astype(np.float32)
MASK = GEN.uniform(size=(5, 16)) < 0.7
MASK[2] = False
BY_HAND = {
    "minmax": (running_minmax, lambda r, x: (r - x.min()) / (x.max() - x.min())),
    "meanstd": (running_meanstd, lambda r, x: (r - x.mean()) / x.std()),
    "clip": (
        running_clip,
        lambda r, x: np.clip(r, x.mean() - x.std(), x.mean() + x.std()),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_batch_is_shaped_by_all_so_far(name):
    fn, by_hand = BY_HAND[name]
    stats = init_reward_stats()
    for i, (r, m) in enumerate(zip(REWARDS, MASK, strict=True)):
        stats, got = fn(stats, np.where(m, r, np.nan), m)
        seen = REWARDS[: i + 1][MASK[: i + 1]].astype(np.float64)
        want = np.where(m, by_hand(r.astype(np.float64), seen), 0)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(stats.count, MASK.sum())
    np.testing.assert_allclose(stats.spread, seen.var() * seen.size, rtol=1e-3)


def test_cuts_and_devices_change_nothing():
    stats = init_reward_stats()
    whole = update_reward_stats(stats, REWARDS, MASK)
    steps = jax.lax.scan(
        lambda s, x: (update_reward_stats(s, *x), None), stats, (REWARDS, MASK)
    )[0]
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.jit(
        jax.shard_map(
            lambda s, *x: running_meanstd(s, *x, axis_name="data"),
            mesh=mesh,
            in_specs=(P(), P(None, "data"), P(None, "data")),
            out_specs=(P(), P(None, "data")),
        )
    )
    split, shaped = sharded(stats, REWARDS, MASK)
    for other in (steps, split):
        for got, want in zip(other, whole, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(
        shaped, running_meanstd(stats, REWARDS, MASK)[1], rtol=1e-4, atol=1e-3
    )


def test_equal_rewards_teach_nothing():
    """Exactly, though the mean of many tenths is not a tenth."""
    stats, same = init_reward_stats(), np.full(37, 0.1, np.float32)
    for _ in range(3):
        for fn in (running_minmax, running_meanstd):
            stats, got = fn(stats, same)
            assert not np.any(got)
    np.testing.assert_allclose(running_clip(stats, same)[1], same, rtol=1e-6)
    # Nothing at all leaves the statistics as they are.
    none, got = running_minmax(init_reward_stats(), np.full(3, np.nan), np.zeros(3))
    np.testing.assert_array_equal(got, 0)
    np.testing.assert_array_equal(none, init_reward_stats())


def test_an_outlier_stays():
    """``low`` and ``high`` never forget; the width of a clip is a parameter."""
    stats, _ = running_minmax(init_reward_stats(), np.array([0.0, 100.0]))
    _, got = running_minmax(stats, np.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [0, 0.01], rtol=1e-6)
    _, got = running_clip(init_reward_stats(), np.array([0.0, 0, 0, 4]), width=0.5)
    low, high = 1 - np.sqrt(3) / 2, 1 + np.sqrt(3) / 2
    np.testing.assert_allclose(got, [low, low, low, high], rtol=1e-5)


def test_gradients_stop_and_states_keep_their_type():
    def total(r):
        return jnp.sum(running_meanstd(init_reward_stats(), r)[1] ** 3)

    assert not np.any(jax.grad(total)(REWARDS[0]))
    half = jnp.asarray(REWARDS[0], jnp.bfloat16)
    stats, got = running_minmax(init_reward_stats(), half)
    assert {a.dtype for a in (*stats, got)} == {np.dtype("float32")}
