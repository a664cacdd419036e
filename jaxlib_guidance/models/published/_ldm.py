"""Names of the latent diffusion repository, for single files and LoRA of its tools.

The published names of a folder become those of the authors' code by a few rules:
``input_blocks`` are numbered through, ``1 + stage (layers + 1) + layer``, where each
stage ends with its downsampler; ``output_blocks`` alike.
"""

import re

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
