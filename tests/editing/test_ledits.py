"""LEDITS++: its masks against their definition, and what stays of the picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.editing import ConceptEdit, ledits
from jaxlib_guidance.guidance import semantic_edit
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(
    jax.random.key(0), classes=None, text=6, depth=1, patch=2, width=16
)
DENOISER = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
SOURCE, CONCEPT = (2 * jax.random.normal(jax.random.key(i), (2, 3, 6)) for i in (3, 4))
WORDS, GRID = jnp.array([0.0, 1.0, 0.0]), jg.uniform_grid(PROCESS, 3)


def test_semantic_edit_is_its_formula():
    """The quarter of the places with most attention, then those that change most."""
    x, t = jax.random.normal(jax.random.key(5), (2, 8, 8, 1)), 0.6

    @jax.jit
    def run():
        term = semantic_edit(2.0, 0.0, CONCEPT, WORDS, 0.75)
        start = KEYS, DENOISER, jg.ddim(), [t, 0.0], x, SOURCE
        got = jg.sample(*start, guidance=term)[0]
        times = jnp.full(2, t)
        base = DENOISER(x, times, SOURCE).x0
        away = DENOISER(x, times, 0 * SOURCE).x0
        to = DENOISER(x, times, CONCEPT, capture=("block0/cross",))
        return got, base, away, to.x0, to.maps["block0/cross"]

    got, base, away, to, probs = map(np.asarray, run())
    seen = probs.mean(1)[..., 1].reshape(2, 4, 4).repeat(2, 1).repeat(2, 2)
    inside = seen >= np.quantile(seen, 0.75, (1, 2), keepdims=True)
    change = np.where(inside[..., None], to - away, 0)
    least = np.quantile(np.abs(change), 0.75, (1, 2, 3), keepdims=True)
    change = np.where(np.abs(change) >= least, change, 0)
    np.testing.assert_allclose(got, base + 2 * change, atol=1e-5)


def test_the_picture_comes_back_outside_of_all_masks():
    @jax.jit
    def run(weight, threshold):
        edits = [ConceptEdit(CONCEPT, WORDS, weight, threshold)]
        given = KEYS, DENOISER, GRID, PICTURE, SOURCE, 0.0
        return ledits(*given, edits, strength=1.0).x

    np.testing.assert_allclose(run(0.0, 0.9), PICTURE, atol=2e-6)
    got = run(jnp.array([3.0, 0.0]), 0.9)
    np.testing.assert_allclose(got[1], PICTURE[1], atol=2e-6)
    assert np.abs(got[0] - PICTURE[0]).max() > 1e-2


def test_what_has_no_meaning_is_told():
    given = KEYS, DENOISER, GRID, PICTURE, SOURCE, 0.0
    with pytest.raises(ValueError, match="ledits got no edits"):
        ledits(*given, [])
    with pytest.raises(ValueError, match="threshold is 1.0; expected a share"):
        ledits(*given, [ConceptEdit(CONCEPT, WORDS, threshold=1.0)])
    with pytest.raises(ValueError, match="semantic_edit's words have shape"):
        ledits(*given, [ConceptEdit(CONCEPT, jnp.ones(4))])
    got = ledits(*given, [ConceptEdit(CONCEPT, WORDS)], strength=0.0)
    np.testing.assert_array_equal(got.x, PICTURE)


def test_edits_that_are_no_list_of_concepts_are_told():
    given = KEYS, DENOISER, GRID, PICTURE, SOURCE, 0.0
    edit = ConceptEdit(CONCEPT, WORDS)
    for wrong in (edit, [tuple(edit)]):
        with pytest.raises(TypeError, match="ledits takes a list of ConceptEdit"):
            ledits(*given, wrong)
    with pytest.raises(ValueError, match="sites is .."):
        ledits(*given, [edit], sites=())
