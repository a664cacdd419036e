"""Names of the latent diffusion repository, for single files and LoRA of its tools.

The published names of a folder become those of the authors' code by a few rules:
``input_blocks`` are numbered through, ``1 + stage (layers + 1) + layer``, where each
stage ends with its downsampler; ``output_blocks`` alike.
"""

import re
from collections.abc import Iterable

# Parts of a residual block.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def ldm_unet_name(name: str, layers: int, up_attention: tuple[bool, ...]) -> str:
    """The name of a module of the U-Net in the authors' code.

    Args:
      name: Published name of a module or tensor, such as
        "down_blocks.1.attentions.0.proj_in".
      layers: Number of residual blocks of a stage, ``layers_per_block``.
      up_attention: Whether each stage of the way up has attention.

    Raises:
      ValueError: A name that the U-Net does not have.
    """
    for own, theirs in OUTSIDE.items():
        if name == own or name.startswith(f"{own}."):
            return theirs + name.removeprefix(own)
    found = re.match(r"mid_block\.(\w+\.\d)\.?(.*)", name)
    if found:
        kind, rest = found.groups()
        return _joined(f"middle_block.{MIDDLE[kind]}", kind, rest)
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.?(.*)", name)
    if not found:
        raise ValueError(f"{name!r} is no name of Stable Diffusion's network")
    way, i, kind, j, rest = found.groups()
    first = int(i) * (layers + 1)
    if way == "down":
        if kind == "downsamplers":
            rest = rest.replace("conv", "op", 1)
            return _joined(f"input_blocks.{first + layers + 1}.0", kind, rest)
        place = f"input_blocks.{1 + first + int(j)}"
    elif kind == "upsamplers":
        number = 2 if up_attention[int(i)] else 1
        return _joined(f"output_blocks.{first + layers}.{number}", kind, rest)
    else:
        place = f"output_blocks.{first + int(j)}"
    return _joined(f"{place}.{0 if kind == 'resnets' else 1}", kind, rest)


def _joined(place, kind, rest):
    if kind.startswith("resnets"):
        word, dot, leaf = rest.partition(".")
        rest = RESNET.get(word, word) + dot + leaf
    return f"{place}.{rest}" if rest else place


def published_unet_names(
    names: Iterable[str], layers: int, up_attention: tuple[bool, ...]
) -> dict[str, str]:
    """Published names by those of the authors' code; unknown names stay as they are.

    Args:
      names: Names of tensors in the authors' code, without the prefix of the network.
      layers: Number of residual blocks of a stage.
      up_attention: Whether each stage of the way up has attention.
    """
    places = [*OUTSIDE, *(f"mid_block.{each}" for each in MIDDLE)]
    for i, attention in enumerate(up_attention):
        down, up = f"down_blocks.{i}", f"up_blocks.{i}"
        for j in range(layers + 1):
            places += [f"{down}.resnets.{j}", f"{down}.attentions.{j}"] * (j < layers)
            places += [f"{up}.resnets.{j}"] + [f"{up}.attentions.{j}"] * attention
        places += [f"{down}.downsamplers.0", f"{up}.upsamplers.0"]
    table = {ldm_unet_name(place, layers, up_attention): place for place in places}
    own = {theirs: own for own, theirs in RESNET.items()}
    found = {}
    for name in names:
        words = name.split(".")
        cuts = range(len(words), 0, -1)
        place = next((p for c in cuts if (p := ".".join(words[:c])) in table), None)
        if place is None:
            found[name] = name
            continue
        rest = name.removeprefix(place).removeprefix(".")
        if "resnets" in table[place]:
            module, _, leaf = rest.rpartition(".")
            rest = f"{own.get(module, module)}.{leaf}"
        if "downsamplers" in table[place]:
            rest = rest.replace("op", "conv", 1)
        found[name] = f"{table[place]}.{rest}"
    return found


def published_autoencoder_name(name: str, stages: int) -> str:
    """The published name of a tensor of the autoencoder.

    Args:
      name: Name in the authors' code, without the prefix of the autoencoder.
      stages: Number of stages.
    """
    name = name.replace("nin_shortcut", "conv_shortcut")
    name = name.replace(".norm_out.", ".conv_norm_out.")

    def block(match):
        half, way, i, kind, rest = match.groups()
        i = int(i) if way == "down" else stages - 1 - int(i)
        kinds = {"block.": "resnets.", "downsample.": "downsamplers.0."}
        kind = kinds.get(kind, "upsamplers.0.")
        return f"{half}.{way}_blocks.{i}.{kind}{rest}"

    blocks = r"(\w+)\.(down|up)\.(\d+)\.(block\.|downsample\.|upsample\.)(.*)"
    name = re.sub(f"^{blocks}$", block, name)
    name = re.sub(
        r"\.mid\.block_(\d)\.",
        lambda match: f".mid_block.resnets.{int(match[1]) - 1}.",
        name,
    )
    words = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
    words["proj_out"] = "to_out.0"
    return re.sub(
        r"\.mid\.attn_1\.(\w+)\.",
        lambda match: f".mid_block.attentions.0.{words.get(match[1], match[1])}.",
        name,
    )
