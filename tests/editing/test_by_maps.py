"""Prompt-to-Prompt, MasaCtrl and plug-and-play against networks edited by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.attention import (
    Before,
    Edit,
    align_words,
    borrow,
    combine,
    fold_controls,
    inject,
)
from jaxlib_guidance.guidance import edit_branches, local_blend
from jaxlib_guidance.models import from_linen, published
from jaxlib_guidance.testing import randomise, tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(
    jax.random.key(0), classes=None, text=6, depth=2, patch=2, width=16
)
DENOISER = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
GRID = jg.uniform_grid(PROCESS, 4)
SOURCE = 2 * jax.random.normal(jax.random.key(3), (2, 3, 6))
TARGET = SOURCE.at[0, 1].set(5.0)  # The second sample has the source's words.
WORDS = align_words([["a", "b", "c"]] * 2, [["a", "x", "c"], ["a", "b", "c"]])
EDITORS = {
    "prompt_to_prompt": functools.partial(editing.prompt_to_prompt, words=WORDS),
    "masactrl": editing.masactrl,
    "plug_and_play": functools.partial(editing.plug_and_play, features="block1"),
}


@pytest.mark.parametrize("name", EDITORS)
def test_the_same_words_give_the_source_back_bit_for_bit(name):
    """Beside a sample of other words, at every weight, in one program."""
    traced = []

    @jax.jit
    def run(weight, picture):
        traced.append(name)
        given = KEYS, DENOISER, GRID, picture, SOURCE, TARGET, 0.0
        return EDITORS[name](*given, weight=weight).x

    for weight in (0.5, 6.5):
        got = run(weight, PICTURE)
        np.testing.assert_array_equal(got[1], PICTURE[1])
        assert np.abs(got[0] - PICTURE[0]).max() > 1e-2
    assert len(traced) == 1


@pytest.mark.parametrize("name", EDITORS)
def test_strength_0_is_the_source(name):
    """Bit for bit, under other words; what the network would say is left out."""

    @jax.jit
    def run(picture):
        given = KEYS, DENOISER, GRID, picture, SOURCE, TARGET, 0.0
        return EDITORS[name](*given, strength=0.0).x

    np.testing.assert_array_equal(run(PICTURE), PICTURE)


@pytest.mark.parametrize("name", EDITORS)
def test_a_step_is_that_of_the_network_with_borrowed_maps(name):
    """The first step, of source and edit as two branches of one call."""
    places = [f"block{i}" for i in range(2)]
    own = {f"{place}/attn": borrow(("q", "k"), "source") for place in places}
    shared = borrow("probs", "source", columns=jnp.array([1.0, 0, 1]))
    edits = {
        "prompt_to_prompt": own | {f"{place}/cross": shared for place in places},
        "masactrl": {f"{place}/attn": borrow(("k", "v"), "source") for place in places},
        "plug_and_play": own | {"block1": inject("source")},
    }[name]
    whole = {
        "prompt_to_prompt": {"cross_share": 1.0, "self_share": 1.0},
        "masactrl": {"start": 0.0},
        "plug_and_play": {"feature_share": 1.0, "self_share": 1.0},
    }[name]

    @jax.jit
    def run():
        states = jg.invert(KEYS, DENOISER, GRID, PICTURE, SOURCE).trajectory[:2]
        got = EDITORS[name](
            *(KEYS, DENOISER, GRID[:2], PICTURE, SOURCE, TARGET, 0.0),
            weight=0.0,
            inversion=jg.sampling.Inversion(states[0], states),
            **whole,
        ).x
        control = fold_controls([{}, edits], ["source", "edit"], 1)
        cond = jnp.stack([SOURCE[0], TARGET[0]])
        x = jnp.stack([states[0, 0]] * 2)
        x0 = DENOISER(x, jnp.full(2, GRID[0]), cond, control=control).x0
        keep = PROCESS.sigma(GRID[1]) / PROCESS.sigma(GRID[0])
        take = PROCESS.alpha(GRID[1]) - keep * PROCESS.alpha(GRID[0])
        return got[0], states[1, 0] + take * (x0[1] - x0[0])

    got, want = run()
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.fixture(scope="module")
def inversion():
    return jax.jit(lambda: jg.invert(KEYS, DENOISER, GRID, PICTURE, SOURCE))()


@pytest.fixture(scope="module")
def p2p(inversion):
    def edit(**options):
        given = KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, 0.0
        return editing.prompt_to_prompt(*given, inversion=inversion, **options).x

    return edit


def test_a_gain_weighs_words_of_the_edit_alone(p2p):
    run = jax.jit(lambda gain: p2p(gain=gain))
    same = run(jnp.ones(3))
    np.testing.assert_allclose(same, jax.jit(p2p)(), atol=1e-5)
    np.testing.assert_array_equal(same[1], PICTURE[1])
    less = run(jnp.array([1.0, 1.0, 0.0]))
    assert np.abs(less - same).max((1, 2, 3)).min() > 1e-3


def test_a_blend_leaves_the_rest_of_the_picture(p2p):
    """A place is a patch; at the last step the source's estimate is the picture."""
    word = jnp.array([0.0, 1.0, 0.0])
    run = jax.jit(lambda share: p2p(words=WORDS, blend=local_blend(word, word, share)))
    everywhere, plain = run(-1.0), jax.jit(lambda: p2p(words=WORDS))()
    np.testing.assert_allclose(everywhere, plain, atol=1e-5)
    got = run(0.9999)
    np.testing.assert_array_equal(got[1], PICTURE[1])
    moved = np.abs(got[0] - PICTURE[0]).reshape(4, 2, 4, 2).max((1, 3))
    assert 0 < (moved > 0).sum() < 16
    with pytest.raises(ValueError, match="threshold is 1.0; expected a share below 1"):
        local_blend(word, word, 1.0)
    with pytest.raises(
        ValueError, match=r"words have shape \(4, 4\); expected \(4, 3\)"
    ):
        p2p(blend=local_blend(jnp.ones(4), jnp.ones(4)))


