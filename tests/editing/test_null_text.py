"""Null-text optimisation against optax, and edits whose source comes back by it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.attention import align_words
from jaxlib_guidance.editing import null_text, optimise_null
from jaxlib_guidance.guidance import null_steps
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(
    jax.random.key(0), classes=None, text=6, depth=1, patch=4, width=16
)
DENOISER = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
GRID = jg.uniform_grid(PROCESS, 3)
SOURCE = 2 * jax.random.normal(jax.random.key(3), (2, 3, 6))
TARGET = SOURCE.at[0, 1].set(5.0)  # The second sample has the source's words.
NULL = jax.random.normal(jax.random.key(4), (3, 6))


@pytest.fixture(scope="module")
def inversion():
    return jax.jit(lambda: jg.invert(KEYS, DENOISER, GRID, PICTURE, SOURCE))()


@pytest.fixture(scope="module")
def tuned(inversion):
    @jax.jit
    def run(weight, rate, tolerance):
        given = DENOISER, GRID, inversion, SOURCE, NULL
        numbers = {"weight": weight, "rate": rate, "tolerance": tolerance}
        return optimise_null(*given, iterations=4, **numbers)

    return run


def by_optax(inversion, weight, rate):
    """One sample after the other, by optax and DDIM of `sample`."""

    @jax.jit
    def after(null, x, times, source):
        guidance = jg.cfg(weight, null)
        given = KEYS[:1], DENOISER, jg.ddim(), times, x, source
        return jg.sample(*given, guidance=guidance)[0]

    @jax.jit
    def slope(null, x, times, source, wanted):
        return jax.grad(lambda u: ((after(u, x, times, source) - wanted) ** 2).mean())(
            null
        )

    found = []
    for sample in range(2):
        x, null = inversion.trajectory[0, sample : sample + 1], NULL
        for i in range(3):
            adam = optax.adam(rate * (1.0 - i / 6))
            state, wanted = adam.init(null), inversion.trajectory[i + 1, sample]
            rest = x, GRID[i : i + 2], SOURCE[sample : sample + 1]
            for _ in range(4):
                change, state = adam.update(slope(null, *rest, wanted), state)
                null = null + change
            x = after(null, *rest)
            found.append(null)
    return np.stack(found).reshape(2, 3, *NULL.shape).swapaxes(0, 1)


def test_it_is_adam_at_each_step_of_ddim(inversion, tuned):
    got = tuned(3.0, 0.05, -1.0)
    with jax.numpy_dtype_promotion("standard"):
        want = by_optax(inversion, 3.0, 0.05)
    np.testing.assert_allclose(got.nulls, want, atol=2e-4)


def test_the_source_comes_back_better(inversion, tuned):
    """Than under plain guidance, and as `null_steps` draws it."""
    got = tuned(3.0, 0.05, -1.0)

    @jax.jit
    def draw(guidance):
        given = KEYS, DENOISER, jg.ddim(), GRID, inversion.x, SOURCE
        return jg.sample(*given, guidance=guidance)[0]

    np.testing.assert_allclose(
        draw(null_steps(3.0, got.nulls)), got.states[-1], atol=1e-5
    )
    plain = draw(jg.cfg(3.0, NULL))
    away, less = (
        np.square(x - PICTURE).sum((1, 2, 3)) for x in (plain, got.states[-1])
    )
    assert (less < 0.6 * away).all()
    same = jnp.broadcast_to(NULL, (3, 2, *NULL.shape))
    np.testing.assert_allclose(draw(null_steps(3.0, same)), plain, atol=1e-5)


def test_without_guidance_there_is_nothing_to_optimise(inversion, tuned):
    got = tuned(0.0, 0.05, -1.0)
    np.testing.assert_array_equal(got.nulls, np.broadcast_to(NULL, (3, 2, *NULL.shape)))
    plain = jax.jit(
        lambda: jg.sample(KEYS, DENOISER, jg.ddim(), GRID, inversion.x, SOURCE)[0]
    )()
    np.testing.assert_allclose(got.states[-1], plain, atol=1e-5)


def test_where_both_branches_agree_it_is_exact():
    """A network that says what the condition says: its own words are the optimum."""
    net = jg.parametrize(lambda x, t, cond: 0 * x + cond, PROCESS, "x0")
    cond, x = jnp.array([[1.0], [-2.0]]), jnp.array([[0.5], [0.25]])
    grid = jnp.array([0.9, 0.6, 0.3])
    drawn = {"trace": lambda info: info.x_next}
    x_end, states = jg.sample(KEYS, net, jg.ddim(), grid, x, cond, **drawn)
    inversion = jg.sampling.Inversion(x, jnp.concatenate([x[None], states]))
    got = optimise_null(net, grid, inversion, cond, cond, weight=5.0)
    np.testing.assert_array_equal(got.nulls, np.stack([cond] * 2))
    np.testing.assert_allclose(got.states[-1], x_end, atol=1e-6)
    far = {"weight": 5.0, "iterations": 200, "tolerance": 1e-9, "rate": 0.05}
    found = optimise_null(net, grid, inversion, cond, 0.0, **far)
    np.testing.assert_allclose(found.nulls, np.stack([cond] * 2), atol=1e-2)
    np.testing.assert_allclose(found.states[-1], x_end, atol=2e-3)


def test_only_what_is_named_is_tuned(inversion):
    net = jg.parametrize(
        lambda x, t, cond: 0 * x + cond["a"] + cond["b"], PROCESS, "x0"
    )
    cond = {"a": jnp.ones((2, 1)), "b": jnp.ones((2, 1)), "n": jnp.zeros(2, jnp.int32)}
    null = {"a": 0.0, "b": 0.0, "n": 0}
    grid, x = jnp.array([0.9, 0.3]), jnp.zeros((2, 1))
    given = net, grid, jg.invert(KEYS, net, grid, x, cond), cond, null
    got = optimise_null(*given, tuned=("b",)).nulls
    assert (np.asarray(got["a"]) == 0).all()
    assert (np.asarray(got["b"]) != 0).all()
    for wrong in ("b", ("c",)):
        with pytest.raises(ValueError, match="tuned is .*; expected names of the cond"):
            optimise_null(*given, tuned=wrong)
    with pytest.raises(ValueError, match="no part of floating point to tune among"):
        optimise_null(*given, tuned=("n",))


def test_a_weight_that_is_none_is_refused_before_anything_is_optimised():
    given = DENOISER, GRID, None, SOURCE, NULL
    for wrong in ([1.0, 2.0], "3", None):
        with pytest.raises(TypeError, match="weight is .*; expected a number or an ar"):
            optimise_null(*given, weight=wrong)
    with pytest.raises(ValueError, match="weight is nan; expected no NaN"):
        optimise_null(*given, weight=float("nan"))


@pytest.fixture(scope="module")
def edit(inversion):
    words = align_words([["a", "b", "c"]] * 2, [["a", "x", "c"], ["a", "b", "c"]])

    @jax.jit
    def run(weight):
        given = KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, NULL
        options = {"words": words, "iterations": 4, "rate": 0.05, "tolerance": None}
        return null_text(*given, weight=weight, inversion=inversion, **options)

    return run


def test_the_same_words_are_the_drawn_source(edit):
    """Bit for bit, beside a sample of other words; and that is what was optimised."""
    got = edit(jnp.array([3.0, 3.0]))
    np.testing.assert_array_equal(got.x[1], got.source[1])
    assert np.abs(got.x[0] - got.source[0]).max() > 1e-2
    np.testing.assert_allclose(got.source, got.tuned.states[-1], atol=1e-5)
    each = edit(jnp.array([3.0, 0.0]))
    np.testing.assert_allclose(each.x[0], got.x[0], atol=1e-5)


def test_borders_and_errors(inversion):
    given = KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, NULL
    got = null_text(*given, strength=0.0)
    np.testing.assert_array_equal(got.x, PICTURE)
    np.testing.assert_array_equal(got.source, PICTURE)
    with pytest.raises(ValueError, match="iterations is -1; expected a whole number"):
        null_text(*given, iterations=-1)
    with pytest.raises(ValueError, match="rate is -0.1; expected at least 0"):
        null_text(*given, rate=-0.1)
    with pytest.raises(
        ValueError, match="inversion has 4 states; expected one for eac"
    ):
        optimise_null(DENOISER, GRID[1:], inversion, SOURCE, NULL)
    with pytest.raises(ValueError, match="no part of floating point"):
        optimise_null(DENOISER, GRID, inversion, jnp.zeros(2, int), 0)
    term = null_steps(1.0, jnp.zeros((2, 3, 6)))
    with pytest.raises(ValueError, match=r"lead with \[\(2,\)\]; expected one null"):
        jg.sample(KEYS, DENOISER, jg.ddim(), GRID, PICTURE, SOURCE, guidance=term)
