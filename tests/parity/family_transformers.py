"""Five steps of DiT, SD3, Flux and PixArt from end to end, by diffusers' pipelines."""

import json

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
)
from family_sd import PROMPTS, autoencoder, nhwc, text_config, tokenizer
from published_files import randomise
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

STEPS, HEIGHT, WIDTH = 5, 16, 24


def _noise(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def _seen(pipe):
    """Keeps what the pipeline decodes: its latents, as the decoder has them."""
    kept, decode = {}, pipe.vae.decode

    def seen(z, *args, **options):
        kept["z"] = nhwc(z)
        return decode(z, *args, **options)

    pipe.vae.decode = seen
    pipe.set_progress_bar_config(disable=True)
    return kept


def _dit(folder):
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        out_channels=8,
        num_layers=2,
        sample_size=6,
    )
    names = {0: "tench, Tinca tinca", 1: "goldfish", 2: "crane", 3: "crane"}
    pipe = DiTPipeline(net, autoencoder(), DDIMScheduler(clip_sample=False), names)
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
    randomise(folder)
    pipe = DiTPipeline.from_pretrained(folder)
    kept = _seen(pipe)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn((2, 4, 6, 6), generator=torch.Generator().manual_seed(0))
    labels = np.array([3, 1], np.int32)
    images = pipe(
        labels.tolist(),
        guidance_scale=4.0,
        generator=generator,
        num_inference_steps=STEPS,
        output_type="numpy",
    ).images
    z = kept["z"] * pipe.vae.config.scaling_factor
    return {"eps": nhwc(eps), "labels": labels, "z": z, "images": images}


def _sd3(folder):
    words = [folder / "words", folder / "words_2"]
    sizes = [
        tokenizer(path, pad)
        for path, pad in zip(words, ("<|endoftext|>", "!"), strict=True)
    ]
    clips = [
        CLIPTextModelWithProjection(
            text_config(size, width, hidden_act=act, projection_dim=dim)
        )
        for size, width, dim, act in zip(
            sizes, (16, 24), (8, 12), ("quick_gelu", "gelu"), strict=True
        )
    ]
    net = SD3Transformer2DModel(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=44,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=8,
    )
    vae = autoencoder(
        shift_factor=0.0609,
        scaling_factor=1.5305,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    parts = {
        "transformer": net,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": vae,
        "text_encoder": clips[0],
        "tokenizer": CLIPTokenizer.from_pretrained(words[0]),
        "text_encoder_2": clips[1],
        "tokenizer_2": CLIPTokenizer.from_pretrained(words[1]),
        "text_encoder_3": None,
        "tokenizer_3": None,
    }
    StableDiffusion3Pipeline(**parts).save_pretrained(folder)
    for path in words:
        for each in path.iterdir():
            each.unlink()
        path.rmdir()
    randomise(folder)
    eps = _noise(1, HEIGHT // 2, WIDTH // 2, 4)
    found = {"eps": eps}
    for name, kind, more, own in (
        ("cfg", StableDiffusion3Pipeline, {}, {}),
        (
            "pag",
            StableDiffusion3PAGPipeline,
            {"pag_applied_layers": ["blocks.0"]},
            {"pag_scale": 2.0},
        ),
    ):
        absent = dict.fromkeys(("text_encoder_3", "tokenizer_3"))
        pipe = kind.from_pretrained(folder, **absent, **more)
        kept = _seen(pipe)
        images = pipe(
            PROMPTS[0],
            negative_prompt="ugly",
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            latents=torch.tensor(np.moveaxis(eps, -1, 1)),
            output_type="np",
            **own,
        ).images
        config = pipe.vae.config
        found[f"z {name}"] = (kept["z"] - config.shift_factor) * config.scaling_factor
    cond, null, pooled, null_pooled = pipe.encode_prompt(
        PROMPTS[0], None, None, negative_prompt="ugly"
    )
    arrays = {"text": cond, "null_text": null}
    arrays |= {"pooled": pooled, "null_pooled": null_pooled}
    # Rows after the 77 of CLIP are zeros.
    arrays = {k: a.detach().numpy()[:, :78] for k, a in arrays.items()}
    return found | arrays | {"images": images}


def _flux(folder):
    net = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=12,
        guidance_embeds=True,
        axes_dims_rope=(4, 2, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    vae = autoencoder(shift_factor=0.1159, scaling_factor=0.3611)
    pipe = FluxPipeline(scheduler, vae, None, None, None, None, net)
    pipe.save_pretrained(folder)
    randomise(folder)
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipe = FluxPipeline.from_pretrained(folder, **dict.fromkeys(names))
    kept = _seen(pipe)
    h, w = HEIGHT // 2, WIDTH // 2
    eps, rng = _noise(1, h, w, 4), np.random.default_rng(4)
    text = rng.standard_normal((1, 5, 20)).astype(np.float32)
    pooled = rng.standard_normal((1, 12)).astype(np.float32)
    packed = pipe._pack_latents(torch.tensor(np.moveaxis(eps, -1, 1)), 1, 4, h, w)
    images = pipe(
        prompt_embeds=torch.tensor(text),
        pooled_prompt_embeds=torch.tensor(pooled),
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=3.5,
        latents=packed,
        output_type="np",
    ).images
    config = pipe.vae.config
    z = (kept["z"] - config.shift_factor) * config.scaling_factor
    found = {"eps": eps, "text": text, "pooled": pooled, "z": z, "images": images}
    return found | {"sigmas": pipe.scheduler.sigmas.numpy()}


def _pixart(folder):
    net = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=20,
    )
    scheduler = DPMSolverMultistepScheduler(algorithm_type="dpmsolver++")
    parts = {"tokenizer": None, "text_encoder": None}
    PixArtAlphaPipeline(
        vae=autoencoder(), transformer=net, scheduler=scheduler, **parts
    ).save_pretrained(folder)
    randomise(folder)
    pipe = PixArtAlphaPipeline.from_pretrained(folder, **parts)
    kept, rng = _seen(pipe), np.random.default_rng(5)
    eps = _noise(1, HEIGHT // 2, WIDTH // 2, 4)
    texts = rng.standard_normal((2, 1, 5, 20)).astype(np.float32)
    masks = np.array([[[1, 1, 1, 1, 0]], [[1, 0, 0, 0, 0]]], bool)
    cond, null = (
        {"embeds": torch.tensor(text), "attention_mask": torch.tensor(mask).float()}
        for text, mask in zip(texts, masks, strict=True)
    )
    images = pipe(
        prompt=None,
        negative_prompt=None,
        **{f"prompt_{name}": a for name, a in cond.items()},
        **{f"negative_prompt_{name}": a for name, a in null.items()},
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=4.5,
        latents=torch.tensor(np.moveaxis(eps, -1, 1)),
        use_resolution_binning=False,
        output_type="np",
    ).images
    z = kept["z"] * pipe.vae.config.scaling_factor
    found = {"eps": eps, "text": texts[0], "null_text": texts[1], "z": z}
    return found | {"mask": masks[0], "null_mask": masks[1], "images": images}


CASES = {
    "dit_pipeline": _dit,
    "sd3_pipeline": _sd3,
    "flux_pipeline": _flux,
    "pixart_pipeline": _pixart,
}
