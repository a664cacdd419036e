"""DiT: its own size, and another that is not square, with the null class."""

import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from published_files import randomise


def maps_of(module, inputs, heads):
    """The attention map of a module of diffusers, from what entered it."""
    q, k = (
        layer(inputs).unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer in (module.to_q, module.to_k)
    )
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)


def make(folder):
    DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
    ).save_pretrained(folder)
    randomise(folder)
    model = DiTTransformer2DModel.from_pretrained(folder).eval()
    seen = {}
    model.proj_out_2.register_forward_hook(lambda *a: seen.update(tokens=a[2]))
    last = model.transformer_blocks[1]
    last.attn1.register_forward_pre_hook(lambda *a: seen.update(into=a[1][0]))
    found = {"t": np.array([0.0, 37.5, 250.0], np.float32)}
    labels = found["labels"] = np.array([3, 10, 0], np.int32)
    for name, sides in (("own", (8, 8)), ("wide", (6, 14))):
        x = np.random.default_rng(0).standard_normal((3, 4, *sides)).astype(np.float32)
        with torch.no_grad():
            try:
                model(torch.tensor(x), torch.tensor(found["t"]), torch.tensor(labels))
            except RuntimeError:
                # diffusers joins patches to squares only; the tokens are made.
                assert name == "wide"
            h, w = (side // 2 for side in sides)
            tokens = seen["tokens"].reshape(3, h, w, 2, 2, 8)
            value = torch.einsum("bhwpqc->bhpwqc", tokens).reshape(3, *sides, 8)
            probs = maps_of(last.attn1, seen["into"], 3)
        found |= {
            f"{name}.x": x.transpose(0, 2, 3, 1),
            f"{name}.value": value,
            f"{name}.map": probs,
        }
    return found


CASES = {"dit_xl": make}
