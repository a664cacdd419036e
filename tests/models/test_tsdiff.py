"""TSDiff's network: its equations, its condition, and kernels made once."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import (
    S4D,
    DiffusionModel,
    TSDiff,
    from_config,
    tsdiff_cpu,
    tsdiff_paper,
)
from jaxlib_guidance.models._tsdiff import _step_embedding
from jaxlib_guidance.sampling import ddim, sample
from jaxlib_guidance.testing import randomise

MODULE = TSDiff(
    width=6,
    blocks=2,
    state=4,
    features=3,
    embedding=8,
    time_offset=-1.0,
    skip=True,
)
X = jax.random.normal(jax.random.key(1), (2, 10, 4))
COND = jax.random.normal(jax.random.key(2), (2, 10, 3))
# Of steps 2 and 70 of a table of 100: step i is time (i + 1) / 100.
STEPS = np.array([2, 70])
TIMES = jnp.array([0.03, 0.71])


@pytest.fixture(scope="module")
def params():
    start = jax.eval_shape(MODULE.init, jax.random.key(0), X, TIMES, COND)["params"]
    # The output layer starts at 0, which would hide all others.
    return randomise(jax.random.key(3), start)


def by_hand(params, x, steps, cond):
    """The equations of spec 1.2 in numpy, with PyTorch's GELU; all but the S4D layer.

    Read from the released code: sines before cosines, rates down to 1e-4 itself, and
    the Gaussian error function.
    """

    def dense(p, a):
        return a @ np.asarray(p["kernel"]) + np.asarray(p["bias"])

    def silu(a):
        return a / (1 + np.exp(-a))

    def gelu(a):
        return a * (1 + np.vectorize(math.erf)(a / math.sqrt(2))) / 2

    angle = steps[:, None] * np.array([1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4])
    e = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    e = silu(dense(params["time_out"], silu(dense(params["time_in"], e))))
    h = np.maximum(dense(params["input"], np.asarray(x)), 0)
    total = 0
    for i in range(2):
        p = params[f"block{i}"]
        z = h + dense(p["step"], e)[:, None]
        centred = z - z.mean(-1, keepdims=True)
        u = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        u = u * np.asarray(p["norm"]["scale"]) + np.asarray(p["norm"]["bias"])
        u = S4D(state=4).apply({"params": p["s4"]}, jnp.asarray(u, jnp.float32))
        z = z + dense(p["mix"], gelu(np.asarray(u, np.float64)))
        z = z + dense(p["condition"], np.asarray(cond))
        g = np.tanh(z) / (1 + np.exp(-z))
        h, total = h + dense(p["residual"], g), total + dense(p["skip"], g)
    out = dense(params["output"], np.maximum(dense(params["hidden"], total), 0))
    return out + np.asarray(x)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(partial(MODULE.apply, capture=("block1",)))


def test_the_network_is_its_equations(params, apply):
    out, taps = apply({"params": params}, X, TIMES, COND)
    np.testing.assert_allclose(out, by_hand(params, X, STEPS, COND), atol=2e-5)
    assert taps["block1"].shape == (2, 10, 6)


def test_the_step_is_embedded_at_the_published_rates():
    # f_i = exp(-i ln(1e4) / 63) for i = 0, ..., 63.
    rates = [math.exp(-i * math.log(1e4) / 63) for i in range(64)]
    for step in (0, 1, 99):
        want = [math.sin(step * f) for f in rates] + [math.cos(step * f) for f in rates]
        np.testing.assert_allclose(
            _step_embedding(jnp.array(step), 128), want, atol=1e-5
        )
    for width in (2, 5):
        with pytest.raises(ValueError, match=f"embedding is {width}; expected an even"):
            _step_embedding(TIMES, width)


def test_the_published_network_is_told_steps_from_0_to_99():
    module = from_config(tsdiff_paper(24)).module
    times = (np.arange(100) + 1) / 100
    told = times * module.time_scale + module.time_offset
    np.testing.assert_allclose(told, np.arange(100), atol=1e-9)


def test_kernels_made_before_and_rematerialisation_change_nothing(params, apply):
    remat = dataclasses.replace(MODULE, remat=True)

    @jax.jit
    def both(params):
        def loss(params, module, kernels):
            variables = {"params": params, **kernels}
            return jnp.sum(module.apply(variables, X, TIMES, COND)[0] ** 2)

        kernels = {"kernels": MODULE.kernels(params, 10)}
        value = jax.value_and_grad(loss)
        return (
            value(params, MODULE, {}),
            value(params, remat, {}),
            loss(params, remat, kernels),
        )

    (plain, grads), (again, regrads), given = both(params)
    np.testing.assert_allclose([again, given], plain, rtol=1e-5)
    np.testing.assert_allclose(
        plain, jnp.sum(apply({"params": params}, X, TIMES, COND)[0] ** 2), rtol=1e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        grads,
        regrads,
    )
    # Nothing reads the last block's residual stream.
    last = grads["block1"].pop("residual")
    assert not any(np.any(g) for g in jax.tree.leaves(last))
    assert all(np.any(g) for g in jax.tree.leaves(grads))


CONFIG = {
    "network": {"kind": "tsdiff", "width": 6, "blocks": 1, "state": 4, "embedding": 8},
    "process": {"kind": "ddpm", "steps": 10, "last": 0.1},
    "parametrize": {"predicts": "eps"},
    "shape": [10, 1],
}


def test_a_sampler_loop_transforms_no_kernel():
    model = from_config(CONFIG)
    assert isinstance(model, DiffusionModel)
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)

    def run(params):
        grid = jnp.linspace(1.0, 0.0, 5)
        return sample(keys, model.denoiser(params), ddim(), grid, model.shape)[0]

    jaxpr = jax.make_jaxpr(run)(params).jaxpr
    loops = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    inside = str(loops[-1].params["jaxpr"])
    # There and back, of the input.
    assert inside.count("fft_type") == 2
    assert str(jaxpr).count("fft_type") == inside.count("fft_type") + 1


def test_presets_build_and_paper_counts_parameters():
    paper = from_config(tsdiff_paper(360, channels=11))
    count = sum(leaf.size for leaf in jax.tree.leaves(paper.init(jax.random.key(0))))
    # Dense layers: 12 of 64 x 64, 4 of other shapes; per S4D 64 * (1 + 2 * 64) + the
    # output weights of two directions and the feed-through.
    square = 64 * 64 + 64
    other = (128 * 64 + 64) + (11 * 64 + 64) + (64 * 11 + 11)
    layer = 64 * (1 + 2 * 64 + 2 * 64 * 2 + 1)
    assert count == (1 + 3 * 4 + 1) * square + other + 3 * (128 + layer)
    np.testing.assert_allclose(paper.process.alpha(1.0) ** 2, 0.00562, atol=1e-5)
    cpu = from_config(tsdiff_cpu(192, features=5))
    assert cpu.shape == (192, 1)
    assert cpu.module.features == 5


def test_what_is_refused(params):
    variables = {"params": params}
    with pytest.raises(ValueError, match=r"cond is None; expected \(2, 10, 3\)"):
        MODULE.apply(variables, X, TIMES)
    with pytest.raises(ValueError, match=r"cond is \(2, 9, 3\); expected"):
        MODULE.apply(variables, X, TIMES, COND[:, 1:])
    with pytest.raises(ValueError, match=r"x has shape \(2, 10\)"):
        MODULE.apply(variables, X[..., 0], TIMES, COND)
    with pytest.raises(ValueError, match="sites are: none"):
        MODULE.apply(variables, X, TIMES, COND, control={"block0/attn": None})
    bare = dataclasses.replace(MODULE, features=0)
    with pytest.raises(ValueError, match=r"cond is \(2, 10, 3\); expected None"):
        bare.apply(variables, X, TIMES, COND)
