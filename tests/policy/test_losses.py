"""Losses: branches by hand, limits on policy, ties between them, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    aot,
    cispo,
    dpo,
    entropy_quantile_mask,
    exo,
    f_dpo,
    focal_nll,
    gmpo,
    group_center,
    group_normalize,
    ld_dpo,
    log_ratio,
    mixed_policy_weight,
    nft,
    nll,
    pair_from_scores,
    ppo_clip,
    ratio_stats,
    reinforce,
    rollout_weight,
    sapo,
    value_clip,
)
from jaxlib_guidance.reduce import aggregate, finalize

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
B, T = 4, 5
LOGP = jnp.asarray(-GEN.uniform(0.1, 3, size=(B, T)), jnp.float32)
OLD = LOGP + jnp.asarray(GEN.normal(size=(B, T)) * 0.3, jnp.float32)
MASK = jnp.asarray(np.arange(T) < np.array([[5], [3], [1], [0]]), jnp.float32)
A = np.array([1.0, -2.0, 0.5, 3.0])


def sequence_mean(loss):
    return finalize(aggregate(loss, MASK, "seq_mean_token_mean"))[0]


LOSSES = {
    "reinforce": lambda p, o, a: reinforce(p, a, MASK),
    "ppo": lambda p, o, a: ppo_clip(p, o, a, MASK),
    "dual": lambda p, o, a: ppo_clip(p, o, a, MASK, dual_clip=3.0, delta=2.0),
    "gspo": lambda p, o, a: ppo_clip(p, o, a, MASK, level="seq"),
    "gspo_token": lambda p, o, a: ppo_clip(p, o, a, MASK, level="seq_token"),
    "rloo": lambda p, o, a: ppo_clip(p, o, a, MASK, level="seq_sum"),
    "cispo": lambda p, o, a: cispo(p, o, a, MASK),
    "sapo": lambda p, o, a: sapo(p, o, a, MASK),
    "gmpo": lambda p, o, a: gmpo(p, o, a, MASK),
    "nft": lambda p, o, a: nft(p, o, a > 0, np.full(B, 0.25), MASK),
    "nll": lambda p, o, a: nll(p, MASK, a),
    "focal": lambda p, o, a: focal_nll(p, MASK, gamma=3.0),
    "value": lambda p, o, a: value_clip(p, o, o + 1, MASK),
}


def slopes(fn, logp=LOGP, old=OLD, a=A):
    both = jax.jit(jax.value_and_grad(lambda p, o, a: sequence_mean(fn(p, o, a))))
    value, grad = both(logp, old, a)
    return np.asarray(value), np.asarray(grad)


ON_POLICY = slopes(LOSSES["reinforce"], old=LOGP)[1]


@pytest.mark.parametrize(
    "name", ["ppo", "dual", "gspo", "gspo_token", "cispo", "sapo", "gmpo"]
)
def test_on_policy_all_have_the_gradient_of_reinforce(name):
    slope = slopes(LOSSES[name], old=LOGP)[1]
    np.testing.assert_allclose(slope, ON_POLICY, rtol=1e-5, atol=1e-7)


def test_sequence_ratio_on_policy_is_that_of_token_sums():
    """RLOO's true ratio: REINFORCE with the log-probability of the whole sequence."""
    whole = jax.grad(
        lambda p: finalize(
            aggregate(reinforce(p, A, MASK), MASK, "seq_mean_token_sum")
        )[0]
    )(LOGP)
    np.testing.assert_allclose(slopes(LOSSES["rloo"], old=LOGP)[1], whole, rtol=1e-5)


def test_value_zero_is_not_gradient_zero():
    """Centred advantages on policy: TRL's issue 2995 is people who read this wrong."""
    advantages = group_center(np.array([[1.0, 0.0, 0.5]])).ravel()
    logp = LOGP[:3]

    def value(p):
        return finalize(aggregate(ppo_clip(p, logp, advantages)))[0]

    loss, slope = jax.value_and_grad(value)(logp)
    assert abs(float(loss)) < 1e-7
    assert np.abs(slope).max() > 0.01


