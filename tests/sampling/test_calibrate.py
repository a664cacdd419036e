"""A solver learned from its network begins at a fixed one and ends nearer the flow."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.files import CorruptFileError, export_weights, load_weights
from jaxlib_guidance.guidance import Observed, square_energy
from jaxlib_guidance.sampling import (
    Calibrated,
    calibrate,
    guided_after,
    load_calibrated,
    tabulate,
)
from jaxlib_guidance.sampling._calibrate import _geometric_mean
from jaxlib_guidance.sampling._calibrate_newton import Slopes, numbers
from jaxlib_guidance.sampling._calibrate_problem import Problem, learnable
from jaxlib_guidance.testing import check_sampler
from jaxlib_guidance.types import Denoised, expand

PROCESS = jg.VPCosine()
N = 4
START = jg.adams(2), jg.flow_grid(PROCESS, N)
FIXED = [
    jg.ddim(),
    jg.euler(),
    jg.dpmpp_2m(),
    jg.dpmpp_3m(),
    jg.unipc(3),
    jg.deis(3),
    jg.lms(4),
    jg.pndm(),
    jg.adams(4, scale=0.7),
]


def smooth(x, t, cond, **_):
    push = expand(jnp.sin(1.0 + cond.astype(jnp.float32)), x)
    return Denoised(jnp.tanh(0.7 * x + 0.3 * jnp.roll(x, 1, -1) + push - expand(t, x)))


NET = jg.Denoiser(smooth, process=PROCESS)
KEYS = jg.sample_keys(jax.random.key(0), 96)
COND = jnp.arange(96) % 5
CFG = jg.cfg(1.0, null=5)


@pytest.fixture(scope="module")
def learned():
    """Five of the classes, guided."""
    return calibrate(
        *(KEYS, NET, N, (4,), COND), guidance=CFG, start=START, steps=6, seed=1
    )


def test_a_table_is_the_solver_it_was_read_from():
    """Each start's samples, for every linear solver and process."""
    keys = KEYS[:4]
    for process in (PROCESS, jg.VE(), jg.RectifiedFlow()):
        net = jg.Denoiser(smooth, process=process)
        grid = jg.flow_grid(process, 6)

        @jax.jit
        def run(made, net=net):
            return jg.sample(keys, net, made.sampler, made.grid, (4,), COND[:4])[0]

        for solver in FIXED if process is PROCESS else FIXED[-1:]:
            made = tabulate(solver, grid, process)
            want, _ = jg.sample(keys, net, solver, grid, (4,), COND[:4])
            np.testing.assert_allclose(run(made), want, rtol=2e-4, atol=2e-5)
            # Predictions of later steps have no weight.
            assert (np.triu(made.weights, 1) == 0).all()


