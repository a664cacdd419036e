"""From a picture, and under a mask by a network with nine channels."""

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from family_sd import build_sd15, nhwc
from published_files import randomise

HEIGHT, WIDTH, STEPS = 16, 24, 5


def nchw(a):
    return torch.tensor(np.moveaxis(a, -1, 1))


def _make(folder):
    build_sd15(folder, in_channels=9)
    randomise(folder)
    rng = np.random.default_rng(6)
    images = rng.uniform(0, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[5:13, 6:19] = 1
    eps = rng.standard_normal((1, HEIGHT // 2, WIDTH // 2, 4)).astype(np.float32)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    seen = np.where(mask[None, ..., None] > 0.5, 0.5, images)
    with torch.no_grad():
        z = pipe.vae.encode(nchw(2 * seen - 1)).latent_dist.mean
    z = z * pipe.vae.config.scaling_factor
    out = pipe(
        "a cat",
        image=nchw(images),
        mask_image=torch.tensor(mask)[None, None],
        masked_image_latents=z,
        height=HEIGHT,
        width=WIDTH,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        negative_prompt="ugly",
        latents=nchw(eps),
        output_type="latent",
    ).images
    return {"images": images, "mask": mask, "eps": eps, "run": nhwc(out)}


def _from_picture(folder):
    build_sd15(folder)
    randomise(folder)
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    rng, found = np.random.default_rng(7), {}
    z = rng.standard_normal((1, HEIGHT // 2, WIDTH // 2, 4)).astype(np.float32)
    shape = (1, 4, HEIGHT // 2, WIDTH // 2)
    eps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for name, kind in (("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        out = pipe(
            "a cat",
            image=nchw(z),
            strength=0.65,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            negative_prompt="ugly",
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        found[f"run {name}"] = nhwc(out)
    # The folder is that of "sd15".
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return {"z": z, "eps": nhwc(eps)} | found


CASES = {"inpaint": _make, "image_to_image": _from_picture}