def test_what_has_no_meaning_is_told(p2p, inversion):
    with pytest.raises(ValueError, match=r"a share of the steps is 1\.5; expected"):
        p2p(cross_share=1.5)
    with pytest.raises(ValueError, match="words and gain act in the steps of cross_sh"):
        p2p(cross_share=0.0, gain=jnp.ones(4))
    given, kept = (KEYS, DENOISER, GRID, PICTURE, SOURCE), {"inversion": inversion}
    with pytest.raises(ValueError, match="expected the same"):
        editing.masactrl(*given, TARGET[:, :2], 0.0, **kept)
    with pytest.raises(ValueError, match="feature 'up1/res1' matches nothing; there"):
        editing.plug_and_play(*given, TARGET, 0.0, **kept)
    with pytest.raises(ValueError, match="edit_branches got no edits"):
        edit_branches({})
    term = edit_branches({"*/attn": borrow("q", "uncond")})

    def windowed(stop):
        guidance = jg.chain(jg.cfg(1.0, 0.0), jg.during(term, 0.0, stop))
        start = KEYS, DENOISER, jg.ddim(), GRID, PICTURE, SOURCE
        return jg.sample(*start, guidance=guidance)[0]

    with pytest.raises(ValueError, match="only known at run time"):
        jax.eval_shape(windowed, jnp.float32(0.5))


@pytest.fixture(scope="module")
def stable_diffusion():
    """A U-Net of Stable Diffusion's kind, with two stages and random weights."""
    net = published.UNet2DCondition(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
    )
    x = jnp.zeros((1, 4, 4, 4))
    params = net.init(jax.random.key(0), x, jnp.zeros(1), {"text": SOURCE[:1]})
    return jg.parametrize(
        from_linen(net, randomise(jax.random.key(1), params["params"])),
        jg.VPLinear(),
        "eps",
    )


