"""PixArt: a text of other lengths, with the picture's size and without."""

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from family_dit import maps_of
from published_files import randomise


def _make(folder, sized, sides):
    PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=8,
        caption_channels=20,
        interpolation_scale=2,
        use_additional_conditions=sized,
    ).save_pretrained(folder)
    randomise(folder)
    model = PixArtTransformer2DModel.from_pretrained(folder).eval()
    rng, seen = np.random.default_rng(0), {}
    found = {
        "x": rng.standard_normal((2, 4, *sides)),
        "text": rng.standard_normal((2, 5, 20)),
        "t": np.array([37.5, 250.0]),
    }
    added = {"resolution": None, "aspect_ratio": None}
    if sized:
        found["resolution"] = np.array([[512.0, 768.0], [64.0, 32.0]])
        found["aspect_ratio"] = np.array([[0.67], [2.0]])
    found = {name: a.astype(np.float32) for name, a in found.items()}
    given = {name: torch.tensor(a) for name, a in found.items()}
    mask = np.arange(5)[None] < np.array([[5], [3]])
    first = model.transformer_blocks[0]
    first.attn1.register_forward_pre_hook(lambda *a: seen.update(into=a[1][0]))
    with torch.no_grad():
        value = model(
            given["x"],
            given["text"],
            given["t"],
            {name: given.get(name) for name in added},
            encoder_attention_mask=torch.tensor(mask).float(),
        ).sample
        probs = maps_of(first.attn1, seen["into"], 3)
    x, value = (np.moveaxis(a, 1, -1) for a in (found["x"], value.numpy()))
    return found | {"x": x, "value": value, "text_mask": mask, "map": probs}


CASES = {
    "pixart": lambda folder: _make(folder, False, (6, 10)),
    "pixart_sized": lambda folder: _make(folder, True, (8, 8)),
}
