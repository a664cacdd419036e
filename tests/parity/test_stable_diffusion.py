"""Stable Diffusion 1.x, 2.x and XL give what diffusers' pipelines give."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.models import published
from jaxlib_guidance.training import batch_sharding, data_mesh, replicated

NAMES = ("sd15", "sd2", "sdxl")
SOLVERS = {
    "ddim": jg.ddim(),
    "euler": jg.euler(),
    "dpm": jg.dpmpp_2m(),
}
PLACES = {"euler_pag sd15": ["mid", "up1"]}


@pytest.fixture(scope="session")
def loaded(golden):
    """``loaded(name)``: model, parameters and the reference's outputs."""

    @functools.cache
    def get(name):
        folder, want = golden(name)
        return *published.load_published(folder), want

    return get


def close(got, want, atol):
    got = np.asarray(got)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=atol, rtol=0)


def network_inputs(want):
    cond = {
        key: jnp.asarray(want[f"unet_{key}"])
        for key in ("text", "pooled", "time_ids")
        if f"unet_{key}" in want
    }
    return jnp.asarray(want["unet_x"]), jnp.asarray(want["unet_t"]), cond


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[:2]), "sdxl"]
)
def test_network_maps_and_features_at_an_odd_size(loaded, name):
    model, params, want = loaded(name)
    taps = [key.split(" ")[1] for key in want if key.startswith(("map ", "feature "))]
    run = jax.jit(
        lambda params, *args: model.unet.apply({"params": params}, *args, capture=taps)
    )
    value, maps = run(params["unet"], *network_inputs(want))
    close(value, want["unet"], 1e-5)
    for tap in taps:
        if f"map {tap}" in want:
            # One entry of 1760 is off by 1.4e-6, at the last stage of "sd2".
            close(maps[tap], want[f"map {tap}"], 1e-6 if name != "sd2" else 2e-6)
        else:
            close(maps[tap], want[f"feature {tap}"], 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_sites_obey_the_laws_of_sites(loaded, laws, name):
    model, params, want = loaded(name)
    # The last norm has a group for each channel in "sdxl", and removes a shift.
    unfelt = ("up2/res1", "up2") if name == "sdxl" else ()
    laws(model.unet, params["unet"], *network_inputs(want), "mid", unfelt=unfelt)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_equal(loaded, name):
    model, _, want = loaded(name)
    texts = json.loads(want["texts"].tobytes())
    assert len(texts) >= 400
    for i, rows in enumerate(model.tokens(texts)):
        different = np.flatnonzero((np.asarray(rows) != want[f"tokens {i}"]).any(1))
        assert not different.size, [texts[n] for n in different[:5]]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_prompts_and_pictures(loaded, name):
    model, params, want = loaded(name)
    texts = ["A photo of a  cat!", ""]
    cond, null = model.prompts(params, texts, "ugly")
    close(cond["text"], want["text"], 1e-5)
    close(null["text"], want["null_text"], 1e-5)
    if name == "sdxl":
        close(cond["pooled"], want["pooled"], 1e-5)
        close(null["pooled"], want["null_pooled"], 1e-5)
        assert cond["time_ids"].tolist() == [[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2
        _, zeros = model.prompts(params, texts)
        assert not zeros["text"].any()
        assert not zeros["pooled"].any()
        assert zeros["time_ids"].tolist() == cond["time_ids"].tolist()


def test_no_negative_is_zeros_where_the_training_had_them(loaded):
    model, params, want = loaded("sdxl")
    texts = ["A photo of a  cat!", ""]

    @jax.jit
    def run(params, tokens):
        cond = model.condition(params, tokens)
        return cond, model.empty(cond)

    cond, null = run(params, model.tokens(texts))
    close(cond["text"], want["text"], 1e-5)
    close(cond["pooled"], want["pooled"], 1e-5)
    assert model.zeros
    assert not null["text"].any()
    assert not null["pooled"].any()
    np.testing.assert_array_equal(null["time_ids"], cond["time_ids"])


def test_the_autoencoder(loaded):
    model, params, want = loaded("sd15")

    @jax.jit
    def run(params, images, z):
        inputs = {"params": params["vae"]}, 2 * images - 1
        return model.encoder.apply(*inputs), model.decode(params, z)

    images, z = (jnp.asarray(want[key]) for key in ("vae_images", "vae_z"))
    (mean, std), decoded = run(params, images, z)
    close(mean, want["vae_mean"], 1e-5)
    close(std, want["vae_std"], 1e-5)
    close(decoded, want["vae_decoded"].clip(-1, 1) / 2 + 0.5, 2e-5)


RUNS = [
    pytest.param("sd15", "ddim_pag"),
    pytest.param("sd2", "ddim_cfg"),
    *(
        pytest.param(name, run, marks=pytest.mark.slow)
        for name, run in (
            ("sd15", "ddim_cfg"),
            ("sd15", "euler_cfg"),
            ("sd15", "dpm_cfg"),
            ("sd15", "euler_pag"),
            ("sd15", "dpm_pag"),
            ("sdxl", "euler_cfg"),
            ("sdxl", "euler_pag"),
        )
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_grids_are_the_timesteps_of_the_schedulers(loaded, name):
    model, _, want = loaded(name)
    for key in want:
        if key.startswith("timesteps "):
            family = key.split(" ")[1].split("_")[0]
            index = model.process.index(model.grid(5, family)[:-1])
            np.testing.assert_allclose(index, want[key], atol=1e-3)


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_five_steps_from_prompt_to_picture(loaded, name, run):
    model, params, want = loaded(name)
    family = run.split("_")[0]
    grid = model.grid(5, family)
    eps = jnp.asarray(want["eps"])
    size = (16, 24)
    encode = jax.jit(lambda params, tokens: model.condition(params, tokens, size))
    cond = encode(params, model.tokens(["A photo of a  cat!"]))
    null = encode(params, model.tokens(["ugly"]))
    if name == "sdxl":
        null = model.empty(cond)
    # diffusers' Euler has states that are not scaled to the process's.
    x = eps * want[f"sigma {run}"]
    if family == "euler":
        x = x * model.process.alpha(grid[0])
    keys = jg.sample_keys(jax.random.key(0), 1)

    @jax.jit
    def draw(params, cond, null, x):
        terms = [jg.cfg(4.0, null)]
        if run.endswith("pag"):
            terms.append(jg.pag(2.0, PLACES.get(f"{run} {name}", "mid")))
        z, _ = jg.sample(
            keys,
            model.denoiser(params),
            SOLVERS[family],
            grid,
            x,
            cond,
            guidance=jg.chain(*terms),
        )
        return z

    z = draw(params, cond, null, x)
    scale = np.abs(want[f"run {run}"]).max()
    close(z / scale, want[f"run {run}"] / scale, 1e-5)
    if run == list(want)[-1]:
        close(model.decode(params, z), want["images"], 2e-5)


@pytest.mark.slow
def test_bfloat16_is_within_three_percent(golden, loaded):
    want = loaded("sd15")[2]
    half, halved = published.load_published(
        golden("sd15").folder, dtype=jnp.bfloat16, parts=["unet"]
    )
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(halved))
    x, t, cond = network_inputs(want)
    value, _ = jax.jit(half.unet.apply)({"params": halved["unet"]}, x, t, cond)
    assert value.dtype == jnp.float32
    off = np.square(value - want["unet"]).mean() / np.square(want["unet"]).mean()
    assert 1e-3 < off**0.5 < 0.03


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        *(
            ("unet", key, value)
            for key, value in {
                "act_fn": "gelu",
                "resnet_time_scale_shift": "scale_shift",
                "only_cross_attention": True,
                "dual_cross_attention": True,
                "class_embed_type": "timestep",
                "num_class_embeds": 1000,
                "encoder_hid_dim": 32,
                "encoder_hid_dim_type": "text_proj",
                "time_embedding_type": "fourier",
                "conv_in_kernel": 5,
                "conv_out_kernel": 1,
                "mid_block_type": "UNetMidBlock2D",
                "attention_type": "gated",
                "center_input_sample": True,
                "time_cond_proj_dim": 256,
                "reverse_transformer_layers_per_block": [1, 2],
                "addition_embed_type": "image",
                "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
                "a_key_of_tomorrow": 3,
            }.items()
        ),
        ("vae", "act_fn", "relu"),
        ("vae", "latents_mean", [0.5]),
        ("vae", "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ("text_encoder", "model_type", "bert"),
        ("text_encoder", "a_key_of_tomorrow", 3),
    ],
)
def test_what_is_not_computed_is_refused_by_key(golden, part, key, value):
    found = published.open_part(golden("sd15").folder / part)
    found = dataclasses.replace(found, config={**found.config, key: value})
    load = {
        "unet": published.load_unet,
        "vae": published.load_autoencoder,
        "text_encoder": published.load_clip_text,
    }[part]
    with pytest.raises(ValueError, match=f"{part}/config.json: '{key}'"):
        load(found)


def test_conditions_that_do_not_fit_are_told(loaded):
    model, params, want = loaded("sdxl")
    x, t, cond = network_inputs(want)

    def call(x, cond):
        jax.eval_shape(lambda p: model.unet.apply({"params": p}, x, t, cond), unet)

    unet = params["unet"]
    for change, told in (
        ({"text": cond["text"][..., :24]}, "24 features; expected 40"),
        ({"pooled": None}, "not 'pooled', which SDXL needs"),
        ({"pooled": cond["pooled"][:, :3]}, "27 features; expected 36"),
        ({"image": jnp.zeros((2, 7, 10, 5))}, "9 channels, those of cond"),
        ({"residuals": {"down": [], "mid": 0}}, "has 0 arrays; expected 6, one for"),
    ):
        given = {k: a for k, a in (cond | change).items() if a is not None}
        with pytest.raises(ValueError, match=told):
            call(x, given)
    with pytest.raises(ValueError, match="expected a dict with 'text'"):
        call(x, cond["text"])
    with pytest.raises(TypeError, match="expected a list of them"):
        model.prompts(params, "a cat")
    with pytest.raises(TypeError, match="text is int; expected str"):
        model.prompts(params, [3])
    with pytest.raises(TypeError, match="texts is 5; expected a list of texts"):
        model.prompts(params, 5)
    with pytest.raises(ValueError, match="texts is empty; expected at least one"):
        model.prompts(params, [])
    with pytest.raises(TypeError, match="negative is 5; expected a list of texts"):
        model.prompts(params, ["a"], 5)
    with pytest.raises(ValueError, match="negative has 2 texts; expected one or 1"):
        model.prompts(params, ["a"], ["b", "c"])


def test_parts_and_folders_that_are_not_there_are_told(golden, tmp_path):
    folder = golden("sd15").folder
    model, params = published.load_published(folder, parts=["vae"])
    assert set(params) == {"vae"}
    with pytest.raises(ValueError, match="'unet' was not loaded; add it to parts"):
        model.denoiser(params)
    with pytest.raises(ValueError, match="text encoder was not loaded"):
        model.prompts(params, ["a"])
    with pytest.raises(ValueError, match=r"parts has \['lungs'\]; expected some of"):
        published.load_published(folder, parts=["lungs"])
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        published.load_clip_tokenizer(tmp_path)
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet3D"]}')
    with pytest.raises(ValueError, match="class 'UNet3D'; expected one of UNet2D"):
        published.load_published(tmp_path)


def test_schedulers_that_are_not_known_are_told():
    base = {"_class_name": "DDIMScheduler"}
    for change, told in (
        ({"_class_name": "TCDScheduler"}, "_class_name is 'TCDScheduler'"),
        ({"beta_schedule": "square"}, "beta_schedule is 'square'"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ({"rescale_betas_zero_snr": True}, "nothing about the picture in pure noise"),
    ):
        with pytest.raises(ValueError, match=told):
            published.read_scheduler(base | change)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    scheduler = published.read_scheduler(flow)
    assert scheduler.predicts == "velocity"
    # diffusers 0.42.1, FlowMatchEulerDiscreteScheduler(shift=3).set_timesteps(5).
    np.testing.assert_allclose(scheduler.grid(5)[-2:], [0.0089286, 0], atol=1e-6)
    with pytest.raises(ValueError, match="solver is 'best'; expected one of"):
        published.read_scheduler(base).grid(5, "best")


def test_a_scheduler_that_clips_is_not_forgotten():
    def read(**config):
        return published.read_scheduler({"_class_name": "DDIMScheduler", **config})

    # diffusers' default, which the file may leave out.
    with pytest.raises(ValueError, match=r"expected jg.clip_x0\(-1, 1\) as the last"):
        read().grid(5)
    assert read().grid(5, clipped=True).shape == (6,)
    assert read().clip() == read(_class_name="DDPMScheduler").clip("ddim") == 1
    assert read(clip_sample_range=2.0).clip() == 2
    assert read().clip("euler") is read(clip_sample=False).clip() is None
    dpm = {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True}
    assert read(**dpm).clip() == read(**dpm).clip("ddim") == 1
    assert read(**dpm).clip("euler") is None
    # A class that the file does not name clips where the file says so alone.
    assert read(_class_name="PNDMScheduler").clip("ddim") is None
    assert read(_class_name="PNDMScheduler", clip_sample=True).clip("ddim") == 1
    with pytest.raises(ValueError, match="sample_max_value 1.5 is not computed"):
        read(thresholding=True, sample_max_value=1.5).grid(5, clipped=True)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert published.read_scheduler(flow).clip() is None


def test_clipped_steps_are_those_of_diffusers():
    """Its DDIM with ``use_clipped_model_output``, and its DPM++ with thresholding.

    From diffusers 0.42.1: four of five steps from (1.5, -0.5, 0.2, 3), with the
    trailing timesteps of linear betas, of a network that says ``0.3 x + 0.1 x^2``.
    """
    config = {"timestep_spacing": "trailing"}
    ddim = published.read_scheduler(config | {"_class_name": "DDIMScheduler"})
    dpm = {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True}
    dpm = published.read_scheduler(config | dpm)
    x = jnp.array([[1.5, -0.5, 0.2, 3.0]])
    for scheduler, solver, want in (
        (ddim, jg.ddim(), (1.6839986, -1.1000677, 0.8941419, 2.5598948)),
        (dpm, jg.dpmpp_2m(), (1.6839986, -1.1000676, 0.8797090, 2.5598948)),
    ):
        net = jg.parametrize(
            lambda x, t, cond: 0.3 * x + 0.1 * x**2, scheduler.process, "eps"
        )
        grid, bound = scheduler.grid(5, clipped=True)[:-1], scheduler.clip()
        keys = jg.sample_keys(jax.random.key(0), 1)
        guidance = jg.clip_x0(-bound, bound)
        found, _ = jg.sample(keys, net, solver, grid, x, guidance=guidance)
        np.testing.assert_allclose(found[0], want, atol=1e-5)


@pytest.mark.slow
def test_a_batch_on_eight_devices_is_sampled_without_collectives(loaded):
    model, params, want = loaded("sd15")
    mesh = data_mesh()
    params = jax.device_put(params["unet"], replicated(mesh))
    cond = {"text": jnp.ones((8, 5, 24))}
    rows = jnp.asarray(want["unet_x"][:1].repeat(8, 0)), cond
    x, cond = jax.device_put(rows, batch_sharding(mesh))
    keys = jax.device_put(jg.sample_keys(jax.random.key(0), 8), batch_sharding(mesh))
    grid = model.grid(2, "ddim")

    @jax.jit
    def draw(params, keys, x, cond):
        guidance = jg.chain(jg.cfg(4.0, {"text": 0.0}), jg.pag(2.0, "mid"))
        denoiser = model.denoiser({"unet": params})
        return jg.sample(keys, denoiser, jg.ddim(), grid, x, cond, guidance=guidance)

    text = draw.lower(params, keys, x, cond).compile().as_text()
    names = "all-reduce", "all-gather", "all-to-all", "collective-permute"
    assert not [name for name in names if name in text]


@pytest.mark.slow
def test_terms_of_attention_and_features_work_on_it(loaded):
    model, params, want = loaded("sd15")
    cond, null = jnp.asarray(want["text"]), jnp.asarray(want["null_text"])
    cond, null = {"text": cond[:1]}, {"text": null[:1]}
    pixels = jnp.zeros((8, 12)).at[2:6, 2:6].set(1)
    mask = jg.attention.token_mask(pixels, (4, 6))
    keys, grid = jg.sample_keys(jax.random.key(0), 1), model.grid(2, "ddim")
    terms = {
        "redirect": lambda w: jg.redirect(w, "mid", mask),
        "nag": lambda w: jg.guidance.nag(w, null),
        "freeu": lambda w: jg.guidance.freeu(w, {"up0/join": (1.5, 0.9)}),
        "slg": lambda w: jg.guidance.slg(w, "mid"),
    }

    @jax.jit
    def draw(params, weight):
        def one(term):
            return jg.sample(
                *(keys, model.denoiser(params), jg.ddim(), grid, (8, 12, 4), cond),
                guidance=term,
            )[0]

        return {name: one(term(weight)) for name, term in terms.items()}

    off, on = draw(params, jnp.float32(0.0)), draw(params, jnp.float32(1.5))
    for name in terms:
        assert np.isfinite(on[name]).all(), name
        assert np.abs(on[name] - off[name]).max() > 1e-3, name
        np.testing.assert_allclose(off[name], off["slg"], atol=1e-5)


@pytest.mark.slow
def test_full_sizes_have_the_known_numbers_of_parameters():
    """Of diffusers' models of these configurations: 859,520,964 and 2,567,463,684."""
    xl = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    for width, options, count, sites in (
        (768, {}, 859_520_964, 16),
        (2048, xl, 2_567_463_684, 70),
    ):
        net = published.UNet2DCondition(cross_attention_dim=width, **options)
        arguments = published.example_arguments(net)
        shapes = published.parameter_shapes(net.init, *arguments)
        assert published.count_parameters(shapes) == count
        assert len([site for site in net.sites if site.endswith("/attn")]) == sites


@pytest.mark.parametrize("bound", [None, 0, -1.0, float("nan")])
def test_a_clip_to_no_range_is_told(bound):
    config = {"_class_name": "DDIMScheduler", "clip_sample_range": bound}
    with pytest.raises(
        ValueError, match="clip_sample_range is .*; expected a positive"
    ):
        published.read_scheduler(config).clip()
