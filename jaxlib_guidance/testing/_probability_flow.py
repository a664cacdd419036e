"""The probability flow of a Gaussian mixture, solved to ten digits: solvers' oracle.

Every process solves one ODE. In ``y = x / (alpha + sigma)`` and
``tau = sigma / (alpha + sigma)`` it reads ``dy/dtau = eps - x0``, regular from pure
noise (``tau = 1``) to data (``tau = 0``): one reference serves VP, VE and flow alike.
"""

from typing import Any

import numpy as np

from jaxlib_guidance.testing._mixtures import GaussianMixture, gaussian_mixture


def _rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def plane_mixture() -> GaussianMixture:
    """Three rotated Gaussians in the plane, variances .02 to .15, total std .87."""
    weights = np.array([0.5, 0.3, 0.2])
    means = np.array([[0.75, 0.55], [-1.0, 0.35], [-0.2, -1.35]])
    spreads = [(25, 0.15, 0.02), (-40, 0.12, 0.03), (70, 0.08, 0.02)]
    covs = [_rotation(a) @ np.diag([v, w]) @ _rotation(a).T for a, v, w in spreads]
    return _scaled(weights, means, np.array(covs))


def space_mixture(dimension: int = 16, seed: int = 0) -> GaussianMixture:
    """Three Gaussians with random axes, variances geometric from .01 to .5.

    Args:
      dimension: Number of dimensions.
      seed: Seed of the means and axes.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([0.5, 0.3, 0.2])
    means = rng.normal(size=(3, dimension))
    axes = np.linalg.qr(rng.normal(size=(3, dimension, dimension)))[0]
    values = np.geomspace(0.01, 0.5, dimension)
    return _scaled(weights, means, np.einsum("mde,e,mfe->mdf", axes, values, axes))


def _scaled(weights, means, covs, total=0.87):
    # Moves the means so that the mean is 0 and the average variance is total^2.
    means = means - weights @ means
    inner = np.einsum("m,mdd->", weights, covs) / means.shape[1]
    outer = np.einsum("m,md,md->", weights, means, means) / means.shape[1]
    return gaussian_mixture(weights, means * np.sqrt((total**2 - inner) / outer), covs)


def posterior_mean64(mixture, x, alpha, sigma):
    """`posterior_mean` in numpy and always in float64, for scalar alpha and sigma."""
    logs, means, values, axes = (
        np.asarray(leaf, np.float64)
        for leaf in (
            mixture.log_weights,
            mixture.means,
            mixture.variances,
            mixture.axes,
        )
    )
    # Two matrix products: many components in many dimensions are common here.
    many, dim = means.shape
    flat = axes.transpose(1, 0, 2).reshape(dim, many * dim)
    centres = np.einsum("md,mde->me", means, axes)
    z = (x @ flat).reshape(-1, many, dim) - alpha * centres
    spread = alpha**2 * values + sigma**2
    each = logs - 0.5 * np.sum(z**2 / spread + np.log(spread), axis=-1)
    share = np.exp(each - each.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    inner = (share[..., None] * (alpha * values / spread) * z).reshape(len(x), -1)
    return share @ means + inner @ flat.T


def exact_flow(
    mixture: GaussianMixture,
    x: Any,
    start: tuple[float, float],
    end: tuple[float, float] = (1.0, 0.0),
    rtol: float = 1e-10,
) -> np.ndarray:
    """Where the probability-flow ODE takes ``x``, by DOP853 in float64.

    Args:
      mixture: Distribution of x0, with positive variances.
      x: States ``[B, D]`` at ``start``.
      start: Coefficients ``(alpha, sigma)`` of ``x``.
      end: Coefficients ``(alpha, sigma)`` at which to stop; clean data by default.
      rtol: Relative tolerance of the integrator.

    Returns:
      States ``[B, D]`` at ``end``, float64.
    """
    from scipy.integrate import solve_ivp

    x = np.asarray(x, np.float64)

    def slope(tau, y):
        y = y.reshape(x.shape)
        x0 = posterior_mean64(mixture, y, 1 - tau, tau)
        # (y - x0) / tau is eps - x0; at tau = 0 the posterior mean is y itself.
        return ((y - x0) / max(tau, 1e-12)).ravel()

    tau, stop = (s / (a + s) for a, s in (start, end))
    solution = solve_ivp(
        slope,
        (tau, stop),
        (x / sum(start)).ravel(),
        method="DOP853",
        rtol=rtol,
        atol=1e-12,
    )
    if not solution.success:
        raise RuntimeError(solution.message)
    return sum(end) * solution.y[:, -1].reshape(x.shape)
