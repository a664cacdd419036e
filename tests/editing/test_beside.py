"""Edits beside the source's own states: what comes back, and what is exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.editing import edit_friendly, flow_edit
from jaxlib_guidance.sampling import difference, noise_maps, noised_states, replay
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=4)
DENOISER = jg.parametrize(jg.models.from_linen(MODULE, PARAMS), PROCESS, "v")
PICTURE = 0.5 * jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
KEYS = jg.sample_keys(jax.random.key(2), 2)
GRID = jg.uniform_grid(PROCESS, 4)
SOURCE, TARGET = jnp.array([1, 2]), jnp.array([5, 2])
EDITORS = {
    "flow_edit": flow_edit,
    "edit_friendly": lambda *args, **options: edit_friendly(*args, **options).x,
}


@pytest.fixture(scope="module", params=EDITORS)
def edit(request):
    @jax.jit
    def run(weight, source, target, picture):
        traced.append(request.param)
        return EDITORS[request.param](
            *(KEYS, DENOISER, GRID, picture, source, target, 10),
            weight=weight,
            source_weight=weight,
            strength=0.8,
        )

    traced = run.traced = []
    return run


def test_the_same_condition_gives_the_source_back_bit_for_bit(edit):
    """In samples that have it, whatever the others have; one program for weights."""
    before = len(edit.traced)
    for weight in (0.0, 3.0):
        got = edit(weight, SOURCE, TARGET, PICTURE)
        np.testing.assert_array_equal(got[1], PICTURE[1])
        assert np.abs(got[0] - PICTURE[0]).max() > 1e-2
    assert len(edit.traced) - before <= 1


@pytest.mark.parametrize("name", EDITORS)
def test_strength_0_is_the_source(name):
    given = KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, 10
    got = EDITORS[name](*given, strength=0.0)
    np.testing.assert_array_equal(got, PICTURE)
    for wrong in (-0.1, 1.1, float("nan"), jnp.ones(3)):
        with pytest.raises(ValueError, match="strength is"):
            EDITORS[name](*given, strength=wrong)


def gaussian(std, process):
    """The exact denoiser of ``N(cond, std^2)``."""

    def x0(x, t, cond):
        a, s = (f(t)[:, None] for f in (process.alpha, process.sigma))
        gain = a * std**2 / (a**2 * std**2 + s**2)
        return cond + gain * (x - a * cond)

    return jg.parametrize(x0, process, "x0")


@pytest.mark.parametrize("steps", [1, 3, 17])
def test_flow_edit_moves_a_gaussian_exactly(steps):
    """From one mean to another of the same variance, for any number of steps."""
    process = jg.RectifiedFlow()
    x = jnp.array([[0.3], [-2.0]])
    source, target = jnp.array([[1.0], [0.0]]), jnp.array([[4.0], [-0.5]])
    given = KEYS, gaussian(0.7, process), jnp.linspace(1.0, 0.0, steps + 1), x
    options = {"weight": 0.0, "source_weight": 0.0, "strength": 1.0}
    got = flow_edit(*given, source, target, 0.0, **options)
    np.testing.assert_allclose(got, x + target - source, atol=2e-5)


def test_flow_edit_from_a_later_time_moves_less():
    """The shift that 33 of 50 steps leave, as the flow's equation has it."""
    process, std, mean = jg.RectifiedFlow(), 0.7, 3.0
    grid = np.linspace(1.0, 0.0, 51)
    moved = 0.0
    for t, after in itertools.pairwise(grid[17:]):
        gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        estimate = gain * moved + (1 - (1 - t) * gain) * mean
        moved = after / t * moved + (1 - after / t) * estimate
    zero = jnp.zeros((2, 1))
    got = flow_edit(
        *(KEYS, gaussian(std, process), grid, zero, zero, zero + mean, 0.0),
        weight=0.0,
        source_weight=0.0,
        strength=0.66,
    )
    np.testing.assert_allclose(got, zero + moved, atol=2e-5)


