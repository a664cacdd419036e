"""The tiny autoencoder, both ways."""

import numpy as np
import torch
from diffusers import AutoencoderTiny
from published_files import randomise


def make(folder):
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 1),
        num_decoder_blocks=(2, 1, 1),
    ).save_pretrained(folder)
    randomise(folder)
    model, rng = (
        AutoencoderTiny.from_pretrained(folder).eval(),
        np.random.default_rng(0),
    )
    images = rng.uniform(-1, 1, (2, 3, 12, 20)).astype(np.float32)
    z = 4 * rng.standard_normal((2, 4, 3, 5)).astype(np.float32)
    with torch.no_grad():
        found = {
            "images": images,
            "encoded": model.encode(torch.tensor(images)).latents.numpy(),
            "z": z,
            "decoded": model.decode(torch.tensor(z)).sample.numpy(),
        }
    return {name: np.moveaxis(a, 1, -1) for name, a in found.items()}


CASES = {"autoencoder_tiny": make}
