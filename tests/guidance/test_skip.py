"""Layers skipped or shuffled, and edited cross-attention, against networks by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.attention import (
    Edit,
    attend,
    enter_layer,
    fold_controls,
    identity,
    move_away,
    shuffle,
    sparse,
)
from jaxlib_guidance.guidance import (
    erg,
    guided,
    nag,
    nasa,
    orthogonal_negative,
    pladis,
    s2_guidance,
    slg,
    soft_pag,
    stg,
    tpg,
    vsf,
)
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit, tiny_unet

PROCESS = jg.VPCosine()
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
T = jnp.full(3, 0.4)
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=4, text=5)
TEXT = {
    "label": jnp.arange(3),
    "text": jax.random.normal(jax.random.key(3), (3, 4, 5)),
}
NULL = {"label": jnp.asarray(10), "text": jnp.asarray(-1.0)}


def denoiser(params):
    return jg.parametrize(from_linen(MODULE, params), PROCESS, "v")


@jax.jit
def x0(params, control):
    return denoiser(params)(X, T, TEXT, control=control).x0


@pytest.fixture
def steered(context):
    ctx = context(PROCESS, X, 0.4, TEXT)

    @jax.jit
    def run(params, term):
        chained = guided(denoiser(params), term)
        return chained(ctx, chained.init(X))[0]

    return functools.partial(run, PARAMS), run, ctx


def close(a, b, tol=1e-4):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


def test_skipping_is_a_network_without_the_layer(steered):
    """Of two layers the second is left out: a network with its first layer alone."""
    run, _, _ = steered
    shorter, _ = tiny_dit(jax.random.key(0), depth=1, patch=4, text=5)
    params = {name: leaf for name, leaf in PARAMS.items() if name != "block1"}
    net = jg.parametrize(from_linen(shorter, params), PROCESS, "v")
    base, without = x0(PARAMS, {}), jax.jit(lambda: net(X, T, TEXT).x0)()
    weight = jnp.array([0.0, 1.0, 2.5])
    want = base + weight[:, None, None, None] * (base - without)
    assert np.abs(want - base).max() > 1e-2
    close(run(slg(weight, "block1")), want)
    close(run(stg(weight, "block1", "residual")), want)
    mapped = x0(PARAMS, {"block1/attn": identity()})
    want = base + weight[:, None, None, None] * (base - mapped)
    close(run(stg(weight, "block1")), want)
    close(run(slg(jnp.zeros(3), "block1")), base, 1e-5)


def test_tpg_is_the_network_with_shuffled_tokens(steered):
    """Before the last layer, whose tokens stay where they were put."""
    run, _, ctx = steered
    term = tpg(jnp.float32(1.0), "block1")
    seeds = term.branches(ctx)[term.worse].control["block1"].shuffle
    assert len(set(np.asarray(seeds).tolist())) == 3
    base, mixed = x0(PARAMS, {}), x0(PARAMS, {"block1/attn": shuffle(seeds)})
    assert np.abs(base - mixed).max() > 1e-2
    close(run(term), 2 * base - mixed)
    # All after the shuffle treats tokens alike: the value's patches are permuted.
    order = enter_layer(jnp.arange(12.0).reshape(3, 4, 1) % 4, shuffle(seeds))[0]
    raw, moved = (
        ((ctx.alpha * X - estimate) / ctx.sigma)
        .reshape(3, 2, 4, 2, 4)
        .transpose(0, 1, 3, 2, 4)
        .reshape(3, 4, 16)
        for estimate in (base, mixed)
    )
    want = jnp.take_along_axis(raw, order.astype(jnp.int32), axis=1)
    close(moved, want)


@jax.jit
def beside_negative(edit):
    """The network with the edit in its last layer, in a call beside the negative."""

    def fold(a, b):
        b = jnp.broadcast_to(b, a.shape).astype(a.dtype)
        return jnp.stack([a, b], 1).reshape(6, *a.shape[1:])

    control = fold_controls([{"block1/cross": edit}, {}], ["good", "bad"], 3)
    cond = jax.tree.map(fold, TEXT, NULL)
    out = denoiser(PARAMS)(fold(X, X), fold(T, T), cond, control=control)
    return out.x0[::2]


RULES = [
    (nag, move_away("bad", "nag", 5.0, limit=2.5, mix=0.25)),
    (nasa, move_away("bad", "nasa", 0.3)),
    (orthogonal_negative, move_away("bad", "orthogonal", 0.3)),
]


@pytest.mark.parametrize(("make", "edit"), RULES)
def test_attention_negatives_are_their_formulas(make, edit, steered):
    """The formulas of `attend`, whose numbers are golden, in the whole network."""
    run, _, _ = steered
    base = x0(PARAMS, {})
    weight = jnp.array([0.0, 0.5, 1.0])
    change = beside_negative(edit) - base
    assert np.abs(change).max() > 1e-4
    got = run(make(weight, NULL, "block1/cross"))
    close(got, base + weight[:, None, None, None] * change)
    close(got[0], base[0], 1e-5)


def test_pladis_is_the_network_with_sparse_maps(steered):
    run, _, _ = steered
    base, edited = (
        x0(PARAMS, control) for control in ({}, {"block1/cross": sparse(2.0)})
    )
    assert np.abs(base - edited).max() > 1e-4
    close(run(pladis(jnp.float32(1.0), "block1/cross", 2.0)), edited)


def test_a_layer_of_a_unet_is_its_attention(context):
    module, params = tiny_unet(jax.random.key(0))
    net = jg.parametrize(from_linen(module, params), PROCESS, "v")
    labels = jnp.arange(3)
    site = module.sites[0]
    place = site.partition("/")[0]

    def shut(params):
        layer = params[f"{place}_attention"]
        out = jax.tree.map(jnp.zeros_like, layer["attn"]["out"])
        layer = {**layer, "attn": {**layer["attn"], "out": out}}
        return {**params, f"{place}_attention": layer}

    @jax.jit
    def both():
        ctx = context(PROCESS, X, 0.4, labels)
        term = guided(net, slg(1.5, place))
        gone = jg.parametrize(from_linen(module, shut(params)), PROCESS, "v")
        base, without = (n(X, T, labels).x0 for n in (net, gone))
        return term(ctx, term.init(X))[0], base + 1.5 * (base - without)

    close(*both())


def test_what_does_not_fit_is_refused(steered):
    _, run, _ = steered
    with pytest.raises(ValueError, match="'block9' matches nothing.*block0/attn"):
        run(PARAMS, slg(1.0, "block9"))
    with pytest.raises(ValueError, match="concerns a whole layer"):
        run(PARAMS, slg(1.0, "block1/cross"))
    with pytest.raises(ValueError, match="mode is 'block'; expected one of"):
        stg(1.0, "block1", "block")
    with pytest.raises(ValueError, match=r"limit is 0\.5; expected at least 1"):
        nag(1.0, NULL, limit=0.5)
    with pytest.raises(TypeError, match="nasa's scale is 'a'"):
        nasa(1.0, NULL, scale="a")


def test_soft_pag_lies_between(steered):
    """Of a gate by sample: nothing, half the identity, the network of `pag`."""
    run, _, _ = steered
    gate = jnp.array([0.0, 0.5, 1.0])
    base, mixed = (
        x0(PARAMS, {"block1/attn": identity(jnp.full(3, g))}) for g in (0.0, 1.0)
    )
    got = run(soft_pag(jnp.float32(2.0), "block1", gate))
    close(got[0], base[0], 1e-5)
    close(got[2], (base + 2 * (base - mixed))[2])
    half = x0(PARAMS, {"block1/attn": identity(gate)})
    close(got[1], (base + 2 * (base - half))[1])
    assert np.abs(got[1] - base[1]).max() > 1e-3


def test_erg_is_the_network_at_another_temperature(steered):
    """Without bound it is the network whose queries are all their mean's."""
    run, _, _ = steered
    base = x0(PARAMS, {"block1/attn": Edit(logit_scale=jnp.float32(1.0))})
    hot = x0(PARAMS, {"block1/attn": Edit(logit_scale=jnp.float32(1 / 3))})
    assert np.abs(hot - base).max() > 1e-4
    got = run(erg(jnp.float32(2.0), "block1", jnp.float32(3.0)))
    close(got, base + 2 * (base - hot), 1e-3)
    with pytest.raises(ValueError, match="temperature is 0.0"):
        erg(1.0, "block1", 0.0)


