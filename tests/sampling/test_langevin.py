"""Langevin moves against their own closed-form stationary law, and the mixture's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VE, VPLinear, logsnr_grid
from jaxlib_guidance.guidance import cfg, chain
from jaxlib_guidance.sampling import (
    Sampler,
    Stepped,
    annealed_langevin,
    ddim,
    sample,
    stateless,
    with_corrector,
)
from jaxlib_guidance.sampling import _langevin as langevin
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture, plane_mixture
from jaxlib_guidance.transition import Transition

PLANE = plane_mixture()
VP = VPLinear()
KEYS = rng.sample_keys(jax.random.key(3), 4000)


def _stay(denoise, x, state, guidance_state, interval):
    return Stepped(Transition(x, jnp.zeros(())), x, state, guidance_state)


STAY = Sampler(stateless, _stay)


def stationary(mean, cov, alpha, sigma, snr):
    """The law that ``x + eps P^-1 (m - x) + sqrt(2 eps) z`` leaves as it is."""
    eps = 2 * (snr * sigma) ** 2
    p = alpha**2 * cov + sigma**2 * np.eye(len(cov))
    shrunk = np.eye(len(cov)) - eps / 2 * np.linalg.inv(p)
    return alpha * mean, p @ np.linalg.inv(shrunk)


def test_moves_have_the_closed_form_law(monkeypatch):
    mean, cov = np.array([0.5, -1.0]), np.array([[0.5, 0.2], [0.2, 0.15]])
    gaussian = gaussian_mixture([1.0], mean[None], cov[None])
    t, snr = 0.4, 0.5
    alpha, sigma = (float(f(jnp.float32(t))) for f in (VP.alpha, VP.sigma))
    keys = rng.sample_keys(jax.random.key(0), 20_000)

    def run():
        net, grid = exact_denoiser(gaussian, VP), jnp.array([t, t - 1e-6])
        # From pure noise: the moves must find the law themselves.
        x = 3 * rng.normal(keys, (2,))
        sampler = with_corrector(STAY, steps=60, snr=snr)
        return np.asarray(jax.jit(lambda: sample(keys, net, sampler, grid, x)[0])())

    x = run()
    exact_mean, exact_cov = stationary(mean, cov, alpha, sigma, snr)
    np.testing.assert_allclose(x.mean(0), exact_mean, atol=0.03)
    error = np.linalg.norm(np.cov(x.T) - exact_cov) / np.linalg.norm(exact_cov)
    assert error < 0.03
    move = langevin._langevin_move

    def too_noisy(*args):
        law = move(*args)
        return Transition(law.mean, 1.1 * law.std)

    monkeypatch.setattr(langevin, "_langevin_move", too_noisy)
    broken = np.cov(run().T)
    assert np.linalg.norm(broken - exact_cov) / np.linalg.norm(exact_cov) > 0.15


def test_corrector_mends_a_coarse_predictor(judge):
    grid = logsnr_grid(VP, 10)
    net = exact_denoiser(PLANE, VP)

    def law(sampler):
        run = jax.jit(lambda: sample(KEYS, net, sampler, grid, (2,))[0])
        return judge(PLANE, run())

    plain, mended = law(ddim()), law(with_corrector(ddim(), 5, 0.3))
    assert plain.distance > 0.15
    assert mended.distance < 0.7 * plain.distance
    assert abs(mended.gap) < 0.5 * abs(plain.gap)


def test_predictor_corrector_samples_the_law(judge):
    grid, net = logsnr_grid(VP, 50), exact_denoiser(PLANE, VP)
    sampler = with_corrector(ddim(), 2, 0.1)
    x = jax.jit(lambda: sample(KEYS, net, sampler, grid, (2,))[0])()
    law = judge(PLANE, x)
    assert law.distance < 0.06
    assert abs(law.gap) < 0.06


@pytest.mark.slow
def test_annealed_langevin_samples_the_law(judge):
    ve = VE(t_min=0.01, t_max=20.0)
    grid, net = logsnr_grid(ve, 50), exact_denoiser(PLANE, ve)
    sampler = annealed_langevin(40, 0.3)
    x = jax.jit(lambda: sample(KEYS, net, sampler, grid, (2,))[0])()
    law = judge(PLANE, x)
    assert law.distance < 0.07
    assert abs(law.gap) < 0.06


def test_wrapping():
    base = ddim()
    wrapped = with_corrector(base, 3)
    assert wrapped.evaluations == 4
    assert not wrapped.stochastic
    assert not wrapped.reversible
    assert annealed_langevin(7).evaluations == 7
    for make in (lambda n: with_corrector(base, n), annealed_langevin):
        with pytest.raises(ValueError, match="steps is 0"):
            make(0)
    # The corrector sees the guided score, and a zero step size is no corrector.
    grid, net = logsnr_grid(VP, 4), exact_denoiser(PLANE, VP)
    cond, term = jnp.zeros(3, jnp.int32), chain(cfg(2.0, jnp.int32(-1)))

    def run(sampler):
        return sample(KEYS[:3], net, sampler, grid, (2,), cond, guidance=term)[0]

    np.testing.assert_allclose(run(with_corrector(base, 1, 0.0)), run(base), atol=1e-6)
    assert float(jnp.abs(run(with_corrector(base, 1)) - run(base)).max()) > 1e-3
