"""ADM: both ways to condition, to resize and to order q, k and v.

Needs the authors' code, github.com/openai/guided-diffusion, on ``PYTHONPATH``.
"""

import numpy as np
import torch
from published_files import randomise
from safetensors.torch import load_file, save_file

LABELS = np.array([3, 0], np.int32)


def _make(folder, labels, sides, **flags):
    from guided_diffusion.unet import UNetModel

    model = UNetModel(
        image_size=16,
        in_channels=3,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(2,),
        **flags,
    ).eval()
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    randomise(folder)
    model.load_state_dict(load_file(path))
    maps = []
    softmax = torch.softmax

    def seen(logits, dim):
        maps.append(softmax(logits, dim))
        return maps[-1]

    x = np.random.default_rng(0).standard_normal((2, 3, *sides)).astype(np.float32)
    t = np.array([37.5, 250.0], np.float32)
    torch.softmax = seen
    with torch.no_grad():
        y = torch.tensor(labels) if flags.get("num_classes") else None
        value = model(torch.tensor(x), torch.tensor(t), y)
    torch.softmax = softmax
    h, w = sides
    return {
        "x": x.transpose(0, 2, 3, 1),
        "t": t,
        "labels": labels,
        "value": value.numpy().transpose(0, 2, 3, 1),
        "middle": maps[1].reshape(2, -1, h * w // 4, h * w // 4),
        "last": maps[-1].reshape(2, -1, h * w // 4, h * w // 4),
    }


CASES = {
    "adm_film": lambda folder: _make(
        *(folder, LABELS, (8, 8)),
        out_channels=6,
        num_classes=5,
        num_head_channels=16,
        use_scale_shift_norm=True,
        resblock_updown=True,
    ),
    "adm_plain": lambda folder: _make(
        *(folder, LABELS, (6, 12)),
        out_channels=3,
        num_heads=2,
        use_new_attention_order=True,
    ),
}
