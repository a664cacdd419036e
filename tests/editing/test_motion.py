"""Edits of motions: off is off, on is the edit, and counting is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.attention import emphasise
from jaxlib_guidance.data import make_motions
from jaxlib_guidance.editing import count_actions, count_peaks, find_word, read_maps
from jaxlib_guidance.models import MotionCLR, from_linen
from jaxlib_guidance.testing import randomise

PROCESS = jg.VPCosine()
MODULE = MotionCLR(width=8, levels=1, heads=2, text=5)
LEVELS = MotionCLR(width=8, levels=2, heads=2, text=5)
KEYS = jg.sample_keys(jax.random.key(0), 2)
GRID = jg.uniform_grid(PROCESS, 3)
COND = {
    "text": jax.random.normal(jax.random.key(1), (2, 4, 5)),
    "text_mask": jnp.ones((2, 4), bool),
}
OTHER = COND | {"text": COND["text"].at[:, 2].multiply(-1.0)}
NULL = {"text": 0.0, "text_mask": False}
WORD = jnp.eye(4)[2]


def make_draw(module):
    x = jnp.zeros((1, 8, 3))
    made = jax.eval_shape(
        module.init, jax.random.key(0), x, x[:, 0, 0], COND["text"][:1]
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made)
    params = randomise(jax.random.key(2), zeros["params"])
    net = jg.parametrize(from_linen(module, params), PROCESS, "v")
    return editing.MotionDraw(KEYS, net, GRID, (8, 3), NULL)


DRAW, DEEP = make_draw(MODULE), make_draw(LEVELS)
EDITS = {
    "emphasise": lambda w, cond: editing.emphasise_word(DRAW, cond, WORD, w),
    "erase": lambda w, cond: editing.erase_word(DRAW, cond, WORD, gain=1 - w),
    "ground": lambda w, cond: editing.ground_word(
        DRAW, cond, WORD, (0.0, 0.5), amount=w, gain=1 - w
    ),
    "replace": lambda w, cond: editing.replace_word(
        DRAW, COND, cond, WORD, self_share=1.0, cross_share=1.0
    ),
    "style": lambda w, cond: editing.transfer_style(DRAW, COND, cond, share=1.0),
}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["emphasise", *(pytest.param(n, marks=slow) for n in [*EDITS][1:])]
)
def test_what_is_off_or_of_the_same_words_is_the_source_bit_for_bit(name):
    run = jax.jit(EDITS[name])
    pair = run(0.0, COND)
    assert pair.source.shape == (2, 8, 3)
    np.testing.assert_array_equal(pair.edited, pair.source)
    pair = run(0.7, OTHER)
    assert np.abs(pair.edited - pair.source).max((1, 2)).min() > 1e-3


@slow
def test_emphasis_in_a_window_is_the_edit_of_the_network():
    @jax.jit
    def run(amount):
        pair = editing.emphasise_word(DEEP, COND, WORD, amount, window=(0.5, 1.0))
        edits = {}
        for site, frames in editing.site_frames(DEEP, COND, "*/cross").items():
            rows = jnp.arange(frames) >= frames // 2
            edits[site] = emphasise(WORD, amount, rows.astype(float))
        guidance = jg.chain(jg.cfg(1.5, NULL), jg.guidance.edit_branches(edits))
        by_hand, _ = jg.sample(
            *(KEYS, DEEP.denoiser, jg.ddim(), GRID, (8, 3), COND), guidance=guidance
        )
        return pair.edited, by_hand

    np.testing.assert_allclose(*run(jnp.array([0.3, -0.6])), atol=2e-5)


def test_each_level_has_its_frames():
    frames = editing.site_frames(DEEP, COND, "*/attn")
    assert list(frames.values()) == [8, 4, 4, 4, 8]


@slow
def test_a_shift_of_nothing_and_of_all_are_the_source():
    run = jax.jit(
        lambda: [editing.shift_motion(DRAW, COND, r) for r in (0.0, 1.0, 0.5)]
    )
    none, whole, half = run()
    # Queries, keys and values are the source's own: the same numbers.
    np.testing.assert_allclose(none.edited, none.source, atol=1e-6)
    np.testing.assert_allclose(whole.edited, whole.source, atol=1e-6)
    assert np.abs(half.edited - half.source).max() > 1e-5


@slow
def test_a_variation_takes_shuffled_chunks_each_its_own():
    one, many = jax.jit(
        lambda: [
            editing.vary_motion(DRAW, COND, chunk, steps=(0.0, 1.0))
            for chunk in (1.0, 0.25)
        ]
    )()
    np.testing.assert_allclose(one.edited, one.source, atol=1e-6)
    assert np.abs(many.edited - many.source).max((1, 2)).min() > 1e-5


@pytest.mark.exact("counting repetitions of synthetic periodic motion")
def test_counting_synthetic_motion_is_exact():
    motions = make_motions(11, 1000)
    signal = np.take_along_axis(motions.poses, motions.moved[:, None, None], 2)[..., 0]
    np.testing.assert_array_equal(count_peaks(signal), motions.counts)


@pytest.mark.parametrize("period", [6, pytest.param(13, marks=slow)])
def test_counting_and_grounding_ideal_attention_is_exact(period):
    """Frames of the same phase attend to each other, those at rest to those at rest."""
    for count in range(1, 6):
        frames = 4 + count * period + 3
        phase = 2 * np.pi * (np.arange(frames) - 4) / period
        inside = (np.arange(frames) >= 4) & (np.arange(frames) < frames - 3)
        features = np.stack([np.cos(phase), np.sin(phase), 9.0 * ~inside], -1)
        features[~inside, :2] = 0
        logits = jnp.asarray(4 * features @ features.T)
        words = jnp.asarray(inside * (1.1 - np.cos(phase)))
        maps = jax.nn.softmax(logits, -1)[None]
        assert int(count_actions(maps, words[None])[0]) == count
        found = find_word(jnp.asarray(inside * 0.4 + 0.1)[None])[0]
        np.testing.assert_array_equal(found, inside)


def test_ripples_and_constants_are_no_peaks():
    ripple = 0.1 * jnp.sin(2.0 * jnp.arange(60.0))
    wave = jnp.sin(jnp.linspace(0, 8 * jnp.pi, 60))
    np.testing.assert_array_equal(
        count_peaks(jnp.stack([wave + ripple, wave * 0])), [4, 0]
    )
    with pytest.raises(ValueError, match="expected 0 <= low < high"):
        count_peaks(wave, 0.7, 0.3)


@slow
def test_maps_are_means_over_heads_and_sites_of_all_frames():
    x, t = jax.random.normal(jax.random.key(5), (2, 8, 3)), jnp.full(2, 0.3)
    sites = tuple(f"{p}/{k}" for p in ("down0", "up0") for k in ("attn", "cross"))

    @jax.jit
    def run(x):
        got = read_maps(DEEP.denoiser, x, COND, t=0.3)
        return got, DEEP.denoiser(x, t, COND, capture=sites).maps

    got, maps = run(x)
    for have, kind in zip(got, ("attn", "cross"), strict=True):
        want = (maps[f"down0/{kind}"] + maps[f"up0/{kind}"]).mean(1) / 2
        np.testing.assert_allclose(have, want, atol=1e-6)
        np.testing.assert_allclose(have.sum(-1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="has the 8 frames"):
        read_maps(DEEP.denoiser, x, COND, t=0.3, self_sites="mid")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: editing.erase_word(DRAW, COND, WORD, window=(0.6, 0.4)), "window is"),
        (
            lambda: editing.erase_word(DRAW, COND, WORD, window=(0.501, 0.502)),
            "in which none of .* frames",
        ),
        (lambda: editing.erase_word(DRAW, COND, jnp.ones((1, 2, 3))), "columns has"),
        (
            lambda: editing.emphasise_word(DRAW, COND, jnp.ones(1), 0.5),
            r"columns has shape \(1,\); expected .* M = 4 words",
        ),
        (lambda: editing.replace_word(DRAW, COND, OTHER, jnp.ones((3, 4))), "columns"),
        (lambda: editing.vary_motion(DRAW, COND, 0.0), "chunk is 0.0"),
        (
            lambda: editing.shift_motion(DRAW, COND, 0.5, share=2.0),
            "share of the steps",
        ),
        (lambda: editing.shift_motion(DRAW, COND, 0.5, sites="a"), "matches nothing"),
    ],
)
def test_mistakes_are_named(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_steps_in_another_order_are_told():
    with pytest.raises(ValueError, match="steps is .0.6, 0.5.; expected the first sha"):
        editing.vary_motion(DRAW, COND, 0.25, steps=(0.6, 0.5))


EACH = DRAW._replace(
    weight=jnp.full(2, DRAW.weight), null=jax.tree.map(jnp.zeros_like, COND)
)


def test_each_motion_may_have_its_weight_and_its_null():
    made = jax.eval_shape(lambda: editing.draw_pair(EACH, COND, OTHER, ()))
    assert made.edited.shape == (2, 8, 3)


@slow
def test_a_weight_and_a_null_of_each_motion_are_those_of_all():
    run = jax.jit(
        lambda: [editing.draw_pair(d, COND, OTHER, ()).edited for d in (DRAW, EACH)]
    )
    np.testing.assert_allclose(*run(), atol=1e-6)
