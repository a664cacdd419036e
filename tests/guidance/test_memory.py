"""Terms that remember: sliding mode, transition point, history, dynamic negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    dynamic_negative,
    higs,
    momentum_guidance,
    smc_cfg,
    transition_point,
)

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
PAST = np.array([1.5, 0.5, 0.5])
D = C - U
FLOW = jg.RectifiedFlow()


@pytest.fixture
def along(lookup, context, guided):
    """Estimates of a term where the conditional and the null are given in turn."""

    def along(term, *rows, t=0.5, process=FLOW):
        state, got = None, []
        for c, u in rows:
            ctx = context(process, jnp.zeros((1, 3)), t, jnp.array([1]))
            x0, state = guided(term, lookup([u, c]), ctx, state)
            got.append(np.asarray(x0)[0])
        return got

    return along


def test_smc_cfg_golden(along):
    """``d' = d - k sign(d + 4 d'_last)``, elementwise, or along its unit vector."""
    past = PAST - U
    first, second = along(smc_cfg(3.0, 0, space="x0"), (PAST, U), (C, U))
    corrected = past - 0.2 * np.sign(past)  # The surface is 5 d.
    np.testing.assert_allclose(first, U + 3 * corrected, rtol=1e-5)
    surface = D + 4 * corrected
    want = U + 3 * (D - 0.2 * np.sign(surface))
    np.testing.assert_allclose(second, want, rtol=1e-5)
    unit = smc_cfg(3.0, 0, switch="unit", gain=0.5, space="x0")
    want = U + 3 * (D - 0.5 * D / 3**0.5)
    np.testing.assert_allclose(along(unit, (C, U))[0], want, rtol=1e-5)
    plain = along(smc_cfg(3.0, 0, gain=0.0), (PAST, U), (C, U))[1]
    np.testing.assert_allclose(plain, U + 3 * D, rtol=1e-5)


def test_transition_point_waits_for_a_minimum(along):
    """Sizes 3, 2, 1, 2, 3: guided from the fourth on, and not from the third."""
    term = transition_point(4.0, 0, opposite=0.5, space="x0")
    sizes = (3.0, 2.0, 1.0, 2.0, 3.0)
    got = along(term, *((U + size * D, U) for size in sizes))
    scales = (-0.5, -0.5, -0.5, 4.0, 4.0)
    for x0, size, scale in zip(got, sizes, scales, strict=True):
        np.testing.assert_allclose(x0, U + scale * size * D, rtol=1e-5)
    never = along(term, *((U + size * D, U) for size in (1.0, 2.0, 3.0)))
    np.testing.assert_allclose(never[2], U - 0.5 * 3 * D, rtol=1e-5)


def test_higs_golden(along):
    """h = 0.75 (1.5, 0.5, 0.5) at n = 0.675, half-way through the window."""
    term = higs(2.0)
    guided = (3 * C - 2 * U, U)
    first, second = along(term, (PAST, U), guided, t=0.675)
    np.testing.assert_allclose(first, PAST, rtol=1e-6)
    want = (8.065864, -5.358757, 6.712311)
    np.testing.assert_allclose(second, want, rtol=1e-5)
    # Without the part along the estimate the change is perpendicular to it.
    across = along(higs(2.0, eta=0.0), (PAST, U), guided, t=0.675)[1] - guided[0]
    assert abs(across @ guided[0]) < 1e-4
    assert np.abs(across).max() > 0.1
    for t in (0.4, 0.96):
        got = along(term, (PAST, U), guided, t=t)[1]
        np.testing.assert_allclose(got, guided[0], rtol=1e-6)


@pytest.mark.exact("A prediction that does not change is left alone")
@pytest.mark.parametrize(
    "term", [higs(2.0, normalise=True), momentum_guidance(0.5, space="x0")]
)
def test_memories_of_a_constant_change_nothing(term, along):
    """The published history of HiGS, which is not normalised, adds a quarter."""
    for x0 in along(term, *[(C, U)] * 4, t=0.675):
        np.testing.assert_allclose(x0, C, rtol=1e-5)
    biased = along(higs(2.0), (C, U), (C, U), t=0.675)[1]
    np.testing.assert_allclose(biased, C + 2**0.5 * C / 4, rtol=1e-5)


def normal(x, t, cond, *, control, capture):
    """The exact denoiser of N(0, 1) or N(1, 1 / 4), by label."""
    mean, variance = (jnp.asarray(a)[cond][:, None] for a in ((0.0, 1.0), (1.0, 0.25)))
    gain = variance / (variance + t[:, None] ** 2)
    return jg.types.Denoised(mean + gain * (x - mean))


@pytest.mark.exact("The odds of the negative are its likelihood ratio along the path")
def test_dynamic_negative_follows_the_posterior():
    """At temperature 1 ``log p`` grows by the log ratio of the step's densities."""
    sigmas = np.array([8.0, 5.0, 3.0, 1.5, 0.8])
    keys, labels = jg.sample_keys(jax.random.key(0), 4), jnp.zeros(4, int)
    term = dynamic_negative(0.3, 1, prior=1e-3, temperature=1.0)
    net = jg.Denoiser(normal, process=jg.VE())
    end, seen = jg.sample(
        *(keys, net, jg.ddpm(), sigmas, (3,), labels),
        guidance=term,
        steps=4,
        trace=lambda info: (info.x, info.x_next),
    )
    before, after = (np.asarray(a, np.float64) for a in seen)
    log = np.full(4, np.log(1e-3))
    for i in range(3):  # The state knows the steps that it has seen the end of.
        kept = (sigmas[i + 1] / sigmas[i]) ** 2
        variance = sigmas[i + 1] ** 2 * (1 - kept)
        x, t = jnp.asarray(before[i], jnp.float32), jnp.full(4, sigmas[i], jnp.float32)
        for sign, label in ((1, labels + 1), (-1, labels)):
            x0 = np.asarray(normal(x, t, label, control={}, capture=()).x0)
            mean = kept * before[i] + (1 - kept) * x0
            log -= sign * ((after[i] - mean) ** 2).sum(-1) / (2 * variance)
        log = np.clip(log, np.log(1e-6), np.log(0.99))
    got = jax.tree.leaves(end.guidance_state)[0]
    np.testing.assert_allclose(got, log, rtol=1e-3, atol=1e-3)
    assert len({round(float(value), 3) for value in log}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: smc_cfg(1.0, 0, gain=-1.0), "smc_cfg's gain is -1.0"),
        (lambda: smc_cfg(1.0, 0, switch="tanh"), "switch is 'tanh'"),
        (lambda: higs(1.0, alpha=0.0), "higs's alpha is 0.0"),
        (lambda: higs(1.0, start=0.2), "expected 0 <= stop < start <= 1"),
        (lambda: dynamic_negative(1.0, 0, prior=1.0), "prior is 1.0"),
        (lambda: transition_point(1.0, 0, space="noise"), "space is 'noise'"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
