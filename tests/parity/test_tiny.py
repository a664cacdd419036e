"""The tiny autoencoder gives what diffusers' gives, and stands in for a model's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import published


@pytest.fixture(scope="module")
def part(golden):
    return published.open_part(golden("autoencoder_tiny").folder)


def test_both_ways_are_those_of_diffusers(part, golden):
    want = golden("autoencoder_tiny").arrays
    (encoder, own), (decoder, other) = published.load_autoencoder_tiny(part)

    @jax.jit
    def run(own, other, images, z):
        encoded = encoder.apply({"params": own}, images)
        return *encoded, decoder.apply({"params": other}, z)

    given = (jnp.asarray(want[name]) for name in ("images", "z"))
    mean, std, decoded = run(own, other, *given)
    np.testing.assert_allclose(mean, want["encoded"], atol=1e-5)
    np.testing.assert_allclose(decoded, want["decoded"], atol=2e-5)
    assert not std.any()
    assert (encoder.factor, decoder.factor) == (4, 4)
    for module, shape in ((encoder, (1, 10, 12, 3)), (decoder, (1, 3, 3, 3))):
        params = own if module is encoder else other
        with pytest.raises(ValueError, match=r"has shape .*; expected \[B,"):
            module.apply({"params": params}, jnp.zeros(shape))


def test_it_stands_in_for_a_models_own(part, golden):
    model, params = published.load_published(golden("flux_pipeline").folder)
    (encoder, own), (decoder, other) = published.load_autoencoder_tiny(part)
    model = dataclasses.replace(model, encoder=encoder, decoder=decoder)
    params = {**params, "vae": {**own, **other}}
    shape = model.latent(16, 24)
    assert shape == (4, 6, 4)
    z = jax.eval_shape(model.decode, params, jnp.zeros((2, *shape)))
    assert z.shape == (2, 16, 24, 3)
    images = jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.float32)
    assert jax.eval_shape(model.encode, params, images).shape == (2, *shape)


def test_what_is_not_computed_is_refused_by_key(part):
    for key, value in (
        ("encoder_block_out_channels", [8, 8, 16]),
        ("upsample_fn", "bilinear"),
        ("upsampling_scaling_factor", 4),
    ):
        with pytest.raises(ValueError, match=f"config.json: '{key}' is"):
            published.load_autoencoder_tiny(
                dataclasses.replace(part, config={**part.config, key: value})
            )
