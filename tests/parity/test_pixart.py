"""PixArt gives what diffusers' gives, and is guided by its sites."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import published

NAMES = "text", "text_mask", "resolution", "aspect_ratio"


@pytest.fixture(scope="module")
def loaded(golden):
    def get(name):
        folder, want = golden(name)
        module, params = published.load_pixart(published.open_part(folder))
        cond = {name: jnp.asarray(want[name]) for name in NAMES if name in want}
        return module, params, want, cond

    return get


@pytest.mark.parametrize(
    "name", ["pixart_sized", pytest.param("pixart", marks=pytest.mark.slow)]
)
def test_values_and_maps_are_those_of_diffusers(loaded, name):
    module, params, want, cond = loaded(name)
    full, site = module.clone(variance=True), "block0/attn"
    run = jax.jit(
        lambda x: full.apply({"params": params}, x, want["t"], cond, capture=(site,))
    )
    value, maps = run(jnp.asarray(want["x"]))
    np.testing.assert_allclose(value, want["value"], atol=1e-5)
    np.testing.assert_allclose(maps[site], want["map"], atol=1e-6)


def test_sites_and_taps_obey_the_laws(loaded, laws):
    module, params, want, cond = loaded("pixart")
    laws(module, params, want["x"], want["t"], cond, "block1")


@pytest.mark.slow
def test_half_precision_is_near(loaded, half):
    module, params, want, cond = loaded("pixart_sized")
    module = module.clone(dtype=jnp.bfloat16)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    half(module, params, (want["x"], want["t"], cond), want["value"][..., :4])


def test_what_does_not_fit_is_told(loaded, golden):
    module, params, want, cond = loaded("pixart_sized")
    x, t = jnp.asarray(want["x"]), jnp.asarray(want["t"])
    text = {"text": cond["text"]}
    for given, told in (
        (None, "cond is NoneType; expected a dict with text, resolution, aspect_ratio"),
        (text, r"cond has \['text'\]"),
        (cond | {"text_mask": jnp.ones((2, 4))}, r"text_mask is \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=told):
            module.apply({"params": params}, x, t, given)
    part = published.open_part(golden("pixart").folder)
    for key, value in (
        ("caption_channels", None),
        ("cross_attention_dim", 25),
        ("attention_type", "gated"),
        ("norm_type", "ada_norm_zero"),
    ):
        with pytest.raises(ValueError, match=f"config.json: '{key}' is"):
            published.load_pixart(
                dataclasses.replace(part, config={**part.config, key: value})
            )
