"""Rows of benchmarks/accelerator.py about a DiT of the size XL/2, and its attention."""

import functools
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from accelerator_measure import (
    Figure,
    fused_kernel,
    least,
    operations,
    random_params,
    timed,
)

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.attention import Edit, attend
from jaxlib_guidance.diffusion import denoising_loss, discrete_grid, linear_betas
from jaxlib_guidance.models import DiTXL, from_linen, parameter_shapes
from jaxlib_guidance.training import init_state, make_train_step

PROCESS = jg.vp_discrete(linear_betas(1000))
TOY = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
STEPS = 25


def network(toy: bool, **own) -> DiTXL:
    """DiT-XL/2 of 256 pixels, or a toy of it, in bfloat16."""
    sizes = TOY | {"sample_size": 8} if toy else {}
    kernel = fused_kernel(DiTXL(**sizes).attention_head_dim)
    return DiTXL(**sizes | {"dtype": jnp.bfloat16, "kernel": kernel} | own)


def name_of(module: DiTXL) -> str:
    return "DiT-XL/2" if module.num_attention_heads == 16 else "toy DiT"


def parameters(module: DiTXL, dtype):
    x = jax.ShapeDtypeStruct((1, *shape_of(module)), jnp.float32)
    t, label = (jax.ShapeDtypeStruct((1,), kind) for kind in (jnp.float32, jnp.int32))
    return random_params(parameter_shapes(module.init, x, t, label), dtype)


def shape_of(module: DiTXL) -> tuple[int, int, int]:
    return module.sample_size, module.sample_size, module.in_channels


def denoiser_of(module, params):
    return jg.parametrize(from_linen(module, params), PROCESS, "eps")


def inputs(module, batch):
    """State, times, labels and keys."""
    keys = jg.sample_keys(jax.random.key(0), batch)
    x = rng.normal(keys, shape_of(module))
    return x, jnp.linspace(0.1, 0.9, batch), jnp.arange(batch) % module.classes, keys


def forward_operations(module, params, batch) -> float:
    """Operations of a bare call; a library's attention would not be counted."""
    plain = module.clone(kernel=None)
    x, t, labels, _ = inputs(module, batch)
    return operations(lambda p: plain.apply({"params": p}, x, t, labels)[0], params)


def train_step(module, batch):
    """A step, its state and its batch: AdamW, an average, float32 parameters."""

    def loss(params, rows, keys):
        x0, labels = rows
        noise = rng.normal(keys, x0.shape[1:])
        t = rng.uniform(rng.fold(keys, 1)) * 0.98 + 0.01
        net = denoiser_of(module, params)
        return denoising_loss(net, x0, noise, t, labels), {}

    tx = optax.adamw(1e-4)
    x0, _, labels, _ = inputs(module, batch)
    params = parameters(module, jnp.float32)
    state = init_state(params, tx, jax.random.key(1))
    return make_train_step(loss, tx, clip=1.0), state, (x0, labels)


def training(toy: bool) -> Iterator[Figure]:
    module, batch = network(toy), 4 if toy else 64
    step, state, rows = train_step(module, batch)
    forward = forward_operations(module, state.params, batch)

    def call():
        nonlocal state
        state, metrics = step(state, rows)
        return metrics["loss"]

    began = time.perf_counter()
    jax.block_until_ready(call())
    ready = time.perf_counter() - began
    spent = least(call)
    note = f"{batch / spent:.0f} images a second"
    what = f"{name_of(module)}, training step, batch {batch}"
    yield Figure(what, spent, 3 * forward, ready, note)


def sampling(toy: bool) -> Iterator[Figure]:
    """With and without CFG, and beside the bare calls of the network."""
    module = network(toy)
    params, steps = parameters(module, jnp.bfloat16), 3 if toy else STEPS
    grid = discrete_grid(PROCESS, steps)
    for batch in (2,) if toy else (64, 1):
        x, t, labels, keys = inputs(module, batch)
        forward = forward_operations(module, params, batch)

        def draw(params, guidance=None, x=x, labels=labels, keys=keys):
            net = denoiser_of(module, params)
            return jg.sample(keys, net, jg.ddim(), grid, x, labels, guidance=guidance)[
                0
            ]

        def bare(params, x=x, t=t, labels=labels):
            def call(x, _):
                value, _ = module.apply({"params": params}, x, t, labels)
                return value, None

            return jax.lax.scan(call, x, None, length=steps)[0]

        name = f"{name_of(module)}, {steps} steps, batch {batch}"
        spent, ready = timed(draw, params)
        alone, _ = timed(bare, params)
        note = f"{spent / alone:.3f} of the bare calls"
        yield Figure(name, spent, steps * forward, ready, note)
        null = jnp.int32(module.classes)
        both, ready = timed(functools.partial(draw, guidance=jg.cfg(3.0, null)), params)
        note = f"{both / spent:.2f} of that without"
        yield Figure(f"{name}, CFG", both, 2 * steps * forward, ready, note)


