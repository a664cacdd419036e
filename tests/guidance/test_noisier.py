import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    characteristic,
    icg,
    rectified_cfg_pp,
    self_guidance,
)

FLOW = jg.RectifiedFlow()
MEANS = jnp.asarray([[0.0, 0.5], [1.0, -1.0], [2.0, 0.3]])


def normal(x, t, cond, *, control, capture):
    """The exact denoiser of N(mean of the label, 1 / 4) under a rectified flow."""
    alpha, sigma = 1 - t[:, None], t[:, None]
    gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
    mean = MEANS[cond]
    return jg.types.Denoised(mean + gain * (x - alpha * mean))


X = jnp.asarray([[0.3, -1.2], [0.4, 0.9]])
LABELS = jnp.asarray([1, 2])


def test_self_guidance_asks_at_a_noisier_time(context, guided):
    """sigma / alpha is 1.3 times as large, at the same state; 0 is off."""
    ctx = context(FLOW, X, 0.5, LABELS)
    got, _ = guided(self_guidance(2.0, 0.3), jg.Denoiser(normal), ctx)
    here, there = (
        normal(X, jnp.full(2, t), LABELS, control={}, capture=()).x0
        for t in (0.5, 1.3 / 2.3)
    )
    np.testing.assert_allclose(got, here + 2 * (here - there), rtol=1e-4, atol=1e-5)
    last = context(FLOW, X, 1.0, LABELS)
    got, _ = guided(self_guidance(2.0, 0.3), jg.Denoiser(normal), last)
    np.testing.assert_allclose(got, MEANS[LABELS], atol=1e-5)


@pytest.mark.exact("It is cfg against the label that was drawn")
def test_icg_is_cfg_against_a_drawn_label(context, guided):
    """One class: cfg against it. Three: each sample's own draw, each equally often."""
    ctx = context(FLOW, X, 0.5, LABELS)
    one, _ = guided(icg(2.0, 1), jg.Denoiser(normal), ctx)
    known, _ = guided(jg.cfg(2.0, 0), jg.Denoiser(normal), ctx)
    np.testing.assert_allclose(one, known, rtol=1e-6)
    count = 600
    many = context(FLOW, jnp.zeros((count, 2)), 1.0, jnp.zeros(count, int))
    many = many._replace(keys=jg.sample_keys(jax.random.key(0), count))
    got, _ = guided(icg(1.0, 3), jg.Denoiser(normal), many)
    drawn = np.abs(np.asarray(2 * MEANS[0] - got)[:, None] - MEANS).sum(-1).argmin(1)
    counts = np.bincount(drawn, minlength=3)
    assert abs(counts - count / 3).max() < 4 * (count * 2 / 9) ** 0.5


def test_rectified_cfg_pp_golden(context, guided):
    """The midpoint of a rectified flow, written in velocities (arXiv 2510.07631)."""
    ctx = context(FLOW, X, 0.6, LABELS)._replace(t_next=jnp.float32(0.4))

    def velocity(x, t, labels):
        time = jnp.full(2, t)
        return (x - normal(x, time, labels, control={}, capture=()).x0) / t

    slope = velocity(X, 0.6, LABELS)
    ahead = X - 0.1 * slope
    null = jnp.zeros(2, int)
    slope += 4.5 * (velocity(ahead, 0.5, LABELS) - velocity(ahead, 0.5, null))
    got, _ = guided(rectified_cfg_pp(4.5, 0), jg.Denoiser(normal), ctx)
    np.testing.assert_allclose(got, X - 0.6 * slope, rtol=1e-4, atol=1e-5)
    # A step of no length is cfg.
    still = ctx._replace(t_next=jnp.float32(0.6))
    got, _ = guided(rectified_cfg_pp(2.0, 0), jg.Denoiser(normal), still)
    want, _ = guided(jg.cfg(2.0, 0), jg.Denoiser(normal), ctx)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: self_guidance(1.0, -1.0), "shift is -1.0"),
        (lambda: icg(1.0, 0), "classes is 0"),
        (lambda: icg(1.0, 2.5), "classes is 2.5"),
        (lambda: characteristic(1.0, 0, iterations=0), "iterations is 0"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_shapes_and_conditions_that_do_not_fit(context, guided):
    ctx = context(FLOW, X, 0.5, LABELS)
    with pytest.raises(ValueError, match=r"shift has shape \(3,\)"):
        guided(self_guidance(1.0, jnp.ones(3)), jg.Denoiser(normal), ctx)
    with pytest.raises(ValueError, match="icg draws labels"):
        guided(icg(1.0, 3), jg.Denoiser(normal), ctx._replace(cond=MEANS[:2]))
