"""From a picture and under a mask: latents of diffusers' pipelines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.models import published

KEYS = jg.sample_keys(jax.random.key(0), 1)


def same(got, want):
    scale = np.abs(want).max()
    np.testing.assert_allclose(got / scale, want / scale, atol=1e-5)


@pytest.mark.slow
def test_a_network_of_nine_channels_repaints(golden):
    folder, want = golden("inpaint")
    model, params = published.load_published(folder)
    assert model.repaints
    cond, null = model.prompts(params, ["a cat"], "ugly")
    images, mask, eps = (jnp.asarray(want[k]) for k in ("images", "mask", "eps"))

    @jax.jit
    def draw(params, cond, null):
        cond, null = (model.masked(params, c, images, mask) for c in (cond, null))
        guidance, denoiser = jg.cfg(4.0, null), model.denoiser(params)
        grid = model.grid(5, "ddim")
        return jg.sample(KEYS, denoiser, jg.ddim(), grid, eps, cond, guidance=guidance)

    same(draw(params, cond, null)[0], want["run"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_from_a_picture_with_part_of_the_steps(golden, name):
    model, params = published.load_published(golden("sd15").folder)
    want = golden("image_to_image").arrays
    cond, null = model.prompts(params, ["a cat"], "ugly")
    # int(5 * 0.65) steps of the last.
    grid = model.grid(5, name)[-4:]
    alpha, sigma = model.process.alpha(grid[0]), model.process.sigma(grid[0])
    x = alpha * want["z"] + sigma * want["eps"]

    @jax.jit
    def draw(params, cond, null):
        guidance, denoiser = jg.cfg(4.0, null), model.denoiser(params)
        solver = getattr(jg, name)()
        return jg.sample(KEYS, denoiser, solver, grid, x, cond, guidance=guidance)

    same(draw(params, cond, null)[0], want[f"run {name}"])


def test_other_networks_do_not_repaint_that_way(golden):
    model, params = published.load_published(golden("sd15").folder)
    with pytest.raises(ValueError, match="takes 4 channels; one that fills in takes 9"):
        model.masked(params, {}, jnp.zeros((1, 16, 24, 3)), jnp.zeros((16, 24)))


@pytest.mark.slow
def test_a_controlnet_of_another_network_is_refused_by_name(tmp_path):
    config = {"_class_name": "SD3ControlNetModel", "num_layers": 2}
    part = published.Part(tmp_path, config, {})
    with pytest.raises(ValueError, match="is 'SD3ControlNetModel'; expected 'Contr"):
        published.load_controlnet(part)


@pytest.mark.slow
def test_a_controlnet_steers_from_prompt_to_latent(golden):
    model, params = published.load_published(golden("sd15").folder)
    folder, want = golden("controlnet")
    net, params["controlnet"] = published.load_controlnet(published.open_part(folder))
    cond, null = model.prompts(params, ["a cat"], "ugly")
    hint, eps = jnp.asarray(want["hint"]), jnp.asarray(want["eps"])

    @jax.jit
    def draw(params, cond, null):
        cond, null = cond | {"hint": hint}, null | {"hint": hint}
        denoiser = model.denoiser(params, controlnet=net, scale=0.6)
        guidance, grid = jg.cfg(4.0, null), model.grid(5, "ddim")
        return jg.sample(KEYS, denoiser, jg.ddim(), grid, eps, cond, guidance=guidance)

    same(draw(params, cond, null)[0], want["run"])


def test_hints_that_do_not_fit_are_told(golden):
    net, params = published.load_controlnet(
        published.open_part(golden("controlnet").folder)
    )
    x, cond = jnp.zeros((1, 8, 12, 4)), {"text": jnp.zeros((1, 3, 24))}
    for hint, told in (
        (None, r"is absent; expected \(1, 16, 24, 3\)"),
        (jnp.zeros((1, 64, 96, 3)), r"is of shape \(1, 64, 96, 3\); expected"),
    ):
        with pytest.raises(ValueError, match=told):
            net.apply({"params": params}, x, jnp.zeros(1), cond | {"hint": hint})
