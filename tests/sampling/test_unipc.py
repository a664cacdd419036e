"""UniPC against its paper's linear system, solved here in float64."""

import jax
import numpy as np
import pytest

from jaxlib_guidance.diffusion import VPCosine, flow_grid, logsnr_grid
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import sample, unipc
from jaxlib_guidance.testing import exact_denoiser, plane_mixture, posterior_mean64


def coefficients(h, r, order):
    """``rho`` of arXiv 2302.04867, eq. 10 for data prediction with ``B_2``; and B."""
    hh = -h
    b_h = np.expm1(hh)
    phi, factorial = np.expm1(hh) / hh - 1, 1
    b = []
    for i in range(1, order + 1):
        b.append(phi * factorial / b_h)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    system = np.array([np.asarray(r) ** i for i in range(order)])
    return np.linalg.solve(system, np.array(b)), b_h


def reference(model, x, alphas, sigmas, order):
    """Algorithms 1 and 2 with the original's order at the start and at the end."""
    lam = np.log(alphas[:-1]) - np.log(sigmas[:-1])
    steps, outs, previous, used = len(alphas) - 1, [], None, 1
    for i in range(steps):
        out = model(x, alphas[i], sigmas[i])
        if i:
            h = lam[i] - lam[i - 1]
            r = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, used)]
            d = [(outs[-1 - k] - outs[-1]) / s for k, s in enumerate(r, 1)]
            rho, b_h = (
                ([0.5], np.expm1(-h)) if used == 1 else coefficients(h, [*r, 1.0], used)
            )
            x = sigmas[i] / sigmas[i - 1] * previous - alphas[i] * b_h * outs[-1]
            d.append(out - outs[-1])
            x -= alphas[i] * b_h * sum(p * q for p, q in zip(rho, d, strict=True))
        outs.append(out)
        used, previous = min(order, i + 1, steps - i), x
        if i == steps - 1:
            return alphas[-1] * out
        h = lam[i + 1] - lam[i]
        r = [(lam[i - k] - lam[i]) / h for k in range(1, used)]
        d = [(outs[-1 - k] - outs[-1]) / s for k, s in enumerate(r, 1)]
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * np.expm1(-h) * outs[-1]
        if used > 1:
            rho, b_h = (
                ([0.5], np.expm1(-h)) if used == 2 else coefficients(h, r, used - 1)
            )
            x -= alphas[i + 1] * b_h * sum(p * q for p, q in zip(rho, d, strict=True))
    return None


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", [flow_grid, logsnr_grid])
def test_is_the_papers_algorithm(order, spacing):
    process, mixture = VPCosine(), plane_mixture()
    grid = spacing(process, 8)
    z = jax.random.normal(jax.random.key(2), (16, 2))
    keys = sample_keys(jax.random.key(0), 16)
    got, _ = jax.jit(
        lambda grid, x: sample(
            keys, exact_denoiser(mixture, process), unipc(order), grid, x
        )
    )(grid, z)
    alphas, sigmas = (
        np.asarray(f(grid), np.float64) for f in (process.alpha, process.sigma)
    )
    want = reference(
        lambda x, a, s: posterior_mean64(mixture, x, a, s),
        np.asarray(z, np.float64),
        alphas,
        sigmas,
        order,
    )
    # Individual samples near a ridge amplify float32's rounding.
    assert np.median(np.linalg.norm(got - want, axis=1)) < 2e-4
    assert np.linalg.norm(got - want, axis=1).mean() < 2e-3


def test_bad_order():
    with pytest.raises(ValueError, match="order is 7"):
        unipc(7)
