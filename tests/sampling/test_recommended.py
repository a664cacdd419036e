"""The recommended sampler: high order where it helps, second where it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.sampling import adams
from jaxlib_guidance.sampling._newton import shrinking
from jaxlib_guidance.testing import check_sampler
from jaxlib_guidance.types import Denoised, Denoiser


def test_a_series_counts_while_it_shrinks():
    """Ratios 0, .3, .6 and 1.1, one a sample: all terms, all, a part, the first."""
    ratio = jnp.array([0.0, 0.3, 0.6, 1.1])
    direction = jnp.array([0.6, 0.8])
    terms = [ratio[:, None] ** k * direction for k in range(4)]
    part = (1 - 0.36) / (1 - 0.25)
    want = [1.0, 1.417, 1 + 0.6 * part + 0.36 * part**2 + 0.216 * part**3, 1.0]
    got = jnp.linalg.norm(shrinking(terms), axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # On the way to data the first term, too, needs a second that is smaller.
    got = jnp.linalg.norm(shrinking(terms, True), axis=1)
    np.testing.assert_allclose(got, [1.0, 1.417, want[2] * part, 0.0], rtol=1e-5)


def test_a_series_that_stops_and_one_that_never_began():
    """Zero terms are no reason to stop, and have finite gradients."""
    one, none = jnp.ones((1, 2)), jnp.zeros((1, 2))
    np.testing.assert_array_equal(shrinking([one, none, none]), one)
    # After nothing, something is infinitely larger.
    np.testing.assert_array_equal(shrinking([none, one]), none)
    slope = jax.grad(lambda a: jnp.sum(shrinking([a * one, a * none, a * none])))(1.0)
    assert slope == 2.0


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e-10, 1.0, 1e25])
def test_its_slope_does_not_depend_on_the_unit(size):
    """Squares of small terms vanish in float32 and those of large ones are infinite."""
    ratio = jnp.array([0.1, 0.7, 2.0])

    def summed(a):
        terms = [a * ratio[:, None] ** k * jnp.ones((3, 2)) for k in range(3)]
        return jnp.sum(shrinking(terms, True), axis=1) / size

    value, slope = jax.jvp(summed, (jnp.float32(size),), (jnp.float32(size),))
    np.testing.assert_allclose(slope, value, rtol=1e-4)
    back = jax.grad(lambda a: jnp.sum(summed(a) / 8))(jnp.float32(size))
    np.testing.assert_allclose(back * size, jnp.sum(value) / 8, rtol=1e-4)


def rough(process, size):
    """Says x0 = +-1 by turns, as the step number is even or odd: all error."""

    def apply(x, t, cond, **_):
        u = process.sigma(t) / (process.alpha(t) + process.sigma(t))
        sign = jnp.where(jnp.round(u * 20) % 2 == 0, 1.0, -1.0)
        return Denoised(jnp.broadcast_to(sign[:, None], x.shape), {})

    return Denoiser(apply, process=process)


def test_errors_of_a_network_are_not_amplified():
    """Fourth order makes 7 times more of an alternating error; this one does not."""
    process = jg.RectifiedFlow()
    grid, keys = jg.flow_grid(process, 20), jg.sample_keys(jax.random.key(0), 2)

    def end(sampler):
        x, _ = jg.sample(keys, rough(process, 3), sampler, grid, jnp.zeros((2, 3)))
        return float(jnp.abs(x).max())

    second, adaptive = end(adams(2)), end(adams(4, adaptive=True))
    assert adaptive < 1.05 * second
    assert adaptive < 0.3 * end(adams(4))


@pytest.mark.slow
def test_strong_guidance_of_a_learned_network():
    """Five steps under CFG 4, where a fixed fourth order overshoots."""
    model, params = jg.models.load_pretrained("digits")
    keys, labels = jg.sample_keys(jax.random.key(3), 10), jnp.arange(10)
    denoiser, term = model.denoiser(params), jg.cfg(4.0, null=10)

    def end(sampler, n):
        grid = jg.recommended(model.process, n).grid
        return jax.jit(
            lambda: jg.sample(
                keys, denoiser, sampler, grid, model.shape, labels, guidance=term
            )[0].reshape(10, -1)
        )()

    adaptive = adams(4, adaptive=True)
    truth = end(adaptive, 80)
    mine, fixed = (
        float(jnp.linalg.norm(end(sampler, 5) - truth, axis=1).mean())
        for sampler in (adaptive, adams(4))
    )
    assert mine < 0.6 * fixed


def test_grid_and_solver_by_scale_and_noise():
    process = jg.VPCosine()
    sampler, grid = jg.recommended(process, 10, scale=0.5)
    np.testing.assert_array_equal(grid, jg.flow_grid(process, 10, 0.75, rho=2.0))
    assert not sampler.stochastic
    noisy = jg.recommended(process, 10, stochastic=True, t_max=0.9)
    assert noisy.sampler.stochastic
    assert noisy.grid[0] == jnp.float32(0.9)


def test_scale_may_be_traced():
    net = jg.parametrize(lambda x, t, cond: jnp.tanh(x), jg.VPCosine())
    keys = jg.sample_keys(jax.random.key(0), 2)

    def end(scale):
        sampler, grid = jg.recommended(net.process, 3, scale=scale)
        return jg.sample(keys, net, sampler, grid, (4,))[0]

    np.testing.assert_allclose(jax.jit(end)(0.5), end(0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_pair_obeys_the_laws(stochastic):
    """On its own grid and guided; tests/laws has the solvers alone, by all laws."""
    sampler, grid = jg.recommended(jg.VPCosine(), 4, stochastic=stochastic)
    check_sampler(
        sampler,
        grid=grid,
        guidance=jg.cfg(0.7, jnp.int32(-1)),
        only=("batch", "nan", "one_compilation", "devices", "lowers"),
    )


class Unbounded:
    """A process of a user who left out the range of its times."""

    alpha = sigma = t_of_logsnr = staticmethod(lambda t: t)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: jg.recommended(jg.VE(), 0), ValueError, "n is 0"),
        (lambda: jg.recommended(jg.VE(), 5, scale=-1.0), ValueError, "scale is -1.0"),
        (lambda: jg.recommended("cosine", 5), TypeError, "process"),
        (lambda: jg.recommended(jg.VE(), 5, scale=np.inf), ValueError, "scale is inf"),
        # Of three steps two are within, which a scale each would fit.
        (
            lambda: jg.recommended(jg.VE(), 3, scale=np.ones(2)),
            ValueError,
            r"scale has shape \(2,\); expected \(\)",
        ),
        (lambda: jg.recommended(jg.VE(), 5, scale="1"), TypeError, "scale is '1'; exp"),
        (lambda: jg.recommended(jg.VE(), 5, t_max=0.0), ValueError, "t_max"),
        (lambda: jg.recommended(Unbounded(), 5), TypeError, "without t_min, t_max; ex"),
    ],
)
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
