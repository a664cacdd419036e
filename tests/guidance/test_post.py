import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    apg,
    clip_x0,
    dynamic_threshold,
    rescale_norm,
    rescale_std,
)

C, U = (2.0, 0.0, 1.0), (1.0, 1.0, 0.0)
PROCESS = jg.VPCosine()
SPACES = ("x0", "eps", "v", "velocity", "score")


@pytest.fixture
def golden(lookup, context, guided):
    """The guided estimate for c = (2, 0, 1) and u = (1, 1, 0)."""

    def golden(*terms):
        ctx = context(PROCESS, jnp.zeros((1, 3)), 0.5, jnp.array([1]))
        return np.asarray(guided(jg.chain(*terms), lookup([U, C]), ctx)[0])[0]

    return golden


# Worked by hand: rescaling from Lin et al., arXiv 2305.08891, eq. 15 and 16, with the
# scale 7.5; projection from Sadat et al., arXiv 2410.02416, algorithm 1, scale 3.


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (0.0, (8.5, -6.5, 7.5)),
        (0.7, (3.259474, -2.492539, 2.876006)),
        (1.0, (1.013534, -0.775055, 0.894295)),
    ],
)
def test_rescale_std_golden(phi, expected, golden):
    x0 = golden(jg.cfg(jg.cfg_scale(7.5), 0), rescale_std(phi))
    np.testing.assert_allclose(x0, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("eta", "expected"), [(0.0, (1.6, -2.0, 1.8)), (1.0, (4.0, -2.0, 3.0))]
)
def test_apg_golden(eta, expected, golden):
    x0 = golden(apg(jg.cfg_scale(3.0), 0, eta=eta, momentum=0.0))
    np.testing.assert_allclose(x0, expected, rtol=1e-5)


def test_apg_is_continuous_where_it_is_off(golden):
    """diffusers jumps between s = 1 and 1.0001; ``c + (s - 1) g`` does not."""
    for weight, gap in ((0.0, 0.0), (1e-4, 1e-3)):
        off = golden(apg(jnp.asarray(weight), 0))
        np.testing.assert_allclose(off, C, atol=gap)


def test_apg_threshold_and_momentum(lookup, context, guided):
    """|d| = sqrt 3; second step m = d + beta d, third m = d + beta (1 + beta) d."""
    ctx = context(PROCESS, jnp.zeros((1, 3)), 0.5, jnp.array([1]))
    c, d = np.array(C), np.array(C) - np.array(U)
    denoiser = lookup([U, C])
    x0, _ = guided(apg(2.0, 0, eta=1.0, norm_threshold=0.5), denoiser, ctx)
    np.testing.assert_allclose(x0[0], c + 2 * d * 0.5 / 3**0.5, rtol=1e-6)
    state = None
    for m in (1.0, 0.5, 0.75):
        x0, state = guided(apg(2.0, 0, eta=1.0, momentum=-0.5), denoiser, ctx, state)
        np.testing.assert_allclose(x0[0], c + 2 * m * d, rtol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_nonlinear_terms_work_in_the_space_they_name(space, lookup, context, guided):
    """Against the same formulas written in that space with numpy."""
    x, t = jnp.array([[0.3, -1.2, 0.8]]), jnp.float32(0.4)
    ctx = context(PROCESS, x, t, jnp.array([1]))
    c, u = (
        np.asarray(
            jg.diffusion.from_x0(PROCESS, space, jnp.array([a]), x, t), np.float64
        )
        for a in (C, U)
    )
    y = c + 2.5 * (c - u)
    y = 0.7 * y * c.std() / y.std() + 0.3 * y
    rescaled, _ = guided(
        jg.chain(jg.cfg(2.5, 0), rescale_std(0.7, space=space)), lookup([U, C]), ctx
    )
    d = c - u
    d = d * min(1, 0.4 / np.linalg.norm(d))
    parallel = (d * c).sum() / (c * c).sum() * c
    z = c + 2.5 * (d - parallel + 0.2 * parallel)
    projected, _ = guided(
        apg(2.5, 0, eta=0.2, momentum=0.0, norm_threshold=0.4, space=space),
        lookup([U, C]),
        ctx,
    )
    for value, x0 in ((y, rescaled), (z, projected)):
        there = jg.diffusion.to_x0(
            PROCESS, space, jnp.asarray(value, jnp.float32), x, t
        )
        np.testing.assert_allclose(x0, there, rtol=1e-4, atol=1e-5)


def test_eps_that_says_nothing_changes_nothing(lookup, context, guided):
    """At alpha = 0 eps does not depend on x0."""
    flow = jg.RectifiedFlow()
    ctx = context(flow, jnp.ones((1, 3)), 1.0, jnp.array([1]))
    terms = (rescale_std(0.7, space="eps"), apg(1.0, 0, space="eps"))
    for term in terms:
        x0, _ = guided(jg.chain(term), lookup([U, C]), ctx)
        np.testing.assert_array_equal(x0, [C])


def push(*values):
    """An energy on the estimate that is linear, so its gradient is ``values``."""
    slope = jnp.array(values, jnp.float32)
    return jg.energy(lambda x0, ctx: x0 @ slope, -1.0, through="denoised")


@pytest.mark.parametrize(
    ("low", "high", "ratio"), [(0.33, 3.0, 3.0), (1.5, 1.5, 1.5), (0.1, 9.0, 5.0)]
)
def test_rescale_norm_is_guide_and_rescale(low, high, ratio, golden, context):
    """r = 5: bounds (0.33, 3) give gamma = 0.6 and norm 3 |ref| (arXiv 2409.01322)."""
    t = jnp.float32(0.5)
    variance = float(PROCESS.sigma(t) ** 2)
    size = 5 * 3**0.5 / variance
    x0 = golden(jg.cfg(1.0, 0), rescale_norm(push(0, 0, size), low, high))
    c, d = np.array(C), np.array(C) - np.array(U)
    np.testing.assert_allclose(x0, c + d + [0, 0, ratio * 3**0.5], rtol=1e-5)


def test_rescale_norm_of_several_terms_relative_to_one(golden, context):
    """The sum of the wrapped terms is scaled, by the norm of the term that is named."""
    total = golden(
        jg.cfg(1.0, 0),
        push(0, 7.0, 0),
        rescale_norm(
            jg.chain(push(3.0, 0, 0), push(0, 0, 4.0)),
            2.0,
            2.0,
            relative_to=jg.cfg(1.0, 0),
        ),
    )
    before = golden(jg.cfg(1.0, 0), push(0, 7.0, 0))
    np.testing.assert_allclose(
        total - before, 2 * 3**0.5 * np.array([0.6, 0, 0.8]), rtol=1e-5, atol=1e-6
    )


def test_rescale_norm_at_zero(golden):
    """A zero part or a zero reference gives zero, with finite gradients."""
    nothing = push(0.0, 0.0, 0.0)
    np.testing.assert_array_equal(golden(rescale_norm(push(1, 0, 0), 1, 2)), C)
    both = golden(jg.cfg(1.0, 0), rescale_norm(nothing, 1.0, 2.0))
    np.testing.assert_array_equal(both, 2 * np.array(C) - np.array(U))


def test_gradients_at_zero_are_finite(lookup, context):
    """Every norm here is that of a zero vector."""
    ctx = context(PROCESS, jnp.zeros((2, 3)), 0.5, jnp.array([0, 1]))
    zero = lookup(np.zeros((2, 3)))

    def total(w):
        guidance = jg.chain(
            apg(w, 0, norm_threshold=1.0),
            rescale_norm(push(0.0, 0.0, 0.0), 0.3, w),
            rescale_std(w),
            dynamic_threshold(limit=w),
        )
        steered = jg.guided(zero, guidance)
        x0, state = steered(ctx, steered.init(ctx.x))
        return jnp.sum(x0) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(state))

    value, slope = jax.jit(jax.value_and_grad(total))(jnp.float32(2.0))
    assert value == 0
    assert np.isfinite(slope)


