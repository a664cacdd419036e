"""Stiffness: eigenvalues of linear systems, and the known flow of normal data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import flow_stiffness, stiffness, stiffness_grid
from jaxlib_guidance.types import Denoiser

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype(np.float32)


def test_on_a_line_it_is_the_absolute_slope():
    x = jnp.array([[1.0], [-3.0], [200.0]])
    for slope, step in ((-2.5, 1.0), (0.75, 0.125), (-30.0, 4.0)):
        found = stiffness(lambda x, slope=slope: slope * x + 1, x, step)
        np.testing.assert_allclose(found, abs(slope), rtol=1e-5)


def test_of_a_linear_system_it_is_the_eigenvalue_that_dominates():
    values, axes = np.array([-1.5, 0.4, -0.2]), np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    matrix = jnp.asarray(axes * values @ axes.T, jnp.float32)
    f = lambda x: x @ matrix.T  # noqa: E731
    along = stiffness(f, jnp.asarray(axes.T, jnp.float32))
    np.testing.assert_allclose(along, np.abs(values), rtol=1e-4)
    # Anywhere else the weighted root of squares, and along the path ever more the
    # largest: 1 - 3 * 1.5 is -3.5, the others 2.2 and .4.
    wide = X.astype(np.float64) @ (axes * values)
    want = np.linalg.norm(wide * values, axis=1) / np.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(stiffness(f, X, 3.0), want, rtol=1e-4)
    x = X.astype(np.float64)
    for _ in range(30):
        x = x + 3 * x @ np.asarray(matrix, np.float64)
        x = x / np.abs(x).max()
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(stiffness(f, x, 3.0), 1.5, rtol=1e-4)


def test_scales_of_the_state_of_the_map_and_of_the_step():
    f = lambda x: jnp.tanh(x @ X[:3]) - x  # noqa: E731

    @jax.jit
    def measured(x, steps):
        return (
            stiffness(f, x, 0.6),
            stiffness(lambda x: 7 * f(x / 7), 7 * x, 0.6),
            stiffness(lambda x: 3 * f(x), x, 0.2),
            stiffness(f, x, steps),
            # Squares of these leave float32.
            stiffness(lambda x: 1e25 * f(x / 1e25), 1e25 * x, 0.6),
            stiffness(lambda x: f(x * 1e25) / 1e25, x / 1e25, 0.6),
        )

    want, scaled, faster, each, huge, tiny = measured(
        X, np.array([0.6, 0.1, 0.6, 0.6], "f4")
    )
    np.testing.assert_allclose(scaled, want, rtol=1e-4)
    np.testing.assert_allclose(faster, 3 * want, rtol=1e-4)
    np.testing.assert_allclose(huge, want, rtol=1e-4)
    np.testing.assert_allclose(tiny, want, rtol=1e-4)
    np.testing.assert_allclose(each[::2], want[::2], rtol=1e-5)
    assert abs(each[1] / want[1] - 1) > 0.01
    # A bound from below on the Lipschitz constant along the step.
    norm = np.linalg.norm(X[:3], 2)
    assert (want <= 1 + norm).all()


def test_then_is_the_velocity_where_the_step_ends():
    f, g = (lambda x: 2 * x), (lambda x: x + 1)
    x = jnp.array([[1.0, 2.0]])  # f = (2, 4), after it x is (2, 4) and g (3, 5)
    found = stiffness(f, x, 0.5, then=g)
    np.testing.assert_allclose(found, np.sqrt(2) / (0.5 * np.sqrt(20)), rtol=1e-6)


def test_samples_are_alone_and_rest_is_0():
    f = lambda x: jnp.sin(3 * x)  # noqa: E731
    x = X.copy()
    x[1] = 0

    @jax.jit
    def measured(x):
        whole, part = stiffness(f, x), stiffness(f, x[2:])
        images = stiffness(f, x.reshape(4, 3, 1, 1))
        slope = jax.grad(lambda a: stiffness(lambda x: jnp.sin(a * x), x).sum())(3.0)
        nobody = stiffness(f, x[:0])
        # Who rests, and then is not known, is not known.
        lost = stiffness(lambda x: 0 * x, x, then=lambda x: x / x)
        return whole, part, images, slope, nobody, lost, stiffness(lambda x: x / x, x)

    found, part, images, slope, nobody, lost, unknown = measured(x)
    assert found.shape == (4,)
    assert found[1] == 0
    assert (found[2:] > 0).all()
    np.testing.assert_allclose(found[2:], part, rtol=1e-6)
    np.testing.assert_allclose(images, found, rtol=1e-6)
    assert np.isfinite(slope)
    assert np.isnan(unknown[1])
    assert nobody.shape == (0,)
    np.testing.assert_array_equal(np.isnan(lost), np.arange(4) == 1)


def test_half_precision_measures_in_float32():
    f = lambda x: 0.5 - jnp.tanh(x)  # noqa: E731
    measured = jax.jit(lambda x: stiffness(f, x))
    want = measured(X)
    for kind, rtol in ((jnp.float16, 5e-3), (jnp.bfloat16, 5e-2)):
        found = measured(X.astype(kind))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, want, rtol=rtol)
    # Squares of 300 are beyond float16.
    large = jnp.full((1, 50), 300, jnp.float16)
    np.testing.assert_allclose(stiffness(lambda x: -0.5 * x, large), 0.5)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((jnp.tanh, [1.0]), TypeError, "x is a list"),
        ((jnp.tanh, jnp.arange(3)), TypeError, "x has dtype int32"),
        ((jnp.tanh, jnp.float32(1)), ValueError, r"x has shape \(\)"),
        ((X, X), TypeError, "f is array"),
        ((jnp.tanh, X, 0.0), ValueError, "step is 0.0; expected a finite number"),
        ((jnp.tanh, X, np.ones(3)), ValueError, r"step has shape \(3,\).*\(4,\)"),
        ((lambda x: x[:, :2], X), ValueError, r"f returns shape \(4, 2\)"),
        ((lambda x: (x, {}), X), TypeError, "what f returns is a tuple"),
        ((lambda x: x.astype(complex), X), TypeError, "f returns dtype complex64"),
        ((lambda x, t: x, X), TypeError, r"f takes \(x, t\)"),
    ],
)
def test_what_is_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        stiffness(*arguments)


def test_what_then_is_refused_for():
    with pytest.raises(TypeError, match="then is 3"):
        stiffness(jnp.tanh, X, then=3)
    with pytest.raises(ValueError, match=r"then returns shape \(4,\)"):
        stiffness(jnp.tanh, X, then=lambda x: x[:, 0])


def flow_time(process, t):
    alpha, sigma = (
        np.asarray(f(t), np.float64) for f in (process.alpha, process.sigma)
    )
    return sigma / (alpha + sigma)


def normal(process, scale, mean=0.0):
    """The exact denoiser of normal data."""

    def predict(x, t, cond):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        gain = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return jg.parametrize(predict, process)


@pytest.mark.parametrize("process", [jg.VPCosine(), jg.RectifiedFlow(), jg.VE()])
def test_the_flow_of_normal_data(process):
    """In ``y`` and ``tau`` it is ``y' = m(tau) y``: by numpy, step after step."""
    scale = 0.5
    grid = jg.logsnr_grid(process, 6, final_zero=False)
    found = jax.jit(lambda x: flow_stiffness(normal(process, scale), x, grid))(X)
    tau = flow_time(process, grid)
    slope = (tau - (1 - tau) * scale**2) / (tau**2 + (1 - tau) ** 2 * scale**2)
    h = np.diff(tau)
    want = np.abs(slope[1:] * (1 + h * slope[:-1]) - slope[:-1])
    want /= np.abs(h * slope[:-1])
    assert found.shape == (6, 4)
    np.testing.assert_allclose(found, np.repeat(want[:, None], 4, 1), rtol=2e-3)


