"""T5's encoder: texts beyond the longest distance, with a mask and without."""

import numpy as np
import torch
from published_files import randomise
from transformers import T5Config, T5EncoderModel


def _make(folder, mlp):
    config = T5Config(
        vocab_size=64,
        d_model=12,
        d_kv=8,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        feed_forward_proj=mlp,
    )
    T5EncoderModel(config).save_pretrained(folder)
    randomise(folder)
    model = T5EncoderModel.from_pretrained(folder).eval()
    tokens = np.random.default_rng(0).integers(2, 64, (2, 150)).astype(np.int32)
    mask = np.arange(150)[None] < np.array([[150], [7]])
    given = torch.tensor(tokens).long()
    with torch.no_grad():
        plain = model(given).last_hidden_state
        masked = model(given, attention_mask=torch.tensor(mask).long())
    return {
        "tokens": tokens,
        "mask": mask,
        "plain": plain[:, ::15],
        "masked": masked.last_hidden_state[:, ::15],
    }


CASES = {
    "t5_gated": lambda folder: _make(folder, "gated-gelu"),
    "t5_relu": lambda folder: _make(folder, "relu"),
}
