"""CLIP's text encoders: both kinds of activation, with a projection and without."""

import numpy as np
import torch
from published_files import randomise
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENS = np.array(
    [[510, 3, 14, 15, 9, 511, 511, 511, 511], [510, 2, 7, 1, 8, 2, 8, 1, 511]], np.int32
)


def _make(kind, folder, **options):
    config = CLIPTextConfig(
        vocab_size=512,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=9,
        projection_dim=16,
        bos_token_id=510,
        eos_token_id=511,
        pad_token_id=511,
        **options,
    )
    kind(config).save_pretrained(folder)
    randomise(folder)
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(torch.tensor(TOKENS).long(), output_hidden_states=True)
    found = {f"hidden{i}": h for i, h in enumerate(out.hidden_states)}
    projected = kind is CLIPTextModelWithProjection
    found["pooled"] = out.text_embeds if projected else out.pooler_output
    return {"tokens": TOKENS, "last": out.last_hidden_state} | found


CASES = {
    "clip_openai": lambda folder: _make(CLIPTextModel, folder, hidden_act="quick_gelu"),
    "clip_openclip": lambda folder: _make(
        CLIPTextModelWithProjection, folder, hidden_act="gelu"
    ),
}
