import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg

PROCESS = jg.VPCosine()
N = 10


def run(counter, guidance, sampler=None, grid=None, batch=2, **options):
    """Final samples; ``counter.rows`` tells what each segment evaluates."""
    counter.rows.clear()
    grid = jg.uniform_grid(PROCESS, N) if grid is None else grid
    keys = jg.sample_keys(jax.random.key(0), batch)
    cond = jnp.arange(batch)
    return jg.sample(
        keys,
        counter.denoiser,
        sampler or jg.ddim(),
        grid,
        (4,),
        cond,
        guidance=guidance,
        process=PROCESS,
        **options,
    )[0]


TERM = jg.cfg(2.0, 5)


def masked(inside):
    """The same window as a schedule of ones and zeros, which evaluates everywhere."""
    return jg.scheduled(TERM, jnp.asarray(inside, jnp.float32))


@pytest.mark.parametrize(
    ("window", "rows"),
    [
        ((0.2, 0.5), [2, 4, 2]),
        ((0.0, 0.5), [4, 2]),
        ((0.5, 1.0), [2, 4]),
        ((0.0, 1.0), [4]),
        ((0.29, 0.31), [2, 4, 2]),
        ((0.21, 0.22), [2]),
    ],
)
def test_a_known_window_costs_nothing_outside(window, rows, counter):
    """The planner's promise, and the same numbers as a mask."""
    low, high = int(window[0] * N + 1e-6), int(window[1] * N + 1e-6)
    x = run(counter, jg.during(TERM, *window))
    assert counter.rows == rows
    steps = np.arange(N)
    expected = run(counter, masked((steps >= low) & (steps < high)))
    assert counter.rows == [4]
    np.testing.assert_allclose(x, expected, atol=2e-6)
    x = run(counter, jg.during(TERM, *(jnp.float32(w) for w in window)))
    np.testing.assert_allclose(x, expected, atol=2e-6)


def test_traced_bounds_are_masked(counter):
    fixed = run(counter, jg.during(TERM, 0.2, 0.5))
    traced = jax.jit(lambda a, b: run(counter, jg.during(TERM, a, b)))(0.2, 0.5)
    assert counter.rows == [4]
    np.testing.assert_allclose(traced, fixed, atol=2e-6)
    each = jnp.array([0.2, 0.0]), jnp.array([0.5, 1.0])
    mixed = run(counter, jg.during(TERM, *each))
    np.testing.assert_allclose(mixed[0], fixed[0], atol=2e-6)
    np.testing.assert_allclose(mixed[1], run(counter, jg.chain(TERM))[1], atol=2e-6)


def test_numbers_stay_known_through_jit(counter):
    """A chain that is an argument of jit keeps its segments and its null."""
    guidance = jg.chain(jg.during(TERM, 0.2, 0.5), jg.during(jg.cfg(1.0, 5), 0.4, 0.6))
    x = jax.jit(lambda guidance: run(counter, guidance))(guidance)
    assert counter.rows == [2, 4, 4, 4, 2]
    np.testing.assert_allclose(x, run(counter, guidance), atol=2e-6)


def test_windows_that_meet_and_that_overlap(counter):
    """CFG in the first half, an energy in the second, both between 0.4 and 0.6."""
    energy = jg.energy(lambda x0, ctx: jnp.sum(x0**2, axis=-1), 0.1)
    run(counter, jg.chain(jg.during(TERM, 0, 0.5), jg.during(energy, 0.5, 1)))
    assert counter.rows == [4, 2]
    run(counter, jg.chain(jg.during(TERM, 0, 0.6), jg.during(energy, 0.4, 1)))
    assert counter.rows == [4, 2, 2, 2]  # The middle has two calls.
    run(counter, jg.during(jg.chain(jg.during(TERM, 0, 0.5), energy), 0.0, 0.3))
    assert counter.rows == [2, 2, 2]


def test_units(counter):
    grid = jg.karras_grid(PROCESS, N, t_max=0.99)
    t = np.asarray(grid[:-1])
    sigma, alpha = (np.asarray(f(grid[:-1])) for f in (PROCESS.sigma, PROCESS.alpha))
    levels = {"t": t, "sigma": sigma / alpha, "logsnr": 2 * np.log(alpha / sigma)}
    for unit, level in levels.items():
        low, high = sorted((float(level[3]), float(level[6])))
        x = run(counter, jg.during(TERM, low, high, unit=unit), grid=grid)
        inside = (level > low) & (level <= high)
        assert inside.sum() == 3
        assert counter.rows == [2, 4, 2]
        np.testing.assert_allclose(
            x, run(counter, masked(inside), grid=grid), rtol=1e-4, atol=1e-5
        )
    traced = jax.jit(lambda g: run(counter, jg.during(TERM, low, high, unit), grid=g))
    np.testing.assert_allclose(traced(grid), x, rtol=1e-4, atol=1e-5)
    assert counter.rows == [4]  # The times of a traced grid are not known.


