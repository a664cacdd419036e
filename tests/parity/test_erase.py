"""Attentive Eraser on a tiny published U-Net, of sizes that its strides divide or not.

Laws: the redirected attention of every site gives no weight to the mask; latents
outside stay; a mask of nothing gives all of them back.
"""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxlib_guidance as jg
from jaxlib_guidance.attention import suppress
from jaxlib_guidance.editing import erase, site_masks
from jaxlib_guidance.models import published


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_laws_of_removal(golden, size):
    model, params = published.load_published(golden("sd15").folder)
    z = jax.random.normal(jax.random.key(0), (2, *size, 4))
    mask = jnp.zeros(size, bool).at[1:4, 2:6].set(True)
    cond, _ = model.prompts(params, ["", ""])
    keys = jg.sample_keys(jax.random.key(1), 2)

    @jax.jit
    def run(params, z, cond):
        net = model.denoiser(params)
        masks = site_masks(net, z, cond, "*/attn", mask)
        edits = {site: suppress(hidden, 0.3) for site, hidden in masks.items()}
        maps = net(z, jnp.full(2, 0.5), cond, control=edits, capture=tuple(masks)).maps

        def removed(mask):
            return erase(
                *(keys, net, model.grid(5, "ddim"), z, mask, cond),
                sites=("mid", "up*"),
            )

        return masks, maps, removed(mask), removed(jnp.zeros(size, bool))

    masks, maps, found, nothing = run(params, z, cond)
    assert len({hidden.size for hidden in masks.values()}) > 1
    for site, hidden in masks.items():
        assert not np.any(maps[site][..., np.asarray(hidden)])
        np.testing.assert_allclose(maps[site].sum(-1), 1, atol=1e-5)
    assert any(hidden.any() for hidden in masks.values())
    np.testing.assert_array_equal(found[:, ~mask], z[:, ~mask])
    assert np.abs(found - z)[:, mask].max() > 0.01
    np.testing.assert_array_equal(nothing, z)


@pytest.mark.slow
def test_the_recipe_takes_a_published_folder(golden, tmp_path):
    path = Path(__file__).parents[2] / "sample"
    sys.path.insert(0, str(path))
    spec = importlib.util.spec_from_file_location("published_erase", path / "erase.py")
    recipe = importlib.util.module_from_spec(spec)
    sys.modules["published_erase"] = recipe
    spec.loader.exec_module(recipe)
    sys.path.remove(str(path))
    random = np.random.default_rng(0)
    pixels, mask = (random.integers(0, 256, s, np.uint8) for s in ((30, 24, 3), (9, 7)))
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(np.where(mask > 200, 255, 0).astype(np.uint8)).save(
        tmp_path / "mask.png"
    )
    config = recipe.Config(
        *(tmp_path / "photo.png", tmp_path / "mask.png", str(golden("sd15").folder)),
        size=(16, 24),
        steps=4,
        dtype="float32",
        out=tmp_path / "o.png",
    )
    picture, hidden, (found,) = recipe.remove(config)
    assert found.shape == (16, 24, 3)
    np.testing.assert_array_equal(found[~hidden], picture[~hidden])
    assert np.isfinite(found).all()