def test_noise_maps_give_the_picture_and_the_pairs_edit():
    guidance = jg.cfg(2.0, 10)

    @jax.jit
    def run(picture):
        maps = noise_maps(KEYS, DENOISER, GRID, picture, SOURCE, guidance=guidance)
        again, edited = (
            jg.sample(
                *(
                    KEYS,
                    DENOISER,
                    replay(maps.residuals, grid=GRID),
                    GRID,
                    maps.x,
                    cond,
                ),
                guidance=guidance,
            )[0]
            for cond in (SOURCE, TARGET)
        )
        return maps, again, edited

    maps, again, edited = run(PICTURE)
    assert maps.residuals.shape == (4, *PICTURE.shape)
    np.testing.assert_allclose(again, PICTURE, atol=2e-6)
    np.testing.assert_allclose(maps.trajectory[-1], PICTURE, atol=2e-6)
    beside = edit_friendly(
        *(KEYS, DENOISER, GRID, PICTURE, SOURCE, TARGET, 10),
        weight=2.0,
        source_weight=2.0,
        strength=1.0,
    )
    np.testing.assert_allclose(edited, beside.x, atol=2e-5)


def test_noise_maps_of_a_known_gaussian_have_unit_noise():
    """Edit-friendly noise is larger than DDPM's: its states have independent noise."""
    keys = jg.sample_keys(jax.random.key(5), 4000)
    x = 0.7 * jax.random.normal(jax.random.key(6), (4000, 1))
    grid, net = jnp.array([0.7, 0.5, 0.3]), gaussian(0.7, PROCESS)
    maps = noise_maps(keys, net, grid, x, jnp.zeros((4000, 1)))
    a, s = PROCESS.alpha(grid), PROCESS.sigma(grid)
    ratio = a[0] * s[1] / (a[1] * s[0])
    keep = ratio * s[1] / s[0]
    take = a[1] - keep * a[0]
    gain = a[0] * 0.49 / (a[0] ** 2 * 0.49 + s[0] ** 2)
    # The part of each independent normal variable in the first residual.
    data = a[1] - (keep + take * gain) * a[0]
    expected = data**2 * 0.49 + s[1] ** 2 + ((keep + take * gain) * s[0]) ** 2
    np.testing.assert_allclose(jnp.var(maps.residuals[0]), expected, rtol=0.08)


def test_noised_states_have_independent_noise_and_end_with_the_data():
    keys, x = jg.sample_keys(jax.random.key(7), 3000), jnp.ones((3000, 1))
    states = noised_states(keys, PROCESS, GRID, x)
    np.testing.assert_array_equal(states[-1], x)
    a, s = PROCESS.alpha(GRID)[:-1], PROCESS.sigma(GRID)[:-1]
    noise = (states[:-1, :, 0] - a[:, None]) / s[:, None]
    np.testing.assert_allclose(np.cov(noise), np.eye(4), atol=0.1)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision_and_a_batch_of_one(kind):
    picture = PICTURE[:1].astype(kind)
    got = flow_edit(KEYS[:1], DENOISER, GRID, picture, SOURCE[:1], TARGET[:1], 10)
    assert got.dtype == jnp.float32
    assert np.isfinite(got).all()


def test_wrong_arguments_are_told():
    given = KEYS, DENOISER, GRID, PICTURE
    with pytest.raises(ValueError, match="a pair has source .* expected the same"):
        flow_edit(*given, SOURCE, TARGET[:1], 10)
    with pytest.raises(ValueError, match=r"a weight has shape \(3,\); expected \(\)"):
        flow_edit(*given, SOURCE, TARGET, 10, weight=jnp.ones(3))
    with pytest.raises(ValueError, match="eta is 2"):
        edit_friendly(*given, SOURCE, TARGET, 10, eta=2.0)
    states = jg.invert(KEYS, DENOISER, GRID[1:], PICTURE, SOURCE)
    with pytest.raises(ValueError, match="4 states; expected one for each of the 5"):
        edit_friendly(*given, SOURCE, TARGET, 10, inversion=states)
    solver = difference(states.trajectory)
    with pytest.raises(ValueError, match="difference has states of shape"):
        jg.sample(KEYS, DENOISER, solver, GRID[1:], PICTURE, SOURCE)
    with pytest.raises(ValueError, match="batch of 3; expected pairs"):
        jg.guidance.split_pairs(jnp.ones(3))
