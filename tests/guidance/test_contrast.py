import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import like_cond

C, U = (2.0, 0.0, 1.0), (1.0, 1.0, 0.0)
PROCESS = jg.VPCosine()


def test_scales_of_both_conventions(lookup, context, guided):
    """u = 0, c = 1: s = 7.5 gives 7.5 (huggingface/diffusers), w = 7.5 gives 8.5."""
    x0s = lookup([[0.0], [1.0]])
    ctx = context(PROCESS, jnp.zeros((1, 1)), 0.5, jnp.array([1]))
    for weight, expected in ((jg.cfg_scale(7.5), 7.5), (7.5, 8.5), (0.0, 1.0)):
        x0, _ = guided(jg.cfg(weight, 0), x0s, ctx)
        np.testing.assert_allclose(x0, [[expected]], rtol=1e-6)


def test_weight_of_each_sample(lookup, context, guided):
    ctx = context(PROCESS, jnp.zeros((3, 3)), 0.5, jnp.ones(3, int))
    x0, _ = guided(jg.cfg(jnp.array([0.0, 1.0, 3.0]), 0), lookup([U, C]), ctx)
    c, u = np.array(C), np.array(U)
    np.testing.assert_allclose(x0, [c, 2 * c - u, 4 * c - 3 * u], rtol=1e-6)


@pytest.mark.exact("A contrast is the same in x0, eps, v, velocity and score")
@pytest.mark.parametrize("space", ["eps", "v", "velocity", "score"])
def test_a_contrast_is_the_same_in_every_space(space, lookup, context, guided):
    """Coefficients c + w (c - u) sum to one, and predictions are affine in x0."""
    x = jnp.array([[0.3, -1.2, 0.8]])
    ctx = context(PROCESS, x, 0.4, jnp.array([1]))
    x0, _ = guided(jg.cfg(2.5, 0), lookup([U, C]), ctx)
    c, u = (
        jg.diffusion.from_x0(PROCESS, space, jnp.array([a]), x, jnp.float32(0.4))
        for a in (C, U)
    )
    there = jg.diffusion.to_x0(PROCESS, space, c + 2.5 * (c - u), x, jnp.float32(0.4))
    np.testing.assert_allclose(x0, there, rtol=2e-5)


def test_two_negatives_and_a_shared_one(counter, context, guided):
    """Different nulls need different names; the same null is evaluated once."""
    x = jnp.linspace(-1, 1, 8).reshape(2, 4)
    ctx = context(PROCESS, x, 0.5, jnp.array([1, 2]))
    both = jg.chain(jg.cfg(1.0, 0), jg.cfg(2.0, 3, name="negative"))
    guided(both, counter.denoiser, ctx)
    assert counter.rows == [6]
    guided(jg.chain(jg.cfg(1.0, 0), jg.cfg(0.5, 0)), counter.denoiser, ctx)
    assert counter.rows == [6, 4]
    with pytest.raises(ValueError, match="'uncond'"):
        guided(jg.chain(jg.cfg(1.0, 0), jg.cfg(2.0, 3)), counter.denoiser, ctx)


