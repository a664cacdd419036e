"""Preference losses: values and slopes at the points that define them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy.pairs import hindsight_score, pair_from_scores
from jaxlib_guidance.policy.preference import (
    apo,
    bradley_terry,
    cpo,
    discopop,
    dpo,
    exo,
    hinge,
    ipo,
    kto,
    kto_reference,
    nca,
    orpo,
    sequence_logp,
    simpo,
    sppo,
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
    """specs/policy_llm.md, section 2.5."""
    zero = np.zeros(())
    value, slope = jax.value_and_grad(lambda u: dpo(u, zero, beta=BETA))(zero)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, -BETA / 2, rtol=1e-6)
    best = jax.grad(lambda u: ipo(u, zero, beta=BETA))(jnp.float32(1 / (2 * BETA)))
    np.testing.assert_allclose(best, 0, atol=1e-6)
    # EXO ends where the policy's preference is the smoothed label.
    at = jnp.log(0.9 / 0.1) / BETA
    np.testing.assert_allclose(exo(at, zero, beta=BETA, noise=0.1), 0, atol=1e-6)


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
        (lambda: pair_from_scores(U_W, margin=-1.0), "margin is -1.0"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
