"""Time travel keeps the law; inpainting keeps what is known and conditions the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VE, RectifiedFlow, VPLinear, logsnr_grid
from jaxlib_guidance.sampling import _recurrence as recurrence
from jaxlib_guidance.sampling import ddim, inpaint, invert, sample, with_recurrence
from jaxlib_guidance.sampling._prepare import make_interval
from jaxlib_guidance.sampling._recurrence import _renoise
from jaxlib_guidance.testing import (
    draw_exact,
    exact_denoiser,
    gaussian_mixture,
    given_observation,
    plane_mixture,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Denoiser

PLANE = plane_mixture()
VP = VPLinear()
KEYS = rng.sample_keys(jax.random.key(6), 4000)


@pytest.mark.parametrize("process", [VP, VE(), RectifiedFlow()])
@pytest.mark.parametrize("ends", [(0.9, 0.3), (1.0, 0.5), (0.2, 0.0)])
def test_renoise_composes_to_the_process(process, ends):
    t, t_next = (jnp.float32(e) for e in ends)
    interval = make_interval(process, 0, t, t_next, KEYS[:1])
    x0 = jnp.ones((1, 1))
    law = _renoise(process.alpha(t_next) * x0, interval)
    ratio = process.alpha(t) / process.alpha(t_next)
    np.testing.assert_allclose(law.mean, process.alpha(t) * x0, atol=1e-6)
    variance = (ratio * process.sigma(t_next)) ** 2 + law.std**2
    np.testing.assert_allclose(variance, process.sigma(t) ** 2, rtol=1e-5)


def test_recurrence_keeps_the_law(judge, monkeypatch):
    # Every try adds its own error of first order, hence the short steps.
    grid, net = logsnr_grid(VP, 100), exact_denoiser(PLANE, VP)

    def law():
        sampler = with_recurrence(ddim(), 2)
        run = jax.jit(lambda: sample(KEYS, net, sampler, grid, (2,), process=VP)[0])
        return judge(PLANE, run())

    kept = law()
    assert kept.distance < 0.06
    assert abs(kept.gap) < 0.06
    right = recurrence._renoise

    def too_noisy(*args):
        mean, std = right(*args)
        return Transition(mean, 1.1 * std)

    monkeypatch.setattr(recurrence, "_renoise", too_noisy)
    assert abs(law().gap) > 0.12


def test_repeats_and_window():
    grid, net = logsnr_grid(VP, 6), exact_denoiser(PLANE, VP)
    base = ddim(1.0)
    assert with_recurrence(base, 0) is base
    assert with_recurrence(base, 4).evaluations == 5

    @jax.jit
    def run(start, stop):
        sampler = with_recurrence(base, 2, start, stop)
        keep = lambda info: info.x_next  # noqa: E731
        return sample(KEYS[:4], net, sampler, grid, (2,), trace=keep, process=VP)[1]

    plain = sample(
        KEYS[:4], net, base, grid, (2,), trace=lambda i: i.x_next, process=VP
    )[1]
    np.testing.assert_allclose(run(2.0, 3.0), plain, atol=1e-6)
    # Only the third step: before it nothing changes, after it everything.
    third = run(grid[3], grid[2])
    np.testing.assert_allclose(third[:2], plain[:2], atol=1e-6)
    assert float(jnp.abs(third[2:] - plain[2:]).max(axis=(1, 2)).min()) > 1e-3


def test_one_copy_of_the_network_and_differentiable():
    calls = []
    exact = exact_denoiser(PLANE, VP)

    def run(scale, remat=False):
        def apply(x, t, cond, **options):
            calls.append(x.shape)
            out = exact.apply(x, t, cond, **options)
            return out._replace(x0=scale * out.x0)

        grid = logsnr_grid(VP, 5)
        sampler = with_recurrence(ddim(0.5), 2)
        x, _ = sample(
            KEYS[:2], Denoiser(apply), sampler, grid, (2,), remat=remat, process=VP
        )
        return jnp.sum(x)

    jax.jit(run).lower(jnp.float32(1))
    assert len(calls) == 1
    both = jax.jit(jax.vmap(run))(jnp.array([0.99, 1.01]))
    slope = jax.jit(jax.grad(lambda s: run(s, remat=True)))(jnp.float32(1))
    np.testing.assert_allclose(slope, (both[1] - both[0]) / 0.02, rtol=0.02)


GAUSSIAN = gaussian_mixture([1.0], [[0.3, -0.2]], [[[0.5, 0.4], [0.4, 0.5]]])


@pytest.mark.slow
def test_inpainting_conditions_the_rest():
    source = jnp.broadcast_to(jnp.array([1.2, 9.9]), (4000, 2))
    known = jnp.array([1.0, 0.0])
    exact = given_observation(GAUSSIAN, [[1.0, 0.0]], [1.2], 1e-3)
    grid, net = logsnr_grid(VP, 80), exact_denoiser(GAUSSIAN, VP)

    def run(repeats):
        sampler = with_recurrence(inpaint(ddim(1.0), source, known), repeats)
        return jax.jit(lambda: sample(KEYS, net, sampler, grid, (2,), process=VP)[0])()

    alone, again = run(0), run(12)
    for x in (alone, again):
        np.testing.assert_array_equal(x[:, 0], source[:, 0])
    target = float(exact.means[0, 1])
    off = [abs(float(x[:, 1].mean()) - target) for x in (alone, again)]
    assert off[1] < 0.04
    assert off[1] < off[0] / 2
    variance = float(exact.variances.max())
    assert abs(float(again[:, 1].var()) - variance) < 0.15 * variance


def test_fixed_noise_follows_the_inversion():
    # Everything known but one coordinate, from inverted noise: the source comes back.
    data = draw_exact(PLANE, jax.random.key(7), 8)
    grid = logsnr_grid(VP, 40)
    net = exact_denoiser(PLANE, VP)

    @jax.jit
    def run():
        start = invert(KEYS[:8], net, grid, data, iterations=8, process=VP).x
        found = []
        for noise in ("fixed", "fresh"):
            sampler = inpaint(ddim(), data, jnp.array([1.0, 0.0]), noise)
            found.append(sample(KEYS[:8], net, sampler, grid, start, process=VP)[0])
        return found

    fixed, fresh = (float(jnp.abs(x - data).mean()) for x in run())
    assert fixed < 0.03
    assert fixed < 0.8 * fresh


def test_bad_arguments():
    source = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="repeats is -1"):
        with_recurrence(ddim(), -1)
    with pytest.raises(ValueError, match="known has shape"):
        inpaint(ddim(), source, jnp.ones(2))
    with pytest.raises(ValueError, match="noise is 'none'"):
        inpaint(ddim(), source, jnp.ones(3), "none")
    with pytest.raises(ValueError, match="source has shape"):
        sample(
            KEYS[:2],
            exact_denoiser(PLANE, VP),
            inpaint(ddim(), source, jnp.ones(3)),
            logsnr_grid(VP, 3),
            (2,),
            process=VP,
        )
