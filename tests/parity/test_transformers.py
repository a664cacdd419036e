"""DiT, SD3, Flux and PixArt draw from folders what diffusers' pipelines draw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.models import published
from jaxlib_guidance.training import batch_sharding, data_mesh, replicated


def draw(model, params, solver, grid, eps, cond, guidance):
    """Latents and pictures of a start state."""

    @jax.jit
    def run(params, cond, guidance):
        keys = jg.sample_keys(jax.random.key(0), len(eps))
        z, _ = jg.sample(
            *(keys, model.denoiser(params), solver, grid, jnp.asarray(eps), cond),
            guidance=guidance,
        )
        return z, model.decode(params, z)

    return run(params, cond, guidance)


def close(z, want):
    """Within 1e-5 of the largest latent."""
    np.testing.assert_allclose(z, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
def test_dit_draws_what_diffusers_draws(golden):
    folder, want = golden("dit_pipeline")
    model, params = published.load_class_transformer(folder, as_trained=False)
    labels = jnp.asarray(want["labels"])
    guidance = jg.cfg(3.0, jnp.full_like(labels, model.classes))
    start = jg.ddim(), model.grid(5), want["eps"]
    z, images = draw(model, params, *start, labels, guidance)
    close(z, want["z"])
    np.testing.assert_allclose(images, want["images"], atol=2e-5)
    assert model.latent() == (6, 6, 4)
    assert model.latent(16, 24) == (8, 12, 4)
    with pytest.raises(ValueError, match="expected multiples of 4"):
        model.latent(18)


def test_classes_have_the_names_of_the_folder(golden):
    folder, _ = golden("dit_pipeline")
    model, params = published.load_published(folder, parts=["transformer"])
    assert (list(params), model.classes) == (["transformer"], 1000)
    np.testing.assert_array_equal(model.labels(["Tinca tinca", "crane"]), [0, 2])
    for names, told in ((["dog"], r"\['dog'\]"), ("crane", "'crane'")):
        with pytest.raises(ValueError, match=f"names is {told}; expected a list"):
            model.labels(names)
    with pytest.raises(ValueError, match="'vae' was not loaded"):
        model.decode(params, jnp.zeros((1, 6, 6, 4)))
    with pytest.raises(ValueError, match=r"parts has \['unet'\]; expected some of"):
        published.load_published(folder, parts=["unet"])


@pytest.fixture(scope="module")
def sd3(golden):
    """Model, parameters, the reference's outputs, and conditions of texts."""
    folder, want = golden("sd3_pipeline")
    model, params = published.load_published(folder)
    prompts = jax.jit(lambda own: model.prompts(own, ["A photo of a  cat!"], "ugly"))
    return model, params, want, prompts(params)


def test_texts_of_sd3_are_those_of_diffusers(sd3):
    model, params, want, both = sd3
    assert both[0]["text"].shape == (1, 77 + 256, 44)
    for key, found in zip(("", "null_"), both, strict=True):
        text, pooled = found["text"], found["pooled"]
        np.testing.assert_allclose(text[:, :78], want[f"{key}text"], atol=1e-5)
        np.testing.assert_allclose(pooled, want[f"{key}pooled"], atol=1e-5)
    assert not text[:, 78:].any()
    with pytest.raises(ValueError, match="negative has 2 texts; expected one or 1"):
        jax.eval_shape(lambda: model.prompts(params, ["a"], ["b", "c"]))


@pytest.mark.parametrize("run", [pytest.param("cfg", marks=pytest.mark.slow), "pag"])
def test_sd3_draws_what_diffusers_draws(sd3, run):
    model, params, want, (cond, null) = sd3
    terms = [jg.cfg(4.0, null)] + [jg.pag(2.0, "block0")] * (run == "pag")
    z, images = draw(
        *(model, params, jg.euler(), model.grid(5), want["eps"], cond),
        jg.chain(*terms),
    )
    close(z, want[f"z {run}"])
    if run == "pag":
        np.testing.assert_allclose(images, want["images"], atol=2e-5)


