"""Stable Diffusion with a ControlNet, from prompt to latent."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
)
from family_sd import build_sd15, nhwc
from published_files import randomise

HEIGHT, WIDTH, STEPS = 16, 24, 5


def _make(folder):
    ControlNetModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(4, 8),
    ).save_pretrained(folder)
    randomise(folder)
    with tempfile.TemporaryDirectory() as scratch:
        build_sd15(Path(scratch))
        randomise(scratch)
        pipe = StableDiffusionControlNetPipeline.from_pretrained(
            scratch, controlnet=ControlNetModel.from_pretrained(folder)
        )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(9)
    hint = rng.uniform(0, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    eps = rng.standard_normal((1, HEIGHT // 2, WIDTH // 2, 4)).astype(np.float32)
    z = pipe(
        "a cat",
        image=torch.tensor(np.moveaxis(hint, -1, 1)),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        negative_prompt="ugly",
        controlnet_conditioning_scale=0.6,
        latents=torch.tensor(np.moveaxis(eps, -1, 1)),
        output_type="latent",
    ).images
    return {"hint": hint, "eps": eps, "run": nhwc(z)}


CASES = {"controlnet": _make}
