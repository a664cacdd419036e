"""Attentive Eraser: its masks by hand, and removal against sampling by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.attention import suppress
from jaxlib_guidance.editing import erase, prepare_mask, site_masks
from jaxlib_guidance.editing._masks import _stride
from jaxlib_guidance.models import UNet, from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=2, text=5)
NET = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
GRID = jg.uniform_grid(PROCESS, 5)
COND = {
    "label": jnp.array([1, 4]),
    "text": jax.random.normal(jax.random.key(3), (2, 3, 5)),
}
MASK = np.zeros((8, 8), bool)
MASK[1:4, 2:5] = True


def remove(mask, **options):
    given = {"sites": "block0", "strength": 0.8} | options
    return erase(KEYS, NET, GRID, PICTURE, mask, COND, **given)


def test_redirected_attention_gives_no_weight_to_the_mask():
    masks = site_masks(NET, PICTURE, COND, "*/attn", MASK)
    assert set(masks) == {"block0/attn", "block1/attn"}
    control = {site: suppress(mask, 0.3) for site, mask in masks.items()}
    maps = jax.jit(
        lambda x, c: (
            NET(x, jnp.full(2, 0.5), c, control=control, capture=(*masks,)).maps
        )
    )(PICTURE, COND)
    for site, mask in masks.items():
        assert 0 < mask.sum() < mask.size
        assert not np.any(maps[site][..., np.asarray(mask)])
        np.testing.assert_allclose(maps[site].sum(-1), 1, atol=1e-5)


def test_it_is_redirection_and_inpainting():
    got = jax.jit(lambda: remove(MASK, share=0.5))()
    hidden = site_masks(NET, PICTURE, COND, "block0", MASK)["block0/attn"]

    @jax.jit
    def by_hand():
        noise = rng.normal(rng.fold(KEYS, rng.NOISING), (8, 8, 1))
        t = jnp.float32(GRID[1])
        x = PROCESS.alpha(t) * PICTURE + PROCESS.sigma(t) * noise
        first, second = (
            jg.redirect(9.0, "block0", hidden, scale, name)
            for scale, name in ((0.3, "a"), (None, "b"))
        )
        guidance = jg.chain(jg.during(first, 0, 0.5), jg.during(second, 0.5, 1))
        solver = jg.inpaint(jg.ddim(), PICTURE, ~MASK[..., None], "fixed")
        return jg.sample(KEYS, NET, solver, GRID[1:], x, COND, guidance=guidance)[0]

    np.testing.assert_allclose(got, by_hand(), atol=2e-5)
    np.testing.assert_array_equal(got[:, ~MASK], PICTURE[:, ~MASK])
    assert np.abs(got - PICTURE)[:, MASK].max() > 0.01


def test_a_mask_of_nothing_gives_the_picture_and_one_of_everything_raises():
    nothing = np.zeros((3, 5), np.uint8)
    got = jax.jit(lambda: remove(nothing, suppression=None))()
    np.testing.assert_array_equal(got, PICTURE)
    np.testing.assert_array_equal(remove(MASK, strength=0.0), PICTURE)
    for whole in (nothing + 255, np.stack([MASK, MASK | True])):
        with pytest.raises(ValueError, match="covers a whole picture"):
            jax.eval_shape(lambda whole=whole: remove(whole))
    with pytest.raises(ValueError, match="covers a whole picture"):
        remove(MASK, dilation=20.0)


def test_an_inversion_takes_the_place_of_noise():
    @jax.jit
    def run():
        inversion = jg.invert(KEYS, NET, GRID, PICTURE, COND)
        other = jg.sample_keys(jax.random.key(9), 2)
        return [
            erase(
                *(keys, NET, GRID, PICTURE, MASK, COND),
                sites="block0",
                suppression=None,
                inversion=inversion,
            )
            for keys in (KEYS, other)
        ]

    first, second = run()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:, ~MASK], PICTURE[:, ~MASK])


@pytest.mark.parametrize(
    "kind", [bool, np.uint8, np.int32, np.float32, np.float64, jnp.bfloat16, list]
)
def test_masks_of_any_kind_mean_the_same(kind):
    given = MASK.astype(float).tolist() if kind is list else MASK.astype(kind)
    np.testing.assert_array_equal(prepare_mask(given, (8, 8)), MASK)
    if kind is np.uint8:
        noisy = np.where(MASK, 250, 3).astype(kind)
        np.testing.assert_array_equal(prepare_mask(noisy, (8, 8)), MASK)
    if kind is bool:
        batch = jnp.stack([given, ~given])[..., None]
        np.testing.assert_array_equal(prepare_mask(batch, (8, 8))[1], ~MASK)
        compiled = jax.jit(lambda m, s: prepare_mask(m, (8, 8), s))(given, 0.0)
        np.testing.assert_array_equal(compiled, MASK)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (16, 24), (7, 13), (1, 1)])
def test_another_size_loses_no_part_of_the_mask(size):
    """By the definition: a pixel counts if it overlaps one that does."""
    got = prepare_mask(MASK, size)
    want = np.zeros(size, bool)
    for i, j in np.argwhere(MASK):
        low, high = np.array([i, j]) * size, np.array([i + 1, j + 1]) * size
        (a, b), (c, d) = low // 8, -(-high // 8)
        want[a:c, b:d] = True
    np.testing.assert_array_equal(got, want)


def test_dilation_moves_an_edge_by_a_known_width_and_keeps_what_is_thin():
    edge = np.broadcast_to(np.arange(64) < 30, (32, 64))
    for sigma in (2.0, 5.0, 8.0):
        # A pixel's centre is half a pixel inside its edge.
        moved = int(norm.ppf(0.9) * sigma + 0.5)
        width = prepare_mask(edge, (32, 64), sigma).sum(1)
        np.testing.assert_array_equal(width, 30 + moved)
    point = np.zeros((9, 9), bool)
    point[4, 4] = True
    np.testing.assert_array_equal(prepare_mask(point, (9, 9), 4.0), point)


def test_each_site_gets_its_own_token_grid_of_odd_sizes_too():
    module = UNet(8, (1, 1, 1), blocks=1, attention=(1, 2), heads=2)
    for size in ((8, 8), (12, 4)):
        x = jnp.zeros((1, *size, 1))
        params = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1))

        def masks(params, x=x, size=size):
            net = jg.parametrize(from_linen(module, params["params"]), PROCESS, "v")
            mask = jnp.zeros(size, bool).at[0, 2].set(True)
            return site_masks(net, x, None, ("down1", "mid"), mask)

        found = jax.eval_shape(masks, params)
        count = size[0] * size[1]
        assert {site: a.size for site, a in found.items()} == {
            "down1/attn": count // 4,
            "mid/attn": count // 16,
        }
    with pytest.raises(ValueError, match="tokens are a grid over"):
        _stride("block0/attn", (1, 2, 77 + 64, 77 + 64), (8, 8))
    assert _stride("mid", (1, 2, 15, 15), (9, 17)) == 4  # 3 by 5 tokens of 9 by 17.


def test_a_site_with_nothing_left_is_left_as_it_is():
    many = np.ones((8, 8), bool)
    many[0, 0] = False
    (mask,) = site_masks(NET, PICTURE, COND, "block0", many).values()
    assert not mask.any()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mask": np.zeros((8, 8, 3))}, "of one channel"),
        ({"mask": np.zeros(8)}, "of one channel"),
        ({"mask": np.full((8, 8), 7.0)}, "expected bool, numbers from 0 to 1"),
        ({"mask": np.full((8, 8), np.nan)}, "expected bool, numbers from 0 to 1"),
        ({"mask": np.full((8, 8), -3)}, "expected bool, numbers from 0 to 1"),
        ({"mask": np.zeros((8, 8), complex)}, "of type complex128"),
        ({"mask": np.zeros((5, 8, 8), bool)}, "for 5 pictures of one channel"),
        ({"mask": MASK, "sites": "*/cross"}, "expected a self-attention whose"),
        ({"mask": MASK, "sites": "block7"}, "matches nothing"),
        ({"mask": MASK, "share": 1.5}, "share is 1.5"),
        ({"mask": MASK, "strength": 2.0}, "strength is 2.0"),
        ({"mask": MASK, "dilation": -1.0}, "dilation is -1.0"),
    ],
)
def test_mistakes_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        remove(options.pop("mask"), **options)


def test_masks_for_sites_are_for_all_of_them():
    with pytest.raises(ValueError, match="mask has sites"):
        jg.redirect(1.0, ("mid", "up1"), {"mid": jnp.ones(4)})
    with pytest.raises(ValueError, match="mask has shape"):
        site_masks(NET, PICTURE, COND, "block0", MASK[:4])


def test_an_inversion_of_another_grid_and_no_sites_are_told():
    short = jg.sampling.Inversion(PICTURE, PICTURE[None])
    with pytest.raises(ValueError, match="inversion has 1 states; expected one for ea"):
        remove(MASK, inversion=short)
    with pytest.raises(ValueError, match="sites is ..; expected at least one"):
        remove(MASK, sites=())
    with pytest.raises(ValueError, match="share is .*; expected a share of the steps"):
        jax.eval_shape(lambda share: remove(MASK, share=share), 0.5)
