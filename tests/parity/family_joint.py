"""SD3, SD3.5 and Flux: odd numbers of text tokens, grids that are not square, PAG."""

import numpy as np
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention_processor import PAGJointAttnProcessor2_0
from published_files import randomise

TEXT, POOLED, COUNT = 20, 12, 5


def _inputs(channels, sides):
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((2, channels, *sides)),
        "text": rng.standard_normal((2, COUNT, TEXT)),
        "pooled": rng.standard_normal((2, POOLED)),
    }


def _tensors(arrays):
    return [torch.tensor(a).float() for a in arrays.values()]


def _stored(inputs, **found):
    own = {k: np.asarray(a, np.float32) for k, a in inputs.items()}
    return own | {"x": own["x"].transpose(0, 2, 3, 1)} | found


def _with_map(call):
    """What a call gives, and the map of its first attention."""
    maps, attention = [], torch.nn.functional.scaled_dot_product_attention

    def seen(query, key, value, **options):
        maps.append(torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1))
        return attention(query, key, value, **options)

    torch.nn.functional.scaled_dot_product_attention = seen
    with torch.no_grad():
        out = call()
    torch.nn.functional.scaled_dot_product_attention = attention
    return out, maps[0]


def _sd3(folder, sides, **options):
    SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=TEXT,
        caption_projection_dim=24,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=7,
        **options,
    ).save_pretrained(folder)
    randomise(folder)
    model = SD3Transformer2DModel.from_pretrained(folder).eval()
    inputs = _inputs(4, sides)
    x, text, pooled = _tensors(inputs)
    t = np.array([37.5, 250.0], np.float32)

    out, probs = _with_map(lambda: model(x, text, pooled, torch.tensor(t)).sample)
    found = {"t": t, "value": out.numpy().transpose(0, 2, 3, 1), "map": probs}
    with torch.no_grad():
        out = model(x, text, pooled, torch.tensor(t), skip_layers=[0]).sample
    found["skipped"] = out.numpy().transpose(0, 2, 3, 1)
    if not options.get("dual_attention_layers") and not options.get("qk_norm"):
        # The processor perturbs the second half of its batch.
        model.transformer_blocks[0].attn.processor = PAGJointAttnProcessor2_0()
        x, text, pooled = (torch.cat([a, a]) for a in (x, text, pooled))
        with torch.no_grad():
            times = torch.tensor(np.concatenate([t, t]))
            out = model(x, text, pooled, times).sample
        found["perturbed"] = out.numpy()[2:].transpose(0, 2, 3, 1)
    return _stored(inputs, **found)


def _flux(folder, guided):
    FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=guided,
        axes_dims_rope=(4, 2, 6),
    ).save_pretrained(folder)
    randomise(folder)
    model = FluxTransformer2DModel.from_pretrained(folder).eval()
    h, w = 3, 7
    inputs = _inputs(4, (2 * h, 2 * w))
    x, text, pooled = _tensors(inputs)
    tokens = x.reshape(2, 4, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, -1, 16)
    places = torch.zeros(h, w, 3)
    places[..., 1], places[..., 2] = torch.arange(h)[:, None], torch.arange(w)
    t = np.array([0.0371, 0.25], np.float32)
    guidance = {"guidance": np.array([3.5, 1.0], np.float32)} if guided else {}
    out, probs = _with_map(
        lambda: (
            model(
                hidden_states=tokens,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=torch.tensor(t),
                img_ids=places.reshape(-1, 3),
                txt_ids=torch.zeros(COUNT, 3),
                **{name: torch.tensor(a) for name, a in guidance.items()},
            ).sample
        )
    )
    cells = out.reshape(2, h, w, 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
    value = cells.reshape(2, 2 * h, 2 * w, 4)
    return _stored(inputs, t=t, value=value, map=probs, **guidance)


CASES = {
    "sd3": lambda folder: _sd3(folder, (6, 10)),
    "sd35": lambda folder: _sd3(
        folder, (10, 6), qk_norm="rms_norm", dual_attention_layers=(0,)
    ),
    "flux": lambda folder: _flux(folder, False),
    "flux_guided": lambda folder: _flux(folder, True),
}