@pytest.mark.slow
def test_a_batch_on_eight_devices_is_sampled_without_collectives(sd3):
    model, params, _, (cond, null) = sd3
    mesh = data_mesh()
    params = jax.device_put({"transformer": params["transformer"]}, replicated(mesh))
    rows = jax.tree.map(lambda a: a.repeat(8, 0), cond)
    keys = jg.sample_keys(jax.random.key(0), 8)
    rows, keys = jax.device_put((rows, keys), batch_sharding(mesh))

    @jax.jit
    def draw(params, keys, cond):
        guidance = jg.chain(jg.cfg(4.0, null), jg.pag(2.0, "block0"))
        start = jg.euler(), model.grid(2), (8, 12, 4)
        denoiser = model.denoiser(params)
        return jg.sample(keys, denoiser, *start, cond, guidance=guidance)

    text = draw.lower(params, keys, rows).compile().as_text()
    names = "all-reduce", "all-gather", "all-to-all", "collective-permute"
    assert not [name for name in names if name in text]


def test_flux_reads_t5_by_token_numbers(golden):
    """T5's tokenizer is the caller's, and without one the error says what to do."""
    model, params = published.load_published(golden("flux_pipeline").folder)
    clip, long = golden("clip_openai"), golden("t5_gated")
    modules, own = {}, dict(params)
    modules["text_encoder"], own["text_encoder"] = published.load_clip_text(
        published.open_part(clip.folder)
    )
    modules["text_encoder_2"], own["text_encoder_2"] = published.load_t5(
        published.open_part(long.folder)
    )
    model = dataclasses.replace(model, text_encoders=modules, guidance=2.0)
    tokens = {
        "text_encoder": jnp.asarray(clip.arrays["tokens"]),
        "text_encoder_2": jnp.asarray(long.arrays["tokens"]),
    }
    cond = jax.jit(model.condition)(own, tokens)
    assert sorted(cond) == ["guidance", "pooled", "text"]
    np.testing.assert_allclose(cond["pooled"], clip.arrays["pooled"], atol=1e-5)
    np.testing.assert_allclose(cond["text"][:, ::15], long.arrays["plain"], atol=1e-5)
    np.testing.assert_array_equal(cond["guidance"], [2.0, 2.0])
    mine = {"text_encoder": lambda texts: clip.arrays["tokens"]}
    with pytest.raises(ValueError, match=r"\['text_encoder_2'\] has no tokenizer"):
        dataclasses.replace(model, tokenizers=mine).prompts(own, ["a", "b"])


def test_flux_draws_what_diffusers_draws(golden):
    folder, want = golden("flux_pipeline")
    model, params = published.load_published(folder)
    cond = {name: jnp.asarray(want[name]) for name in ("text", "pooled")}
    cond["guidance"] = jnp.array([3.5])
    grid = model.grid(5, size=(16, 24))
    np.testing.assert_allclose(grid, want["sigmas"], atol=1e-6)
    z, images = draw(model, params, jg.euler(), grid, want["eps"], cond, None)
    close(z, want["z"])
    np.testing.assert_allclose(images, want["images"], atol=2e-5)


@pytest.mark.slow
def test_pixart_draws_what_diffusers_draws(golden):
    folder, want = golden("pixart_pipeline")
    model, params = published.load_published(folder)
    cond, null = (
        {
            "text": jnp.asarray(want[f"{k}text"]),
            "text_mask": jnp.asarray(want[f"{k}mask"]),
        }
        for k in ("", "null_")
    )
    start = jg.dpmpp_2m(), model.grid(5), want["eps"]
    z, images = draw(model, params, *start, cond, jg.cfg(3.5, null))
    close(z, want["z"])
    np.testing.assert_allclose(images, want["images"], atol=2e-5)


def test_pixart_hides_padding_and_tells_sizes(golden):
    model, params = published.load_published(golden("pixart_pipeline").folder)
    long = golden("t5_gated")
    module, own = published.load_t5(published.open_part(long.folder))
    network = model.network.clone(use_additional_conditions=True)
    encoders = {"text_encoder": module}
    model = dataclasses.replace(model, text_encoders=encoders, transformer=network)
    tokens = jnp.where(long.arrays["mask"], long.arrays["tokens"], 0)
    run = jax.jit(lambda own: model.condition(own, {"text_encoder": tokens}, (32, 64)))
    cond = run({**params, "text_encoder": own})
    np.testing.assert_array_equal(cond["text_mask"], long.arrays["mask"])
    np.testing.assert_allclose(
        cond["text"][0, ::15], long.arrays["masked"][0], atol=1e-5
    )
    np.testing.assert_array_equal(cond["resolution"], [[32, 64]] * 2)
    np.testing.assert_array_equal(cond["aspect_ratio"], [[0.5]] * 2)
