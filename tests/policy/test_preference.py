"""Preference losses: values and slopes at the points that define them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    aot,
    apo,
    bradley_terry,
    cpo,
    discopop,
    dpo,
    exo,
    f_dpo,
    hindsight_score,
    hinge,
    ipo,
    kto,
    kto_reference,
    ld_dpo,
    log_collision,
    nca,
    orpo,
    pair_from_scores,
    sequence_logp,
    simpo,
    sppo,
    wpo_weight,
)
from jaxlib_guidance.reduce import aggregate, finalize

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
U_W, U_L = (jnp.asarray(GEN.normal(size=6) * 3, jnp.float32) for _ in range(2))
W, L = np.asarray(U_W, np.float64), np.asarray(U_L, np.float64)
BETA = 0.3


def s(x):
    return 1 / (1 + np.exp(-x))


def m(x):
    return s(BETA * x / 0.05)


FORMULAS = {
    dpo: lambda d: -np.log(s(BETA * d)),
    ipo: lambda d: (d - 1 / (2 * BETA)) ** 2,
    hinge: lambda d: np.maximum(0, 1 - BETA * d),
    nca: lambda d: (
        -np.log(s(BETA * W)) - 0.5 * np.log(s(-BETA * W)) - 0.5 * np.log(s(-BETA * L))
    ),
    sppo: lambda d: (W - 1 / (2 * BETA)) ** 2 + (L + 1 / (2 * BETA)) ** 2,
    apo: lambda d: 1 - s(BETA * W) + s(BETA * L),
    functools.partial(apo, anchor="down"): lambda d: s(BETA * W) + 1 - s(BETA * d),
    discopop: lambda d: (1 - m(d)) * -np.log(s(BETA * d)) + m(d) * np.exp(-BETA * d),
    functools.partial(exo, noise=0.1): lambda d: (
        s(BETA * d) * np.log(s(BETA * d) / 0.9)
        + s(-BETA * d) * np.log(s(-BETA * d) / 0.1)
    ),
    cpo: lambda d: -np.log(s(BETA * d)) - W,
    functools.partial(simpo, margin=0.5): lambda d: -np.log(s(BETA * d - 0.5)),
}


@pytest.mark.parametrize("loss", FORMULAS, ids=range(len(FORMULAS)))
def test_formulas(loss, one_program):
    fn = one_program(loss)
    got = fn(U_W, U_L, beta=BETA)
    np.testing.assert_allclose(got, FORMULAS[loss](W - L), rtol=1e-4, atol=1e-6)
    half = fn(U_W.astype(jnp.bfloat16), U_L.astype(jnp.bfloat16), beta=BETA)
    assert half.dtype == jnp.float32


def test_points_that_define_them():
    """Where each paper's loss has its value, slope or minimum by its formula."""
    zero = np.zeros(())
    value, slope = jax.value_and_grad(lambda u: dpo(u, zero, beta=BETA))(zero)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, -BETA / 2, rtol=1e-6)
    best = jax.grad(lambda u: ipo(u, zero, beta=BETA))(jnp.float32(1 / (2 * BETA)))
    np.testing.assert_allclose(best, 0, atol=1e-6)
    # EXO ends where the policy's preference is the smoothed label.
    at = jnp.log(0.9 / 0.1) / BETA
    np.testing.assert_allclose(exo(at, zero, beta=BETA, noise=0.1), 0, atol=1e-6)


def test_discopop_at_any_margin():
    """Against float64, where one of its factors overflows float32 and before."""
    both = jax.jit(jax.value_and_grad(lambda u: discopop(u, jnp.float32(0), beta=0.1)))
    for u in (-1e6, -1000.0, -880.0, -50.0, -1.0, 0.0, 1.0, 50.0, 1000.0, 1e6):
        d = 0.1 * u
        modulation = np.exp(-np.logaddexp(0, -d / 0.05))
        expected = (1 - modulation) * np.logaddexp(0, -d)
        expected += np.exp(-np.logaddexp(0, -d / 0.05) - d)
        value, slope = both(np.float32(u))
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-30)
        assert np.isfinite(slope)
        if d < -5:
            np.testing.assert_allclose(slope, -0.1, rtol=1e-2)