def test_without_a_step_it_is_the_solver_that_it_begins_with():
    made, report = calibrate(
        *(KEYS[:8], NET, np.int64(N), (4,), COND[:8]), start=START, steps=0, batch=4
    )
    want, _ = jg.sample(KEYS[:8], NET, *START, (4,), COND[:8])
    got, _ = jg.sample(KEYS[:8], NET, made.sampler, made.grid, (4,), COND[:8])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made.grid, START[1])
    assert report.best_step == 0
    assert report.losses.tolist() == [report.train_before]
    assert report.train_after == report.train_before
    # Parameters of 0 make that solver too.
    zero, build = learnable(*START, PROCESS)
    again = build(zero)
    np.testing.assert_allclose(again.grid, START[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.keep, made.keep, atol=1e-5)
    np.testing.assert_allclose(again.weights, made.weights, atol=1e-5)
    assert (again.cubes == 0).all()


def test_one_step_to_gaussian_data_becomes_exact():
    """The flow is linear: ``x s / sqrt(alpha^2 s^2 + sigma^2)``, which DDIM misses."""
    s, grid = 0.5, jnp.array([0.8, 0.0])
    alpha, sigma = PROCESS.alpha(grid[0]), PROCESS.sigma(grid[0])
    variance = alpha**2 * s**2 + sigma**2

    def exact(x, t, cond, **_):
        a, b = expand(PROCESS.alpha(t), x), expand(PROCESS.sigma(t), x)
        return Denoised(a * s**2 / (a**2 * s**2 + b**2) * x)

    net = jg.Denoiser(exact, process=PROCESS)
    x = jnp.sqrt(variance) * jax.random.normal(jax.random.key(3), (64, 2))
    ends = x * s / jnp.sqrt(variance)
    made, report = calibrate(
        *(KEYS[:64], net, 1, x), start=(jg.ddim(), grid), reference=ends
    )
    assert report.held_out_before > 0.1
    assert report.held_out_after < 1e-5
    factor = made.keep[0] + made.weights[0, 0] * alpha * s**2 / variance
    np.testing.assert_allclose(factor, s / jnp.sqrt(variance), atol=1e-5)


@pytest.mark.parametrize("noise", [True, False])
def test_slopes_are_those_of_the_samples(noise):
    """Pushed through the steps that are left, they are those through all steps."""
    grid = START[1].at[0].set(0.9)
    made = tabulate(START[0], grid, PROCESS)
    made = dataclasses.replace(made, cubes=0.1 * made.weights)
    x = (4,) if noise else jnp.linspace(-1, 1, 12).reshape(3, 4)
    problem = Problem(
        *(KEYS[:3], NET, x, COND[:3], 3),
        **{"guidance": CFG, "plan": "auto", "process": PROCESS},
    )
    ends, slopes = Slopes(problem)(made, problem.rows)
    flat = numbers(made)
    assert slopes.shape == (flat.size, 3, 4)

    def of(flat):
        rows, place = [], N
        for i in range(N):
            keep, weights, cubes = jnp.split(
                flat[place : place + 2 * i + 3], (1, i + 2)
            )
            zeros = jnp.zeros((3, N))
            rows.append(
                zeros.at[0, 0]
                .set(keep[0])
                .at[1, : i + 1]
                .set(weights)
                .at[2, : i + 1]
                .set(cubes)
            )
            place += 2 * i + 3
        rows = jnp.stack(rows)
        grid = jnp.append(flat[:N], made.grid[-1])
        table = Calibrated(grid, rows[:, 0, 0], rows[:, 1], rows[:, 2], PROCESS)
        return problem.draw(table, problem.rows)[0]

    np.testing.assert_allclose(of(flat), ends.reshape(3, 4), atol=1e-5)
    want = jax.jit(jax.jacfwd(of))(flat)
    # The time of given states is no number to learn.
    first = 0 if noise else 1
    assert noise or (slopes[0] == 0).all()
    # By times they are taken over a stretch, here of a smooth network.
    for found, exact, rtol in (
        (slopes[first:N], want[..., first:N], 0.05),
        (slopes[N:], want[..., N:], 1e-3),
    ):
        exact = np.moveaxis(exact, -1, 0)
        np.testing.assert_allclose(
            found.reshape(exact.shape), exact, atol=rtol * abs(exact).max()
        )


def test_the_first_time_is_learned_from_noise_alone():
    grid = jg.flow_grid(PROCESS, 3, t_max=0.9)
    run = partial(calibrate, KEYS[:8], NET, 3, cond=COND[:8], start=(jg.ddim(), grid))
    made, report = run((4,), steps=1)
    assert report.best_step > 0
    assert made.grid[0] != grid[0]
    assert made.grid[0] < PROCESS.t_max
    # Its ends are of the whole flow, not of one from the grid's first level.
    whole = jg.unipc(3), jg.logsnr_grid(PROCESS, 100)
    want, _ = jg.sample(KEYS[:8], NET, *whole, (4,), COND[:8])
    np.testing.assert_allclose(report.reference, want, atol=1e-4)
    # What is given, states or the process's own first time, stays.
    for x, t in ((PROCESS.sigma(0.9) * jnp.ones((8, 4)), 0.9), ((4,), PROCESS.t_max)):
        start = jg.ddim(), jg.flow_grid(PROCESS, 3, t_max=t)
        made, report = run(x, start=start, steps=2)
        assert len(report.losses) > 1
        assert made.grid[0] == start[1][0]


@pytest.mark.slow
def test_other_keys_and_classes_come_nearer(learned):
    made, report = learned
    assert report.held_out_after < 0.5 * report.held_out_before
    assert report.train_after < 0.5 * report.train_before
    # Each step that is kept lowers the error.
    assert (np.diff(report.losses) < 0).all()
    assert 0 < report.best_step < len(report.losses) <= 7
    assert report.train_after == report.losses[report.best_step]
    keys = jg.sample_keys(jax.random.key(1), 64)

    def run(sampler, grid):
        draw = partial(jg.sample, keys, NET, sampler, grid, (4,), guidance=CFG)
        cond = jnp.stack([jnp.arange(64) % 5, 6 + jnp.arange(64) % 3])
        return jax.jit(jax.vmap(lambda cond: draw(cond)[0]))(cond)

    want = run(jg.unipc(3), jg.logsnr_grid(PROCESS, 100))
    fixed, found = (
        jnp.linalg.norm(run(*pair) - want, axis=2).mean(1)
        for pair in (START, (made.sampler, made.grid))
    )
    assert found[0] < 0.5 * fixed[0]  # other keys
    assert found[1] < 0.8 * fixed[1]  # classes that push another way


def test_a_start_that_ends_elsewhere_does_not_decide():
    fixed, made = np.full(40, 0.1), np.full(40, 0.05)
    made[0] = 3.0
    assert made.mean() > fixed.mean()
    assert _geometric_mean(made) < 0.06
    assert _geometric_mean(np.zeros(3)) < _geometric_mean(fixed)
    assert not _geometric_mean(np.append(made, np.nan)) < _geometric_mean(fixed)


def test_a_reference_serves_again(learned):
    _, report = learned
    options = {"guidance": CFG, "start": START, "steps": 0, "seed": 1}
    _, again = calibrate(
        *(KEYS, NET, N, (4,), COND), reference=report.reference, **options
    )
    assert again.held_out_before == pytest.approx(report.held_out_before, rel=1e-5)
    with pytest.raises(ValueError, match=r"reference has shape \(96, 3\); expected"):
        calibrate(*(KEYS, NET, N, (4,), COND), reference=np.ones((96, 3)), **options)
    late = jg.ddim(), jg.logsnr_grid(PROCESS, 8, t_max=0.5)
    with pytest.raises(ValueError, match="reference goes from time 0.5"):
        calibrate(*(KEYS, NET, N, (4,), COND), reference=late, **options)


def test_a_reference_may_begin_earlier_from_noise():
    """Its ends are those of the same noise at its own first level."""
    late = jg.ddim(), jg.flow_grid(PROCESS, 2, t_max=0.8)
    whole = jg.unipc(3), jg.logsnr_grid(PROCESS, 12)
    options = {"start": late, "reference": whole, "steps": 0}
    _, report = calibrate(KEYS[:4], NET, 2, (4,), COND[:4], **options)
    want, _ = jg.sample(KEYS[:4], NET, *whole, (4,), COND[:4])
    np.testing.assert_allclose(report.reference, want, rtol=1e-4, atol=1e-5)
    x = PROCESS.sigma(0.8) * jnp.ones((4, 4))
    with pytest.raises(ValueError, match="expected those of the start, 0.8 and 0, or"):
        calibrate(KEYS[:4], NET, 2, x, COND[:4], **options)


def test_laws(learned):
    made, _ = learned
    check_sampler(made.sampler, grid=made.grid, process=PROCESS)
    check_sampler(
        made.sampler,
        denoiser=NET,
        grid=made.grid,
        shape=(4,),
        cond=COND[:8],
        guidance=CFG,
        only=("batch", "nan", "one_compilation", "devices", "lowers"),
    )


@pytest.mark.parametrize("process", [PROCESS, jg.VE(), jg.RectifiedFlow()])
def test_times_stay_in_order_and_in_range(process):
    """Whatever is learned."""
    first = float(process.t_of_logsnr(jnp.float32(-3)))
    draws = 2 * np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    for t_max in (process.t_max, first):
        grid = jg.logsnr_grid(process, 5, t_max=t_max)
        zero, build = learnable(jg.ddim(), grid, process, jnp.float32(process.t_max))
        of = jax.vmap(lambda gaps: build(zero.at[:5].set(gaps)).grid)  # noqa: B023
        grids = np.asarray(jax.jit(of)(draws))
        assert (np.diff(grids) < 0).all()
        assert (grids[:, -2] >= process.t_min * 0.999).all()
        assert (grids[:, 0] <= process.t_max).all()
        assert (np.ptp(grids[:, 0]) == 0) == (t_max == process.t_max)
    _, build = learnable(jg.ddim(), grid, process)
    assert (build(zero.at[0].set(1.0)).grid[0] == grid[0]).all()


def test_another_grid_is_refused(learned):
    made, _ = learned
    keys, cond = KEYS[:2], COND[:2]
    observed = Observed(jnp.zeros((2, 4, 1)), jnp.ones((2, 4, 1)))
    near = lambda x0, observed: square_energy(x0[..., None], observed)  # noqa: E731
    wrapped = [
        made.sampler,
        jg.inpaint(made.sampler, jnp.zeros((2, 4)), jnp.zeros(4)),
        jg.with_recurrence(made.sampler, 1),
        jg.with_corrector(made.sampler, 1),
        guided_after(made.sampler._replace(stochastic=True), observed, near, 0.1),
    ]
    for sampler in wrapped:
        run = partial(jg.sample, keys, NET, sampler, x=(4,), cond=cond)
        with pytest.raises(ValueError, match="grid has 7 steps; expected the 4 of sam"):
            run(grid=jg.logsnr_grid(PROCESS, 7))
        with pytest.raises(ValueError, match=r"grid is .*; expected sampler.grid"):
            run(grid=jg.logsnr_grid(PROCESS, N))
    with pytest.raises(ValueError, match="grid has 7 steps"):
        jax.jit(run)(grid=jg.logsnr_grid(PROCESS, 7))


def test_it_is_a_pytree_and_a_file(learned, tmp_path):
    made, _ = learned
    path = tmp_path / "four.safetensors"
    made.save(path)
    assert path.stat().st_size < 5000
    again = load_calibrated(path, PROCESS)
    assert jax.tree.structure(again) == jax.tree.structure(made)
    jax.tree.map(np.testing.assert_array_equal, again, made)
    with pytest.raises(ValueError, match="was calibrated for VPCosine, whose alpha"):
        load_calibrated(path, jg.VE())
    with pytest.raises(TypeError, match="the class VPCosine"):
        load_calibrated(path, jg.VPCosine)
    # A file that knows its network's parameters is for these alone.
    params = {"b": jnp.ones(2), "a": {"w": np.eye(2, dtype=np.float32)}}
    load_calibrated(path, PROCESS, params=params)  # It does not know yet.
    made.save(path, params=params)
    same = jax.tree.map(np.asarray, dict(reversed(params.items())))
    assert path.stat().st_size < 5000
    for given in (None, params, same):
        jax.tree.map(
            np.testing.assert_array_equal,
            load_calibrated(path, PROCESS, params=given),
            made,
        )
    moved = params | {"b": params["b"].at[1].add(1e-6)}
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), params)
    for other in (moved, half, params["a"], {"b": jnp.ones((1, 2)), "a": params["a"]}):
        with pytest.raises(ValueError, match="network with other parameters than par"):
            load_calibrated(path, PROCESS, params=other)
    # A file from before there were cubes is one in which they have no weight.
    arrays, about = load_weights(path)
    assert np.abs(arrays.pop("cubes")).max() > 0
    export_weights(path, arrays, about | {"format": "jaxlib_guidance.calibrated.1"})
    first = load_calibrated(path, PROCESS)
    np.testing.assert_array_equal(first.weights, made.weights)
    np.testing.assert_array_equal(first.cubes, np.zeros((N, N)))
    export_weights(path, {"grid": np.ones(2)}, {"format": "another"})
    with pytest.raises(CorruptFileError, match="is not a solver that Calibrated.save"):
        load_calibrated(path, PROCESS)


