"""RF-inversion: its two ends, and the flow between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.editing import rf_inversion
from jaxlib_guidance.guidance import toward
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.sampling import controlled_inversion
from jaxlib_guidance.testing import tiny_dit

MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=1, patch=4)
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
SOURCE, TARGET = jnp.array([1, 2]), jnp.array([5, 6])
PROCESSES = {"flow": jg.RectifiedFlow(), "vp": jg.VPCosine()}


@pytest.fixture(scope="module", params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


@pytest.fixture(scope="module")
def edit(process):
    @jax.jit
    def run(gamma, eta):
        denoiser = jg.parametrize(from_linen(MODULE, PARAMS), process, "v")
        given = KEYS, denoiser, jg.uniform_grid(process, 4), PICTURE, SOURCE, TARGET
        return rf_inversion(*given, 10, weight=1.0, gamma=gamma, eta=eta, share=1.0)

    return run


def test_led_wholly_it_reaches_the_noise_and_the_picture(edit, process):
    noise = rng.normal(rng.fold(KEYS, rng.NOISING), PICTURE.shape[1:])
    got = edit(1.0, 1.0)
    np.testing.assert_allclose(got.x, PICTURE, atol=1e-5)
    t = jg.uniform_grid(process, 4)[:-1]
    a, s = process.alpha(t), process.sigma(t)
    line = a[:, None, None, None, None] * PICTURE + jnp.einsum(
        "n,b...->nb...", s, noise
    )
    np.testing.assert_allclose(got.inversion.trajectory[:-1], line, atol=1e-5)
    np.testing.assert_array_equal(got.inversion.trajectory[-1], PICTURE)


def test_not_led_it_is_inversion_and_ddim(edit, process):
    got = edit(0.0, 0.0)

    @jax.jit
    def by_hand():
        denoiser = jg.parametrize(from_linen(MODULE, PARAMS), process, "v")
        grid, guidance = jg.uniform_grid(process, 4), jg.cfg(1.0, 10)
        x = jg.invert(KEYS, denoiser, grid, PICTURE, SOURCE).x
        return jg.sample(KEYS, denoiser, jg.ddim(), grid, x, TARGET, guidance=guidance)[
            0
        ]

    np.testing.assert_allclose(got.x, by_hand(), atol=1e-5)


def test_the_whole_pull_is_a_straight_line_to_the_picture():
    process, x = PROCESSES["flow"], jnp.array([[2.0], [-1.0]])
    denoiser = jg.parametrize(lambda x, t, cond: 0.3 * x, process, "x0")
    end = jnp.array([[0.5], [4.0]])

    def draw(weight):
        return jg.sample(
            *(KEYS, denoiser, jg.ddim(), [1.0, 0.6, 0.25], x),
            guidance=toward(weight, end),
            trace=lambda info: info.x_next,
        )[1]

    for state, t in zip(draw(1.0), (0.6, 0.25), strict=True):
        np.testing.assert_allclose(state, t * x + (1 - t) * end, atol=1e-6)
    estimate = 0.3 * x + 0.25 * (end - 0.3 * x)
    np.testing.assert_allclose(draw(0.25)[0], 0.6 * x + 0.4 * estimate, atol=1e-6)


def test_borders_and_errors():
    denoiser = jg.parametrize(from_linen(MODULE, PARAMS), PROCESSES["vp"], "v")
    given = KEYS, denoiser, [0.9, 0.5, 0.0], PICTURE, SOURCE, TARGET, 10
    np.testing.assert_array_equal(rf_inversion(*given, strength=0.0).x, PICTURE)
    with pytest.raises(ValueError, match="gamma is 1.5; expected 0 to 1"):
        rf_inversion(*given, gamma=1.5)
    with pytest.raises(ValueError, match="a share of the steps is 2; expected 0 to 1"):
        rf_inversion(*given, share=2)
    solver = controlled_inversion(PICTURE[:1])
    with pytest.raises(ValueError, match="noise has shape .1, 8, 8, 1.; expected"):
        jg.sample(KEYS, denoiser, solver, [0.1, 0.5], PICTURE, SOURCE)
    term = toward(0.5, PICTURE[:1])
    with pytest.raises(ValueError, match="toward's picture has shape"):
        jg.sample(KEYS, denoiser, jg.ddim(), [0.9, 0.5], PICTURE, SOURCE, guidance=term)
    kind = jnp.float16
    one = KEYS[:1], denoiser, [0.9, 0.5, 0.0], PICTURE[:1].astype(kind)
    got = rf_inversion(*one, SOURCE[:1], TARGET[:1], 10)
    assert got.x.dtype == jnp.float32
    assert np.isfinite(got.x).all()


def test_an_inversion_of_another_strength_is_told(process):
    denoiser = jg.parametrize(from_linen(MODULE, PARAMS), process, "v")
    given = KEYS, denoiser, jg.uniform_grid(process, 4), PICTURE, SOURCE, TARGET, 10
    other = jg.sampling.Inversion(PICTURE, jnp.stack([PICTURE] * 5))
    with pytest.raises(ValueError, match="inversion has 5 states; expected one for ea"):
        rf_inversion(*given, strength=0.5, inversion=other)
    with pytest.raises(ValueError, match="a share of the steps is .*known number"):
        jax.eval_shape(lambda s: rf_inversion(*given, share=s, inversion=other), 0.5)