def test_noisy_labels():
    clean = dpo(U_W, U_L)
    for correct in (True, False):
        np.testing.assert_allclose(dpo(U_W, U_L, noise=0.0, correct=correct), clean)
    # Over labels that flip at the rate, robust DPO is the clean loss on average.
    seen, flipped = dpo(U_W, U_L, noise=0.2), dpo(U_L, U_W, noise=0.2)
    np.testing.assert_allclose(0.8 * seen + 0.2 * flipped, clean, rtol=1e-4, atol=1e-5)
    # The conservative one has its minimum where the preference is 1 - noise.
    at = jnp.log(0.8 / 0.2) / 0.1
    slope = jax.grad(lambda u: dpo(u, 0 * u, noise=0.2, correct=False))(at)
    np.testing.assert_allclose(slope, 0, atol=1e-7)


def test_kto():
    u = np.array([1.0, 1.0, -2.0])
    good = np.array([1.0, 0.0, 1.0])
    np.testing.assert_allclose(kto(u, good, u), 0.5)
    got = kto(u, good, jnp.float32(0.4), beta=0.5, weight_undesirable=1.3)
    expected = [1 - s(0.3), 1.3 * (1 - s(-0.3)), 1 - s(-1.2)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    slope = jax.grad(lambda u: jnp.sum(kto(u, good, jnp.float32(0.4))))(u)
    np.testing.assert_array_equal(np.sign(slope), [-1, 1, -1])
    mask = np.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(kto_reference(u, mask), 1.0)
    assert float(kto_reference(-u, mask)) == 0
    assert not np.any(jax.grad(lambda u: kto_reference(u, mask))(u))


def test_orpo():
    p, q = np.array([0.6, 0.2]), np.array([0.5, 0.7])
    got = orpo(*(jnp.asarray(np.log(x), jnp.float32) for x in (p, q)))
    ratio = (p / (1 - p)) / (q / (1 - q))
    np.testing.assert_allclose(
        got, -np.log(p) - 0.1 * np.log(ratio / (1 + ratio)), rtol=1e-5
    )
    # Finite, and downhill, up to certainty.
    for near in (0.0, -1e-30, -1e-9, -1e-3):
        for pair in ((near, -1.0), (-1.0, near), (near, near)):
            value, slope = jax.value_and_grad(orpo, (0, 1))(*map(jnp.float32, pair))
            assert np.isfinite(value)
            assert np.isfinite(slope).all()


def test_bradley_terry():
    np.testing.assert_allclose(
        bradley_terry(U_W, U_L, margin=0.5, center=0.01),
        -np.log(s(W - L - 0.5)) + 0.01 * (W + L) ** 2,
        rtol=1e-4,
    )


def test_sequence_logp():
    logp = np.array([[-1.0, -2.0, jnp.nan], [jnp.nan] * 3])
    mask = np.array([[1.0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(sequence_logp(logp, mask), [-3, 0])
    np.testing.assert_allclose(sequence_logp(logp, mask, mean=True), [-1.5, 0])


GENERATORS = {
    "reverse_kl": lambda r, a: r * jnp.log(r),
    "forward_kl": lambda r, a: -jnp.log(r),
    "js": lambda r, a: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2),
    "alpha": lambda r, a: (r ** (1 - a) - (1 - a) * r - a) / (a * (a - 1)),
}


@pytest.mark.parametrize("divergence", GENERATORS)
def test_f_dpo_is_the_slope_of_its_generator(divergence):
    extra = {"alpha": 0.4} if divergence == "alpha" else {}
    slope = jax.vmap(jax.grad(lambda r: GENERATORS[divergence](r, 0.4)))
    margin = slope(jnp.exp(U_W)) - slope(jnp.exp(U_L))
    got = f_dpo(U_W, U_L, divergence=divergence, beta=BETA, **extra)
    want = np.logaddexp(0, -BETA * np.asarray(margin, np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    # Finite, also where the ratio or its inverse overflows.
    far = np.array([-1e4, -90, 0, 90, 1e4], np.float32)
    both = jax.value_and_grad(
        lambda u: jnp.sum(f_dpo(u, far[::-1], divergence=divergence, **extra))
    )
    assert all(np.isfinite(leaf).all() for leaf in both(far))


def test_f_dpo_between_the_two_divergences():
    """DPO at 0 and the forward divergence at 1; TRL's coefficient is 1 - alpha."""
    fn = functools.partial(f_dpo, U_W, U_L, beta=BETA)
    np.testing.assert_array_equal(fn(divergence="reverse_kl"), dpo(U_W, U_L, beta=BETA))
    for alpha, same in ((0.0, "reverse_kl"), (1.0, "forward_kl")):
        got = fn(divergence="alpha", alpha=alpha)
        np.testing.assert_allclose(got, fn(divergence=same), rtol=1e-4, atol=1e-6)
    near = fn(divergence="alpha", alpha=1e-3)
    np.testing.assert_allclose(near, dpo(U_W, U_L, beta=BETA), rtol=0.05)
    # TRL f2cd577, coefficient 0.7: exp((0.7 - 1) u) / (0.7 - 1).
    margin = (np.exp(-0.3 * W) - np.exp(-0.3 * L)) / -0.3
    got = fn(divergence="alpha", alpha=0.3)
    np.testing.assert_allclose(got, np.logaddexp(0, -BETA * margin), rtol=1e-4)


def test_aot():
    got = aot(U_W, U_L, beta=BETA)
    delta = np.sort(W) - np.sort(L)
    order = np.argsort(W)
    want = np.logaddexp(0, -BETA * delta)
    np.testing.assert_allclose(got[order], want, rtol=1e-5)
    # TRL f2cd577 smooths the labels.
    smooth = 0.8 * want + 0.2 * np.logaddexp(0, BETA * delta)
    np.testing.assert_allclose(
        aot(U_W, U_L, beta=BETA, noise=0.2)[order], smooth, rtol=1e-5
    )
    # The order of neither sample matters, and sorted samples are DPO's pairs.
    mix = GEN.permutation(6)
    np.testing.assert_allclose(aot(U_W, U_L[mix], beta=BETA), got)
    np.testing.assert_allclose(aot(U_W[mix], U_L, beta=BETA), got[mix])
    rank = np.sort(U_W), np.sort(U_L)
    np.testing.assert_allclose(aot(*rank, beta=BETA), dpo(*rank, beta=BETA))
    # Both samples learn; what is masked is in no quantile and has no gradient.
    both = jax.jit(
        jax.value_and_grad(lambda x, y, m: jnp.sum(aot(x, y, m, beta=BETA)), (0, 1))
    )
    clean, slopes = both(U_W, U_L, np.ones(6))
    assert all(np.all(slope != 0) for slope in slopes)
    np.testing.assert_allclose(slopes[0].sum(), -slopes[1].sum(), rtol=1e-5)
    more = [jnp.insert(u, 2, jnp.nan) for u in (U_W, U_L)]
    padded, slopes = both(*more, np.insert(np.ones(6), 2, 0))
    np.testing.assert_allclose(padded, clean, rtol=1e-6)
    assert all(slope[2] == 0 for slope in slopes)
    assert np.isfinite(slopes).all()


def test_wpo_weight():
    """Tokens of the policy itself weigh 1 on average, whatever its entropy."""
    logits = (
        jnp.asarray(GEN.normal(size=(3, 7)) * 2, jnp.float32).at[1, 2].set(-jnp.inf)
    )
    logp = jax.nn.log_softmax(logits)
    agree = log_collision(logits)
    p = np.exp(np.asarray(logp, np.float64))
    np.testing.assert_allclose(np.exp(agree), (p**2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        (p * np.exp(logp - agree[:, None])).sum(-1), 1, rtol=1e-5
    )
    # run_wpo.py: the product of both answers' means, at most 1.
    mean = np.array([-1.0, -0.2, 0.3]), np.array([-0.5, 0.1, 0.2])
    want = np.exp(mean[0] + mean[1])
    np.testing.assert_allclose(wpo_weight(*mean, max_weight=None), want, rtol=1e-6)
    np.testing.assert_allclose(wpo_weight(*mean), np.minimum(want, 1), rtol=1e-6)
    assert not np.any(jax.grad(lambda m: jnp.sum(wpo_weight(m, mean[1])))(mean[0]))


def test_ld_dpo():
    ratio_w, ratio_l = (GEN.normal(size=(3, n)).astype(np.float32) for n in (6, 5))
    mask_w = np.arange(6) < np.array([[6], [2], [3]])
    mask_l = np.arange(5) < np.array([[2], [5], [3]])
    # A prompt in front and a hole: places are counted on the answer only.
    ratio_w, mask_w = (np.insert(x, [0, 2], 0, 1) for x in (ratio_w, mask_w))
    hidden = np.where(mask_w, ratio_w, np.nan), np.where(mask_l, ratio_l, np.nan)
    fn = functools.partial(ld_dpo, *hidden, mask_w, mask_l, beta=BETA)

    def oracle(alpha):
        out = []
        for w, l, m, k in zip(ratio_w, ratio_l, mask_w, mask_l, strict=True):
            w, l = w[m].astype(np.float64), l[k].astype(np.float64)
            n = min(len(w), len(l))
            u = [x[:n].sum() + alpha * x[n:].sum() for x in (w, l)]
            out.append(np.logaddexp(0, -BETA * (u[0] - u[1])))
        return out

    for alpha in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(fn(alpha=alpha), oracle(alpha), rtol=1e-5)
    whole = [sequence_logp(*x) for x in zip(hidden, (mask_w, mask_l), strict=True)]
    np.testing.assert_allclose(fn(alpha=1.0), dpo(*whole, beta=BETA), rtol=1e-6)
    # Answers of one length do not feel it, and NaN under the mask is not felt.
    np.testing.assert_allclose(fn(alpha=0.0)[2], fn(alpha=1.0)[2], rtol=1e-6)
    slope = jax.grad(
        lambda w: jnp.sum(ld_dpo(w, hidden[1], mask_w, mask_l, alpha=0.0))
    )(hidden[0])
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(np.asarray(slope != 0).sum(1), [2, 2, 3])


def test_pairs():
    scores = np.array([[1.0, 3, 2], [5, 5, 5], [0, 0.4, 0.1]])
    chosen, rejected, use = pair_from_scores(scores)
    np.testing.assert_array_equal(chosen, [1, 0, 1])
    np.testing.assert_array_equal(rejected, [0, 0, 0])
    np.testing.assert_array_equal(use, [1, 0, 1])
    np.testing.assert_array_equal(pair_from_scores(scores, margin=1.0).mask, [1, 0, 0])
    # A missing score is neither best nor worst; a group without scores is no pair.
    known = np.array([[1.0, 0, 1], [1, 0, 0], [0, 0, 0]])
    masked = pair_from_scores(jnp.where(known > 0, scores, jnp.nan), known)
    np.testing.assert_array_equal(masked.chosen[:1], [2])
    np.testing.assert_array_equal(masked.mask, [1, 0, 0])
    # Judges by their distance to gold (self-rationalization).
    judged = pair_from_scores(-jnp.abs(np.array([2.0, 7, 4]) - 4.2))
    assert (int(judged.chosen), int(judged.rejected)) == (2, 1)
    # All guided attempts fail: no pair, loss 0, finite gradient (Agent-RLVR).
    none = pair_from_scores(np.zeros((2, 2))).mask

    def value(u):
        return finalize(aggregate(dpo(u, 0 * u), none))[0]

    loss, slope = jax.value_and_grad(value)(np.ones(2))
    assert float(loss) == 0
    assert not np.any(slope)


def test_hindsight():
    """Where outcomes do not change utility it is the immediate judgement."""
    now = np.array([0.3, 0.9])
    later = jnp.broadcast_to(now[:, None], (2, 5))
    np.testing.assert_allclose(hindsight_score(later), now, rtol=1e-6)
    # What sounds good turns out badly: the pair is the other way round.
    outcomes = np.array([[0.5, 0.6, 0.7], [0.9, 0.1, 0.0]])
    assert int(pair_from_scores(now).chosen) == 1
    assert int(pair_from_scores(hindsight_score(outcomes)).chosen) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dpo(U_W, U_L[:2]), r"u_l has shape \(2,\); expected \(6,\)"),
        (lambda: dpo(U_W, U_L, noise=0.5), "noise is 0.5"),
        (lambda: exo(U_W, U_L, noise=0.0), "noise is 0.0"),
        (lambda: apo(U_W, U_L, anchor="up"), "anchor is 'up'"),
        (lambda: kto(U_W, U_L[:2], 0.0), "desirable has shape"),
        (lambda: kto(U_W, U_L, np.zeros((6, 1))), "z has shape"),
        (lambda: bradley_terry(U_W, U_L, margin=np.zeros((6, 1))), "margin has shape"),
        (lambda: f_dpo(U_W, U_L, divergence="kl"), "divergence is 'kl'"),
        (
            lambda: f_dpo(U_W, U_L, divergence="alpha"),
            'alpha is for divergence "alpha"',
        ),
        (lambda: f_dpo(U_W, U_L, divergence="js", alpha=0.5), "it is 0.5 for 'js'"),
        (lambda: f_dpo(U_W, U_L, divergence="alpha", alpha=2.0), "alpha is 2.0"),
        (lambda: f_dpo(U_W, U_L[:2], divergence="js"), "u_l has shape"),
        (lambda: aot(U_W[None], U_L[None]), r"x has shape \(1, 6\); expected \[B\]"),
        (lambda: aot(U_W, U_L[:2]), "y has shape"),
        (lambda: aot(U_W, U_L, noise=0.5), "noise is 0.5"),
        (lambda: wpo_weight(U_W, U_L[:2]), "mean_l has shape"),
        (lambda: ld_dpo(U_W, U_L, alpha=1.1), "alpha is 1.1"),
        (lambda: ld_dpo(U_W[None], U_L, alpha=1.0), r"\(1, 6\) and ratio_l \(6,\)"),
        (lambda: ld_dpo(U_W, U_L, U_W[:2], alpha=1.0), "mask_w has shape"),
        (lambda: pair_from_scores(U_W, margin=-1.0), "margin is -1.0"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


OF_ANSWERS = {
    **{"dpo": dpo, "ipo": ipo, "hinge": hinge, "exo": exo, "nca": nca, "sppo": sppo},
    **{"apo": apo, "discopop": discopop, "simpo": simpo, "orpo": orpo, "cpo": cpo},
    "f_dpo": functools.partial(f_dpo, divergence="js"),
    "wpo_weight": wpo_weight,
    "kto": functools.partial(kto, z=0.0),
}


@pytest.mark.parametrize("name", OF_ANSWERS)
def test_numbers_of_tokens_are_none_of_answers(name):
    tokens = jnp.zeros((3, 5)) - 1
    with pytest.raises(ValueError, match=r"\(3, 5\); expected \[B\].*sequence_logp"):
        OF_ANSWERS[name](tokens, tokens + 1)


def test_ids_of_tokens_are_no_log_probabilities():
    with pytest.raises(TypeError, match="logp is int32; expected floating-point"):
        sequence_logp(jnp.arange(4))
