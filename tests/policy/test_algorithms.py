"""Whole algorithms against their papers' formulas in numpy, and their ties."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxlib_guidance.policy import dapo, dr_grpo, grpo, gspo, rloo
from jaxlib_guidance.reduce import finalize, merge

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
GROUPS, G, T = 8, 3, 6
B = GROUPS * G
OLD = -GEN.uniform(0.1, 3, size=(B, T)).astype(np.float32)
LOGP = OLD + GEN.normal(size=(B, T)).astype(np.float32) * 0.2
REF = OLD + GEN.normal(size=(B, T)).astype(np.float32) * 0.2
LENGTHS = GEN.integers(1, T + 1, size=B)
MASK = np.arange(T) < LENGTHS[:, None]
REWARDS = GEN.integers(0, 2, size=(GROUPS, G)).astype(np.float32)
REWARDS[1] = 1
assert 0 < (np.ptp(REWARDS, 1) == 0).sum() < GROUPS

ALGORITHMS = {
    "grpo": functools.partial(grpo, logp_ref=REF, eps=1e-4),
    "dr_grpo": functools.partial(dr_grpo, max_length=16),
    "dapo": dapo,
    "gspo": gspo,
    "rloo": rloo,
}


def surrogate(rho, a, low, high):
    return -np.minimum(rho * a, np.clip(rho, 1 - low, 1 + high) * a)


def by_hand(name):
    """Loops over sequences and tokens, in float64."""
    total, weight = 0.0, 0.0
    for i in range(B):
        r = REWARDS[i // G].astype(np.float64)
        centre = r[i % G] - r.mean()
        n = LENGTHS[i]
        d = (LOGP - OLD).astype(np.float64)[i, :n]
        k = (LOGP - REF).astype(np.float64)[i, :n]
        std = r.std(ddof=1)
        match name:
            case "grpo":
                token = surrogate(np.exp(d), centre / (std + 1e-4), 0.2, 0.2)
                total += np.mean(token + 0.04 * (np.exp(-k) - 1 + k))
                weight += 1
            case "dr_grpo":
                total += surrogate(np.exp(d), centre, 0.2, 0.2).sum() / 16
                weight += 1
            case "dapo" if std > 0:
                total += surrogate(np.exp(d), centre / (std + 1e-6), 0.2, 0.28).sum()
                weight += n
            case "gspo":
                a = centre / (std + 1e-6)
                total += surrogate(np.exp(d.mean()), a, 3e-4, 4e-4)
                weight += 1
            case "rloo":
                total += surrogate(np.exp(d.sum()), centre * G / (G - 1), 0.2, 0.2)
                weight += 1
    return total / weight


@pytest.mark.parametrize("name", ALGORITHMS)
def test_against_the_formula(name, one_program):
    fn = one_program(ALGORITHMS[name])
    out = fn(LOGP, OLD, REWARDS, MASK)
    loss, report = finalize(out)
    np.testing.assert_allclose(loss, by_hand(name), rtol=1e-4, atol=1e-6)
    assert ("kl" in report) == (name == "grpo")
    # The same groups by name, in another order.
    order = GEN.permutation(B)
    ids = np.repeat(np.arange(GROUPS), G)[order]
    extra = {"logp_ref": REF[order]} if name == "grpo" else {}
    again = fn(
        LOGP[order], OLD[order], REWARDS.ravel()[order], MASK[order],
        group_ids=ids, num_groups=GROUPS, **extra,
    )  # fmt: skip
    np.testing.assert_allclose(finalize(again)[0], loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_devices_and_micro_batches_equal_the_whole(name, one_program):
    """Whole groups on each device; some devices have nothing that teaches."""
    fn, more = ALGORITHMS[name], ()
    if name == "grpo":

        def fn(logp, old, rewards, mask, ref):
            return grpo(logp, old, rewards, mask, logp_ref=ref)

        more = (REF,)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",), axis_types=(AxisType.Auto,))

    def sharded(logp):
        return jax.shard_map(
            lambda *a: finalize(fn(*a), "data")[0],
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )(logp, OLD, REWARDS, MASK, *more)

    def whole(logp):
        return finalize(fn(logp, OLD, REWARDS, MASK, *more))[0]

    loss, slope = jax.jit(jax.value_and_grad(whole))(LOGP)
    split, slope_split = jax.jit(jax.value_and_grad(sharded))(LOGP)
    np.testing.assert_allclose(split, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope_split, slope, rtol=1e-5, atol=1e-6)
    fn = one_program(fn)
    halves = [
        fn(LOGP[s], OLD[s], REWARDS[r], MASK[s], *(ref[s] for ref in more))
        for s, r in ((slice(6), slice(2)), (slice(6, B), slice(2, GROUPS)))
    ]
    np.testing.assert_allclose(finalize(merge(*halves))[0], loss, rtol=1e-5, atol=1e-6)


def test_gspo_with_the_gradient_of_tokens():
    def slope(token_gradient):
        fn = functools.partial(gspo, token_gradient=token_gradient)
        return jax.jit(jax.grad(lambda p: finalize(fn(p, OLD, REWARDS, MASK))[0]))(LOGP)

    np.testing.assert_allclose(slope(True), slope(False), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_to_learn_is_zero(name):
    """Everything masked, equal rewards, one sample a group: 0 and gradient 0."""
    fn = grpo if name == "grpo" else ALGORITHMS[name]
    value = jax.jit(jax.value_and_grad(lambda *a: finalize(fn(*a))[0]))
    for rewards, mask in (
        (REWARDS, np.zeros_like(MASK)),
        (np.full_like(REWARDS, 0.1), MASK),
        (REWARDS.reshape(B, 1), MASK),
    ):
        loss, slope = value(LOGP, OLD, rewards, mask)
        assert float(loss) == 0
        assert not np.any(slope)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"ddof": 5}, ValueError, r"ddof is 5; expected a number in \[0, 2\]"),
        ({"clip": -0.2}, ValueError, "clip is -0.2"),
        ({"kl": "zz", "logp_ref": REF}, ValueError, "kl is 'zz'; expected"),
        ({"kl": "k1", "logp_ref": REF}, ValueError, "kl is 'k1'; expected"),
        ({"logp": MASK.astype(int)}, TypeError, "logp is int.*; expected floating"),
        ({"logp_old": MASK.astype(int)}, TypeError, "logp_old is int.*; expected f"),
        ({"logp_ref": MASK.astype(int)}, TypeError, "logp_ref is int.*; expected f"),
        ({"rewards": REWARDS.tolist()}, TypeError, "rewards is a list; expected"),
        ({"logp": LOGP.tolist()}, TypeError, "logp is a list; expected"),
    ],
)
def test_what_is_wrong_is_named_as_the_caller_does(changed, error, match):
    given = {"logp": LOGP, "logp_old": OLD, "rewards": REWARDS, "mask": MASK} | changed
    with pytest.raises(error, match=match):
        grpo(**given)
    for fn in (rloo, functools.partial(dr_grpo, max_length=16)):
        with pytest.raises(ValueError, match="clip is -0.2"):
            fn(LOGP, OLD, REWARDS, MASK, clip=-0.2)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"and \[P, G, T\] or \[B, T\]"):
        grpo(LOGP, OLD, REWARDS[:2], MASK)
    with pytest.raises(ValueError, match=r"and \[P, G, T\] or \[B, T\]"):
        grpo(LOGP[0], OLD[0], REWARDS, MASK[0])
    # The whole batch is not one group unless somebody says so.
    for name, fn in ALGORITHMS.items():
        with pytest.raises(ValueError, match=r"rewards has shape \(24,\); expected"):
            (grpo if name == "grpo" else fn)(LOGP, OLD, REWARDS.ravel(), MASK)
    for extra in ({"beta": 5.0}, {"kl": "k3"}):
        with pytest.raises(ValueError, match="have no effect without logp_ref"):
            grpo(LOGP, OLD, REWARDS, MASK, **extra)