def test_half_precision_and_a_batch_of_one():
    def half(x, t, cond, **_):
        return Denoised(jnp.tanh(x.astype(jnp.bfloat16)).astype(jnp.float32))

    net = jg.Denoiser(half, process=PROCESS)
    made, report = calibrate(KEYS[:1], net, 2, (3,), steps=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {np.dtype("float32")}
    assert report.held_out_before == report.train_before


def test_what_is_not_finite_stops():
    def network(x, t, cond, *, kind, **_):
        late = expand(t, x) < 0.5
        return Denoised(jnp.where(late, jnp.sqrt(jnp.minimum(x, kind)), x * 0.1))

    broken = jg.Denoiser(partial(network, kind=-1.0), process=PROCESS)
    with pytest.raises(FloatingPointError, match="reference has ends that are not fin"):
        calibrate(KEYS[:4], broken, 2, (3,), steps=2)
    with pytest.raises(FloatingPointError, match="the solver to begin from is off by"):
        calibrate(KEYS[:4], broken, 4, (3,), reference=np.zeros((4, 3)), steps=2)
    # Finite, but its slope is not.
    steep = jg.Denoiser(
        lambda x, t, cond, **_: Denoised(jnp.sqrt(jnp.abs(x * 0))), process=PROCESS
    )
    with pytest.raises(FloatingPointError, match="coefficients are not finite"):
        calibrate(KEYS[:4], steep, 2, (3,), reference=np.ones((4, 3)))


def test_it_begins_at_the_scale_of_the_data():
    """And where few evaluations have some signal to see."""
    run = partial(calibrate, KEYS[:4], NET, 3, cond=COND[:4], steps=0)
    first = float(PROCESS.t_of_logsnr(jnp.float32(-13 / 4 - 2 * np.log(3.0))))
    own = jg.recommended(PROCESS, 3, scale=3.0, t_max=first)
    made, _ = run((4,), scale=3.0)
    fixed = jg.adams(3, scale=3.0), own.grid
    jax.tree.map(np.testing.assert_array_equal, made, tabulate(*fixed, PROCESS))
    made, _ = run(jnp.ones((4, 4)), scale=3.0)
    np.testing.assert_array_equal(made.grid, jg.recommended(PROCESS, 3, scale=3.0).grid)
    run = partial(run, (4,))
    with pytest.raises(ValueError, match="scale is 3.0 beside start"):
        run(scale=3.0, start=fixed)
    with pytest.raises(ValueError, match="scale is 0; expected"):
        run(scale=0)
    with pytest.raises((TypeError, ValueError), match="scale"):
        run(scale=np.ones(2), start=fixed)


def test_what_is_refused():
    run = partial(calibrate, KEYS[:4], NET, x=(4,), cond=COND[:4])
    for solver in (jg.ddim(1.0), jg.heun()):
        with pytest.raises(ValueError, match="expected a deterministic one with 1"):
            run(n=N, start=(solver, START[1]))
    adaptive = jg.adams(4, adaptive=True)
    with pytest.raises(ValueError, match="not linear in its predictions"):
        run(n=6, start=(adaptive, jg.flow_grid(PROCESS, 6)))
    made = jax.jit(lambda grid: tabulate(adaptive, grid, PROCESS))
    assert np.isnan(made(jg.flow_grid(PROCESS, 6)).keep).all()
    with pytest.raises(ValueError, match=r"start has a grid \(5,\); expected \[n \+ 1"):
        run(n=5, start=START)
    with pytest.raises(TypeError, match="expected a pair of solver and grid"):
        run(n=N, start=jg.ddim())
    with pytest.raises(TypeError, match="sampler is adams; expected a Sampler"):
        run(n=N, start=(jg.adams, START[1]))
    for name, value in {
        "n": 0,
        "steps": -1,
        "batch": 0,
        "held_out": 1.0,
        "seed": -1,
    }.items():
        with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
            run(**{"n": N} | {name: value})
    with pytest.raises(TypeError, match="progress is 3; expected a function of"):
        run(n=N, progress=3)
    with pytest.raises(ValueError, match=r"cond has shape \(3,\)"):
        run(n=N, cond=COND[:3])
    half, _ = jg.sample(KEYS[:4], NET, *START, (4,), COND[:4], steps=1)
    with pytest.raises(TypeError, match="x is a SampleState"):
        run(n=N, x=half)
    # A batch of it would have the right size.
    with pytest.raises(ValueError, match=r"x has shape \(3, 4\); expected batch 4"):
        run(n=N, x=jnp.ones((3, 4)))
    with pytest.raises(TypeError, match="x is 4; expected the shape of one sample"):
        run(n=N, x=4)
    with pytest.raises(ValueError, match=r"keys has shape \(0,\); expected"):
        calibrate(KEYS[:0], NET, N, (4,))
    with pytest.raises(TypeError, match="reference is Sampler.*; expected a pair"):
        run(n=N, reference=jg.unipc(3))
    with pytest.raises(ValueError, match="reference has a solver that draws noise"):
        run(n=N, reference=(jg.ddim(1.0), START[1]))


def test_a_batch_on_a_mesh_of_explicit_axes():
    """Its state lies as its samples do, and nothing moves between devices."""
    axes = {"axis_types": (jax.sharding.AxisType.Explicit,)}
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), **axes)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    made = tabulate(jg.adams(2), jg.flow_grid(PROCESS, 3), PROCESS)
    net = jg.parametrize(lambda x, t, cond: jnp.tanh(x), PROCESS)
    x = jax.device_put(jnp.ones((len(jax.devices()), 4)), split)
    keys = jax.device_put(KEYS[: len(x)], split)

    @jax.jit
    def draw(keys, x):
        return jg.sample(keys, net, made.sampler, made.grid, x)[0]

    assert draw(keys, x).shape == x.shape
    text = draw.lower(keys, x).compile().as_text()
    assert not [name for name in ("all-", "collective") if name in text]


def test_a_table_is_of_a_grid_for_the_solver_and_process():
    for grid, match in (
        ([0.0, 0.5, 0.9], "grid increases"),
        ([0.9, 0.5, 0.5], "strictly monotonic"),
        ([80.0, 1.0, 0.0], "grid has times from 0 to 80"),
    ):
        with pytest.raises(ValueError, match=match):
            tabulate(jg.adams(2), grid, PROCESS)
    own = tabulate(jg.ddim(), [1, 0], jg.RectifiedFlow())  # whole numbers are times
    np.testing.assert_allclose([own.keep[0], own.weights[0, 0]], [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match=r"grid is .*; expected sampler.grid"):
        tabulate(own.sampler, [0.9, 0.0], jg.RectifiedFlow())
