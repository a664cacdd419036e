"""Entry points lower for CPUs, GPUs and TPUs; terms and solvers by their laws."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import denoising_loss, log_normal_t
from jaxlib_guidance.testing import tiny_dit, tiny_unet
from jaxlib_guidance.training import init_state, make_train_step

PLATFORMS = ("cpu", "cuda", "tpu")
PROCESS = jg.VPCosine()
KEYS = jg.sample_keys(jax.random.key(0), 2)
LABELS = jnp.array([3, 7])
GRID = jg.logsnr_grid(PROCESS, 4)
SHAPE = (8, 8, 1)


def lower(function, *args):
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS


def shrunk(x, t, cond):
    return 0.5 * x


def test_adaptive_solver_and_inversion():
    denoiser = jg.parametrize(shrunk, PROCESS)
    lower(lambda k: jg.sample_adaptive(k, denoiser, SHAPE)[0], KEYS)
    x = jnp.ones((2, *SHAPE))
    lower(lambda k, x: jg.invert(k, denoiser, GRID, x), KEYS, x)


@pytest.mark.parametrize("make", [tiny_dit, tiny_unet])
def test_guided_networks(make):
    module, params = make(jax.random.key(1), SHAPE)
    site = "block1" if make is tiny_dit else "mid"
    guidance = jg.chain(
        jg.during(jg.cfg(2.0, null=10), 0.25, 1.0),
        jg.apg(0.5, null=10),
        jg.pag(1.0, f"{site}/attn"),
        jg.seg(1.0, f"{site}/attn", sigma=1.0),
        jg.rescale_norm(jg.energy(lambda x0, ctx: jnp.sum(x0**2, (1, 2, 3))), 0.1, 1.0),
        jg.rescale_std(0.7),
        jg.dynamic_threshold(),
    )

    def run(params, guidance, keys, labels):
        denoiser = jg.parametrize(jg.models.from_linen(module, params), PROCESS, "v")
        return jg.sample(
            keys,
            denoiser,
            jg.dpmpp_2m(),
            GRID,
            SHAPE,
            labels,
            guidance=guidance,
        )[0]

    leaves, tree = jax.tree.flatten(guidance)
    lower(
        lambda p, w, k, c: run(p, tree.unflatten(w), k, c), params, leaves, KEYS, LABELS
    )


def test_train_step():
    module, params = tiny_dit(jax.random.key(1), SHAPE)

    def loss(params, batch, keys):
        denoiser = jg.parametrize(jg.models.from_linen(module, params), PROCESS, "v")
        eps = rng.normal(keys, SHAPE)
        t = log_normal_t(PROCESS, rng.uniform(rng.fold(keys, 1)))
        return denoising_loss(denoiser, batch["image"], eps, t, batch["label"]), {}

    tx = optax.adamw(1e-3)
    step = make_train_step(loss, tx, ema_decay=0.99, accumulate=2, clip=1.0)
    state = init_state(params, tx, jax.random.key(2))
    leaves, tree = jax.tree.flatten(state)
    batch = {"image": jnp.zeros((2, *SHAPE)), "label": LABELS}
    lower(lambda s, b: jax.tree.leaves(step(tree.unflatten(s), b)), leaves, batch)