@pytest.mark.parametrize(
    ("a", "rho", "extra", "loss", "slope"),
    [
        # ``-min(rho A, clip(rho) A)`` by hand, PPO arXiv 1707.06347, eq. 7; the dual
        # clip of arXiv 1912.09729, eq. 5: at most ``-dual_clip A`` where A < 0.
        (-1, 0.5, {}, 0.8, 0.0),
        (-1, 1.5, {}, 1.5, 1.5),
        (1, 0.5, {}, -0.5, -0.5),
        (1, 1.5, {}, -1.2, 0.0),
        (1, 1.25, {"clip_high": 0.28}, -1.25, -1.25),
        (-1, 4.0, {"dual_clip": 3.0}, 3.0, 0.0),
        (-1, 2.0, {"dual_clip": 3.0}, 2.0, 2.0),
        (1, 4.0, {"dual_clip": 3.0}, -1.2, 0.0),
        (-1, 4.0, {"delta": 2.5}, 2.5, 0.0),
        (-1, 2.0, {"delta": 2.5}, 2.0, 2.0),
    ],
)
def test_branches_of_the_clip(a, rho, extra, loss, slope):
    def value(p):
        return jnp.sum(ppo_clip(p, np.zeros(1), np.full(1, float(a)), **extra))

    got = jax.jit(jax.value_and_grad(value))(np.log(np.float32([rho])))
    np.testing.assert_allclose(got[0], loss, rtol=1e-6)
    np.testing.assert_allclose(got[1], [slope], rtol=1e-6)


