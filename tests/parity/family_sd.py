"""Stable Diffusion 1.x, 2.x and XL: each part, and pipelines from end to end."""

import json
import unicodedata

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from published_files import randomise
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

CORPUS = "a photo of an astronaut riding a horse on mars, the cat sat; café, hello!"
PROMPTS = ("A photo of a  cat!", "")
HEIGHT, WIDTH, STEPS, SCALE = 16, 24, 5, 5.0
SITES = {
    "sd15": ("down0/0/0/attn", "down0/0/0/cross", "mid/0/0/attn", "up1/1/0/cross"),
    "sd2": ("mid/0/0/cross", "up1/0/0/attn"),
    "sdxl": ("down2/0/1/attn", "mid/0/1/cross", "up0/1/0/attn"),
}
FEATURES = ("down0", "mid", "up0/res1", "up1")


def _printable():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in own]
    table = {byte: chr(byte) for byte in own}
    table |= {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return table


def write_vocabulary(folder):
    """A vocabulary of bytes, whole and at the end of words, and a few merges."""
    table = _printable()
    merges = []
    for word in sorted(set(CORPUS.replace(",", " ").split())):
        pieces = [table[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            if tuple(pieces[:2]) not in merges:
                merges.append(tuple(pieces[:2]))
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens = [*table.values(), *(c + "</w>" for c in table.values())]
    tokens += ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(tokens)


def tokenizer(folder, pad):
    """A tokenizer in the older layout; returns the size of its vocabulary."""
    size = write_vocabulary(folder)
    options = {
        "model_max_length": 77,
        "pad_token": pad,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({k: v for k, v in options.items() if k.endswith("_token")})
    )
    return size


def text_config(size, width, **options):
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        **options,
    )


def unet(**options):
    plain = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**plain | options)


def autoencoder(**options):
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        **options,
    )


FORWARD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SCHEDULE = FORWARD | {"set_alpha_to_one": False}