def test_clip_x0(lookup, context, guided):
    ctx = context(PROCESS, jnp.zeros((2, 3)), 0.5, jnp.array([0, 1]))
    denoiser = lookup([[-3.0, 0.5, 1.2], [0.1, -0.2, 0.3]])
    x0, _ = guided(clip_x0(), denoiser, ctx)
    np.testing.assert_allclose(x0, [[-1, 0.5, 1], [0.1, -0.2, 0.3]], rtol=1e-6)


def test_dynamic_threshold(lookup, context, guided):
    """numpy's percentile as the oracle; within the limit it is the identity."""
    rng = np.random.default_rng(0)
    rows = np.stack([3 * rng.normal(size=50), 0.2 * rng.normal(size=50)])
    rows[1] = np.clip(rows[1], -1, 1)
    ctx = context(PROCESS, jnp.zeros((2, 50)), 0.5, jnp.array([0, 1]))
    x0, _ = guided(dynamic_threshold(90.0), lookup(rows), ctx)
    s = np.percentile(np.abs(rows[0]), 90.0)
    np.testing.assert_allclose(x0[0], np.clip(rows[0], -s, s) / s, rtol=1e-5)
    np.testing.assert_array_equal(x0[1], rows[1].astype(np.float32))
    wide, _ = guided(dynamic_threshold(90.0, limit=2.0), lookup(rows), ctx)
    np.testing.assert_allclose(wide[0], np.clip(rows[0], -s, s) * 2 / s, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rescale_std(0.7, space="noise"), "space is 'noise'"),
        (lambda: apg(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: rescale_norm(push(1.0), 3.0, 0.3), "low 3.0 and high 0.3"),
        (lambda: rescale_norm(push(1.0), -1.0, 0.3), "low -1.0"),
        (lambda: clip_x0(1.0, -1.0), "expected low < high"),
        (lambda: dynamic_threshold(0.0), "percentile is 0.0"),
        (lambda: dynamic_threshold(101), "percentile is 101"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_relative_to_an_energy():
    with pytest.raises(TypeError, match="relative_to has an energy"):
        rescale_norm(jg.cfg(1.0, 0), 0.3, 3.0, relative_to=push(1.0))


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (rescale_std(jnp.ones(2)), "rescale_std's phi"),
        (apg(jnp.ones(2), 0), "apg's weight"),
        (apg(1.0, 0, momentum=jnp.ones(2)), "apg's momentum"),
        (rescale_norm(jg.cfg(1.0, 0), 0.0, jnp.ones(2)), "rescale_norm's high"),
        (clip_x0(-jnp.ones(2), 1.0), "clip_x0's low"),
        (dynamic_threshold(limit=jnp.ones(2)), "dynamic_threshold's limit"),
    ],
)
def test_wrong_shapes_are_named(term, name, golden):
    with pytest.raises(ValueError, match=name):
        golden(jg.cfg(1.0, 0), term)
