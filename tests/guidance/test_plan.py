import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import apg, rescale_norm, rescale_std
from jaxlib_guidance.guidance._evaluate import evaluate

PROCESS = jg.VPCosine()
X = jnp.linspace(-1, 1, 12).reshape(3, 4)


def square(x0, ctx):
    return jnp.sum(x0**2, axis=-1)


@pytest.fixture
def setting(counter, context):
    return counter, context(PROCESS, X, 0.4, jnp.arange(3))


class Degraded:
    """A contrast with a branch of its own, like a perturbed network's."""

    def __init__(self, weight, name="degraded", **branch):
        self.weight, self.name, self.branch = weight, name, branch

    def branches(self, ctx):
        return {self.name: jg.types.Branch(ctx.cond, **self.branch)}

    def update(self, delta, evals, state, ctx):
        return delta + self.weight * (evals.x0["cond"] - evals.x0[self.name]), state


@pytest.mark.parametrize(
    ("terms", "rows"),
    [
        ([], [3]),
        ([jg.cfg(0.0, 9), jg.energy(square, np.zeros(3))], [3]),
        ([jg.cfg(2.0, 9)], [6]),
        ([jg.cfg(2.0, 9), Degraded(1.0)], [9]),
        ([jg.cfg(2.0, 9), Degraded(1.0), rescale_std(0.7)], [9]),
        (
            [jg.cfg(2.0, 9), apg(1.0, 9), jg.scheduled(jg.cfg(1.0, 9), jnp.ones(10))],
            [6],
        ),
        ([jg.cfg(2.0, 9), Degraded(1.0), jg.energy(square)], [6, 3]),
        ([jg.cfg(2.0, 9), jg.energy(square, through="denoised")], [6]),
        ([jg.cfg(2.0, 9), jg.energy(square, through="noisy")], [6]),
        ([rescale_norm(jg.energy(square), 0, 1, relative_to=jg.cfg(1.0, 9))], [3, 3]),
        ([rescale_norm(jg.cfg(0.0, 9), 0, 1, relative_to=jg.cfg(1.0, 8))], [3]),
        ([jg.during(jg.cfg(0.0, 9), 0.0, 0.5), jg.cfg(1.0, 9)], [6]),
    ],
)
def test_what_an_evaluation_costs(terms, rows, setting, guided):
    """One call for what is not differentiated, one of B rows for what is."""
    counter, ctx = setting
    guided(jg.chain(*terms), counter.denoiser, ctx)
    assert counter.rows == rows


def test_fused_is_the_same_in_one_call(setting, guided):
    counter, ctx = setting
    terms = jg.chain(jg.cfg(2.0, 9), Degraded(1.0), jg.energy(square, 0.2))
    two, _ = guided(terms, counter.denoiser, ctx)
    one, _ = guided(terms, counter.denoiser, ctx, plan="fused")
    assert counter.rows == [6, 3, 9]
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="plan is 'fast'"):
        guided(terms, counter.denoiser, ctx, plan="fast")


def test_without_guidance_the_program_is_the_network(setting):
    counter, ctx = setting

    def plain(x):
        return counter.denoiser(x, ctx.t, ctx.cond).x0

    def off(x):
        terms = jg.chain(jg.cfg(0.0, 9), jg.during(jg.energy(square, 0.0), 0.0, 0.5))
        steered = jg.guided(counter.denoiser, terms)
        return steered(ctx._replace(x=x), steered.init(x))[0]

    assert str(jax.make_jaxpr(off)(X)) == str(jax.make_jaxpr(plain)(X))


def test_folding_equals_separate_calls(context, guided):
    """Random weights, samples that mix all their numbers, conditions of two leaves."""
    rng = np.random.default_rng(0)
    w1, w2, e = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in ((15, 20), (20, 15), (6, 20))
    )

    def network(x, t, cond):
        h = x.reshape(x.shape[0], -1) @ w1 + t[:, None] + e[cond["label"]]
        return (jnp.tanh(h + cond["text"]) @ w2).reshape(x.shape)

    x, text = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 3, 5), (4, 20))
    )
    cond = {"label": jnp.arange(4), "text": text}
    denoiser = jg.parametrize(network, PROCESS, "v")
    other = jg.parametrize(lambda x, t, c: 0.5 * network(x, t, c), PROCESS, "v")
    ctx = context(PROCESS, x, 0.4, cond)
    null = {"label": 5, "text": np.zeros(20)}
    terms = jg.chain(
        jg.cfg(2.0, null),
        jg.cfg(-0.5, {"label": 4, "text": text[0]}, name="negative"),
        jg.autoguidance(1.5),
    )
    x0, _ = guided(terms, (denoiser, other), ctx)
    t = jnp.full(4, 0.4)
    c = denoiser(x, t, cond).x0
    u = denoiser(x, t, {"label": jnp.full(4, 5), "text": 0 * text}).x0
    n = denoiser(x, t, {"label": jnp.full(4, 4), "text": 0 * text + text[0]}).x0
    a = other(x, t, cond).x0
    expected = c + 2 * (c - u) - 0.5 * (c - n) + 1.5 * (c - a)
    np.testing.assert_allclose(x0, expected, rtol=2e-4, atol=2e-5)


