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
    "rescale_std": lambda w: jg.chain(jg.cfg(w, NULL), rescale_std(w, space="v")),
    "rescale_norm": lambda w: jg.chain(
        jg.cfg(w, NULL), rescale_norm(jg.energy(shrink, w), 0.3, 0.5)
    ),
    "norm of two": lambda w: rescale_norm(
        jg.chain(jg.energy(shrink, w), jg.autoguidance(w)),
        0.0,
        2.0,
        relative_to=jg.cfg(1.0, NULL),
    ),
    "clip": lambda w: jg.chain(jg.cfg(w, NULL), jg.scheduled(clip_x0(), lambda c: w)),
    "threshold": lambda w: jg.chain(
        jg.cfg(w, NULL), jg.scheduled(dynamic_threshold(80.0, 0.5), lambda c: w)
    ),
}
TERMS = pytest.mark.parametrize("make", CATALOGUE.values(), ids=CATALOGUE)


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


@TERMS
def test_gradients_vmap_and_independence(make):
    """Derivatives with respect to the weight, and along a direction of the parameters,
    against finite differences; sample 5 replaced and the others unmoved; weight 0 is
    the network alone. All of it in one compiled `vmap`.
    """

    def loss(w, shift, x):
        params = {name: leaf * (1 + shift) for name, leaf in PARAMS.items()}
        x0 = estimate(make(w), denoisers(params), x)
        return jnp.sum(x0 * jnp.roll(X, 1)), x0

    h = 0.005
    moved = X.at[5].set(3.0)
    cases = [(0.6, 0, X), (0.6 + h, 0, X), (0.6 - h, 0, X), (0.6, h, X), (0.6, -h, X)]
    cases += [(0.6, 0, moved), (0.0, 0, X), (1.2, 0, X)]
    w, shift, x = (jnp.stack([jnp.float32(c[i]) for c in cases]) for i in range(3))
    (losses, x0), slopes = jax.jit(
        jax.vmap(jax.value_and_grad(loss, (0, 1), has_aux=True))
    )(w, shift, x)
    differences = np.array([losses[1] - losses[2], losses[3] - losses[4]]) / (2 * h)
    np.testing.assert_allclose(
        [slope[0] for slope in slopes], differences, rtol=3e-2, atol=5e-3
    )
    assert np.isfinite(slopes).all()
    assert np.abs(x0[0] - x0[7]).max() > 1e-3
    others = np.arange(B) != 5
    np.testing.assert_array_equal(x0[0][others], x0[5][others])
    assert np.abs(x0[0][5] - x0[5][5]).max() > 1e-2
    np.testing.assert_allclose(x0[6], plain(), atol=2e-6)


@functools.cache
def plain():
    return denoisers(PARAMS)[0](X, jnp.full(B, 0.5), LABELS).x0


def elementwise(x, t, cond, *, control, capture):
    """Without sums, so that its rounding is the same in any batch."""
    push = jnp.sin(jnp.asarray(cond, jnp.float32) - t)[:, None]
    return jg.types.Denoised(1.3 * jnp.tanh(x + 0.5 * jnp.roll(x, 1, 1) + push))


@TERMS
def test_weight_zero_is_exactly_off(make):
    """Bit for bit in samples whose weight is 0, while others have theirs."""
    nets = (jg.Denoiser(elementwise),) * 2
    off = np.arange(B) < 3
    x0 = estimate(make(jnp.where(off, 0.0, 1.2)), nets)
    base = nets[0](X, jnp.full(B, 0.5), LABELS).x0
    np.testing.assert_array_equal(x0[off], base[off])
    np.testing.assert_allclose(x0[~off], estimate(make(1.2), nets)[~off], atol=1e-6)


@pytest.mark.parametrize(
    "name", [n for n in CATALOGUE if n not in ("clip", "threshold")]
)
def test_a_weight_known_to_be_zero_leaves_no_trace(name):
    """Clipping and thresholding have no weight of their own to be known."""
    nets = (jg.Denoiser(elementwise),) * 2

    def program(guidance):
        steered = jg.guided(nets, guidance)
        state = steered.init(X)
        return str(jax.make_jaxpr(lambda x: steered(context(x), state)[0])(X))

    assert program(CATALOGUE[name](0.0)) == program(jg.chain())


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


def test_jit_is_eager():
    nets = denoisers(PARAMS)
    eager = estimate(EVERYTHING, nets)
    np.testing.assert_allclose(
        jax.jit(lambda g: estimate(g, nets))(EVERYTHING), eager, rtol=1e-4, atol=1e-5
    )
