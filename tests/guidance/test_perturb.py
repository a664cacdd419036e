"""Perturbed attention through the planner, against separate evaluations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.attention import blur, identity, suppress
from jaxlib_guidance.diffusion import VPCosine, parametrize
from jaxlib_guidance.guidance import cfg, chain, guided, pag, redirect, seg
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import randomise, tiny_dit
from jaxlib_guidance.types import Context

MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=4)
PROCESS = VPCosine()
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
T, LABELS = jnp.array([0.2, 0.5, 0.9]), jnp.array([0, 3, 5])
SITE = "block1/attn"
MASK = jnp.array([1, 0, 0, 1])


def context():
    alpha, sigma = (f(T)[:, None, None, None] for f in (PROCESS.alpha, PROCESS.sigma))
    return Context(
        X, T, alpha, sigma, LABELS, rng.sample_keys(jax.random.key(2), 3), PROCESS,
        jnp.int32(0), 1, T, 0 * T,
    )  # fmt: skip


@jax.jit
def guided_x0(params, terms):
    denoiser = parametrize(from_linen(MODULE, params), PROCESS, "v")
    term = guided(denoiser, chain(*terms))
    return term(context(), term.init(X))[0]


@jax.jit
def x0(params, control, labels=LABELS):
    denoiser = parametrize(from_linen(MODULE, params), PROCESS, "v")
    return denoiser(X, T, labels, control=control).x0


def close(a, b, tol=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tol, rtol=tol)


@pytest.mark.parametrize(
    ("term", "edit", "sign"),
    [
        (pag(3.0, "block1"), identity(), 1),
        (seg(3.0, SITE), blur(jnp.inf), 1),
        (redirect(3.0, SITE, MASK, 0.3), suppress(MASK, 0.3), -1),
    ],
)
def test_each_term_is_its_formula(term, edit, sign):
    base, edited = x0(PARAMS, {}), x0(PARAMS, {SITE: edit})
    assert np.abs(base - edited).max() > 1e-3
    close(guided_x0(PARAMS, (term,)), base + sign * 3.0 * (base - edited), 1e-4)


def test_redirection_by_one_is_the_edited_network():
    close(
        guided_x0(PARAMS, (redirect(1.0, SITE, MASK),)),
        x0(PARAMS, {SITE: suppress(MASK)}),
    )


def test_terms_compose_in_one_call_with_weights_per_sample():
    weight = jnp.array([0.0, 1.0, 2.0])
    found = guided_x0(
        PARAMS, (cfg(2.0, 10), pag(weight, SITE), seg(0.5, "block0", 1.0))
    )
    base = x0(PARAMS, {})
    want = (
        base
        + 2.0 * (base - x0(PARAMS, {}, jnp.full(3, 10)))
        + weight[:, None, None, None] * (base - x0(PARAMS, {SITE: identity()}))
        + 0.5 * (base - x0(PARAMS, {"block0/attn": blur(1.0)}))
    )
    close(found, want, 1e-4)


def test_weight_zero_and_effects_of_zero_add_nothing():
    base = x0(PARAMS, {})
    for term in (pag(jnp.zeros(()), SITE), seg(5.0, SITE, 0.0)):
        close(guided_x0(PARAMS, (term,)), base)
    # A network whose attention is shut off has nothing to perturb.
    block = PARAMS["block1"]
    out = jax.tree.map(jnp.zeros_like, block["attn"]["out"])
    shut = {**PARAMS, "block1": {**block, "attn": {**block["attn"], "out": out}}}
    close(guided_x0(shut, (pag(jnp.float32(7.0), SITE),)), x0(shut, {}))


def test_the_paper_scripts_scale_is_one_more():
    # The released ADM code computes e_id + 4 (e - e_id): the paper's s is 3.
    base, edited = x0(PARAMS, {}), x0(PARAMS, {SITE: identity()})
    close(guided_x0(PARAMS, (pag(3.0, SITE),)), edited + 4.0 * (base - edited), 1e-4)


def test_weights_are_learned_and_swept_without_recompiling():
    def loss(weight):
        return jnp.sum(guided_x0(PARAMS, (pag(weight, SITE),)) ** 2)

    base, edited = x0(PARAMS, {}), x0(PARAMS, {SITE: identity()})
    want = jnp.sum(2 * (base + 1.5 * (base - edited)) * (base - edited))
    np.testing.assert_allclose(jax.grad(loss)(1.5), want, rtol=1e-3)
    before = guided_x0._cache_size()
    for weight in (0.5, 1.0, 2.0):
        loss(jnp.float32(weight))
    assert guided_x0._cache_size() <= before + 1


def test_names_tell_sites_apart_and_unknown_sites_raise():
    assert pag(1.0, "block1").worse == "pag:block1"
    assert seg(1.0, ("mid", "up1")).worse == "seg:mid+up1"
    assert redirect(1.0, SITE, MASK, name="erase").worse == "erase"
    with pytest.raises(ValueError, match="'block7' matches nothing.*block0/attn"):
        guided_x0(PARAMS, (pag(1.0, "block7"),))
    with pytest.raises(ValueError, match="another name"):
        guided_x0(PARAMS, (seg(1.0, SITE, 1.0), seg(1.0, SITE, 2.0)))


def test_one_network_call_whatever_the_terms():
    calls = []

    def network(x, c_noise, cond, *, control=None, capture=()):
        calls.append(x.shape[0])
        return MODULE.apply(
            {"params": PARAMS}, x, c_noise, cond, control=control, capture=capture
        )

    network.sites, network.taps = MODULE.sites, MODULE.taps
    denoiser = parametrize(network, PROCESS, "v")
    term = guided(denoiser, chain(cfg(2.0, 10), pag(3.0, SITE), pag(1.0, SITE)))
    jax.eval_shape(lambda: term(context(), term.init(X))[0])
    assert calls == [9]


def test_randomise_keeps_shapes():
    params = randomise(jax.random.key(3), PARAMS)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, PARAMS)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_a_place_of_a_network_with_text_is_its_self_attention():
    module, params = tiny_dit(jax.random.key(0), depth=2, patch=4, text=5)
    net = jg.parametrize(from_linen(module, params), PROCESS, "v")
    text = {"label": LABELS, "text": jax.random.normal(jax.random.key(3), (3, 4, 5))}
    ctx = context()._replace(cond=text)

    @jax.jit
    def both():
        term = guided(net, pag(2.0, "block1"))
        base = net(X, T, text).x0
        edited = net(X, T, text, control={SITE: identity()}).x0
        return term(ctx, term.init(X))[0], base + 2.0 * (base - edited)

    close(*both(), 1e-4)


def test_a_mask_of_pixels_is_refused_by_name():
    for cond in ((), (cfg(1.0, 10),)):
        with pytest.raises(ValueError, match="pixels becomes one of tokens"):
            guided_x0(PARAMS, (redirect(3.0, SITE, jnp.ones((8, 8))), *cond))