def guided_steps(toy: bool) -> Iterator[Figure]:
    """One step with four branches beside one call of a batch four times as large."""
    module = network(toy)
    params, site = parameters(module, jnp.bfloat16), f"block{module.num_layers // 2}"
    guidance = jg.chain(
        jg.cfg(3.0, jnp.int32(module.classes)), jg.pag(2.0, site), jg.seg(2.0, site)
    )
    grid = jnp.array([0.5, 0.4])
    for batch in (1, 2) if toy else (1, 64):
        x, _, labels, keys = inputs(module, batch)
        many = inputs(module, 4 * batch)
        forward = forward_operations(module, params, 4 * batch)

        def step(params, x=x, labels=labels, keys=keys):
            net = denoiser_of(module, params)
            given = (keys, net, jg.ddim(), grid, x, labels)
            return jg.sample(*given, guidance=guidance)[0]

        spent, ready = timed(step, params, repeats=20)
        alone, _ = timed(
            lambda p, many=many: module.apply({"params": p}, *many[:3])[0],
            params,
            repeats=20,
        )
        yield Figure(
            f"{name_of(module)}, a step of four branches, batch {batch}",
            *(spent, forward, ready, f"{spent / alone:.3f} of one bare call of all"),
        )


def attention(toy: bool) -> Iterator[Figure]:
    """Edited attention beside the fused one, at 64x64 tokens."""
    batch, side, heads, width = (1, 4, 2, 8) if toy else (4, 64, 16, 64)
    keys = jax.random.split(jax.random.key(0), 3)
    size = (batch, side**2, heads, width)
    qkv = [jax.random.normal(key, size, jnp.bfloat16) for key in keys]
    kernel, gate = fused_kernel(width), jnp.ones(batch)
    edits = {
        "plain": None,
        "perturbed (PAG)": Edit(identity=gate),
        "blurred (SEG)": Edit(query_blur=2.0 * gate),
        "scaled logits": Edit(logit_scale=jnp.float32(1.1)),
    }
    flops, plain = 4.0 * batch * heads * side**4 * width, 0.0
    for name, edit in edits.items():

        def call(q, k, v, edit=edit):
            return attend(q, k, v, edit, grid=(side, side), kernel=kernel)[0]

        spent, ready = timed(call, *qkv, repeats=20)
        plain = plain or spent
        note = f"{spent / plain:.2f} of plain" if edit else f"kernel {kernel or 'xla'}"
        yield Figure(
            f"attention, {name}, {batch}x{side**2}x{heads}x{width}",
            *(spent, flops, ready, note),
        )


def digest(toy: bool) -> Iterator[Figure]:
    """Of parameters after training steps, and of guided samples of them."""
    module = network(toy)
    step, state, rows = train_step(module, 2 if toy else 16)
    for _ in range(3):
        state, _ = step(state, rows)
    x, _, labels, keys = inputs(module, len(rows[0]))
    grid = discrete_grid(PROCESS, 3)
    site = f"block{module.num_layers // 2}"
    guidance = jg.chain(jg.cfg(3.0, jnp.int32(module.classes)), jg.pag(2.0, site))

    @jax.jit
    def draw(params):
        net = denoiser_of(module, params)
        given = (keys, net, jg.ddim(1.0), grid, x, labels)
        return jg.sample(*given, guidance=guidance)[0]

    found = hashlib.sha256(np.asarray(draw(state.params)).tobytes())
    for leaf in jax.tree.leaves(state.params):
        found.update(np.asarray(leaf).tobytes())
    yield Figure("digest", 0.0, note=found.hexdigest()[:16])


def same_bits(toy: bool) -> Iterator[Figure]:
    """Whether two processes train and sample to the same bits."""
    script = Path(__file__).with_name("accelerator.py")
    command = [sys.executable, str(script), "--child", "accelerator_dit", "digest"]
    found = []
    for _ in range(2):
        text = subprocess.check_output(command + ["--toy"] * toy, text=True)
        found.append(json.loads(text.splitlines()[-1])["note"])
    same = f"the same bits, {found[0]}" if found[0] == found[1] else f"DIFFER: {found}"
    what = f"{name_of(network(toy))}, training and sampling in two processes"
    yield Figure(what, 0.0, note=same)