PUBLISHED = {
    "flow_edit": editing.flow_edit,
    "edit_friendly": editing.edit_friendly,
    "prompt_to_prompt": EDITORS["prompt_to_prompt"],
    "masactrl": functools.partial(editing.masactrl, sites="up1"),
    "masactrl with masks": functools.partial(
        editing.masactrl, sites="up1", words=(jnp.eye(3)[1], jnp.eye(3)[1])
    ),
    "plug_and_play": editing.plug_and_play,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_on_a_published_network_the_same_words_give_the_source_back(
    name, stable_diffusion
):
    x = jax.random.normal(jax.random.key(4), (2, 4, 4, 4))
    grid, conds = (
        jg.uniform_grid(jg.VPLinear(), 3),
        ({"text": SOURCE}, {"text": TARGET}),
    )

    @jax.jit
    def run(x):
        given = KEYS, stable_diffusion, grid, x, *conds, {"text": 0.0}
        options = (
            {"source_weight": None}
            if name.split()[0] in EDITORS
            else {"source_weight": 3.0}
        )
        got = PUBLISHED[name](*given, weight=3.0, strength=1.0, **options)
        return got if name == "flow_edit" else got.x

    got = run(x)
    np.testing.assert_array_equal(got[1], x[1])
    assert np.abs(got[0] - x[0]).max() > 1e-3


def masked_by_hand(states, word):
    """DDIM's first step of pairs by two calls of the network, masks by loops."""
    cond = jnp.stack([SOURCE, TARGET], 1).reshape(4, 3, 6)
    x = jnp.repeat(states[0], 2, 0)
    taps = tuple(f"block{i}/cross" for i in range(2))
    given = x, jnp.full(4, GRID[0]), cond
    plain = jax.jit(lambda *given: DENOISER(*given, capture=taps))(*given)
    seen = sum(np.asarray(plain.maps[tap])[..., word].mean(1) for tap in taps)
    thing = np.zeros((4, 16), bool)
    for row in range(4):
        a = seen[row]
        thing[row] = (a - a.min()) / (a.max() - a.min()) >= 0.4
    assert 0 < thing.sum() < thing.size
    bias = np.zeros((4, 1, 16, 16), np.float32)
    for row, q, k in np.ndindex(4, 16, 16):
        # Keys of both of a pair are the source's.
        if thing[row, q] != thing[row // 2 * 2, k]:
            bias[row, 0, q, k] = -np.inf
    edit = combine(borrow(("k", "v"), Before()), Edit(logit_bias=bias))
    control = fold_controls([{f"block{i}/attn": edit for i in range(2)}], ["cond"], 4)
    x0 = jax.jit(lambda *given: DENOISER(*given, control=control).x0)(*given)
    keep = PROCESS.sigma(GRID[1]) / PROCESS.sigma(GRID[0])
    take = PROCESS.alpha(GRID[1]) - keep * PROCESS.alpha(GRID[0])
    return states[1] + take * (x0[1::2] - x0[::2])


def test_masks_of_masactrl_are_of_the_words(inversion):
    word, states = jnp.eye(3)[1], inversion.trajectory

    @jax.jit
    def run(weight, states):
        given = KEYS, DENOISER, GRID[:2], PICTURE, SOURCE, TARGET, 0.0
        options = {"inversion": jg.sampling.Inversion(states[0], states), "start": 0.0}
        options |= {"words": (word, word), "threshold": 0.4}
        return editing.masactrl(*given, weight=weight, **options).x

    one = run(jnp.zeros(2), states[:2])
    np.testing.assert_allclose(one, masked_by_hand(states, 1), atol=1e-5)
    # The second sample has the source's words.
    np.testing.assert_array_equal(one[1], states[1, 1])
    assert np.abs(one[0] - states[1, 0]).max() > 1e-2


def test_masks_without_meaning_are_told():
    given, word = (KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, 0.0), jnp.ones(3)
    with pytest.raises(ValueError, match="words are columns of the source's and of"):
        editing.masactrl(*given, words=word)
    with pytest.raises(ValueError, match="are of masks; expected words too"):
        editing.masactrl(*given, threshold=0.2)
    with pytest.raises(ValueError, match="threshold is 1.0; expected a share between"):
        editing.masactrl(*given, words=(word, word), threshold=1.0)
    with pytest.raises(ValueError, match=r"mutual_masks's words have shape \(4, 2\)"):
        editing.masactrl(*given, words=(word[:2], word[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PUBLISHED, "rf_inversion", "ledits", "null_text"])
def test_on_a_published_network_strength_0_is_the_source(name, stable_diffusion):
    x = jax.random.normal(jax.random.key(4), (2, 4, 4, 4))
    grid, null = jg.uniform_grid(jg.VPLinear(), 3), {"text": 0.0}
    source, target = {"text": SOURCE}, {"text": TARGET}
    editors = PUBLISHED | {
        name: getattr(editing, name) for name in ("rf_inversion", "null_text")
    }

    @jax.jit
    def run(x):
        given = KEYS, stable_diffusion, grid, x, source
        if name == "ledits":
            edits = [editing.ConceptEdit(target, jnp.eye(3)[1])]
            return editing.ledits(*given, null, edits, strength=0.0).x
        got = editors[name](*given, target, null, strength=0.0)
        return getattr(got, "x", got)

    np.testing.assert_array_equal(run(x), x)


@pytest.mark.slow
def test_on_a_published_network_what_else_gives_the_source_back(stable_diffusion):
    """RF-inversion that is led wholly, LEDITS++ without weight, null-text's own words.

    The last is the source as it is drawn, bit for bit.
    """
    x = jax.random.normal(jax.random.key(4), (2, 4, 4, 4))
    grid, null = jg.uniform_grid(jg.VPLinear(), 3), {"text": 0.0}
    source, target = {"text": SOURCE}, {"text": TARGET}

    @jax.jit
    def run(x, weight):
        given = KEYS, stable_diffusion, grid, x, source
        led = editing.rf_inversion(*given, target, null, eta=1.0, share=1.0)
        edits = [editing.ConceptEdit(target, jnp.eye(3)[1], weight, threshold=0.3)]
        concepts = editing.ledits(*given, null, edits, strength=1.0)
        options = {"weight": 3.0, "iterations": 8, "rate": 0.05, "tolerance": None}
        return led.x, concepts.x, editing.null_text(*given, target, null, **options)

    led, same, drawn = run(x, jnp.zeros(2))
    np.testing.assert_allclose(led, x, atol=1e-5)
    np.testing.assert_allclose(same, x, atol=1e-5)
    np.testing.assert_array_equal(drawn.x[1], drawn.source[1])
    assert np.abs(drawn.x[0] - drawn.source[0]).max() > 1e-3
    _, edited, _ = run(x, jnp.full(2, 3.0))
    assert np.abs(edited[0] - x[0]).max() > 1e-3


def test_words_and_gains_of_other_shapes_are_told():
    given = KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, 0.0
    for words in (jnp.ones(3), jnp.ones((3, 3, 3))):
        with pytest.raises(ValueError, match="words has shape .*; expected .M, M. or"):
            editing.prompt_to_prompt(*given, words=words)
    for gain in (2.0, jnp.ones((3, 3))):
        with pytest.raises(
            ValueError, match="gain has shape .*; expected .M. or .2, M"
        ):
            editing.prompt_to_prompt(*given, gain=gain)


@pytest.mark.slow
def test_on_a_published_network_guide_and_rescale_without_contrast_is_the_way_back(
    stable_diffusion,
):
    """And with it, it holds the picture's maps by a gradient through the network."""
    x = jax.random.normal(jax.random.key(4), (2, 4, 4, 4))
    grid, source = jg.uniform_grid(jg.VPLinear(), 3), {"text": SOURCE}

    @jax.jit
    def run(target, weight):
        given = KEYS, stable_diffusion, grid, x, source, {"text": target}
        got = editing.guide_and_rescale(*given, {"text": 0.0}, weight=weight)
        back = jg.sample(
            *(KEYS, stable_diffusion, jg.ddim(), grid, got.inversion.x, source)
        )[0]
        return got.x, back

    got, back = run(SOURCE, 0.0)
    np.testing.assert_allclose(got, back, atol=1e-4)
    got, back = run(TARGET, 3.0)
    assert np.isfinite(got).all()
    assert np.abs(got - back).max() > 1e-2