def build_sd15(folder, **options):
    size = tokenizer(folder / "words", "<|endoftext|>")
    pipe = StableDiffusionPipeline(
        autoencoder(),
        CLIPTextModel(text_config(size, 24, hidden_act="quick_gelu")),
        CLIPTokenizer.from_pretrained(folder / "words"),
        unet(cross_attention_dim=24, attention_head_dim=4, **options),
        PNDMScheduler(skip_prk_steps=True, **SCHEDULE),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    _older_words(folder, "tokenizer")
    _add(folder / "model_index.json", {"safety_checker": [None, None]})
    # As published: else DDIM, made of this file, would clip latents to [-1, 1].
    _add(folder / "scheduler/scheduler_config.json", {"clip_sample": False})


def build_sd2(folder):
    size = tokenizer(folder / "words", "!")
    pipe = StableDiffusionPipeline(
        autoencoder(scaling_factor=0.2),
        CLIPTextModel(text_config(size, 24, hidden_act="gelu")),
        CLIPTokenizer.from_pretrained(folder / "words"),
        unet(
            cross_attention_dim=24,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            upcast_attention=True,
        ),
        DDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            **SCHEDULE,
        ),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    _older_words(folder, "tokenizer")


def build_sdxl(folder, projection_dim=12):
    size = tokenizer(folder / "words", "<|endoftext|>")
    tokenizer(folder / "words_2", "!")
    pipe = StableDiffusionXLPipeline(
        autoencoder(scaling_factor=0.13025),
        CLIPTextModel(text_config(size, 16, hidden_act="quick_gelu")),
        CLIPTextModelWithProjection(
            text_config(size, 24, hidden_act="gelu", projection_dim=projection_dim)
        ),
        CLIPTokenizer.from_pretrained(folder / "words"),
        CLIPTokenizer.from_pretrained(folder / "words_2"),
        unet(
            block_out_channels=(8, 16, 32),
            down_block_types=(
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
            ),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=40,
            attention_head_dim=(1, 2, 4),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=projection_dim + 24,
        ),
        EulerDiscreteScheduler(timestep_spacing="leading", **FORWARD),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    for name in ("words", "words_2"):
        _remove(folder / name)


def _remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _older_words(folder, part):
    """The tokenizer's folder as it was published; transformers writes another."""
    _remove(folder / part)
    (folder / "words").rename(folder / part)


def _add(path, more):
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def nhwc(a):
    return np.moveaxis(a.detach().numpy(), 1, -1)


def network(pipe, name):
    """Output, maps and features of the network at an odd size and odd times.

    In float64, so that what differs is the rounding of one side alone.
    """
    net, rng = pipe.unet, np.random.default_rng(1)
    x = rng.standard_normal((2, 7, 10, 4)).astype(np.float32)
    t = np.array([17.25, 951.0], np.float32)
    text = rng.standard_normal((2, 11, net.config.cross_attention_dim))
    found = {"unet_x": x, "unet_t": t, "unet_text": text.astype(np.float32)}
    added = {}
    if name == "sdxl":
        found["unet_pooled"] = rng.standard_normal((2, 12)).astype(np.float32)
        sizes = [[64, 96, 0, 5, 32, 48], [512, 512, 3, 0, 1024, 768]]
        found["unet_time_ids"] = np.array(sizes, np.float32)
        added["added_cond_kwargs"] = {
            "text_embeds": torch.tensor(found["unet_pooled"]).double(),
            "time_ids": torch.tensor(found["unet_time_ids"]),
        }
    kept, hooks = {}, []

    def feature(tap, module):
        def keep(_, inputs, output):
            first = output[0] if isinstance(output, tuple) else output
            kept[f"feature {tap}"] = nhwc(first)

        hooks.append(module.register_forward_hook(keep))

    # Stages end in a resizing, before which our taps are.
    feature("down0", net.down_blocks[0].downsamplers[0])
    feature("mid", net.mid_block)
    feature("up0/res1", net.up_blocks[0].resnets[1])
    own, processors = net.attn_processors, {}
    for site in SITES[name]:
        processors[_published(site)] = Recorder(f"map {site}", kept)
    net.set_attn_processor(own | processors)
    before = (
        net.down_blocks[0]
        .downsamplers[0]
        .register_forward_pre_hook(
            lambda _, inputs: kept.update({"before": nhwc(inputs[0])})
        )
    )
    net.double()
    with torch.no_grad():
        out = net(
            torch.tensor(np.moveaxis(x, -1, 1)).double(),
            torch.tensor(t),
            torch.tensor(found["unet_text"]).double(),
            **added,
        ).sample
    net.float()
    for hook in (*hooks, before):
        hook.remove()
    kept["feature down0"] = kept.pop("before")
    net.set_attn_processor(own)
    kept["unet"] = nhwc(out)
    return found | {key: a.astype(np.float32) for key, a in kept.items()}


def _published(site):
    place, j, k, kind = site.split("/")
    block = {"d": "down_blocks.", "m": "mid_block", "u": "up_blocks."}[place[0]]
    block += place[-1] if place != "mid" else ""
    layer = {"attn": "attn1", "cross": "attn2"}[kind]
    return f"{block}.attentions.{j}.transformer_blocks.{k}.{layer}.processor"


class Recorder:
    """An attention processor that keeps the map."""

    def __init__(self, key, kept):
        self.key, self.kept = key, kept

    def __call__(self, attn, hidden, encoder_hidden_states=None, *args, **kwargs):
        source = hidden if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden), attn.to_k(source), attn.to_v(source)
        q, k, v = (attn.head_to_batch_dim(a) for a in (q, k, v))
        probs = attn.get_attention_scores(q, k, None)
        self.kept[self.key] = probs.reshape(-1, attn.heads, *probs.shape[1:]).numpy()
        out = attn.batch_to_head_dim(torch.bmm(probs, v))
        return attn.to_out[1](attn.to_out[0](out))


def autoencoder_outputs(pipe):
    rng = np.random.default_rng(2)
    images = rng.uniform(0, 1, (2, 10, 14, 3)).astype(np.float32)
    z = rng.standard_normal((2, 5, 7, 4)).astype(np.float32)
    scale = pipe.vae.config.scaling_factor
    with torch.no_grad():
        given = torch.tensor(np.moveaxis(2 * images - 1, -1, 1))
        found = pipe.vae.encode(given).latent_dist
        back = pipe.vae.decode(torch.tensor(np.moveaxis(z, -1, 1)) / scale).sample
    return {
        "vae_images": images,
        "vae_mean": nhwc(found.mean) * scale,
        "vae_std": nhwc(found.std) * scale,
        "vae_z": z,
        "vae_decoded": nhwc(back),
    }


def prompts(pipe, name):
    texts, negative = list(PROMPTS), ["ugly", "ugly"]
    with torch.no_grad():
        if name == "sdxl":
            cond, null, pooled, null_pooled = pipe.encode_prompt(
                texts, None, "cpu", 1, True, negative
            )
            more = {"pooled": pooled.numpy(), "null_pooled": null_pooled.numpy()}
        else:
            cond, null = pipe.encode_prompt(texts, "cpu", 1, True, negative)
            more = {}
    return {"text": cond.numpy(), "null_text": null.numpy()} | more


RUNS = {
    # Name: (scheduler, layers of PAG or None).
    "sd15": {
        "ddim_cfg": (DDIMScheduler, None),
        "euler_cfg": (EulerDiscreteScheduler, None),
        "dpm_cfg": (DPMSolverMultistepScheduler, None),
        "ddim_pag": (DDIMScheduler, ["mid"]),
        "euler_pag": (EulerDiscreteScheduler, ["mid", "up_blocks.1"]),
        "dpm_pag": (DPMSolverMultistepScheduler, ["mid"]),
    },
    "sd2": {"ddim_cfg": (DDIMScheduler, None)},
    "sdxl": {
        "euler_cfg": (EulerDiscreteScheduler, None),
        "euler_pag": (EulerDiscreteScheduler, ["mid"]),
    },
}


def end_to_end(folder, name):
    rng = np.random.default_rng(3)
    eps = rng.standard_normal((1, HEIGHT // 2, WIDTH // 2, 4)).astype(np.float32)
    found = {"eps": eps}
    for run, (scheduler, layers) in RUNS[name].items():
        kind = {
            (False, False): StableDiffusionPipeline,
            (False, True): StableDiffusionPAGPipeline,
            (True, False): StableDiffusionXLPipeline,
            (True, True): StableDiffusionXLPAGPipeline,
        }[name == "sdxl", layers is not None]
        more = {} if layers is None else {"pag_applied_layers": layers}
        pipe = kind.from_pretrained(folder, **more)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        if layers is not None:
            more = {"pag_scale": 2.0}
        z = pipe(
            PROMPTS[0],
            negative_prompt="ugly" if name != "sdxl" else None,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            latents=torch.tensor(np.moveaxis(eps, -1, 1)),
            output_type="latent",
            **more,
        ).images
        found[f"run {run}"] = nhwc(z)
        found[f"timesteps {run}"] = pipe.scheduler.timesteps.numpy()
        found[f"sigma {run}"] = np.float32(pipe.scheduler.init_noise_sigma)
    with torch.no_grad():
        images = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    found["images"] = nhwc(images).clip(-1, 1) / 2 + 0.5
    return found


def texts():
    """Prompts of many kinds, half of them random Unicode."""
    rng = np.random.default_rng(4)
    found = [
        *PROMPTS,
        CORPUS,
        "Hello!World don't  they'LL I'm 12345 x² ½ ٣٤",
        "a!b !! <|endoftext|> in <|startoftext|> text",
        "日本語 の テキスト ΑΣ ΣΑΣ İstanbul ß ﬁ é e\u0301 Å \u2003\x85\x1c\u00a0end",
        "🐈‍⬛ 👩🏽‍🚀 \u200b\ufeff tabs\tand\nlines\r\n",
        " ".join(["word"] * 90),
    ]
    words = CORPUS.split()
    for _ in range(200):
        count = rng.integers(1, 20)
        found.append(" ".join(rng.choice(words, count)))
    for _ in range(212):
        points = rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x1FA00], 12)
        letters = [chr(rng.integers(32, p)) for p in points]
        # Not what Unicode had not yet assigned in Python 3.11, nor surrogates.
        kinds = map(unicodedata.category, letters)
        pairs = zip(letters, kinds, strict=True)
        found.append("".join(c for c, kind in pairs if kind not in ("Cn", "Cs")))
    return found


def tokens(pipe, name):
    given = texts()
    found = {"texts": np.frombuffer(json.dumps(given).encode(), np.uint8)}
    both = [pipe.tokenizer] + ([pipe.tokenizer_2] if name == "sdxl" else [])
    for i, each in enumerate(both):
        rows = each(given, padding="max_length", max_length=77, truncation=True)
        found[f"tokens {i}"] = np.array(rows.input_ids, np.int16)
    return found


def _make(name, build):
    def make(folder):
        build(folder)
        randomise(folder)
        kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
        pipe = kind.from_pretrained(folder)
        return (
            network(pipe, name)
            | autoencoder_outputs(pipe)
            | prompts(pipe, name)
            | tokens(pipe, name)
            | end_to_end(folder, name)
        )

    return make


CASES = {
    "sd15": _make("sd15", build_sd15),
    "sd2": _make("sd2", build_sd2),
    "sdxl": _make("sdxl", build_sdxl),
}
