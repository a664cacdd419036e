"""Inputs of other kinds than the solvers were written for; docs/reliability.md."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.sampling import tabulate

PROCESS = jg.VPCosine()
KEYS = jg.sample_keys(jax.random.key(0), 2)
NET = jg.parametrize(lambda x, t, cond: jnp.tanh(x), PROCESS)


def draw(grid, x=(2,), sampler=None, net=NET, **options):
    return jg.sample(KEYS, net, sampler or jg.ddim(), grid, x, **options)[0]


@pytest.mark.parametrize(
    ("process", "grid"),
    [
        (PROCESS, np.linspace(999, 0, 5)),
        (PROCESS, np.arange(999, -1, -333)),
        (PROCESS, jg.karras_grid(jg.VE(), 5)),
        (PROCESS, [80.0, 10.0, 1.0, 0.0]),
        (jg.VPLinear(), np.linspace(999, 0, 5)),
        (jg.diffusion.vp_discrete(jg.diffusion.linear_betas(100)), [99.0, 50.0, 0.0]),
        (jg.RectifiedFlow(), jg.karras_grid(jg.VE(), 5)),
        (jg.VE(), [200.0, 10.0, 0.0]),
        (PROCESS, [0.5, 0.1, -0.1]),
    ],
)
def test_times_of_another_process_are_refused(process, grid):
    net = jg.parametrize(lambda x, t, cond: jnp.tanh(x), process)
    with pytest.raises(ValueError, match=r"grid has times from .* expected\s+times of"):
        draw(grid, net=net)


@pytest.mark.parametrize("process", [PROCESS, jg.VPLinear(), jg.VE()])
def test_times_to_the_end_and_a_little_beyond_pass(process):
    net = jg.parametrize(lambda x, t, cond: jnp.tanh(x), process)
    for factor in (1.0, 1.001):
        assert jnp.isfinite(draw([factor * process.t_max, 0.5, 0.0], net=net)).all()


@pytest.mark.parametrize(
    "known",
    [
        np.array([255, 255, 0, 0], np.uint8),
        np.array([255.0, 0, 0, 0]),
        np.array([-1, 1, -1, 1]),
        np.array([2, 0, 0, 0]),
        np.array([np.nan, 0, 0, 0]),
    ],
)
def test_a_mask_outside_0_to_1_is_refused(known):
    with pytest.raises(ValueError, match=r"known has values from .* expected 0 to 1"):
        jg.inpaint(jg.ddim(), 0.5 * jnp.ones((2, 4)), known)


def test_masks_of_0_and_1_of_any_type_are_one():
    grid, source = [0.9, 0.6, 0.3, 0.0], 0.5 * jnp.ones((2, 4))
    found = [
        draw(grid, (4,), jg.inpaint(jg.ddim(), source, np.array([1, 1, 0, 0], kind)))
        for kind in (np.uint8, bool, np.float32)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0][:, :2], 0.5)


SOLVERS = {
    "ddim": jg.ddim(),
    "ddpm": jg.ddpm(),
    "adams": jg.adams(),
    "2m": jg.dpmpp_2m(),
    "3m": jg.dpmpp_3m(1.0),
    "unipc": jg.unipc(),
    "deis": jg.deis(),
    "lms": jg.lms(),
    "pndm": jg.pndm(),
    "sa": jg.sa_solver(),
    "edm": jg.edm(0.6),
    "recurrent": jg.with_recurrence(jg.dpmpp_2m(1.0), 1),
    "corrected": jg.with_corrector(jg.ddim(), 1),
    "langevin": jg.annealed_langevin(1),
    "inpaint": jg.inpaint(jg.ddim(), np.zeros((2, 4)), np.array([1.0, 0, 0, 0])),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_float64_state_stays_one(name):
    grid = jg.uniform_grid(PROCESS, 3)
    narrow = draw(grid, jnp.ones((2, 4), jnp.float32), SOLVERS[name])
    with _x64():
        wide = draw(grid, jnp.ones((2, 4), jnp.float64), SOLVERS[name])
        assert wide.dtype == jnp.float64
        if not SOLVERS[name].stochastic and name != "corrected":
            np.testing.assert_allclose(wide, narrow, rtol=1e-4, atol=1e-5)


def _x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


def test_a_float32_state_stays_one_beside_float64():
    """Grids are float32, and neither the series nor a table widens the state."""
    with _x64():
        sampler, grid = jg.recommended(PROCESS, 3)
        spaced = jg.flow_grid(PROCESS, 3), jg.karras_grid(PROCESS, 3)
        assert {each.dtype for each in (grid, *spaced)} == {jnp.dtype("float32")}
        assert draw(grid, (4,), sampler).dtype == jnp.float32
        made = tabulate(jg.adams(2), np.array(grid, np.float64), PROCESS)
        wide = dataclasses.replace(made, keep=made.keep.astype(jnp.float64))
        for table in (made, wide):
            assert draw(made.grid, (4,), table.sampler).dtype == jnp.float32


def test_a_float64_state_stays_one_with_error_control():
    with _x64():
        x, report = jg.sample_adaptive(KEYS, NET, jnp.ones((2, 4), jnp.float64))
        assert x.dtype == jnp.float64
        assert report.finished.all()


def test_progress_is_told_once_under_remat():
    seen = []

    def loss(w):
        net = jg.parametrize(lambda x, t, cond: jnp.tanh(w * x), PROCESS)
        return draw(
            jg.flow_grid(PROCESS, 40),
            (4,),
            net=net,
            remat=True,
            progress=lambda n, total: seen.append(n),
        ).sum()

    jax.grad(loss)(1.0).block_until_ready()
    jax.effects_barrier()
    assert seen == list(range(2, 41, 2))


@pytest.mark.parametrize("x", [2, 2.0, [[0.0, 0.0]], (8, 8.5), (-1,), "8"])
def test_what_is_neither_a_shape_nor_a_state_is_refused(x):
    with pytest.raises(TypeError, match="expected the shape of one sample"):
        draw([0.9, 0.5, 0.0], x)


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match=r"key is 0; expected .* jax.random.key\(0\)"):
        jg.sample_keys(0, 4)


@pytest.mark.parametrize("name", ["consistency", "recurrent", "ddpm", "2m sde", "edm"])
def test_the_slope_to_a_process_is_finite_where_noise_ends(name):
    """``sigma`` is 0 at the end, where a square root has an infinite slope."""
    sampler = {
        "consistency": jg.consistency(),
        "recurrent": jg.with_recurrence(jg.ddpm(), 1),
        "ddpm": jg.ddpm(),
        "2m sde": jg.dpmpp_2m(1.0),
        "edm": jg.edm(0.2),
    }[name]

    def run(beta):
        net = jg.parametrize(lambda x, t, cond: jnp.tanh(x), jg.VPLinear(beta_min=beta))
        return jnp.sum(draw([0.9, 0.6, 0.3, 0.0], (2,), sampler, net) ** 2)

    slope = jax.jit(jax.grad(run))(0.1)
    step = (jax.jit(run)(0.103) - jax.jit(run)(0.097)) / 0.006
    np.testing.assert_allclose(slope, step, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_a_grid_of_numbers_is_known_under_jit(kind):
    """A growing one is refused there too, and windows are cut out."""
    with pytest.raises(ValueError, match="grid increases"):
        jax.jit(lambda: draw(kind([0.1, 0.5]), sampler=jg.ddpm()))()
    calls = []

    def apply(x, t, cond, **_):
        calls.append(len(x))
        return jg.types.Denoised(jnp.tanh(x))

    net = jg.Denoiser(apply, process=PROCESS)
    window = jg.during(jg.cfg(1.0, null=0), 0.9, 3.0, "sigma")

    def run():
        cond = jnp.zeros(2, jnp.int32)
        return draw(kind([0.9, 0.5, 0.2, 0.0]), net=net, cond=cond, guidance=window)

    jax.jit(run)()
    assert sorted(set(calls)) == [2, 4]


def test_half_precision_estimates_are_taken_to_float32():
    net = jg.Denoiser(
        lambda x, t, cond, **_: jg.types.Denoised(jnp.tanh(x).astype(jnp.bfloat16)),
        process=PROCESS,
    )
    assert draw([0.9, 0.5, 0.0], net=net).dtype == jnp.float32


def test_error_control_keeps_to_the_times_of_the_process():
    with pytest.raises(ValueError, match="t_max has times from 80"):
        jg.sample_adaptive(KEYS, NET, (2,), t_max=80.0)
