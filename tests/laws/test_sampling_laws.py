"""Laws of guided sampling as a JAX function: transforms, sharding, traces, export."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlib_guidance import rng, testing
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid
from jaxlib_guidance.guidance import (
    Observed,
    cfg,
    chain,
    during,
    energy,
    masking,
    measurement,
    norm_energy,
)
from jaxlib_guidance.sampling import (
    adams,
    annealed_langevin,
    consistency,
    daps,
    ddim,
    ddpm,
    deis,
    diffpir,
    dpm_2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    dsg,
    edm,
    flow_sde,
    guided_after,
    heun,
    inpaint,
    lms,
    pndm,
    pnp_flow,
    red_diff,
    sa_solver,
    sample,
    unipc,
    with_corrector,
    with_recurrence,
)
from jaxlib_guidance.types import Denoised, Denoiser, expand

PROCESS = VPCosine()
GRID = logsnr_grid(PROCESS, 6)
KEYS = rng.sample_keys(jax.random.key(0), 8)
COND = jnp.arange(8) % 3
# Classes at these places, and none of them last: what the label -1 selects.
PLACES = jnp.array([[0.8, 0.5], [-1.1, 0.3], [-0.3, -1.6], [0.0, 0.0]])


def classes(x, t, cond, **_):
    """The exact denoiser of Gaussian classes, bent a little: cheap, but not linear."""
    variance = jnp.where(cond < 0, 0.75, 0.05)
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    gain = expand(alpha * variance / (alpha**2 * variance + sigma**2), x)
    place = PLACES[cond]
    off = gain * (x - expand(alpha, x) * place)
    return Denoised(place + 0.8 * off + 0.2 * jnp.sin(off))


NET = Denoiser(classes)

SAMPLERS = {
    "ddim": ddim(),
    "ddpm": ddpm(),
    "sa": sa_solver(0.8, 3),
    "corrected": with_corrector(ddim(0.5), 2),
    "annealed": annealed_langevin(3),
    "recurrent": with_recurrence(ddpm(), 2),
}


def far(x0, ctx):
    return jnp.sum((x0 - 1) ** 2, axis=1)


def steer(weight, pull=0.1):
    """Classifier-free guidance and both kinds of energy, in one chain."""
    return chain(
        cfg(weight, jnp.int32(-1)),
        energy(far, pull),
        energy(far, pull, through="denoised"),
    )


def guided(keys, cond, weight=0.7, sampler=SAMPLERS["ddpm"], net=NET, **options):
    term = steer(weight)
    return sample(
        keys, net, sampler, GRID, (2,), cond, guidance=term, **options, process=PROCESS
    )[0]


def counting(calls):
    def apply(x, t, cond, **options):
        calls.append(x.shape)
        return NET.apply(x, t, cond, **options)

    return Denoiser(apply)


SOURCE = jnp.linspace(-1, 1, 16).reshape(8, 2)
KNOWN = jnp.array([1.0, 0.0])
FULL = {
    "adams": (adams(4, adaptive=True), {}),
    "annealed_langevin": (annealed_langevin(2), {}),
    "consistency": (consistency(), {}),
    "ddim": (ddim(), {"order": 1}),
    "dpmpp_2s": (dpmpp_2s(1.0), {}),
    "edm, churned": (edm(0.2), {}),
    "flow_sde": (flow_sde(), {}),
    "heun": (heun(), {"order": 2}),
    "inpaint": (lambda rows: inpaint(ddpm(), SOURCE[rows], KNOWN), {}),
    "unipc": (unipc(), {"order": 3}),
}
# What is another setting of a solver above is spared the costly laws.
QUICK = {
    "only": (
        "transition",
        "evaluations",
        "stochastic",
        "half",
        "batch",
        "nan",
        "jit",
        "one_compilation",
        "lowers",
    )
}
CATALOGUE = FULL | {
    "ddim, half noise": (ddim(0.5), QUICK),
    "adams, fixed order": (adams(3), QUICK),
    "ddpm, large": (ddpm("large"), QUICK),
    "deis": (deis(), QUICK),
    "dpm_2": (dpm_2(), QUICK),
    "dpmpp_2m": (dpmpp_2m(), QUICK),
    "dpmpp_3m": (dpmpp_3m(1.0), QUICK),
    "dpmpp_sde": (dpmpp_sde(), QUICK),
    "edm": (edm(), QUICK),
    "guided_after": (
        lambda rows: guided_after(
            ddpm(),
            Observed(SOURCE[rows], jnp.tile(KNOWN, (rows.size, 1))),
            "square",
            0.1,
        ),
        QUICK | {"skip": {"stochastic": "a step is the point where it arrived"}},
    ),
    "lms": (lms(), QUICK),
    "pndm": (pndm(), QUICK),
}


def seen(rows):
    return measurement(SOURCE[rows], masking(KNOWN), 0.3)


# Those that hold a measurement. What is left out is what their parts are tested for.
FEW = {"only": ("transition", "evaluations", "stochastic", "batch", "nan")}
CATALOGUE |= {
    "daps": (lambda rows: daps(seen(rows), ode_steps=2, iterations=1), FEW),
    "diffpir": (lambda rows: diffpir(seen(rows), zeta=0.5, iterations=1), FEW),
    "dsg": (
        lambda rows: dsg(ddpm(), norm_energy, seen(rows)),
        FEW | {"skip": {"stochastic": "a step is the point where it arrived"}},
    ),
    "pnp_flow": (lambda rows: pnp_flow(seen(rows), samples=2), FEW),
    "red_diff": (lambda rows: red_diff(seen(rows)), FEW),
}


@pytest.mark.share(3)
@pytest.mark.parametrize("name", CATALOGUE)
def test_solvers_obey_the_laws(name):
    sampler, options = CATALOGUE[name]
    testing.check_sampler(sampler, **options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guided_solvers_obey_the_laws(name):
    eager = ("jit",) if name in ("ddpm", "sa") else ()
    testing.check_sampler(
        SAMPLERS[name],
        denoiser=NET,
        process=PROCESS,
        grid=GRID,
        cond=COND,
        guidance=steer(0.7),
        only=("batch", "nan", "one_compilation", "devices", *eager),
    )


def test_vmap_over_weights_and_eta():
    def run(weight, eta):
        return guided(KEYS[:2], COND[:2], weight, ddim(eta))

    weights, etas = jnp.array([0.0, 0.5, 2.0]), jnp.array([1.0, 0.3, 0.0])
    each = jax.jit(run)
    loop = jnp.stack([each(w, e) for w, e in zip(weights, etas, strict=True)])
    np.testing.assert_allclose(jax.vmap(run)(weights, etas), loop, atol=1e-5)


def test_a_weight_per_sample():
    weights = jnp.linspace(0, 2, 8)
    run = jax.jit(guided)
    x = run(KEYS, COND, weights)
    for i in (0, 5):
        one = run(KEYS[i : i + 1], COND[i : i + 1], weights[i : i + 1])
        np.testing.assert_allclose(one, x[i : i + 1], atol=1e-5)


def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


COLLECTIVE = re.compile(
    r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    r"|collective-broadcast"
)


def test_the_search_for_collectives_finds_one():
    sharding = NamedSharding(mesh(), PartitionSpec("data"))

    def coupled(keys):
        x = sample(keys, NET, ddpm(), GRID, (2,), COND, process=PROCESS)[0]
        return x - jnp.mean(x)

    keys = jax.device_put(KEYS, sharding)
    assert COLLECTIVE.search(jax.jit(coupled).lower(keys).compile().as_text())


def loss(weight, scale, remat=False, sampler=SAMPLERS["ddpm"]):
    def apply(x, t, cond, **options):
        out = NET.apply(x, t, cond, **options)
        return out._replace(x0=scale * out.x0)

    net = Denoiser(apply)
    x = guided(KEYS[:4], COND[:4], weight, sampler, net, remat=remat)
    return jnp.sum(jnp.sin(2 * x))


@pytest.mark.parametrize(("name", "remat"), [("ddpm", True), ("sa", False)])
def test_gradient_through_the_sampler(name, remat):
    def value(weight, scale, remat=False):
        return loss(weight, scale, remat, SAMPLERS[name])

    at = (jnp.float32(0.7), jnp.float32(0.9))
    plain = jax.jit(jax.grad(value, (0, 1)))(*at)
    if remat:
        kept = jax.jit(jax.grad(lambda w, s: value(w, s, True), (0, 1)))(*at)
        np.testing.assert_allclose(plain, kept, rtol=1e-4)
    h = 5e-3
    weights = jnp.array([0.7 + h, 0.7 - h, 0.7, 0.7])
    scales = jnp.array([0.9, 0.9, 0.9 + h, 0.9 - h])
    moved = jax.jit(jax.vmap(value))(weights, scales)
    slopes = (moved[0] - moved[1]) / (2 * h), (moved[2] - moved[3]) / (2 * h)
    np.testing.assert_allclose(plain, slopes, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_traced_once(name):
    calls = []
    net = counting(calls)
    sampler = SAMPLERS[name]
    plain = jax.jit(
        lambda keys: sample(keys, net, sampler, GRID, (2,), COND, process=PROCESS)[0]
    )
    plain.lower(KEYS)
    # Wrappers that make Langevin moves hold a second copy of it, for the moves.
    copies = {"corrected": 2, "annealed": 2}.get(name, 1)
    assert len(calls) == copies
    calls.clear()
    contrast = jax.jit(
        lambda keys, weight: sample(
            keys,
            net,
            sampler,
            GRID,
            (2,),
            COND,
            guidance=chain(cfg(weight, jnp.int32(-1))),
            process=PROCESS,
        )[0]
    )
    contrast.lower(KEYS, jnp.float32(1))
    assert calls == [(16, 2)] * copies


def test_one_compilation_serves_all_weights():
    calls = []
    net = counting(calls)
    run = jax.jit(lambda weight: guided(KEYS, COND, weight, net=net))
    for weight in (0.0, 0.5, 4.0):
        run(jnp.float32(weight))
    # One tracing: the differentiated branch and the other one are two calls.
    assert len(calls) == 2


def test_windows_cost_what_they_cover():
    calls = []
    net = counting(calls)

    def run(term):
        calls.clear()
        jax.jit(
            lambda keys: sample(
                keys, net, ddpm(), GRID, (2,), COND, guidance=term, process=PROCESS
            )[0]
        ).lower(KEYS)
        return [shape[0] for shape in calls]

    half = during(cfg(1.0, jnp.int32(-1)), 0.0, 0.5)
    assert run(half) == [16, 8]
    assert run(chain(cfg(0.0, jnp.int32(-1)))) == [8]


def test_exports_for_every_platform():
    def run(data, cond, weight):
        keys = jax.random.wrap_key_data(data)
        return guided(keys, cond, weight)

    platforms = ("cpu", "cuda", "tpu")
    data = jax.random.key_data(KEYS)
    exported = export.export(jax.jit(run), platforms=platforms)(
        data, COND, jnp.float32(0.7)
    )
    assert exported.platforms == platforms
    got = exported.call(data, COND, jnp.float32(0.7))
    np.testing.assert_allclose(got, jax.jit(run)(data, COND, 0.7), atol=1e-5)


def test_exports_with_any_batch():
    def run(data, cond):
        return guided(jax.random.wrap_key_data(data), cond)

    (batch,) = export.symbolic_shape("b")
    words = jax.random.key_data(KEYS)
    exported = export.export(jax.jit(run))(
        jax.ShapeDtypeStruct((batch, *words.shape[1:]), words.dtype),
        jax.ShapeDtypeStruct((batch,), COND.dtype),
    )
    whole = jax.jit(run)(words, COND)
    for n in (1, 3):
        np.testing.assert_allclose(
            exported.call(words[:n], COND[:n]), whole[:n], atol=1e-5
        )


def test_inpainting_shards_with_its_source():
    sharding = NamedSharding(mesh(), PartitionSpec("data"))
    source = jnp.ones((8, 2)) * 0.3

    @jax.jit
    def run(keys, source):
        sampler = with_recurrence(inpaint(ddpm(), source, jnp.array([1.0, 0.0])), 1)
        return sample(keys, NET, sampler, GRID, (2,), COND, process=PROCESS)[0]

    args = jax.device_put((KEYS, source), sharding)
    compiled = run.lower(*args).compile()
    assert COLLECTIVE.findall(compiled.as_text()) == []
    np.testing.assert_allclose(compiled(*args), run(KEYS, source), atol=1e-5)