def test_a_branch_at_another_state(setting, guided):
    """``Branch.x``, such as the latent of a reference."""
    counter, ctx = setting
    reference = X[::-1] + 0.3
    x0, _ = guided(Degraded(1.0, x=reference), counter.denoiser, ctx)
    base = counter.denoiser(X, ctx.t, ctx.cond).x0
    far = counter.denoiser(reference, ctx.t, ctx.cond).x0
    assert counter.rows == [6, 3, 3]
    np.testing.assert_allclose(x0, base + (base - far), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="states of different shapes"):
        guided(Degraded(1.0, x=reference[:2]), counter.denoiser, ctx)


def test_captures_of_one_branch_merge(setting):
    """Two terms read maps of the base; each branch gets what it asked for."""
    counter, ctx = setting
    branches = {
        "cond": jg.types.Branch(ctx.cond, capture=("square",)),
        "other": jg.types.Branch(ctx.cond + 1),
    }
    evals = evaluate((counter.denoiser,), branches, ctx, X)
    assert set(evals.maps) == {"cond"}
    np.testing.assert_allclose(evals.maps["cond"]["square"], evals.x0["cond"] ** 2)


class Captures(Degraded):
    def branches(self, ctx):
        return {"cond": jg.types.Branch(ctx.cond, capture=("square",))}

    def update(self, delta, evals, state, ctx):
        return delta + self.weight * evals.maps["cond"]["square"], state


def test_a_map_of_the_differentiated_base(setting, guided):
    counter, ctx = setting
    terms = jg.chain(jg.cfg(1.0, 9), Captures(1.0), jg.energy(square, 1e-9))
    x0, _ = guided(terms, counter.denoiser, ctx)
    assert counter.rows == [3, 3]
    plain, _ = guided(jg.cfg(1.0, 9), counter.denoiser, ctx)
    base = counter.denoiser(X, ctx.t, ctx.cond).x0
    np.testing.assert_allclose(x0 - plain, base**2, atol=1e-6)


def borrowing(context):
    """A network with one site, whose attention a branch may take from another."""

    def apply(x, t, cond, *, control, capture):
        edit = control.get("mix")
        if edit is not None and edit.borrow:
            ((_, source),) = edit.borrow
            groups = x.reshape(-1, len(source), *x.shape[1:])
            x = groups[:, jnp.array(source)].reshape(x.shape)
        return jg.types.Denoised(jnp.tanh(x) + 0.1 * cond[:, None])

    return jg.Denoiser(apply, sites=("mix",)), context(PROCESS, X, 0.4, jnp.ones(3))


def test_branches_that_share_attention_share_a_call(context, guided):
    """With an energy the base moves to the second call, and the borrower with it."""
    denoiser, ctx = borrowing(context)
    edit = {"mix": jg.attention.Edit(borrow=(("v", "cond"),))}
    away = Degraded(1.0, x=-X, control=edit)
    alone, _ = guided(away, denoiser, ctx)
    base, _ = guided(jg.chain(), denoiser, ctx)
    np.testing.assert_allclose(alone, base, atol=1e-6)  # It borrows all there is.
    term = jg.energy(square, 0.2)
    both, _ = guided(jg.chain(jg.cfg(1.0, 0.0), away, term), denoiser, ctx)
    fused, _ = guided(
        jg.chain(jg.cfg(1.0, 0.0), away, term), denoiser, ctx, plan="fused"
    )
    np.testing.assert_allclose(both, fused, atol=1e-6)


def test_controls_that_do_not_fit(context, guided):
    denoiser, ctx = borrowing(context)
    twice = {
        "mix": jg.attention.Edit(identity=1.0),
        "m*": jg.attention.Edit(identity=0.0),
    }
    with pytest.raises(ValueError, match="edits 'mix' twice"):
        guided(Degraded(1.0, control=twice), denoiser, ctx)
    with pytest.raises(ValueError, match="'mid' matches nothing; there are: mix"):
        guided(Degraded(1.0, control={"mid": jg.attention.Edit()}), denoiser, ctx)
    with pytest.raises(ValueError, match="'map' matches nothing; there are: none"):
        guided(Degraded(1.0, capture=("map",)), denoiser, ctx)


def test_other_errors(setting, guided):
    counter, ctx = setting
    with pytest.raises(TypeError, match="chain got float; expected guidance terms"):
        jg.chain(jg.cfg(1.0, 9), 2.0)
    with pytest.raises(IndexError, match="network -1, but the sampler was given 1"):
        guided(Degraded(1.0, net=-1), counter.denoiser, ctx)
    other = {
        "cond": jg.types.Branch(ctx.cond),
        "x": jg.types.Branch({"label": ctx.cond}),
    }
    with pytest.raises(ValueError, match="conditions of different structure"):
        evaluate((counter.denoiser,), other, ctx, X)