def test_s2_guidance_skips_one_of_the_layers(steered):
    """Each sample is away from the network without the layer that it drew."""
    run, _, ctx = steered
    term = s2_guidance(jnp.float32(1.0), ("block0", "block1"))
    control = term.branches(ctx)[term.worse].control
    drawn = np.stack([np.asarray(control[b].skip) for b in ("block0", "block1")])
    np.testing.assert_array_equal(drawn.sum(0), 1)
    assert drawn[0].min() != drawn[0].max()
    base = x0(PARAMS, {})
    without = x0(PARAMS, {f"{name}/attn": edit for name, edit in control.items()})
    close(run(term), 2 * base - without)


@pytest.mark.exact("Without negatives, that is at a bias of -inf, it is the identity")
def test_value_sign_flip_is_one_softmax_over_both(steered):
    """The formula by hand on heads; in the network; and at a bias that hides all."""
    q, k, v, away_k, away_v = jax.random.normal(jax.random.key(5), (5, 1, 4, 2, 3))
    both = (jnp.concatenate([k, away_k]), jnp.concatenate([v, away_v]))
    queries = jnp.concatenate([q, q])
    edit = fold_controls(
        [{"a": move_away("bad", "flip", 3.0, bias=-0.4)}, {}], ["good", "bad"], 1
    )["a"]
    got = attend(queries, *both, edit)[0][0]
    logits = np.einsum("qhd,mhd->hqm", q[0], jnp.concatenate([k[0], away_k[0]]))
    logits = logits / 3**0.5 + np.repeat([0, -0.4], 4)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    values = np.concatenate([v[0], -3 * away_v[0]])
    close(got, np.einsum("hqm,mhd->qhd", probs, values))
    run, _, _ = steered
    base = x0(PARAMS, {})
    change = beside_negative(move_away("bad", "flip", 3.0, bias=-0.1)) - base
    assert np.abs(change).max() > 1e-4
    weight = jnp.array([0.0, 0.5, 1.0])
    got = run(vsf(weight, NULL, "block1/cross", jnp.float32(3.0)))
    close(got, base + weight[:, None, None, None] * change)
    close(run(vsf(weight, NULL, "block1/cross", 3.0, -jnp.inf)), base, 1e-5)
    with pytest.raises(ValueError, match="bias is None"):
        move_away("bad", "flip", 3.0)