def test_levels_of_the_ratio():
    d, m = np.asarray(LOGP - OLD, np.float64), np.asarray(MASK)
    n = m.sum(1, keepdims=True)
    total = (d * m).sum(1, keepdims=True)
    for level, expected in (
        ("token", d),
        ("seq_sum", total),
        ("seq", total / np.maximum(n, 1)),
        ("seq_token", total / np.maximum(n, 1)),
    ):
        got = log_ratio(LOGP, OLD, MASK, level=level)
        np.testing.assert_allclose(got, expected * m, rtol=1e-4, atol=1e-6)
    by_token = jax.grad(lambda p: log_ratio(p, OLD, MASK, level="seq_token")[1, 0])
    np.testing.assert_allclose(by_token(LOGP)[1], [1, 0, 0, 0, 0])
    by_seq = jax.grad(lambda p: log_ratio(p, OLD, MASK, level="seq")[1, 0])
    np.testing.assert_allclose(by_seq(LOGP)[1], [1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    assert float(log_ratio(np.array([99.0]), np.array([0.0]))[0]) == 20


def test_gspo_token_ties_with_gspo():
    """Equal with advantages of sequences and means of means; not with tokens' own."""
    for got, expected in zip(
        slopes(LOSSES["gspo_token"]), slopes(LOSSES["gspo"]), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    a = jnp.asarray(GEN.normal(size=(B, T)), jnp.float32)
    one, other = (slopes(LOSSES[n], a=a)[1] for n in ("gspo_token", "gspo"))
    assert np.abs(one - other).max() > 0.01


def test_cispo():
    """Clipped weights are constants: the gradient never dies and is bounded."""
    rho, a = np.array([0.05, 0.5, 1.5, 8.0]), np.array([1.0, -1, 1, -1])
    logp = np.array([-0.5, -1.0, -2.0, -1.0])
    old = logp - jnp.log(rho)
    for bounds, low, high, weight in (
        ("absolute", 0.0, 5.0, [0.05, 0.5, 1.5, 5]),
        ("around_one", 0.2, 0.28, [0.8, 0.8, 1.28, 1.28]),
        ("absolute", 0.0, 0.2, [0.05, 0.2, 0.2, 0.2]),
    ):
        fn = functools.partial(cispo, low=low, high=high, bounds=bounds)
        slope = jax.grad(lambda p, fn=fn: jnp.sum(fn(p, old, a)))(logp)
        np.testing.assert_allclose(slope, -np.array(weight) * a, rtol=1e-5)


def test_sapo_and_gmpo_by_hand():
    rho = np.exp(np.asarray(LOGP - OLD, np.float64))
    a, m = np.asarray(A)[:, None], np.asarray(MASK)
    tau = np.where(a > 0, 1.0, 1.05)
    gate = 4 / tau / (1 + np.exp(-tau * (rho - 1)))
    np.testing.assert_allclose(sapo(LOGP, OLD, A, MASK), -gate * a * m, rtol=1e-5)
    logs = np.where(a > 0, np.minimum(np.log(rho), 0.1), np.maximum(np.log(rho), -0.1))
    mean = (logs * m).sum(1, keepdims=True) / np.maximum(m.sum(1, keepdims=True), 1)
    got = gmpo(LOGP, OLD, A, MASK, clip_low=0.1, clip_high=0.1)
    np.testing.assert_allclose(got, -a * np.exp(mean) * m, rtol=1e-5)


def test_nft_golden():
    """NFT, arXiv 2505.18116, on policy with r = 1/4: ``-1`` and ``r / (1 - r)`` times
    the weight 1, ``1 - r`` or ``sqrt((1 - r) / r)``.
    """
    zero, rate = np.zeros((2, 1)), np.full(2, 0.25)
    correct = np.array([1.0, 0.0])
    for weight, expected in (
        ("one", (-1, 1 / 3)),
        ("dr_grpo", (-0.75, 0.25)),
        ("grpo", (-1.7321, 0.5774)),
    ):
        fn = functools.partial(nft, weight=weight)
        slope = jax.jit(jax.grad(lambda p, fn=fn: fn(p, zero, correct, rate).sum()))(
            zero
        )
        np.testing.assert_allclose(slope.ravel(), expected, rtol=1e-4)


@pytest.mark.parametrize("right", [1, 2, 5])
def test_nft_ties_with_dr_grpo_and_grpo(right):
    """For any success rate, tokens' losses on policy have the same gradient."""
    correct = (jnp.arange(6) < right).astype(jnp.float32)
    rate = np.full(6, right / 6)
    logp = jnp.asarray(-GEN.uniform(0.1, 3, size=(6, T)), jnp.float32)
    for weight, advantage in (
        ("dr_grpo", group_center(correct[None])),
        ("grpo", group_normalize(correct[None], ddof=0, eps=0.0)),
    ):
        fn = functools.partial(nft, weight=weight)
        got = jax.jit(jax.grad(lambda p, fn=fn: jnp.sum(fn(p, logp, correct, rate))))(
            logp
        )
        expected = jax.grad(lambda p, a=advantage[0]: jnp.sum(ppo_clip(p, logp, a)))(
            logp
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_nft_off_policy():
    """Floors keep the gradient; without wrong answers it is rejection sampling."""
    rate = np.full(2, 0.5)
    correct = np.array([1.0, 0.0])
    old = jnp.log(np.array([[0.5], [0.1]]))
    logp = jnp.log(np.array([[0.8], [0.19]]))  # 1 - r rho = 0.05, under the floor.
    fn = functools.partial(nft, weight="one")
    loss, slope = jax.value_and_grad(lambda p: jnp.sum(fn(p, old, correct, rate)))(logp)
    np.testing.assert_allclose(loss, -np.log(1.6), rtol=1e-5)
    np.testing.assert_allclose(slope.ravel(), [-1, 1.9], rtol=1e-5)
    low = fn(logp, old, correct, rate, floor_neg=0.01)
    np.testing.assert_allclose(low.ravel(), [-np.log(1.6), -np.log(0.1)], rtol=1e-4)
    rft = fn(logp, old, correct, rate, negative=0.0)
    np.testing.assert_allclose(rft.ravel(), [-np.log(1.6), 0], rtol=1e-5)


def test_value_clip():
    v, old, target = np.array([1.0, 3.0, 0.0]), np.ones(3), np.array([0.0, 0.0, 2.0])
    # Inside; outside and the clip is nearer, so the error stays; a step too far back.
    np.testing.assert_allclose(value_clip(v, old, target), [0.5, 4.5, 2.0])
    far = value_clip(np.array([2.0]), np.array([0.0]), np.array([2.0]))
    np.testing.assert_allclose(far, [0.5 * 1.8**2], rtol=1e-6)
    plain = value_clip(np.array([2.0]), np.array([0.0]), np.array([2.0]), clip=None)
    np.testing.assert_allclose(plain, [0.0])


def test_supervised():
    np.testing.assert_allclose(nll(LOGP, MASK), -LOGP * MASK)
    weight = np.array([1.0, 0.0, 2.0, 0.0])
    np.testing.assert_allclose(nll(LOGP, MASK, weight), -LOGP * MASK * weight[:, None])
    # Filtered cloning with no success: weight 0, loss 0, gradient 0.
    none = MASK * 0
    out = aggregate(nll(LOGP, none), none)
    assert float(out.weight) == float(finalize(out)[0]) == 0
    np.testing.assert_allclose(focal_nll(LOGP), -LOGP)
    p = np.exp(np.asarray(LOGP, np.float64))
    np.testing.assert_allclose(
        focal_nll(LOGP, gamma=3.0), -((1 - p) ** 3) * np.log(p), rtol=1e-4
    )
    sure = jax.value_and_grad(lambda x: jnp.sum(focal_nll(x, gamma=0.5)))(np.zeros(2))
    assert float(sure[0]) == 0
    assert np.isfinite(sure[1]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_does_not_leak(name):
    """NaN and infinity under the mask, an empty row, and jit: values and gradients."""
    both = jax.jit(
        jax.value_and_grad(lambda p, o: sequence_mean(LOSSES[name](p, o, A)), (0, 1))
    )
    clean, slope = both(LOGP, OLD)
    for bad in (np.nan, np.inf, -np.inf):
        hidden = MASK == 0
        got, dirty = both(jnp.where(hidden, bad, LOGP), jnp.where(hidden, bad, OLD))
        np.testing.assert_array_equal(got, clean)
        np.testing.assert_array_equal(dirty[0], slope[0])
        np.testing.assert_array_equal(dirty[1], slope[1])
    assert np.isfinite(slope[0]).all()
    assert np.any(slope[0])
    assert not np.any(np.asarray(slope[0])[np.asarray(MASK) == 0])
    # The behaviour's log-probability is a constant; of values it is a bound.
    assert name == "value" or not np.any(slope[1])


@pytest.mark.parametrize("name", ["ppo", "gspo", "cispo", "gmpo", "nft"])
def test_low_precision_is_widened(name):
    """The arithmetic is float32's: only what goes in is rounded."""
    half = [x.astype(jnp.bfloat16) for x in (LOGP, OLD)]
    loss = LOSSES[name](*half, A)
    assert loss.dtype == jnp.float32
    want = LOSSES[name](*(x.astype(jnp.float32) for x in half), A)
    np.testing.assert_allclose(loss, want, rtol=1e-6, atol=1e-7)
    assert np.any(loss != LOSSES[name](LOGP, OLD, A))


LIKE = np.ones(B), np.full(B, 0.25)
SWEEPS = {
    "ppo": (
        lambda p, c: ppo_clip(
            p, OLD, A, MASK, clip_high=c, dual_clip=1 + 4 * c, delta=1 + 2 * c
        ),
        [0.1, 0.5],
    ),
    "cispo": (lambda p, c: cispo(p, OLD, A, MASK, low=c, high=2 * c), [0.4, 0.9]),
    "around": (
        lambda p, c: cispo(p, OLD, A, MASK, low=c, high=2 * c, bounds="around_one"),
        [0.1, 0.4],
    ),
    "nft": (lambda p, c: nft(p, OLD, 0 * A, LIKE[1], MASK, floor_neg=c), [0.1, 1.2]),
    "focal": (lambda p, c: focal_nll(p, MASK, gamma=c), [0.0, 0.5, 2.0]),
    "rollout": (
        lambda p, c: rollout_weight(p, OLD, MASK, low=c, high=2 * c) * p,
        [0.4, 0.7],
    ),
    "quantile": (lambda p, c: entropy_quantile_mask(-p, MASK, top=c) * p, [0.2, 0.7]),
    "shaped": (lambda p, c: mixed_policy_weight(p, MASK, MASK, c=c) * p, [0.1, 0.3]),
    "dpo": (lambda p, c: dpo(p[0], p[1], noise=c), [0.0, 0.2]),
    "exo": (lambda p, c: exo(p[0], p[1], noise=c), [0.01, 0.2]),
    "pairs": (lambda p, c: pair_from_scores(p, margin=c).mask * p[:, 0], [0.0, 2.5]),
    "f_dpo": (
        lambda p, c: f_dpo(p[0], p[1], divergence="alpha", alpha=c),
        [0.0, 0.5, 1.0],
    ),
    "aot": (lambda p, c: aot(p[0], p[1], noise=c), [0.0, 0.2]),
    "ld_dpo": (lambda p, c: ld_dpo(p, OLD, MASK, alpha=c), [0.0, 0.3, 1.0]),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_numbers_are_swept_by_vmap(name):
    """One program for all configurations, with what each gives by itself."""
    fn, configs = SWEEPS[name]

    def both(p, c):
        return jax.value_and_grad(lambda p: jnp.sum(fn(p, c) * weights))(p)

    weights = jnp.arange(1.0, 1 + fn(LOGP, configs[-1]).size)
    weights = weights.reshape(fn(LOGP, configs[-1]).shape)
    swept = jax.jit(jax.vmap(both, (None, 0)))(LOGP, jnp.asarray(configs))
    alone = [both(LOGP, c) for c in configs]
    for got, want in zip(swept, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(got, jnp.stack(want), rtol=1e-5, atol=1e-6)
    assert float(jnp.ptp(swept[0])) > 1e-3


def test_a_donated_mask():
    fn = jax.jit(lambda p, mask: ppo_clip(p, OLD, A, mask), donate_argnums=1)
    want = ppo_clip(LOGP, OLD, A, MASK)
    np.testing.assert_allclose(fn(LOGP, jnp.array(MASK, copy=True)), want, rtol=1e-6)


def test_statistics_of_the_ratio():
    logp = jnp.log(np.array([[0.5, 1.5, 0.5, 1.5, 1.0]]))
    a = np.array([[1.0, 1.0, -1.0, -1.0, 1.0]])
    stats = ratio_stats(logp, np.zeros((1, 5)), a)
    np.testing.assert_array_equal(stats["clip_low"], [[0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(stats["clip_high"], [[0, 1, 0, 0, 0]])
    # Where the clip acts the loss has no gradient, and nowhere else.
    slope = jax.grad(lambda p: jnp.sum(ppo_clip(p, np.zeros((1, 5)), a)))(logp)
    np.testing.assert_array_equal(
        slope == 0, stats["clip_low"] + stats["clip_high"] > 0
    )
    report = finalize(aggregate(logp, aux=stats))[1]
    np.testing.assert_allclose(report["ratio_max"], 1.5, rtol=1e-6)
    np.testing.assert_allclose(
        report["approx_kl"], np.mean(np.exp(logp) - 1 - logp), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ppo_clip(LOGP, OLD[:2], A), r"logp_old has shape \(2, 5\)"),
        (lambda: ppo_clip(LOGP, OLD, A[:2]), r"advantage has shape \(2,\); expected"),
        (lambda: ppo_clip(LOGP, OLD, A, MASK[:, :2]), "mask has shape"),
        (lambda: ppo_clip(LOGP, OLD, A, level="row"), "level is 'row'"),
        (lambda: ppo_clip(LOGP, OLD, A, dual_clip=0.5), "dual_clip is 0.5"),
        (lambda: ppo_clip(LOGP, OLD, A, delta=1.1), "delta is 1.1"),
        (lambda: cispo(LOGP, OLD, A, bounds="one"), "bounds is 'one'"),
        (lambda: cispo(LOGP, OLD, A, low=2.0, high=1.0), "leave no weight"),
        (lambda: nft(LOGP, OLD, A, A, weight="1-r"), "weight is '1-r'"),
        (lambda: nft(LOGP, OLD, A, A, floor_neg=0.0), "floor_neg is 0.0"),
        (lambda: nft(LOGP, OLD, LOGP, A), "correct has shape"),
        (lambda: value_clip(LOGP, OLD, A), "targets has shape"),
        (lambda: nll(LOGP, MASK, A[:2]), "weight has shape"),
        (lambda: log_ratio(A[0], A[0], level="seq"), "logp is a scalar"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
