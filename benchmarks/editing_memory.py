"""What Guide-and-Rescale holds at 64 by 64 latents, counted from the compiled program.

    python benchmarks/editing_memory.py             # the line of docs/editing.md
    python benchmarks/editing_memory.py --samples 2 # what another sample holds more
    python benchmarks/editing_memory.py --side 16   # quick

A network of Stable Diffusion 1.5's size, without weights: nothing runs, the compiler
says how much it would allocate beside arguments and result. Steps of
Guide-and-Rescale with the energy of one small feature and with that of all 16
self-attention sites evaluate and differentiate the same branches: their difference is
what the maps cost.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.editing import guide_and_rescale
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.models.published import UNet2DCondition, parameter_shapes
from jaxlib_guidance.sampling import Inversion


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile."""

    side: int = 64
    """Latents along a side."""
    samples: int = 1
    """Samples at once; what two hold more than one is what a sample costs."""
    dtype: str = "float32"
    """Type of parameters and computation."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Rows to compile, by name; all by default."""


def main(config: Config) -> None:
    """Compiles both steps and prints what they hold."""
    dtype = jnp.dtype(config.dtype)
    net = UNet2DCondition(cross_attention_dim=768, dtype=dtype)
    shape, text = (config.side, config.side, 4), {"text": (77, 768)}

    def spec(*dims):
        return jax.ShapeDtypeStruct((config.samples, *dims), jnp.float32)

    x, cond = spec(*shape), {name: spec(*dims) for name, dims in text.items()}
    params = parameter_shapes(net.init, x, spec(), cond)
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), params)

    def step(**given):
        def run(params, x, next_x, source, target, null):
            denoiser = jg.parametrize(from_linen(net, params), jg.VPLinear(), "eps")
            keys, grid = jg.sample_keys(jax.random.key(0), len(x)), [0.5, 0.4]
            if not given:
                guidance = jg.cfg(6.5, null)
                start = keys, denoiser, jg.ddim(), grid, x, target
                return jg.sample(*start, guidance=guidance)[0]
            inversion = Inversion(x, jnp.stack([next_x, next_x]))
            return guide_and_rescale(
                *(keys, denoiser, grid, x, source, target, null),
                share=1.0,
                inversion=inversion,
                **given,
            ).x

        found = jax.jit(run).lower(params, x, x, cond, cond, cond).compile()
        return found.memory_analysis().temp_size_in_bytes / 2**30

    steps = {
        "CFG alone": {},
        "the same branches, a feature": {"features": {"mid": 1.0}},
        "Guide-and-Rescale, 16 sites": {"maps": {"*/attn": 3e5}},
    }
    print("| a step of | GiB beside arguments |")
    print("|---|---:|")
    for name in config.only or steps:
        print(f"| {name} | {step(**steps[name]):.2f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
