"""Laws that every guidance term obeys, over the whole catalogue."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    apg,
    classifier_guidance,
    clip_x0,
    dynamic_threshold,
    rescale_norm,
    rescale_std,
)

PROCESS = jg.VPCosine()
B, D, CLASSES, STEPS = 8, 6, 4, 2
RNG = np.random.default_rng(0)
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape) / shape[0] ** 0.5, jnp.float32)
    for name, shape in (
        ("first", (D, 16)),
        ("last", (16, D)),
        ("label", (CLASSES + 1, 16)),
        ("classifier", (D, CLASSES)),
    )
}
KEYS = jg.sample_keys(jax.random.key(3), B)
LABELS = jnp.arange(B) % CLASSES
X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)


def denoisers(params):
    """A network of random weights, and a weaker one."""

    def network(x, t, cond, scale=1.0):
        hidden = x @ params["first"] + t[:, None] + scale * params["label"][cond]
        return jnp.tanh(hidden) @ params["last"]

    def weak(x, t, cond):
        return 0.8 * network(x, t, cond, 0.5)

    return tuple(jg.parametrize(f, PROCESS, "v") for f in (network, weak))


def shrink(x0, ctx):
    return jnp.sum(x0**2, axis=-1)


def match(target, x0, ctx):
    return jnp.sum(jnp.sqrt(1 + (x0 - target) ** 2), axis=-1)


def logits(params, x, t):
    return x @ params


NULL = CLASSES
LINEAR = {
    "cfg": lambda w: jg.cfg(w, NULL),
    "autoguidance": lambda w: jg.autoguidance(w),
    "energy": lambda w: jg.energy(shrink, w),
    "energy, noisy": lambda w: jg.energy(shrink, w, through="noisy"),
    "energy, denoised": lambda w: jg.energy(match, w, 0.3, through="denoised"),
    "energy, rms": lambda w: jg.energy(shrink, w, normalize="rms"),
    "classifier": lambda w: classifier_guidance(
        logits, w, None, PARAMS["classifier"], tau2=0.5
    ),
    "windowed": lambda w: jg.during(jg.cfg(w, NULL), 0.3, 1.0),
    "scheduled": lambda w: jg.scheduled(jg.cfg(w, NULL), jnp.linspace(0.5, 1.0, STEPS)),
}
CATALOGUE = LINEAR | {
    "apg": lambda w: apg(w, NULL, eta=0.3, norm_threshold=1.0),
    "apg, eps": lambda w: apg(w, NULL, momentum=0.2, space="eps"),
    "norm of two": lambda w: rescale_norm(
        jg.chain(jg.energy(shrink, w), jg.autoguidance(w)),
        0.0,
        2.0,
        relative_to=jg.cfg(1.0, NULL),
    ),
}


def context(x, t=0.5):
    """The context of the first step."""
    t = jnp.full(B, t)
    return jg.types.Context(
        x=x,
        t=t,
        alpha=PROCESS.alpha(t)[:, None],
        sigma=PROCESS.sigma(t)[:, None],
        cond=LABELS,
        keys=KEYS,
        process=PROCESS,
        step=jnp.int32(1),
        steps=STEPS,
        t_step=t[0],
        t_next=t[0] / 2,
    )


def estimate(guidance, nets, x=X):
    """One guided evaluation."""
    steered = jg.guided(nets, jg.chain(guidance))
    return steered(context(x), steered.init(x))[0]


# As their rows of guidance.METHODS say, methods are checked in test_methods.py.
VARIANTS = (
    "energy, noisy",
    "energy, denoised",
    "energy, rms",
    "classifier",
    "apg, eps",
    "norm of two",
)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_obey_the_laws(name):
    jg.testing.check_term(CATALOGUE[name], step=1, steps=STEPS)


def test_terms_that_edit_attention_obey_the_laws():
    jg.testing.check_term(
        jg.chain(jg.pag(1.0, "block1/attn"), jg.seg(2.0, "block0", sigma=1.0))
    )


@pytest.mark.slow
def test_all_terms_at_once_obey_the_laws():
    jg.testing.check_term(
        EVERYTHING,
        skip={
            "weight_zero": "thresholds and clips have no weight",
            "weight_zero_static": "thresholds and clips have no weight",
        },
    )


@functools.cache
def plain():
    return denoisers(PARAMS)[0](X, jnp.full(B, 0.5), LABELS).x0


def elementwise(x, t, cond, *, control, capture):
    """Without sums, so that its rounding is the same in any batch."""
    push = jnp.sin(jnp.asarray(cond, jnp.float32) - t)[:, None]
    return jg.types.Denoised(1.3 * jnp.tanh(x + 0.5 * jnp.roll(x, 1, 1) + push))


@pytest.mark.parametrize("name", ["cfg", "energy", "apg", "norm of two"])
def test_weight_zero_is_the_network_alone(name):
    """Bit for bit what the network says when called by itself, not only what the
    planner evaluated as the base."""
    nets = (jg.Denoiser(elementwise),) * 2
    off = np.arange(B) < 3
    x0 = estimate(CATALOGUE[name](jnp.where(off, 0.0, 1.2)), nets)
    base = nets[0](X, jnp.full(B, 0.5), LABELS).x0
    np.testing.assert_array_equal(x0[off], base[off])


def test_linear_terms_add_and_commute():
    nets = denoisers(PARAMS)
    terms = [make(0.3 + 0.1 * i) for i, make in enumerate(LINEAR.values())]
    apart = sum(estimate(term, nets) - plain() for term in terms)
    for ordered in (terms, terms[::-1]):
        together = estimate(jg.chain(*ordered), nets) - plain()
        np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


# Everything at once, for what is costly to check term by term.
EVERYTHING = jg.chain(
    jg.cfg(1.5, NULL),
    jg.cfg(0.5, 1, name="negative"),  # Two branches in one call, or nothing is folded.
    apg(0.5, NULL, norm_threshold=1.0),
    jg.autoguidance(0.5),
    classifier_guidance(logits, 0.5, None, PARAMS["classifier"]),
    rescale_norm(
        jg.chain(jg.energy(shrink, 0.1), jg.energy(match, 0.1, 0.3)), 0.2, 0.8
    ),
    jg.energy(shrink, 0.1, normalize="rms", through="denoised"),
    rescale_std(0.7, space="eps"),
    dynamic_threshold(),
    clip_x0(-2.0, 2.0),
)


def sample(guidance, x, labels, keys, params=PARAMS, **options):
    grid = jg.uniform_grid(PROCESS, STEPS, 0.9)
    nets, solver = denoisers(params), jg.ddim(0.5)
    guidance = jg.chain(guidance)
    return jg.sample(
        keys,
        nets,
        solver,
        grid,
        x,
        labels,
        guidance=guidance,
        **options,
        process=PROCESS,
    )[0]


def test_a_sharded_guided_sampler_does_not_communicate():
    """Eight devices, the whole catalogue: no collective, the same samples, and one
    compilation for all weights, temperatures, thresholds and parameters."""
    traces = []

    @jax.jit
    def run(guidance, x, labels, keys):
        traces.append(1)
        return sample(guidance, x, labels, keys)

    one = run(EVERYTHING, X, LABELS, KEYS)
    other = run(jax.tree.map(lambda leaf: 2 * leaf, EVERYTHING), X, LABELS, KEYS)
    assert len(traces) == 1
    assert np.abs(one - other).max() > 1e-2

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    inputs = [jax.device_put(a, split) for a in (X, LABELS, KEYS)]
    compiled = run.lower(EVERYTHING, *inputs).compile()
    found = re.findall(
        r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter",
        compiled.as_text(),
    )
    assert not found
    many = compiled(EVERYTHING, *inputs)
    assert len(many.sharding.device_set) == 8
    np.testing.assert_allclose(many, one, atol=2e-5)


@pytest.mark.slow
def test_the_gradient_reaches_every_leaf():
    """Through all terms at once and through rematerialised steps."""

    def loss(guidance):
        return jnp.sum(sample(guidance, X, LABELS, KEYS, remat=True) ** 2)

    grads = jax.jit(jax.grad(loss))(EVERYTHING)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads.terms[:5]))
