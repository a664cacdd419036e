"""Rows of benchmarks/accelerator.py: diffusers and PyTorch at the same work.

The same network with random weights, bfloat16, channels last, both branches of CFG in
one call, its own DPM++ 2M: first as diffusers runs it, then compiled.
"""

from collections.abc import Iterator

import diffusers
import torch
from accelerator_measure import Figure, least
from accelerator_text import Case, case_of, condition_shapes

from jaxlib_guidance.models import UNet2DCondition


def measured(case: Case) -> Iterator[Figure]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = UNet2DCondition(**case.config)
    names = (
        *("sample_size", "in_channels", "out_channels", "flip_sin_to_cos"),
        *("freq_shift", "down_block_types", "up_block_types", "block_out_channels"),
        *("layers_per_block", "norm_num_groups", "norm_eps", "cross_attention_dim"),
        *("transformer_layers_per_block", "attention_head_dim"),
        *("addition_embed_type", "addition_time_embed_dim"),
        "projection_class_embeddings_input_dim",
    )
    config = {name: getattr(module, name) for name in names}
    linear = case.name.endswith("1024 px")
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(**config, use_linear_projection=linear)
    unet = unet.eval().to(torch.bfloat16).to(memory_format=torch.channels_last)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        **{"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1},
    )
    for kind in ("eager", "compiled"):
        network = unet if kind == "eager" else torch.compile(unet, dynamic=False)
        for batch in case.batches:
            new = {"dtype": torch.bfloat16, "device": device}
            made = {
                key: torch.randn(2 * batch, *shape[1:], **new)
                for key, shape in condition_shapes(module, batch).items()
            }
            text, more = made.pop("text"), None
            if made:
                more = {"text_embeds": made["pooled"], "time_ids": made["time_ids"]}
            side = module.sample_size

            @torch.inference_mode()
            def draw(
                network=network, text=text, more=more, size=(batch, 4, side, side)
            ):
                scheduler.set_timesteps(case.steps, device=device)
                x = torch.randn(size, dtype=torch.bfloat16, device=device)
                for t in scheduler.timesteps:
                    both = torch.cat([x, x])
                    eps = network(both, t, text, added_cond_kwargs=more).sample
                    null, cond = eps.chunk(2)
                    x = scheduler.step(null + 7.5 * (cond - null), t, x).prev_sample
                if device == "cuda":
                    torch.cuda.synchronize()
                # A number, which jax need not wait for.
                return float(x.float().mean())

            spent = least(draw, 2)
            yield Figure(
                f"{case.name}, {case.steps} steps, batch {batch}, CFG: diffusers, "
                f"torch {torch.__version__}, {kind}",
                spent,
                note=f"{spent / batch:.2f} s a picture",
            )


def sd15(toy: bool) -> Iterator[Figure]:
    return measured(case_of("sd15", toy))


def sdxl(toy: bool) -> Iterator[Figure]:
    return measured(case_of("sdxl", toy))
