"""Edits of pictures by inversion, against sampling by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.editing import guide_and_rescale, sdedit
from jaxlib_guidance.guidance import reference_energy, rescale_norm
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=4)
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 3)
GRID = jg.uniform_grid(PROCESS, 5)
SOURCE, TARGET = jnp.arange(3), jnp.arange(3) + 4


def denoiser():
    return jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")


@pytest.fixture(scope="module")
def edited():
    @jax.jit
    def run(target, weight, low, high):
        return guide_and_rescale(
            *(KEYS, denoiser(), GRID, PICTURE, SOURCE, target, 10),
            weight=weight,
            low=low,
            high=high,
        )

    return run


def test_it_is_inversion_and_a_chain(edited):
    got = edited(TARGET, 2.0, 0.33, 3.0)

    @jax.jit
    def by_hand():
        inversion = jg.invert(KEYS, denoiser(), GRID, PICTURE, SOURCE)
        reference = reference_energy(1.0, SOURCE, {"*/attn": 3e5})
        guidance = jg.chain(
            jg.cfg(2.0, 10), jg.during(rescale_norm(reference, 0.33, 3.0), 0, 0.6)
        )
        return jg.sample(
            *(KEYS, denoiser(), jg.ddim(), GRID, inversion.x, TARGET),
            guidance=guidance,
            ref=inversion.trajectory[:-1],
        )[0]

    np.testing.assert_allclose(got.x, by_hand(), atol=1e-5)


def test_without_contrast_it_is_the_way_back(edited):
    """The reference's part is relative to the contrast, so nothing of it is left."""
    got = edited(SOURCE, 0.0, 0.33, 3.0)
    back = jax.jit(
        lambda x: jg.sample(KEYS, denoiser(), jg.ddim(), GRID, x, SOURCE)[0]
    )(got.inversion.x)
    np.testing.assert_allclose(got.x, back, atol=1e-5)


def test_an_inversion_serves_twice(edited):
    first = edited(TARGET, 2.0, 0.33, 3.0)
    again = jax.jit(
        lambda inversion: guide_and_rescale(
            *(KEYS, denoiser(), GRID, PICTURE, SOURCE, TARGET, 10),
            weight=2.0,
            inversion=inversion,
        )
    )(first.inversion)
    np.testing.assert_allclose(again.x, first.x, atol=1e-5)


def test_strength_is_the_share_of_the_steps():
    def edit(strength):
        return sdedit(
            *(KEYS, denoiser(), GRID, PICTURE, TARGET),
            strength=strength,
            guidance=jg.cfg(1.0, 10),
        )

    np.testing.assert_array_equal(edit(0.0), PICTURE)
    np.testing.assert_array_equal(edit(0.19), PICTURE)
    noise = rng.normal(rng.fold(KEYS, rng.NOISING), PICTURE.shape[1:])
    t = GRID[3]
    x = PROCESS.alpha(t) * PICTURE + PROCESS.sigma(t) * noise
    expected, _ = jg.sample(
        KEYS, denoiser(), jg.ddim(), GRID[3:], x, TARGET, guidance=jg.cfg(1.0, 10)
    )
    np.testing.assert_allclose(edit(0.4), expected, atol=1e-5)
    for wrong in (-0.1, 1.1, float("nan"), jnp.ones(3)):
        with pytest.raises(ValueError, match="strength is"):
            edit(wrong)
