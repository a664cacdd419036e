"""Advantages against numpy in float64, on groups of one size and ragged ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxlib_guidance.policy import (
    best_of_group,
    gpg,
    group_center,
    group_normalize,
    informative,
    leave_one_out,
    multi_reward,
    opo,
    remax,
    whiten,
    win_rate,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
R = GEN.normal(size=(6, 4)).astype(np.float32)
IDS = np.array([2, 0, 0, 2, 1, 2, 3, 0, 4, 4])  # Groups of 3, 1, 3, 1, 2.
RAGGED = GEN.normal(size=10).astype(np.float32)
GROUPED = {
    "center": group_center,
    "norm": group_normalize,
    "population": functools.partial(group_normalize, ddof=0, eps=1e-4),
    "loo": leave_one_out,
    "best": best_of_group,
}


def oracle(name, r):
    r, n = r.astype(np.float64), len(r)
    if n < 2 or np.ptp(r) == 0:
        return np.zeros(n)
    if name == "center":
        return r - r.mean()
    if name == "norm":
        return (r - r.mean()) / (r.std(ddof=1) + 1e-6)
    if name == "population":
        return (r - r.mean()) / (r.std() + 1e-4)
    if name == "loo":
        return np.array([x - np.delete(r, i).mean() for i, x in enumerate(r)])
    second, first = np.sort(r)[-2:]
    return np.where(r == first, first - second, 0)


@pytest.mark.parametrize("name", GROUPED)
def test_groups(name, one_program):
    fn = one_program(GROUPED[name])
    expected = np.stack([oracle(name, r) for r in R])
    np.testing.assert_allclose(fn(R), expected, rtol=1e-4, atol=1e-5)
    got = np.asarray(fn(RAGGED, IDS, 6))  # One group is empty.
    for group in range(5):
        at = group == IDS
        np.testing.assert_allclose(
            got[at], oracle(name, RAGGED[at]), rtol=1e-4, atol=1e-5
        )
    # Dense groups are ragged groups of one size, in any order; shifts do not matter.
    flat = np.repeat(np.arange(6), 4)
    order = GEN.permutation(24)
    mixed = np.asarray(fn(R.ravel()[order] + 3, flat[order], 6))
    np.testing.assert_allclose(mixed, expected.ravel()[order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", GROUPED)
def test_groups_that_teach_nothing(name, one_program):
    """0.1 has no exact mean in float32: dividing by a tiny deviation would show it."""
    fn = one_program(GROUPED[name])
    assert not np.any(fn(np.full((2, 3), 0.1)))
    assert not np.any(fn(np.full((2, 1), 0.7)))
    assert not np.any(fn(np.full(3, 0.1), np.array([0, 1, 1]), 2))


@pytest.mark.parametrize("name", GROUPED)
def test_a_sample_without_reward(name, one_program):
    mask = np.ones(R.shape, bool)
    mask[0, 1] = mask[1, :3] = mask[2] = False
    got = np.asarray(one_program(GROUPED[name])(np.where(mask, R, np.nan), mask=mask))
    assert not np.any(got[~mask])
    for r, m, g in zip(R, mask, got, strict=True):
        np.testing.assert_allclose(g[m], oracle(name, r[m]), rtol=1e-4, atol=1e-5)


def test_a_reward_that_is_nan_is_not_hidden():
    got = np.asarray(group_normalize(np.where(R[2, 1] == R, np.nan, R)))
    assert np.isnan(got[2]).all()
    assert np.isfinite(np.delete(got, 2, 0)).all()


def test_golden():
    one = np.array([[1.0, 0, 0, 0]])
    # By hand: the mean of the others is 0 or 1/3; the group's mean is 1/4 and its
    # standard deviation 1/2 (ddof 1, TRL and verl) or sqrt(3)/4 (ddof 0, EasyDeL).
    np.testing.assert_allclose(leave_one_out(one)[0], [1, -1 / 3, -1 / 3, -1 / 3])
    for ddof, expected in ((1, (1.5, -0.5)), (0, (3**0.5, -(3**-0.5)))):
        got = group_normalize(one, ddof=ddof, eps=0.0)[0]
        np.testing.assert_allclose(got[:2], expected, rtol=1e-5)
    np.testing.assert_allclose(leave_one_out(R), group_center(R) * 4 / 3, atol=1e-6)


def test_scale_of_the_batch_on_eight_devices():
    r = GEN.normal(size=(8, 4)).astype(np.float32)
    expected = (r - r.mean(1, keepdims=True)) / (r.std(ddof=1) + 1e-6)
    fn = functools.partial(group_normalize, scale="batch")
    np.testing.assert_allclose(fn(r), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(group_normalize(r, scale="none"), group_center(r))
    split = on_eight_devices(fn)(r)
    np.testing.assert_allclose(split, expected, rtol=1e-4, atol=1e-5)
    split = on_eight_devices(whiten)(r)
    np.testing.assert_allclose(split, (r - r.mean()) / r.std(), rtol=1e-4, atol=1e-5)


def on_eight_devices(fn, args=1):
    devices = jax.devices()
    assert len(devices) == 8
    return jax.shard_map(
        functools.partial(fn, axis_name="data"),
        mesh=Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(P("data"),) * args,
        out_specs=P("data"),
    )


def test_whiten():
    mask = GEN.uniform(size=R.shape) < 0.5
    got = np.asarray(whiten(np.where(mask, R, np.nan), mask))
    x = R[mask].astype(np.float64)
    np.testing.assert_allclose(got[mask], (x - x.mean()) / x.std(), rtol=1e-4)
    assert not np.any(got[~mask])
    scaled = np.asarray(whiten(R, mask, shift=False))[mask]
    np.testing.assert_allclose(scaled, x / x.std(), rtol=1e-4)
    assert not np.any(whiten(np.full(7, 0.1)))
    assert not np.any(whiten(R, np.zeros(R.shape)))


def test_baselines():
    lengths = GEN.integers(1, 9, size=R.shape).astype(np.float32)
    expected = R - np.average(R, 1, lengths)[:, None]
    np.testing.assert_allclose(opo(R, lengths), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        opo(R, np.full_like(R, 5)), group_center(R), rtol=1e-4, atol=1e-5
    )
    greedy = GEN.normal(size=6).astype(np.float32)
    np.testing.assert_allclose(remax(R, greedy), R - greedy[:, None])
    two = np.array([[0.0, 3, 1], [3, 3, 1]])
    np.testing.assert_allclose(best_of_group(two), [[0, 2, 0], [0, 0, 0]])


def test_informative_groups():
    r = np.array([[1.0, 1, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(informative(r), [[0] * 3, [1] * 3, [0] * 3])
    np.testing.assert_allclose(gpg(r), 3 * group_center(r), rtol=1e-6)
    assert not np.any(gpg(np.ones((2, 3))))


def test_share_of_informative_groups_on_eight_devices():
    """Some devices have no group that teaches, and one has only padding."""
    r = GEN.integers(0, 2, size=(8, 2)).astype(np.float32)
    r[:4] = [[1, 1], [0, 1], [0, 0], [1, 0]]
    mask = np.ones(r.shape, bool)
    mask[5] = False
    whole = gpg(r, mask=mask)
    assert np.abs(whole).max() > 0.5
    split = on_eight_devices(
        lambda r, m, axis_name: gpg(r, mask=m, axis_name=axis_name), 2
    )
    np.testing.assert_allclose(split(r, mask), whole, rtol=1e-6)


def test_padding_moves_no_baseline():
    """Rows of padding, whose rewards may be NaN, change nothing for the others."""
    lengths = GEN.integers(1, 9, size=R.shape).astype(np.float32)
    pad = np.full((1, 4), np.nan, np.float32)
    mask = np.concatenate([np.ones(R.shape), np.zeros((1, 4))])
    more, longer = np.concatenate([R, pad]), np.concatenate([lengths, pad])
    for got, want in (
        (opo(more, longer, mask=mask), opo(R, lengths)),
        (best_of_group(more, mask=mask), best_of_group(R)),
        (gpg(more, mask=mask), gpg(R)),
    ):
        # Sums of other lengths may be added in another order.
        np.testing.assert_allclose(got[:6], want, rtol=1e-6, atol=2e-7)
        assert not np.any(got[6:])
    # A sample without a reward in the middle of a group.
    known = np.array([[1, 0, 1]])
    r, n = np.array([[1.0, np.nan, 4]]), np.array([[1.0, np.nan, 2]])
    np.testing.assert_allclose(opo(r, n, mask=known), [[-2, 0, 1]])
    np.testing.assert_allclose(best_of_group(r, mask=known), [[0, 0, 3]])
    np.testing.assert_allclose(gpg(r, mask=known), [[-1.5, 0, 1.5]])


@pytest.mark.parametrize("name", GROUPED)
def test_ids_out_of_range(name):
    """Where they are known it is an error, where they are traced NaN."""
    fn = GROUPED[name]
    r, ids = np.array([1.0, 2, 3, 7, 9]), np.array([1, 1, 2, 2, -1])
    with pytest.raises(ValueError, match=r"group_ids has \[-1  2\]; expected ids of 0"):
        fn(r, ids, 2)
    got = np.asarray(jax.jit(lambda i: fn(r, i, 2))(ids))
    assert np.isnan(got[2:]).all()
    np.testing.assert_allclose(got[:2], fn(r[:2], ids[:2], 2), rtol=1e-6)
    # What is masked may have any id.
    mask = np.array([1, 1, 0, 0, 0])
    got = fn(r, ids, 2, mask=mask)
    np.testing.assert_allclose(
        got, np.asarray(jax.jit(fn, static_argnums=2)(r, ids, 2, mask=mask))
    )
    assert not np.any(got[2:])
    with pytest.raises(TypeError, match="group_ids is float32; expected integers"):
        fn(r, np.float32([0, 1, 1, 1, 0]), 2)


def test_several_rewards():
    rewards = GEN.normal(size=(5, 4, 2)).astype(np.float32) * np.float32([1, 100])
    weights = np.array([0.7, 0.3])
    summed = multi_reward(rewards, weights)
    np.testing.assert_allclose(summed, group_normalize(rewards @ weights), rtol=1e-4)
    apart = multi_reward(rewards, weights, order="norm_then_sum")
    each = 0.7 * group_normalize(rewards[..., 0]) + 0.3 * group_normalize(
        rewards[..., 1]
    )
    np.testing.assert_allclose(apart, each, rtol=1e-4, atol=1e-5)
    # The large reward rules the sum, not the sum of what is normalised.
    louder = rewards * np.float32([1, 10])
    np.testing.assert_allclose(
        multi_reward(louder, weights, order="norm_then_sum"), apart, atol=1e-4
    )
    none = np.ones(rewards.shape, bool)
    none[0, 1] = False
    for order in ("sum_then_norm", "norm_then_sum"):
        got = multi_reward(
            np.where(none, rewards, np.nan), weights, mask=none, order=order
        )
        assert float(got[0, 1]) == 0
        assert np.isfinite(got).all()


def test_win_rate():
    """SPO, arXiv 2401.04056: mean preference over the others, counted by hand."""
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    np.testing.assert_allclose(win_rate(rps), [0.5, 0.5, 0.5])
    assert not np.any(group_center(win_rate(rps)[None]))
    condorcet = np.array([[np.nan, 1, 1], [0, np.nan, 1], [0, 0, np.nan]])
    np.testing.assert_allclose(win_rate(condorcet), [1, 0.5, 0])
    p = GEN.uniform(size=(5, 5))
    p = np.triu(p, 1) + np.tril(1 - p.T, -1)
    got = np.asarray(win_rate(jnp.asarray(p, jnp.float32)))
    np.testing.assert_allclose(got.sum(), 2.5, rtol=1e-5)
    order = GEN.permutation(5)
    mixed = win_rate(jnp.asarray(p[np.ix_(order, order)], jnp.float32))
    np.testing.assert_allclose(mixed, got[order], rtol=1e-5)
    alone = win_rate(rps, mask=np.array([[0.0, 0, 0], [0, 0, 1], [0, 1, 0]]))
    np.testing.assert_allclose(alone, [0.5, 1, 0])


def test_win_rate_finds_the_minimax_winner():
    """Multiplicative weights on ``P p``; the average strategy is the equilibrium."""
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])

    def step(p, _):
        grown = p * jnp.exp(0.05 * rps @ p)
        return grown / grown.sum(), p

    _, path = jax.lax.scan(step, np.array([0.6, 0.3, 0.1]), length=20_000)
    np.testing.assert_allclose(path.mean(0), 1 / 3, atol=0.01)


def test_gradients_stop():
    def total(r):
        return sum(jnp.sum(fn(r) * R) for fn in GROUPED.values())

    assert not np.any(jax.jit(jax.grad(total))(R))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: group_normalize(R, IDS), "num_groups is None and group_ids an array"),
        (lambda: group_normalize(R, IDS, 3), r"expected \[B\] with group_ids"),
        (lambda: group_normalize(RAGGED, IDS[1:], 3), "group_ids has shape"),
        (lambda: group_normalize(R, scale="all"), "scale is 'all'"),
        (lambda: group_normalize(R, axis_name="data"), "axis_name has no effect"),
        (lambda: group_center(jnp.float32(1)), "rewards is a scalar"),
        (lambda: opo(R, RAGGED), "lengths has shape"),
        (lambda: remax(R, R), "greedy has shape"),
        (lambda: multi_reward(R, np.ones(3)), "weights has shape"),
        (lambda: multi_reward(R, np.ones(4), order="max"), "order is 'max'"),
        (lambda: win_rate(R), r"expected \[..., G, G\]"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
