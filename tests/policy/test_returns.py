"""Returns against loops in float64, and at the ends of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    discounted_returns,
    gae,
    next_valid,
    retrace,
    td_targets,
    vtrace,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
T = 12
NO = np.zeros(T, bool)


def sequence():
    ends = GEN.uniform(size=T) < 0.2
    cuts = (GEN.uniform(size=T) < 0.2) & ~ends
    return {
        "rewards": GEN.normal(size=T),
        "values": GEN.normal(size=T),
        "next_values": GEN.normal(size=T),
        "terminated": ends,
        "truncated": cuts,
        "rho": GEN.uniform(0.2, 2.5, size=T),
    }


BATCH = [sequence() for _ in range(16)]
STACK = {
    k: jnp.asarray(np.stack([s[k] for s in BATCH]), bool if k[0] == "t" else "f4")
    for k in BATCH[0]
}
GAMMA, LAM = 0.9, 0.8


def episodes(s):
    """Slices of the buffer that belong to one episode."""
    start = 0
    for t in range(T):
        if s["terminated"][t] or s["truncated"][t] or t == T - 1:
            yield start, t + 1
            start = t + 1


def bootstrapped(s, t):
    return GAMMA * (not s["terminated"][t]) * s["next_values"][t]


def test_gae_is_the_sum_of_discounted_errors_of_its_episode():
    for s, got in zip(BATCH, np.asarray(batch_gae().advantage), strict=True):
        delta = [
            s["rewards"][t] + bootstrapped(s, t) - s["values"][t] for t in range(T)
        ]
        for start, stop in episodes(s):
            for t in range(start, stop):
                k = np.arange(stop - t)
                expected = np.sum((GAMMA * LAM) ** k * np.array(delta[t:stop]))
                np.testing.assert_allclose(got[t], expected, rtol=1e-4, atol=1e-5)


def batch_gae(lam=LAM, **extra):
    names = ("rewards", "values", "next_values", "terminated", "truncated")
    return jax.vmap(lambda *a: gae(*a, gamma=GAMMA, lam=lam, **extra))(
        *(STACK[n] for n in names)
    )


def test_discounted_returns():
    names = ("rewards", "next_values", "terminated", "truncated")
    got = jax.vmap(lambda *a: discounted_returns(*a, gamma=GAMMA))(
        *(STACK[n] for n in names)
    )
    for s, one in zip(BATCH, np.asarray(got), strict=True):
        for start, stop in episodes(s):
            tail = bootstrapped(s, stop - 1)
            for t in range(stop - 1, start - 1, -1):
                tail = s["rewards"][t] + (GAMMA * tail if t < stop - 1 else tail)
                np.testing.assert_allclose(one[t], tail, rtol=1e-4, atol=1e-5)


def test_limits_of_lambda():
    """At 0 one step, at 1 the return: of values that are each other's successors."""
    one_step = batch_gae(lam=0.0)
    targets = jax.vmap(lambda *a: td_targets(*a, gamma=GAMMA))(
        STACK["rewards"], STACK["next_values"], STACK["terminated"]
    )
    np.testing.assert_allclose(one_step.target, targets, rtol=1e-5, atol=1e-6)
    r, v = STACK["rewards"][0], STACK["values"][0]
    after = next_valid(v, end_value=0.7)
    full = gae(r, v, after, NO, NO, gamma=GAMMA, lam=1.0)
    whole = discounted_returns(r, after, NO, NO, gamma=GAMMA)
    np.testing.assert_allclose(full.target, whole, rtol=1e-5)


# Cases A and B: the recursions of GAE (arXiv 1506.02438), V-trace (arXiv 1802.01561)
# and Retrace (arXiv 1606.02647), worked backwards by hand.


def test_case_a():
    four = np.ones(4, np.float32)
    values, after = 0.5 * four, np.array([0.5, 2, 0.5, 0.5], np.float32)
    end, cut = np.zeros(4, bool), np.array([False, True, False, False])
    got = gae(four, values, after, end, cut, gamma=0.9, lam=0.95)
    np.testing.assert_allclose(got.advantage, [2.9165, 2.3, 1.76225, 0.95], rtol=1e-4)
    np.testing.assert_allclose(got.target, got.advantage + 0.5)
    off = vtrace(four, values, after, end, cut, four, gamma=0.9)
    on = gae(four, values, after, end, cut, gamma=0.9, lam=1.0)
    np.testing.assert_allclose(off.advantage, on.advantage, rtol=1e-6)
    np.testing.assert_allclose(off.target, on.target, rtol=1e-6)
    whole = gae(four, values, values, end, end, gamma=0.9, lam=1.0)
    same = vtrace(four, values, values, end, end, four, gamma=0.9)
    golden = [3.26705, 2.5745, 1.805, 0.95]
    np.testing.assert_allclose(same.advantage, golden, rtol=1e-5)
    np.testing.assert_allclose(whole.advantage, golden, rtol=1e-5)


