import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import adaptive_guidance, feedback_guidance

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
VE = jg.VE()


def test_adaptive_guidance_stops_for_good(lookup, context, guided):
    """The cosine of c and u is 0.632456; above the threshold once is unguided after."""
    rows = lookup([U, C, C + 9 * U])
    x0s, state = [], None
    term = adaptive_guidance(2.0, 0, threshold=0.7, space="x0")
    labels = [jnp.array([1, 1]), jnp.array([2, 1]), jnp.array([1, 1])]
    for label in labels:
        ctx = context(jg.VPCosine(), jnp.zeros((2, 3)), 0.5, label)
        x0, state = guided(term, rows, ctx, state)
        x0s.append(np.asarray(x0))
    guide = C + 2 * (C - U)
    np.testing.assert_allclose(x0s[0], [guide, guide], rtol=1e-6)
    np.testing.assert_allclose(x0s[1], [C + 9 * U, guide], rtol=1e-6)
    np.testing.assert_allclose(x0s[2], [C, guide], rtol=1e-6)


def normal(x, t, cond, *, control, capture):
    """The exact denoiser of N(1, 1 / 4) or N(0, 1), by label."""
    mean, variance = (jnp.asarray(a)[cond][:, None] for a in ((1.0, 0.0), (0.25, 1.0)))
    return jg.types.Denoised(
        mean + variance / (variance + t[:, None] ** 2) * (x - mean)
    )


@pytest.mark.exact("The log posterior is that of the sampler's own transitions")
def test_feedback_guidance_follows_the_posterior():
    """The authors' recursion, in numpy, along the sampler's own trajectory."""
    sigmas = [8.0, 5.0, 3.0, 1.5, 0.8, 0.3]
    keys, labels = jg.sample_keys(jax.random.key(0), 4), jnp.zeros(4, int)
    prior, start, stop = 0.9, 0.5, 0.3
    end, seen = jg.sample(
        keys,
        jg.Denoiser(normal, process=VE),
        jg.ddpm(),
        sigmas,
        (3,),
        labels,
        guidance=feedback_guidance(1, prior=prior, start=start, stop=stop),
        steps=5,
        trace=lambda info: (info.x, info.x_next),
    )
    before, after = (np.asarray(a, np.float64) for a in seen)
    s, n = np.asarray(sigmas), 5
    variances = (s[:-1] ** 2 - s[1:] ** 2) * s[1:] ** 2 / s[:-1] ** 2
    rise = np.log((1 - prior) * 3 / 2) / ((1 - start) * n)
    tau = abs(2 * np.interp((1 - stop) * n, np.arange(n), variances) * rise / 10)
    log, least = np.zeros(4), np.log((1 - prior) * 10 / 9)
    for i in range(4):  # The state knows the steps that it has seen the end of.
        kept = (s[i + 1] / s[i]) ** 2
        gap = 0.0
        for sign, label in ((1, labels), (-1, labels + 1)):
            t = jnp.full(4, s[i], jnp.float32)
            x = jnp.asarray(before[i], jnp.float32)
            x0 = np.asarray(normal(x, t, label, control={}, capture=()).x0)
            mean = kept * before[i] + (1 - kept) * x0
            gap = gap + sign * ((after[i] - mean) ** 2).sum(-1)
        log = np.clip(log - tau / (2 * variances[i]) * gap + rise, least, 3)
    got = jax.tree.leaves(end.guidance_state)[0]
    np.testing.assert_allclose(got, log, rtol=1e-3, atol=1e-3)
    assert len({round(float(value), 3) for value in log}) > 1


@pytest.mark.parametrize(
    ("log", "scale"), [(0.0, 1.001001), (-6.802395, 10.0), (3.0, 1.0000498)]
)
def test_feedback_guidance_golden(log, scale, context, lookup):
    """lambda at prior 0.999, whose least log posterior is -6.802395."""
    term = feedback_guidance(0, prior=0.999)
    ctx = context(VE, jnp.zeros((1, 3)), 2.0, jnp.array([1]))
    ctx = ctx._replace(
        kernel=lambda x0: jg.transition.Transition(x0, jnp.float32(0.0)),
        stochastic=True,
        grid=jnp.linspace(4.0, 0.0, 11),
    )
    steered = jg.guided(lookup([U, C]), term)
    state = steered.init(ctx.x)
    leaves, tree = jax.tree.flatten(state)
    leaves[0] = jnp.full_like(leaves[0], log)
    x0, _ = steered(ctx, tree.unflatten(leaves))
    # The scale of 10 is as steep as that; where U and C cancel, 1 is rounded.
    np.testing.assert_allclose(x0[0], U + scale * (C - U), rtol=2e-4, atol=3e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adaptive_guidance(1.0, 0, threshold=2.0), "threshold is 2.0"),
        (lambda: adaptive_guidance(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: feedback_guidance(0, prior=1.0), "prior is 1.0"),
        (lambda: feedback_guidance(0, limit=1.0), "limit is 1.0"),
        (lambda: feedback_guidance(0, start=1.0), "start is 1.0"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_feedback_guidance_needs_noise():
    with pytest.raises(ValueError, match="feedback_guidance needs a solver that draws"):
        jg.sample(
            jg.sample_keys(jax.random.key(0), 2),
            jg.Denoiser(normal, process=VE),
            jg.ddim(),
            [2.0, 1.0],
            (3,),
            jnp.zeros(2, int),
            guidance=feedback_guidance(1),
        )