def test_straight_paths_are_not_stiff():
    """Of data that are one point every path is a line, in every process."""
    process = jg.VPCosine()
    grid = jg.logsnr_grid(process, 5, t_min=0.1, final_zero=False)
    point = jg.parametrize(lambda x, t, cond: jnp.full_like(x, 0.3), process)
    found = jax.jit(lambda x: flow_stiffness(point, x, grid))(X)
    np.testing.assert_allclose(found, 0, atol=1e-4)


def test_what_a_flow_is_refused_for():
    process = jg.VPCosine()
    good, x = normal(process, 1.0), jnp.asarray(X)
    for arguments, kind, message in (
        ((jnp.tanh, x, [0.5, 0.1]), TypeError, "denoiser is"),
        ((Denoiser(good.apply), x, [0.5, 0.1]), ValueError, "denoiser has no process"),
        ((good, [1.0], np.array([0.5, 0.1])), TypeError, "x is a list"),
        (
            (good, x.astype(complex), np.array([0.5, 0.1])),
            TypeError,
            "x has dtype complex64",
        ),
        ((good, jnp.float32(1), np.array([0.5, 0.1])), ValueError, "x has shape"),
        ((good, x, np.array([0.5])), ValueError, r"grid has shape \(1,\)"),
        ((good, x, np.array([0.1, 0.5])), ValueError, "grid goes from 0.1 to 0.5"),
        ((good, x, np.array([0.5, 0.0])), ValueError, "end above 0"),
        ((good, x, np.array([500, 1])), ValueError, "grid has times from 1 to 500"),
        ((good, x, np.array([0.5, 0.1]), x[:3]), ValueError, r"cond has shape \(3,"),
    ):
        with pytest.raises(kind, match=message):
            flow_stiffness(*arguments)


