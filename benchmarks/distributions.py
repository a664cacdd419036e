"""Distributions of known score for `problems.py`: all are Gaussian mixtures.

Curves are mixtures of many thin Gaussians along them, so that the exact posterior mean
is at hand. Each function takes the standard deviation of the data, an average over the
dimensions, and returns a mixture of mean zero.
"""

import functools

import numpy as np

from jaxlib_guidance.testing import (
    GaussianMixture,
    gaussian_mixture,
    plane_mixture,
    space_mixture,
)


def _scaled(weights, means, covs, scale) -> GaussianMixture:
    """Mean 0 and average variance ``scale^2``, shape unchanged."""
    weights = np.asarray(weights) / np.sum(weights)
    means = means - weights @ means
    total = np.einsum("m,mdd->", weights, covs) + weights @ np.sum(means**2, axis=1)
    by = scale / np.sqrt(total / means.shape[1])
    return gaussian_mixture(weights, means * by, covs * by**2)


def _again(mixture, scale):
    covs = np.einsum("mde,me,mfe->mdf", mixture.axes, mixture.variances, mixture.axes)
    weights = np.exp(np.asarray(mixture.log_weights, np.float64))
    covs = covs.astype(np.float64)
    return _scaled(
        weights,
        np.asarray(mixture.means, np.float64),
        (covs + covs.swapaxes(1, 2)) / 2,
        scale,
    )


def _random(scale, seed, dim, components, variances):
    """Components of random means and axes; ``variances [components, dim]``."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(components, dim))
    axes = np.linalg.qr(rng.normal(size=(components, dim, dim)))[0]
    covs = np.einsum("mde,me,mfe->mdf", axes, variances, axes)
    return _scaled(rng.uniform(1, 2, components), means, covs, scale)


def _spread(low, high, dim, components):
    return np.tile(np.geomspace(low, high, dim), (components, 1))


def _along(points, width, scale):
    """Thin Gaussians along a curve ``[n, D]``, each as long as its piece of it."""
    step = np.diff(points, axis=0)
    middle = (points[1:] + points[:-1]) / 2
    thin = np.eye(points.shape[1]) * width**2
    covs = thin + 0.25 * step[:, :, None] * step[:, None, :]
    return _scaled(np.linalg.norm(step, axis=1), middle, covs, scale)


def _isotropic(points, width, scale, weights=None):
    covs = np.tile(np.eye(points.shape[1]) * width**2, (len(points), 1, 1))
    return _scaled(
        np.ones(len(points)) if weights is None else weights, points, covs, scale
    )


def thin2(scale):
    """Three thin Gaussians in the plane, of condition numbers 1e2, 1e3 and 1e4."""
    return _random(scale, 3, 2, 3, np.array([[0.3, 3e-3], [0.2, 2e-4], [0.2, 2e-5]]))


def needles(scale):
    """Four lines in the plane, of condition number 1e6."""
    return _random(scale, 11, 2, 4, np.tile([0.5, 5e-7], (4, 1)))


def ring(scale):
    """A circle of width 0.02."""
    u = np.linspace(0, 2 * np.pi, 121)
    return _along(np.stack([np.cos(u), np.sin(u)], 1), 0.02, scale)


def spiral(scale):
    """A spiral of two turns and width 0.03."""
    u = np.sqrt(np.linspace(0.05, 1, 161)) * 4 * np.pi
    return _along(np.stack([u * np.cos(u), u * np.sin(u)], 1) / 8, 0.03, scale)


def swiss_roll(scale):
    """A roll of one and a half turns and width 0.01."""
    u = 1.5 * np.pi * (1 + 2 * np.linspace(0, 1, 201))
    return _along(np.stack([u * np.cos(u), u * np.sin(u)], 1) / 10, 0.01, scale)


def moons(scale):
    """Two half circles of width 0.05 that face each other."""
    u = np.linspace(0, np.pi, 81)
    a = np.stack([np.cos(u), np.sin(u)], 1)
    b = np.stack([1 - np.cos(u), 0.5 - np.sin(u)], 1)
    points = np.concatenate([a, b])
    middle = (points[1:] + points[:-1]) / 2
    step = np.diff(points, axis=0)
    keep = np.arange(len(middle)) != len(a) - 1  # The jump from one to the other.
    covs = np.eye(2) * 0.05**2 + 0.25 * step[:, :, None] * step[:, None, :]
    return _scaled(np.ones(keep.sum()), middle[keep], covs[keep], scale)


def grid(scale):
    """A square of five by five modes."""
    side = np.linspace(-1, 1, 5)
    return _isotropic(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), 0.05, scale)


def checkerboard(scale):
    """The dark fields of a board of four by four, each of five by five Gaussians."""
    side = (np.arange(5) + 0.5) / 5
    field = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    points = np.concatenate([field + np.array(c) for c in corners])
    return _isotropic(points, 0.1, scale)


def knot4(scale):
    """A closed curve in four dimensions, of width 0.02."""
    u = np.linspace(0, 2 * np.pi, 100)
    curve = [np.cos(u), np.sin(u), 0.7 * np.cos(3 * u), 0.7 * np.sin(2 * u)]
    return _along(np.stack(curve, 1), 0.02, scale)


def subspace64(scale):
    """Four Gaussians on planes of 8 of 64 dimensions, of condition number 1e4."""
    values = np.concatenate([np.full(8, 1.0), np.full(56, 1e-4)])
    return _random(scale, 13, 64, 4, np.tile(values, (4, 1)))


DISTRIBUTIONS = {
    "plane": lambda scale: _again(plane_mixture(), scale),
    "space16": lambda scale: _again(space_mixture(), scale),
    "space4": lambda scale: _again(space_mixture(4, seed=5), scale),
    "thin2": thin2,
    "thin8": functools.partial(
        _random, seed=2, dim=8, components=3, variances=_spread(5e-7, 0.5, 8, 3)
    ),
    "ring": ring,
    "spiral": spiral,
    "grid": grid,
    "modes8": lambda scale: _isotropic(
        np.random.default_rng(8).normal(size=(40, 8)), 0.1, scale
    ),
    "wide64": functools.partial(
        _random, seed=4, dim=64, components=3, variances=_spread(0.01, 1.0, 64, 3)
    ),
    "five": functools.partial(
        _random, seed=17, dim=2, components=5, variances=np.tile([0.08, 0.01], (5, 1))
    ),
    "space8": functools.partial(
        _random, seed=18, dim=8, components=4, variances=_spread(0.02, 0.6, 8, 4)
    ),
    "needles": needles,
    "thin16": functools.partial(
        _random, seed=12, dim=16, components=3, variances=_spread(5e-5, 0.5, 16, 3)
    ),
    "swiss_roll": swiss_roll,
    "moons": moons,
    "checkerboard": checkerboard,
    "modes16": lambda scale: _isotropic(
        np.random.default_rng(16).normal(size=(100, 16)), 0.15, scale
    ),
    "knot4": knot4,
    "subspace64": subspace64,
}