class Counts:
    """A term that counts its updates for each sample."""

    def branches(self, ctx):
        return {}

    def init(self, x):
        return jnp.zeros(x.shape[:1])

    def update(self, delta, evals, state, ctx):
        return delta, state + 1


@pytest.mark.parametrize("traced", [False, True])
def test_memory_rests_outside_the_window(traced, counter, context):
    bounds = (jnp.float32(0.2), jnp.float32(0.5)) if traced else (0.2, 0.5)
    guidance = jg.during(jg.chain(Counts(), jg.during(Counts(), 0.3, 0.6)), *bounds)
    steered = jg.guided(counter.denoiser, guidance)
    x = jnp.zeros((2, 4))
    state = steered.init(x)
    for start, stop, part in steered.segments(PROCESS, None, N):
        for step in range(start, stop):
            ctx = context(PROCESS, x, 0.5, jnp.arange(2), step=step, steps=N)
            _, state = part(ctx, state)
    np.testing.assert_array_equal(jax.tree.leaves(state), [[3, 3], [2, 2]])


def test_a_schedule_multiplies(counter):
    values = jnp.linspace(0.0, 1.0, N)
    x = run(counter, jg.scheduled(TERM, values))
    by_function = jg.scheduled(jg.cfg(1.0, 5), lambda ctx: 2.0 * values[ctx.step])
    np.testing.assert_allclose(x, run(counter, by_function), atol=1e-6)
    each = jg.scheduled(TERM, lambda ctx: jnp.array([0.0, 1.0]))
    ends = run(counter, each)
    np.testing.assert_allclose(ends[0], run(counter, jg.chain())[0], atol=1e-6)
    np.testing.assert_allclose(ends[1], run(counter, jg.chain(TERM))[1], atol=1e-6)


def test_a_schedule_is_learnable(counter):
    """Its gradient against finite differences, also with rematerialised steps."""

    def loss(values, remat):
        return jnp.sum(run(counter, jg.scheduled(TERM, values), remat=remat) ** 2)

    values = jnp.linspace(0.2, 1.0, N)
    loss = jax.jit(loss, static_argnums=1)
    slope = jax.grad(loss)(values, False)
    np.testing.assert_allclose(
        jax.grad(loss)(values, True), slope, rtol=1e-4, atol=1e-6
    )
    for i in (0, 4, N - 1):
        step = 0.05 * jax.nn.one_hot(i, N)
        difference = (loss(values + step, False) - loss(values - step, False)) / 0.1
        np.testing.assert_allclose(slope[i], difference, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jg.during(TERM, 0.5, 0.5), "start 0.5 and stop 0.5"),
        (lambda: jg.during(TERM, 0, 1, unit="steps"), "unit is 'steps'"),
        (lambda: jg.scheduled(TERM, jnp.ones((2, 3))), r"w_t has shape \(2, 3\)"),
        (lambda: jg.scheduled(TERM, 0.5), r"w_t has shape \(\)"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_that_do_not_fit(counter, context, guided):
    with pytest.raises(ValueError, match="3 values; expected one for each of the 10"):
        run(counter, jg.scheduled(TERM, jnp.ones(3)))
    with pytest.raises(ValueError, match=r"w_t has shape \(3,\)"):
        run(counter, jg.scheduled(TERM, lambda ctx: jnp.ones(3)))
    with pytest.raises(ValueError, match=r"during's start has shape \(3,\)"):
        run(counter, jg.during(TERM, jnp.zeros(3), 1.0))
    adaptive = context(PROCESS, jnp.zeros((2, 4)), 0.5, jnp.arange(2), steps=None)
    for term in (jg.during(TERM, 0.0, 0.5), jg.scheduled(TERM, jnp.ones(3))):
        with pytest.raises(ValueError, match="adaptive solver"):
            guided(term, counter.denoiser, adaptive)
    inside, _ = guided(jg.during(TERM, 0.4, 0.6, "t"), counter.denoiser, adaptive)
    always, _ = guided(TERM, counter.denoiser, adaptive)
    np.testing.assert_array_equal(inside, always)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 500), "stop is 500; expected a fraction of the steps"),
        ((-0.1, 0.5), "start is -0.1; expected a fraction"),
        ((0.0, np.array([0.5, 1.5])), "stop is .*1.5.*; expected a fraction"),
        ((0.2, np.nan), "stop is nan; expected no NaN"),
        ((-2.0, -1.0, "t"), "stop is -1.0; expected a t above 0"),
        ((-1.0, 0.0, "sigma"), "stop is 0.0; expected a sigma above 0"),
    ],
)
def test_windows_outside_the_trajectory_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        jg.during(TERM, *bounds)


def test_windows_in_logsnr_may_be_negative():
    assert jg.during(TERM, -3.0, -1.0, "logsnr").terms