def test_case_b():
    values = np.array([1.0, 1, 100, 100], np.float32)
    cut = np.array([False, True, False, False])
    got = vtrace(0 * values, values, values, ~cut & False, cut, np.ones(4), gamma=0.99)
    np.testing.assert_allclose(got.advantage, [-0.0199, -0.01, -1.99, -1.0], rtol=1e-4)


def test_vtrace_and_retrace_against_loops():
    names = ("rewards", "values", "next_values", "terminated", "truncated", "rho")
    arguments = [STACK[n] for n in names]
    limits = {"rho_max": 1.5, "c_max": 0.9, "rho_max_pg": 1.2}
    got = jax.vmap(lambda *a: vtrace(*a, gamma=GAMMA, lam=LAM, **limits))(*arguments)
    back = jax.vmap(lambda *a: retrace(*a, gamma=GAMMA, lam=LAM))(*arguments)
    for i, s in enumerate(BATCH):
        v, rho = s["values"], s["rho"]
        for start, stop in episodes(s):
            error, tail = 0.0, 0.0
            for t in range(stop - 1, start - 1, -1):
                last = t == stop - 1
                delta = s["rewards"][t] + bootstrapped(s, t) - v[t]
                after = s["next_values"][t] if last else v[t + 1] + error
                after = GAMMA * (not s["terminated"][t]) * after
                advantage = min(1.2, rho[t]) * (s["rewards"][t] + after - v[t])
                carry = 0.0 if last else GAMMA * LAM * min(0.9, rho[t]) * error
                error = min(1.5, rho[t]) * delta + carry
                tail = delta + (
                    0.0 if last else GAMMA * LAM * min(1, rho[t + 1]) * tail
                )
                close = {"rtol": 1e-4, "atol": 1e-5}
                np.testing.assert_allclose(got.advantage[i, t], advantage, **close)
                np.testing.assert_allclose(got.target[i, t], v[t] + error, **close)
                np.testing.assert_allclose(back[i, t], v[t] + tail, **close)


