"""A single file of an XL model under the authors' names, as diffusers reads it."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders import single_file_utils as reference
from family_sd import build_sdxl, nhwc
from published_files import randomise
from safetensors.torch import load_file, save_file

# Written down block by block: one residual block a stage, three stages.
NETWORK = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.0.downsamplers.0.conv.": "input_blocks.2.0.op.",
    "down_blocks.1.resnets.0.": "input_blocks.3.0.",
    "down_blocks.1.attentions.0.": "input_blocks.3.1.",
    "down_blocks.1.downsamplers.0.conv.": "input_blocks.4.0.op.",
    "down_blocks.2.resnets.0.": "input_blocks.5.0.",
    "down_blocks.2.attentions.0.": "input_blocks.5.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "up_blocks.0.resnets.0.": "output_blocks.0.0.",
    "up_blocks.0.attentions.0.": "output_blocks.0.1.",
    "up_blocks.0.resnets.1.": "output_blocks.1.0.",
    "up_blocks.0.attentions.1.": "output_blocks.1.1.",
    "up_blocks.0.upsamplers.0.": "output_blocks.1.2.",
    "up_blocks.1.resnets.0.": "output_blocks.2.0.",
    "up_blocks.1.attentions.0.": "output_blocks.2.1.",
    "up_blocks.1.resnets.1.": "output_blocks.3.0.",
    "up_blocks.1.attentions.1.": "output_blocks.3.1.",
    "up_blocks.1.upsamplers.0.": "output_blocks.3.2.",
    "up_blocks.2.resnets.0.": "output_blocks.4.0.",
    "up_blocks.2.resnets.1.": "output_blocks.5.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
RESIDUAL = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
AUTOENCODER = {
    "encoder.down_blocks.0.resnets.0.": "encoder.down.0.block.0.",
    "encoder.down_blocks.0.downsamplers.0.": "encoder.down.0.downsample.",
    "encoder.down_blocks.1.resnets.0.": "encoder.down.1.block.0.",
    "decoder.up_blocks.0.resnets.0.": "decoder.up.1.block.0.",
    "decoder.up_blocks.0.resnets.1.": "decoder.up.1.block.1.",
    "decoder.up_blocks.0.upsamplers.0.": "decoder.up.1.upsample.",
    "decoder.up_blocks.1.resnets.0.": "decoder.up.0.block.0.",
    "decoder.up_blocks.1.resnets.1.": "decoder.up.0.block.1.",
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.group_norm.": "mid.attn_1.norm.",
    "mid_block.attentions.0.to_q.": "mid.attn_1.q.",
    "mid_block.attentions.0.to_k.": "mid.attn_1.k.",
    "mid_block.attentions.0.to_v.": "mid.attn_1.v.",
    "mid_block.attentions.0.to_out.0.": "mid.attn_1.proj_out.",
}
OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def _replaced(name, table):
    for own, theirs in table.items():
        name = name.replace(own, theirs)
    return name


def _network(name):
    place = next(own for own in NETWORK if name.startswith(own))
    rest = name.removeprefix(place)
    return NETWORK[place] + (_replaced(rest, RESIDUAL) if "resnets" in place else rest)


def _open_clip(held):
    found = {}
    for name, a in held.items():
        if ".q_proj." in name:
            all_three = [held[name.replace("q_proj", f"{c}_proj")] for c in "qkv"]
            layer, leaf = name.split(".")[3], name.split(".")[-1]
            key = f"transformer.resblocks.{layer}.attn.in_proj_{leaf}"
            found[key] = torch.cat(all_three)
        elif name == "text_projection.weight":
            found["text_projection"] = a.T.contiguous()
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[_replaced(name, OPEN_CLIP)] = a
    return found


def _single(folder):
    """All tensors of a folder under the authors' names."""

    def read(part):
        (path,) = (folder / part).glob("*.safetensors")
        return load_file(path)

    def named(prefix, tensors):
        return {prefix + name: a for name, a in tensors.items()}

    first = read("text_encoder").items()
    first = {f"text_model.{n.removeprefix('text_model.')}": a for n, a in first}
    vae = {_replaced(n, AUTOENCODER): a for n, a in read("vae").items()}
    # Attention of the authors' autoencoder is of convolutions.
    vae = {
        n: a[..., None, None] if ".attn_1." in n and a.ndim == 2 else a
        for n, a in vae.items()
    }
    unet = {_network(n): a for n, a in read("unet").items()}
    return {
        **named("model.diffusion_model.", unet),
        **named("first_stage_model.", vae),
        **named("conditioner.embedders.0.transformer.", first),
        **named("conditioner.embedders.1.model.", _open_clip(read("text_encoder_2"))),
        "conditioner.embedders.1.model.logit_scale": torch.zeros(1),
        "model_ema.decay": torch.zeros(1),
    }


def _make(folder):
    build_sdxl(folder, projection_dim=24)
    save_file(_single(folder), folder / "single.safetensors")
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    randomise(folder)
    held = load_file(folder / "single.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        build_sdxl(Path(scratch), projection_dim=24)
        pipe = StableDiffusionXLPipeline.from_pretrained(scratch)
    unet = reference.convert_ldm_unet_checkpoint(dict(held), pipe.unet.config)
    pipe.unet.load_state_dict(unet)
    vae = reference.convert_ldm_vae_checkpoint(dict(held), pipe.vae.config)
    pipe.vae.load_state_dict(vae)
    first = reference.convert_ldm_clip_checkpoint(dict(held))
    own = {n.removeprefix("text_model."): a for n, a in first.items()}
    pipe.text_encoder.load_state_dict(own)
    second = reference.convert_open_clip_checkpoint(
        pipe.text_encoder_2, dict(held), "conditioner.embedders.1.model."
    )
    pipe.text_encoder_2.load_state_dict(second)
    rng = np.random.default_rng(8)
    x = rng.standard_normal((1, 8, 4, 4)).astype(np.float32)
    images = rng.uniform(0, 1, (1, 6, 8, 3)).astype(np.float32)
    with torch.no_grad():
        text, _, pooled, _ = pipe.encode_prompt("a cat", None, "cpu", 1, False)
        ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]])
        z = torch.tensor(np.moveaxis(x, -1, 1))
        added = {"text_embeds": pooled, "time_ids": ids}
        out = pipe.unet(z, 321, text, added_cond_kwargs=added).sample
        mean = pipe.vae.encode(
            torch.tensor(np.moveaxis(2 * images - 1, -1, 1))
        ).latent_dist.mean
        back = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    return {
        "x": x,
        "images": images,
        "text": text.numpy(),
        "pooled": pooled.numpy(),
        "unet": nhwc(out),
        "mean": nhwc(mean) * pipe.vae.config.scaling_factor,
        "decoded": nhwc(back).clip(-1, 1) / 2 + 0.5,
    }


CASES = {"single": _make}
