"""DiT as its authors' code computes it, from a file with their names.

Needs models.py of github.com/facebookresearch/DiT on ``PYTHONPATH``. Three layers that
it takes from timm, which needs much more, are written out here.
"""

import importlib
import sys
from types import ModuleType

import numpy as np
import torch
from published_files import randomise
from safetensors.torch import load_file, save_file
from torch import nn


class PatchEmbed(nn.Module):
    def __init__(self, size, patch, channels, width, bias):
        super().__init__()
        self.patch_size, self.num_patches = (patch, patch), (size // patch) ** 2
        self.proj = nn.Conv2d(channels, width, patch, patch, bias=bias)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width, num_heads, qkv_bias):
        super().__init__()
        self.heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(*parts)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features, act_layer, drop):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.act = act_layer()

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def make(folder):
    timm = ModuleType("timm.models.vision_transformer")
    timm.PatchEmbed, timm.Attention, timm.Mlp = PatchEmbed, Attention, Mlp
    for name in ("timm", "timm.models"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules[timm.__name__] = timm
    authors = importlib.import_module("models")
    model = authors.DiT(8, 2, 4, 24, depth=2, num_heads=3, num_classes=10).eval()
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    randomise(folder)
    # Their file has the positions too.
    model.load_state_dict(load_file(path) | {"pos_embed": model.pos_embed})
    x = np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)
    t, labels = np.array([0, 37, 250]), np.array([3, 10, 0])
    with torch.no_grad():
        value = model(torch.tensor(x), torch.tensor(t), torch.tensor(labels))
    x, value = (np.moveaxis(a, 1, -1) for a in (x, value.numpy()))
    return {"x": x, "t": t, "labels": labels.astype(np.int32), "value": value}


CASES = {"dit_authors": make}
