"""Rows of benchmarks/accelerator.py: latents of Stable Diffusion's sizes, with CFG.

Random weights; the text is random too, and nothing is decoded, so that the times are
those of the network and the sampler. The sizes and steps are those of the table in
docs/models.md.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from accelerator_measure import Figure, fused_kernel, operations, random_params, timed

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import discrete_grid, scaled_linear_betas
from jaxlib_guidance.models import (
    UNet2DCondition,
    example_arguments,
    from_linen,
    parameter_shapes,
)

PROCESS = jg.vp_discrete(scaled_linear_betas())
SD15 = {"cross_attention_dim": 768, "sample_size": 64}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", *2 * ("CrossAttnDownBlock2D",)),
    "up_block_types": (*2 * ("CrossAttnUpBlock2D",), "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TOYS = {
    "sd15": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 8,
    },
    "sdxl": {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 8,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
}


class Case(NamedTuple):
    """A network's configuration and how it is sampled."""

    name: str
    config: dict[str, Any]
    steps: int
    batches: tuple[int, ...]


def case_of(name: str, toy: bool) -> Case:
    config = {"sd15": SD15, "sdxl": SDXL}[name]
    if toy:
        return Case(f"toy {name}", config | TOYS[name], 3, (1, 2))
    # As in the goals: 50 steps at 512 pixels, 30 at 1024.
    if name == "sd15":
        return Case("SD 1.5, 512 px", config, 50, (1, 8))
    return Case("SDXL, 1024 px", config, 30, (1, 4))


def condition_shapes(module, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what the network is told."""
    found = {"text": (batch, 77, module.cross_attention_dim)}
    if module.addition_embed_type is not None:
        sizes = 6 * module.addition_time_embed_dim
        pooled = module.projection_class_embeddings_input_dim - sizes
        found |= {"pooled": (batch, pooled), "time_ids": (batch, 6)}
    return found


def measured(case: Case) -> Iterator[Figure]:
    module = UNet2DCondition(**case.config, dtype=jnp.bfloat16)
    # The heads' widths are the channels over the heads' number, or 64 in XL.
    heads = module.attention_head_dim
    widths = [
        channels // (heads if isinstance(heads, int) else heads[i])
        for i, channels in enumerate(module.block_out_channels)
    ]
    module = module.clone(kernel=fused_kernel(*widths, keys=77))
    shapes = parameter_shapes(module.init, *example_arguments(module))
    params = random_params(shapes, jnp.bfloat16)
    latent = (module.sample_size, module.sample_size, 4)
    grid = discrete_grid(PROCESS, case.steps)
    for batch in case.batches:
        keys = jg.sample_keys(jax.random.key(0), batch)
        cond = {
            name: jax.random.normal(jax.random.key(1), shape)
            for name, shape in condition_shapes(module, batch).items()
        }
        null = jax.tree.map(jnp.zeros_like, cond)
        forward = operations(
            lambda p, cond=cond, batch=batch: module.clone(kernel=None).apply(
                {"params": p}, jnp.zeros((batch, *latent)), jnp.ones(batch), cond
            )[0],
            params,
        )

        def draw(params, guidance, keys=keys, cond=cond):
            net = jg.parametrize(from_linen(module, params), PROCESS, "eps")
            given = (keys, net, jg.dpmpp_2m(), grid, latent, cond)
            return jg.sample(*given, guidance=guidance)[0]

        name = f"{case.name}, {case.steps} steps, batch {batch}"
        cfg = jg.cfg(6.5, null)
        plain, ready = timed(draw, params, cfg, repeats=2)
        note = f"{plain / batch:.2f} s a picture, kernel {module.kernel or 'xla'}"
        yield Figure(f"{name}, CFG", plain, 2 * case.steps * forward, ready, note)
        if batch > 1:
            continue
        spent, ready = timed(draw, params, jg.chain(cfg, jg.pag(2.0, "mid")), repeats=2)
        note = f"{spent / plain:.2f} of CFG alone"
        flops = 3 * case.steps * forward
        yield Figure(f"{name}, CFG and PAG", spent, flops, ready, note)


def sd15(toy: bool) -> Iterator[Figure]:
    return measured(case_of("sd15", toy))


def sdxl(toy: bool) -> Iterator[Figure]:
    return measured(case_of("sdxl", toy))
