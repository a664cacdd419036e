"""LoRA files of three namings, and what diffusers' networks give with them."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from family_sd import build_sd15, build_sdxl, nhwc
from published_files import randomise, read_golden, write_folder
from safetensors.numpy import save_file

RANK = 2
# Modules, and what they take and give.
UNET = {
    "down_blocks.0.attentions.0.proj_in": (16, 16, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (24, 32),
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0": (16, 16),
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj": (16, 128),
    "up_blocks.0.resnets.1.conv1": (48, 32, 3),
}
TEXT = {
    "text_model.encoder.layers.1.self_attn.q_proj": (24, 24),
    "text_model.encoder.layers.0.self_attn.out_proj": (24, 24),
}
XL = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16),
    "mid_block.attentions.0.transformer_blocks.1.attn2.to_v": (40, 32),
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_k": (16, 16),
}
# The authors' numbers of the blocks above, with one block a stage.
BLOCKS = {
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}


def _write(path, layers, ends):
    held = {}
    for name, (given, made, *side) in layers.items():
        pixels = tuple(side) * 2
        held[name + ends[0]] = np.zeros((RANK, given, *pixels), np.float32)
        held[name + ends[1]] = np.zeros((made, RANK, *(1,) * len(pixels)), np.float32)
        if len(ends) == 3:
            held[name + ends[2]] = np.zeros((), np.float32)
    save_file(held, path, metadata={"format": "pt"})


def _prefixed(prefix, layers):
    return {prefix + name: shape for name, shape in layers.items()}


def _kohya(prefix, layers):
    return {prefix + n.replace(".", "_"): shape for n, shape in layers.items()}


def _make(folder):
    _write(
        folder / "peft.safetensors",
        _prefixed("unet.", UNET) | _prefixed("text_encoder.", TEXT),
        (".lora_A.weight", ".lora_B.weight"),
    )
    kohya = (".lora_down.weight", ".lora_up.weight", ".alpha")
    both = _kohya("lora_unet_", UNET) | _kohya("lora_te_", TEXT)
    _write(folder / "kohya.safetensors", both, kohya)
    numbered = {}
    for name, shape in XL.items():
        for own, theirs in BLOCKS.items():
            if name.startswith(own):
                numbered[theirs + name.removeprefix(own)] = shape
    _write(folder / "xl.safetensors", _kohya("lora_unet_", numbered), kohya)
    randomise(folder)
    rng, found = np.random.default_rng(5), {}
    x = rng.standard_normal((1, 6, 8, 4)).astype(np.float32)
    found["x"] = x
    for name in ("peft", "kohya", "xl"):
        xl = name == "xl"
        width, added = 40 if xl else 24, {}
        text = rng.standard_normal((1, 5, width)).astype(np.float32)
        found[f"{name} text"] = text
        if xl:
            pooled = rng.standard_normal((1, 12)).astype(np.float32)
            found["pooled"] = pooled
            found["time_ids"] = np.array([[16, 16, 0, 0, 16, 16]], np.float32)
            ids = torch.tensor(found["time_ids"])
            added = {"text_embeds": torch.tensor(pooled), "time_ids": ids}
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            (build_sdxl if xl else build_sd15)(Path(scratch))
            randomise(scratch)
            kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
            pipe = kind.from_pretrained(scratch)
            given = torch.tensor(np.moveaxis(x, -1, 1)), 321, torch.tensor(text)
            more = {"added_cond_kwargs": added}
            found[f"{name} plain"] = nhwc(pipe.unet(*given, **more).sample)
            pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors")
            pipe.set_adapters(pipe.get_active_adapters(), 0.7)
            found[f"{name} unet"] = nhwc(pipe.unet(*given, **more).sample)
            if not xl:
                cond, _ = pipe.encode_prompt("a cat", "cpu", 1, False)
                found[f"{name} cond"] = cond.numpy()
    return found


SD3 = {
    "transformer.transformer_blocks.0.attn.to_q": (16, 16),
    "transformer.transformer_blocks.0.attn.add_k_proj": (16, 16),
    "transformer.transformer_blocks.1.ff.net.0.proj": (16, 64),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (16, 16),
    "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj": (24, 24),
}
FLUX = {
    "transformer.transformer_blocks.0.attn.to_out.0": (24, 24),
    "transformer.transformer_blocks.0.ff_context.net.2": (96, 24),
    "transformer.single_transformer_blocks.0.attn.to_v": (24, 24),
    "transformer.single_transformer_blocks.0.proj_out": (120, 24),
}


def _make_transformers(folder):
    ends = (".lora_A.weight", ".lora_B.weight")
    _write(folder / "sd3.safetensors", SD3, ends)
    _write(folder / "flux.safetensors", FLUX, ends)
    randomise(folder)
    found = {}
    for name, kind in (("sd3", StableDiffusion3Pipeline), ("flux", FluxPipeline)):
        record, given = read_golden(f"{name}_pipeline")
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            write_folder(record, scratch)
            parts = ("text_encoder_3", "tokenizer_3")
            if name == "flux":
                parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
            pipe = kind.from_pretrained(scratch, **dict.fromkeys(parts))
            x = torch.tensor(np.moveaxis(given["eps"], -1, 1))
            text, pooled = (torch.tensor(given[key][:1]) for key in ("text", "pooled"))
            # As far as the golden of the pipeline has it.
            call = _sd3_value if name == "sd3" else _flux_value
            found[f"{name} plain"] = call(pipe, x, text, pooled)
            pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors")
            pipe.set_adapters(pipe.get_active_adapters(), 0.7)
            found[f"{name} value"] = call(pipe, x, text, pooled)
            if name == "sd3":
                cond, _, pooled, _ = pipe.encode_prompt("a cat", None, None)
                found["sd3 text"], found["sd3 pooled"] = cond[:, :77], pooled
    return {key: np.asarray(a) for key, a in found.items()}


def _sd3_value(pipe, x, text, pooled):
    return nhwc(pipe.transformer(x, text, pooled, torch.tensor([321.0])).sample)


def _flux_value(pipe, x, text, pooled):
    _, channels, h, w = x.shape
    tokens = pipe._pack_latents(x, 1, channels, h, w)
    out = pipe.transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=torch.tensor([0.321]),
        img_ids=pipe._prepare_latent_image_ids(1, h // 2, w // 2, "cpu", x.dtype),
        txt_ids=torch.zeros(text.shape[1], 3),
        guidance=torch.tensor([3.5]),
    ).sample
    scale = pipe.vae_scale_factor
    return nhwc(pipe._unpack_latents(out, h * scale, w * scale, scale))


CASES = {"lora": _make, "lora_transformers": _make_transformers}
