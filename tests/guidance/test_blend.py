"""Similarity, tangents, measured ratios, and weights over frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    frame_ramp,
    mahiro,
    recfg,
    recfg_ratio,
    tag,
    triangle_ramp,
)

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
D = C - U


def test_mahiro_golden(golden):
    """ComfyUI's formula at scale 3, where the merged leap is (5, -1, 3)."""
    a, b = U, np.array([5**0.5, -1, 3**0.5])
    alike = a @ b / np.sqrt(a @ a * (b @ b))
    want = (2 * (alike + 1) * (U + 3 * D) + (2 - 2 * alike) * 3 * C) / 4
    np.testing.assert_allclose(golden(mahiro(2.0, 0)), want, rtol=1e-5)
    same = golden(mahiro(2.0, 0), rows=(C, C))
    np.testing.assert_allclose(same, C, rtol=1e-5)


@pytest.mark.exact("Along the state nothing changes, across it all grows by 1 + w")
def test_tag_keeps_what_is_along_the_state(golden):
    x = np.array([1.0, 2.0, -1.0], np.float32)
    got = golden(tag(0.5), x=jnp.asarray(x)[None])
    along = C @ x / (x @ x) * x
    np.testing.assert_allclose(got, along + 1.5 * (C - along), rtol=1e-5)
    np.testing.assert_allclose(got @ x, C @ x, rtol=1e-5)


def predictions(context):
    """Noise predictions of many samples in turn, at one noise level."""
    random = np.random.default_rng(0)
    c, u = random.normal(size=(2, 64, 3)) + np.array([[[1.0]], [[0.6]]])
    ctx = context(jg.VE(), jnp.zeros((64, 3)), 1.0, jnp.arange(64), step=1, steps=2)
    return c, u, ctx


@pytest.mark.exact("With r = E[c] / E[u] the mean noise is the conditional one's")
def test_recfg_keeps_the_mean(context, guided):
    """And with ``r = E[c u] / E[u u]`` the noise's product with the null's."""
    c, u, ctx = predictions(context)

    def apply(x, t, cond, *, control, capture):
        table = jnp.concatenate([-jnp.asarray(c), -jnp.asarray(u)]).astype(jnp.float32)
        row = jnp.arange(cond.shape[0]) // (cond.shape[0] // 64)  # Branches are folded.
        own = jnp.where(cond < 0, row + 64, row)
        return jg.types.Denoised(table[own])

    net = jg.Denoiser(apply)
    means = np.stack([np.ones(3), c.mean(0) / u.mean(0)])
    products = np.stack([np.ones(3), (c * u).mean(0) / (u * u).mean(0)])

    @jax.jit
    def eps(ratio):
        return -guided(recfg(2.0, -1, ratio), net, ctx)[0]

    out = np.asarray(eps(means))
    np.testing.assert_allclose(out.mean(0), c.mean(0), rtol=1e-5)
    want = c + 2 * (c - means[1] * u)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
    out = np.asarray(eps(products))
    np.testing.assert_allclose((out * u).mean(0), (c * u).mean(0), rtol=1e-4)
    plain = np.asarray(eps(np.ones((2, 3))))
    np.testing.assert_allclose(plain, c + 2 * (c - u), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"ratio has shape \(3, 3\)"):
        eps(np.ones((3, 3)))


@pytest.mark.exact("The ratio of ReCFG of two Gaussians about the same mean")
def test_ratios_of_gaussians_are_measured():
    """Data N(0, v), null N(0, v'): ``r = (v' + s^2) / (v + s^2)`` for any examples."""
    v, other, grid = 0.25, 1.0, jnp.asarray([2.0, 1.0, 0.5, 0.0])

    def normal(x, t, cond, *, control, capture):
        variance = jnp.where(cond < 0, other, v)[:, None]
        return jg.types.Denoised(variance / (variance + t[:, None] ** 2) * x)

    keys = jg.sample_keys(jax.random.key(0), 16)
    x0 = jax.random.normal(jax.random.key(1), (16, 3)) * v**0.5
    net = jg.Denoiser(normal, process=jg.VE())
    got = jax.jit(recfg_ratio, static_argnums=1)(
        keys, net, x0, grid, jnp.zeros(16, int), jnp.int32(-1)
    )
    square = np.asarray(grid[:-1])[:, None] ** 2
    want = np.broadcast_to((other + square) / (v + square), (3, 3))
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.exact("The mean over time of the triangle is 1 on any grid")
def test_triangle_ramp_has_mean_one_on_any_grid(golden, lookup, context, guided):
    grid = np.array([1.0, 0.7, 0.5, 0.25, 0.1, 0.0], np.float32)
    rows = lookup([[0.0], [1.0]])

    def factors(peak):
        got = []
        for step in range(5):
            ctx = context(jg.VE(), jnp.zeros((1, 1)), 0.5, jnp.array([1]), step, 5)
            ctx = ctx._replace(grid=jnp.asarray(grid))
            term = triangle_ramp(jg.cfg(1.0, 0), peak)
            got.append(float(guided(term, rows, ctx)[0][0, 0]) - 1)
        return np.array(got)

    for peak, shape in ((0.4, (0, 0.5, 1, 2 / 3, 1 / 3)), (1.0, np.arange(5) / 5)):
        got = factors(peak)
        np.testing.assert_allclose((got * -np.diff(grid)).sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(got / got[2], np.array(shape) / shape[2], atol=1e-5)


def test_frame_ramps_golden(golden):
    """Frames along a sample's first axis; ComfyUI's triangle is least at both ends."""
    rows = (np.zeros((5, 2)), np.ones((5, 2)))
    got = golden(frame_ramp(jg.cfg(2.0, 0), 0.5, 1.0), rows=rows)
    want = 1 + 2 * np.linspace(0.5, 1, 5)
    np.testing.assert_allclose(got, np.stack([want, want], -1), rtol=1e-6)
    got = golden(frame_ramp(jg.cfg(2.0, 0), 0.0, 1.0, shape="triangle"), rows=rows)
    np.testing.assert_allclose(got[:, 0], 1 + 2 * np.array([0, 0.5, 1, 0.5, 0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recfg(1.0, 0, 0.5), "recfg's ratio is 0.5"),
        (lambda: triangle_ramp(jg.cfg(1.0, 0), 0.0), "peak is 0.0"),
        (lambda: frame_ramp(jg.cfg(1.0, 0), shape="sine"), "shape is 'sine'"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