@pytest.mark.parametrize("process", [jg.VPCosine(), jg.VE()])
def test_a_grid_is_even_where_stiffness_is_and_geometric_where_it_is_as_one_over(
    process,
):
    fine = jg.logsnr_grid(process, 200, final_zero=False)
    first, last = flow_time(process, fine[jnp.array([0, -1])])
    for constant in (0.0, 3.0):  # Of straight paths every grid is as good.
        grid = stiffness_grid(process, fine, np.full(200, constant), 5)
        assert grid.shape == (6,)
        assert grid[0] == fine[0]
        assert grid[-1] == 0
        want = first + (last - first) * np.arange(5) / 5
        np.testing.assert_allclose(flow_time(process, grid[:-1]), want, rtol=1e-3)
    # Exactly 1 / tau^2 as a mean over each short step, of two samples by their mean.
    tau = flow_time(process, fine)
    root = np.log(tau[:-1] / tau[1:]) / (tau[:-1] - tau[1:])
    grid = stiffness_grid(process, fine, np.outer(root**2, [0.5, 1.5]), 4)
    want = first * (last / first) ** (np.arange(4) / 4)
    np.testing.assert_allclose(flow_time(process, grid[:-1]), want, rtol=1e-2)


def test_its_steps_err_alike():
    """Of the flow of normal data, by exact single steps of DDIM."""
    process, scale = jg.RectifiedFlow(), 0.2
    fine = jg.logsnr_grid(process, 300, t_min=0.02, final_zero=False)
    gain = lambda t: (t - (1 - t) * scale**2) / (t**2 + (1 - t) ** 2 * scale**2)  # noqa: E731
    t = np.asarray(fine, np.float64)
    first, h = gain(t[:-1]), np.diff(t)
    measured = np.abs((gain(t[1:]) * (1 + h * first) - first) / (h * first))

    def errors(grid):
        t = np.asarray(grid, np.float64)[:-1]
        size = np.sqrt(t**2 + (1 - t) ** 2 * scale**2)
        one = 1 + np.diff(t) * gain(t[:-1])
        return np.abs(one - size[1:] / size[:-1]) / np.abs(gain(t[:-1]))

    made = errors(stiffness_grid(process, fine, measured, 40))
    even = errors(jg.uniform_grid(process, 40))
    assert made.max() / made.min() < 2.5
    assert even.max() / even.min() > 20
    assert made.sum() < even.sum()


@pytest.mark.parametrize(
    ("grid", "found", "n", "message"),
    [
        ([0.5, 0.1], [1.0], 0, "n is 0; expected a whole number"),
        ([0.5, 0.1], [1.0, 2.0], 3, r"stiffness has shape \(2,\); expected \(1,\)"),
        ([0.5, 0.1], [-1.0], 3, "negative or not finite"),
        ([0.5, 0.1], [np.nan], 3, "negative or not finite"),
        ([0.5, 0.0], [1.0], 3, "end above 0"),
        ([0.5, 0.1], [1.0], 3, "n is 3; expected at most 1"),
    ],
)
def test_what_a_grid_is_refused_for(grid, found, n, message):
    with pytest.raises(ValueError, match=message):
        stiffness_grid(jg.VPCosine(), np.array(grid), np.array(found), n)


def test_a_grid_is_made_of_known_numbers():
    make = lambda s: stiffness_grid(jg.VPCosine(), np.array([0.5, 0.1]), s, 3)  # noqa: E731
    with pytest.raises(ValueError, match="stiffness is traced"):
        jax.eval_shape(make, jnp.ones(1))
    made = lambda top: stiffness_grid(  # noqa: E731
        jg.VPLinear(beta_max=top), np.array([0.5, 0.1]), np.ones(1), 1
    )
    with pytest.raises(ValueError, match="process is traced"):
        jax.eval_shape(made, 20.0)