def test_null_of_a_structured_condition(context, guided):
    """A null embedding ``[D]`` is broadcast to the batch and takes the type."""
    cond = {"label": jnp.array([1, 2]), "text": jnp.ones((2, 3), jnp.bfloat16)}
    null = like_cond({"label": 9, "text": np.zeros(3)}, cond)
    assert null["text"].shape == (2, 3)
    assert null["text"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(null["label"], [9, 9])


@pytest.mark.parametrize(
    ("null", "cond", "message"),
    [
        (0, None, "got no cond"),
        (None, None, "got no cond"),
        ({"a": 0}, np.array([1, 2]), "structure"),
        (np.zeros(3, int), np.array([1, 2]), r"shape \(3,\)"),
        (0.5, np.array([1, 2]), "float"),
        (-1, np.array([1, 2], np.uint8), "uint8"),
    ],
)
def test_a_null_that_does_not_fit(null, cond, message, counter, context, guided):
    ctx = context(PROCESS, jnp.zeros((2, 4)), 0.5, cond)
    with pytest.raises(ValueError, match=message):
        guided(jg.cfg(1.0, null), counter.denoiser, ctx)


def test_weight_of_a_wrong_shape(counter, context, guided):
    ctx = context(PROCESS, jnp.zeros((2, 4)), 0.5, jnp.array([1, 2]))
    with pytest.raises(ValueError, match=r"weight of 'uncond' has shape \(3,\)"):
        guided(jg.cfg(jnp.ones(3), 0), counter.denoiser, ctx)


def test_autoguidance_contrasts_networks(lookup, context, guided):
    """Karras et al., eq. 3 with their w = 3: ``D0 + 3 (D1 - D0)``."""
    ctx = context(PROCESS, jnp.zeros((1, 3)), 0.5, jnp.array([0]))
    strong, weak = lookup([C]), lookup([U])
    x0, _ = guided(jg.autoguidance(2.0), (strong, weak), ctx)
    c, u = np.array(C), np.array(U)
    np.testing.assert_allclose(x0, [u + 3 * (c - u)], rtol=1e-6)
    with pytest.raises(IndexError, match="network 1, but the sampler was given 1"):
        guided(jg.autoguidance(2.0), strong, ctx)
    with pytest.raises(ValueError, match="net is 0"):
        jg.autoguidance(2.0, net=0)


def test_contrasts_are_float32_whatever_the_network(context, guided):
    """The subtraction itself adds no rounding to what a bfloat16 network returns."""

    def network(x, t, cond):
        value = jnp.sin(x + 0.01 * cond[:, None])
        return value.astype(jnp.bfloat16)

    x = jnp.linspace(-1, 1, 64).reshape(2, 32)
    ctx = context(PROCESS, x, 0.5, jnp.array([1.0, 2.0]))
    denoiser = jg.parametrize(network, PROCESS, "x0")
    x0, _ = guided(jg.cfg(4.0, 0.0), denoiser, ctx)
    assert x0.dtype == jnp.float32
    c = np.asarray(network(x, None, ctx.cond).astype(jnp.float32), np.float64)
    u = np.asarray(network(x, None, 0 * ctx.cond).astype(jnp.float32), np.float64)
    np.testing.assert_allclose(x0, c + 4 * (c - u), rtol=1e-6, atol=1e-7)


NAMED = [
    (lambda w: jg.cfg(w, null=10), "cfg's weight"),
    (jg.cfg_scale, "cfg_scale's scale"),
    (jg.autoguidance, "autoguidance's weight"),
    (lambda w: jg.pag(w, "mid"), "pag's weight"),
    (lambda w: jg.seg(w, "mid"), "seg's weight"),
    (lambda w: jg.seg(1.0, "mid", w), "seg's sigma"),
    (lambda w: jg.redirect(w, "mid", jnp.ones(4)), "redirect's weight"),
    (lambda w: jg.energy(jnp.sum, w), "energy's weight"),
    (lambda w: jg.classifier_guidance(jnp.sum, w), "energy's weight"),
    (lambda w: jg.classifier_guidance(jnp.sum, tau2=w), "guidance's tau2"),
    (lambda w: jg.apg(w, null=10), "apg's weight"),
    (lambda w: jg.apg(1.0, null=10, eta=w), "apg's eta"),
    (lambda w: jg.rescale_std(w), "rescale_std's phi"),
    (lambda w: jg.rescale_norm(jg.cfg(1.0, 0), w, 3.0), "rescale_norm's low"),
    (lambda w: jg.clip_x0(w, 1.0), "clip_x0's low"),
    (lambda w: jg.dynamic_threshold(99.5, w), "dynamic_threshold's limit"),
    (lambda w: jg.during(jg.cfg(1.0, 0), w, 1.0), "during's start"),
]


@pytest.mark.parametrize("wrong", ["3", None, [1.0, 2.0], np.array(["3"])])
@pytest.mark.parametrize(("build", "name"), NAMED)
def test_a_weight_that_is_no_number_is_named_at_once(build, name, wrong):
    with pytest.raises(TypeError, match=f"{name} is .*; expected a number or an array"):
        build(wrong)


@pytest.mark.parametrize("wrong", [float("nan"), np.array([1.0, np.nan])])
@pytest.mark.parametrize(("build", "name"), NAMED)
def test_a_weight_that_is_nan_is_named_at_once(build, name, wrong):
    """And not drawn: every picture would be NaN."""
    with pytest.raises(ValueError, match=f"{name} is .*nan.*; expected no NaN"):
        build(wrong)


def test_numbers_of_any_kind_are_weights():
    for weight in (1, 1.0, True, np.float32(1), np.ones(3), jnp.ones(())):
        jg.cfg(weight, null=10)
    with pytest.raises(TypeError, match="energy's function is 3.0"):
        jg.energy(3.0)
    with pytest.raises(ValueError, match="limit is 0.0; expected a number above 0"):
        jg.dynamic_threshold(99.5, 0.0)