def test_masked_steps_are_skipped():
    """With holes, GAE is that of the sequence without them; zeros discount instead."""
    s, mask = BATCH[0], np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0], bool)
    dirty = [np.where(mask, s[k], np.nan) for k in ("rewards", "values")]
    r, v = (jnp.asarray(x, jnp.float32) for x in dirty)
    got = gae(r, v, next_valid(v, mask), NO, NO, gamma=GAMMA, lam=LAM, mask=mask)
    r, v = r[mask], v[mask]
    no = NO[: mask.sum()]
    without = gae(r, v, next_valid(v), no, no, gamma=GAMMA, lam=LAM)
    for part, expected in zip(got, without, strict=True):
        np.testing.assert_allclose(part[mask], expected, rtol=1e-5)
        assert not np.any(part[~mask])
    r, v = (jnp.nan_to_num(jnp.asarray(x, jnp.float32)) for x in dirty)
    zero = gae(
        r, v, next_valid(v), NO, NO, gamma=GAMMA, lam=LAM, mask=mask, hole="zero"
    )
    plain = gae(r, v, next_valid(v), NO, NO, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(zero.advantage[mask], plain.advantage[mask], rtol=1e-5)
    assert np.abs(zero.advantage - got.advantage).max() > 0.05
    # Without holes the two agree.
    prefix = np.arange(T) < 7
    both = [
        gae(
            r, v, next_valid(v, prefix), NO, NO,
            gamma=GAMMA, lam=LAM, mask=prefix, hole=hole,
        )
        for hole in ("skip", "zero")
    ]  # fmt: skip
    np.testing.assert_allclose(both[0].advantage, both[1].advantage, rtol=1e-5)


@pytest.mark.parametrize("hole", ["skip", "zero"])
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_an_episode_that_ends_on_a_masked_step_ends(flag, hole):
    """On a tool's output, say: nothing crosses into the next episode."""
    one, zero, mask = np.ones(3), np.zeros(3), np.array([1, 0, 1])
    flags = {"terminated": zero, "truncated": zero, flag: np.array([0, 1, 0])}
    got = gae(one, zero, zero, **flags, gamma=1.0, lam=1.0, mask=mask, hole=hole)
    np.testing.assert_allclose(got.advantage, [1, 0, 1])


def test_next_valid_stops_at_the_end_of_an_episode():
    """GAE of a buffer of two responses is that of each of them by itself."""
    values, mask = np.arange(1.0, 7), np.array([1, 0, 0, 1, 0, 1])
    at = np.arange(6) == 2
    np.testing.assert_allclose(next_valid(values, mask), [4, 4, 4, 6, 6, 0])
    np.testing.assert_allclose(
        next_valid(values, mask, terminated=at), [0, 0, 0, 6, 6, 0]
    )
    last = np.where(at, 7.0, 9.0)
    cut = next_valid(values, mask, truncated=at, end_value=last)
    np.testing.assert_allclose(cut, [7, 7, 7, 6, 6, 9])
    known = next_valid(values, mask, truncated=at, end_value=7.0)
    np.testing.assert_allclose(known, [7, 7, 7, 6, 6, 7])
    rewards = GEN.normal(size=6)
    for flag, after in (("terminated", 0.0), ("truncated", 7.0)):
        flags = {"terminated": 0 * at, "truncated": 0 * at, flag: at}
        following = next_valid(values, mask, **flags, end_value=last)
        options = {"gamma": GAMMA, "lam": LAM}
        whole = gae(rewards, values, following, **flags, **options, mask=mask)
        for part, end in ((slice(0, 3), after), (slice(3, 6), 9.0)):
            n = NO[:3]
            r, v, m = rewards[part], values[part], mask[part]
            alone = gae(r, v, next_valid(v, m, end_value=end), n, n, **options, mask=m)
            np.testing.assert_allclose(
                whole.advantage[part], alone.advantage, rtol=1e-5
            )


@pytest.mark.parametrize("hole", ["skip", "zero"])
def test_padding_may_be_nan(hole):
    """Also its next value; the first padding step's own is the hole's, which is 0."""
    bad = np.array([0, 0, np.nan, np.nan])
    mask, no = np.array([1, 1, 0, 0]), NO[:4]
    ones = np.where(mask, 1.0, np.nan)
    got = gae(ones, bad, bad, no, no, gamma=1.0, lam=1.0, mask=mask, hole=hole)
    np.testing.assert_array_equal(got.advantage, [2, 1, 0, 0])
    np.testing.assert_array_equal(got.target, [2, 1, 0, 0])


def test_zeros_are_what_openrlhf_has():
    """Its loop: values and rewards times the mask, and no thought of holes."""
    mask = np.array([1, 0, 0, 1, 1, 0, 1, 0])
    r, v = GEN.normal(size=(2, 8)) * mask
    after, tail, expected = np.append(v[1:], 0.0), 0.0, np.zeros(8)
    for t in reversed(range(8)):
        tail = r[t] + GAMMA * after[t] - v[t] + GAMMA * LAM * tail
        expected[t] = tail
    got = gae(r, v, after, NO[:8], NO[:8], gamma=GAMMA, lam=LAM, mask=mask, hole="zero")
    np.testing.assert_allclose(got.advantage, expected * mask, rtol=1e-4, atol=1e-6)


def test_discount_by_step():
    """A discount that is 1 inside a sentence makes it one step."""
    r, v = np.array([0.0, 0, 1, 2]), np.zeros(4)
    no = np.zeros(4, bool)
    gamma = np.array([1.0, 1, 0.5, 0.5])
    got = discounted_returns(r, v, no, no, gamma=gamma)
    np.testing.assert_allclose(got, [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rewards": np.zeros((3, T))}, "use jax.vmap"),
        ({"values": np.zeros(T + 1)}, r"values has shape \(13,\); expected \(12,\)"),
        ({"truncated": np.zeros(3)}, "truncated has shape"),
        ({"gamma": np.zeros(3)}, "gamma has shape"),
        ({"hole": "fill"}, "hole is 'fill'"),
    ],
)
def test_bad_arguments(change, match):
    good = {k: v for k, v in BATCH[0].items() if k != "rho"}
    with pytest.raises(ValueError, match=match):
        gae(**good | {"gamma": 0.9, "lam": 0.9} | change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"end_value": np.zeros(2)}, "end_value has shape"),
        ({"terminated": np.zeros(2)}, "terminated has shape"),
        ({"truncated": np.zeros(2)}, "truncated has shape"),
    ],
)
def test_bad_arguments_of_next_valid(change, match):
    with pytest.raises(ValueError, match=match):
        next_valid(np.zeros(3), **change)


def test_low_precision_is_widened():
    half = {k: v.astype(jnp.bfloat16) for k, v in STACK.items() if v.dtype == "f4"}
    got = vtrace(
        *(half[k][0] for k in ("rewards", "values", "next_values")),
        NO,
        NO,
        half["rho"][0],
        gamma=0.9,
    )
    assert got.advantage.dtype == got.target.dtype == jnp.float32
