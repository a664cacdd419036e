"""Attend-and-excite, against its formula and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import attend_and_excite
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(
    jax.random.key(0), classes=None, text=6, depth=2, patch=2, width=16
)
DENOISER = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
X = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
TEXT = 2 * jax.random.normal(jax.random.key(3), (2, 4, 6))
SITES = ("block0/cross", "block1/cross")
WORDS, HIDDEN, T = np.array([[1, 2], [2, 3]]), np.array([1, 0, 0, 0]), 0.4


def energy(x):
    """With two passes of a kernel over reflected places, in plain numbers."""
    maps = DENOISER(x, jnp.full(2, T), TEXT, capture=SITES).maps
    seen = sum(maps[site].mean(1) for site in SITES) / 2
    probs = jax.nn.softmax(20 * seen[..., 1:], -1).reshape(2, 4, 4, 3)
    side = np.exp(-2) / (1 + 2 * np.exp(-2))
    for axis in (1, 2):
        ends = [(0, 0)] * 4
        ends[axis] = (1, 1)
        wide = jnp.moveaxis(jnp.pad(probs, ends, mode="reflect"), axis, 0)
        mixed = side * (wide[:-2] + wide[2:]) + (1 - 2 * side) * wide[1:-1]
        probs = jnp.moveaxis(mixed, 0, axis)
    flat = probs.reshape(2, 16, 3)
    most = jnp.take_along_axis(flat, flat.argmax(1, keepdims=True), 1)[:, 0]
    asked = jnp.take_along_axis(most, WORDS - 1, 1)
    return 1 - jnp.take_along_axis(asked, asked.argmin(1, keepdims=True), 1)[:, 0]


def test_excite_is_its_formula(context, guided):
    term = attend_and_excite(3.0, WORDS, hidden=HIDDEN, sharpness=20.0)
    ctx = context(PROCESS, X, T, TEXT)

    @jax.jit
    def both():
        slope = jax.grad(lambda x: energy(x).sum())(X)
        base = DENOISER(X, jnp.full(2, T), TEXT).x0
        return guided(term, DENOISER, ctx)[0], base, slope

    got, base, slope = both()
    assert np.abs(slope).max() > 1e-4
    np.testing.assert_allclose(got, base - ctx.sigma / ctx.alpha * 3 * slope, atol=2e-5)


def test_a_neglected_word_is_seen_more():
    """After a step of DDIM with the term, at the state that it leads to."""
    term = attend_and_excite(2.0, WORDS, hidden=HIDDEN, sharpness=20.0)
    keys = jg.sample_keys(jax.random.key(0), 2)

    @jax.jit
    def ends():
        step = keys, DENOISER, jg.ddim(), [T, 0.35], X, TEXT
        return [energy(jg.sample(*step, guidance=g)[0]) for g in (term, None)]

    with_it, without = ends()
    assert (with_it < without).all()


def test_what_does_not_fit_is_told(context, guided):
    with pytest.raises(ValueError, match="expected numbers of columns"):
        attend_and_excite(1.0, [0.5])
    with pytest.raises(TypeError):
        attend_and_excite("much", [1])
