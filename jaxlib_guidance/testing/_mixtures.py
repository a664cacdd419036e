"""Gaussian mixtures: the exact denoiser, score, posterior and guided posterior.

For ``x0 ~ sum_m w_m N(mu_m, C_m)`` and ``x_t = alpha x0 + sigma eps`` everything that a
diffusion model approximates has a closed form: component ``m`` at time t is
``N(alpha mu_m, alpha^2 C_m + sigma^2 I)``, and conditioning on a component label or on
a noisy linear observation gives another mixture. Solvers, guidance and losses are
tested against these, and so can yours be.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    Denoised,
    Denoiser,
    Process,
    pytree_dataclass,
)


@pytree_dataclass
class GaussianMixture:
    """A mixture on ``R^D``. Build it with `gaussian_mixture`.

    Attributes:
      log_weights: Logarithms of the components' probabilities ``[M]``, normalised.
      means: Means of the components ``[M, D]``.
      variances: Eigenvalues of the covariances ``[M, D]``.
      axes: Eigenvectors of the covariances in columns ``[M, D, D]``.
    """

    log_weights: Array
    means: Array
    variances: Array
    axes: Array


def gaussian_mixture(weights: Any, means: Any, covs: Any) -> GaussianMixture:
    """The mixture ``sum_m weights_m N(means_m, covs_m)``.

    Args:
      weights: Weights of the components ``[M]``, positive; normalised here.
      means: Means of the components ``[M, D]``.
      covs: Covariances of the components ``[M, D, D]``, positive semi-definite.

    Raises:
      ValueError: Shapes do not fit, a weight is not positive, or a covariance is not
        symmetric or has a negative eigenvalue.
    """
    w, mu, c = (np.asarray(a, np.float64) for a in (weights, means, covs))
    if mu.ndim != 2 or w.shape != mu.shape[:1] or c.shape != (*mu.shape, mu.shape[1]):
        raise ValueError(
            f"weights {w.shape}, means {mu.shape}, covs {c.shape}; expected [M], "
            "[M, D] and [M, D, D]"
        )
    if not (w > 0).all() or not np.allclose(c, c.swapaxes(1, 2)):
        raise ValueError("weights must be positive and covs symmetric")
    values, vectors = np.linalg.eigh(c)
    if values.min() < -1e-9:
        raise ValueError(f"covs have a negative eigenvalue, {values.min()}")
    kind = jnp.result_type(float)
    return GaussianMixture(
        *(
            jnp.asarray(a, kind)
            for a in (np.log(w / w.sum()), mu, np.maximum(values, 0), vectors)
        )
    )


def _at(x, alpha, sigma):
    """States, those of numpy too, with one scale and one noise for each."""
    x = jnp.asarray(x)
    return x, *(
        jnp.broadcast_to(jnp.asarray(a, x.dtype), x.shape[:1]) for a in (alpha, sigma)
    )


def _project(mixture, x, alpha):
    """``U_m^T (x - alpha mu_m)``: offsets in the components' axes ``[B, M, D]``."""
    offset = x[:, None] - alpha[:, None, None] * mixture.means
    return jnp.einsum("bmd,mde->bme", offset, mixture.axes)


def component_log_density(
    mixture: GaussianMixture, x: Array, alpha: Any = 1.0, sigma: Any = 0.0
) -> Array:
    """``log w_m + log N(x; alpha mu_m, alpha^2 C_m + sigma^2 I)``, ``[B, M]``.

    Args:
      mixture: Distribution of x0.
      x: States ``[B, D]``.
      alpha: Scale of the data in ``x``, scalar or ``[B]``.
      sigma: Standard deviation of the noise in ``x``, scalar or ``[B]``.
    """
    x, alpha, sigma = _at(x, alpha, sigma)
    z = _project(mixture, x, alpha)
    spread = alpha[:, None, None] ** 2 * mixture.variances + sigma[:, None, None] ** 2
    each = -0.5 * (z**2 / spread + jnp.log(2 * jnp.pi * spread))
    return mixture.log_weights + jnp.sum(each, axis=-1)


def log_density(
    mixture: GaussianMixture, x: Array, alpha: Any = 1.0, sigma: Any = 0.0
) -> Array:
    """``log p_t(x)`` of the noised mixture, ``[B]``."""
    return jax.nn.logsumexp(component_log_density(mixture, x, alpha, sigma), axis=-1)


def posterior_mean(mixture: GaussianMixture, x: Array, alpha: Any, sigma: Any) -> Array:
    """``E[x0 | alpha x0 + sigma eps = x]``, ``[B, D]``.

    Per component ``mu + U diag(alpha v / (alpha^2 v + sigma^2)) U^T (x - alpha mu)``,
    averaged with the components' posterior probabilities.
    """
    x, alpha, sigma = _at(x, alpha, sigma)
    a, s = alpha[:, None, None], sigma[:, None, None]
    gain = a * mixture.variances / (a**2 * mixture.variances + s**2)
    z = _project(mixture, x, alpha)
    means = mixture.means + jnp.einsum("bme,mde->bmd", gain * z, mixture.axes)
    share = jax.nn.softmax(component_log_density(mixture, x, alpha, sigma), axis=-1)
    return jnp.einsum("bm,bmd->bd", share, means)


def score(mixture: GaussianMixture, x: Array, alpha: Any, sigma: Any) -> Array:
    """``grad log p_t(x)`` by Tweedie's formula, ``(alpha E[x0|x] - x) / sigma^2``."""
    x, alpha, sigma = _at(x, alpha, sigma)
    mean = posterior_mean(mixture, x, alpha, sigma)
    return (alpha[:, None] * mean - x) / sigma[:, None] ** 2


def exact_denoiser(mixture: GaussianMixture, process: Process) -> Denoiser:
    """The perfect network for this mixture and process.

    A condition ``cond [B]`` of component labels (-1 for none) gives the conditional
    denoiser; None gives the unconditional one. Samples may have any shape ``*S`` whose
    size is ``D``.
    """

    def apply(x, t, cond, *, control, capture):
        flat = x.reshape(x.shape[0], -1)
        t = jnp.broadcast_to(t, x.shape[:1])
        alpha, sigma = process.alpha(t), process.sigma(t)
        if cond is None:
            mean = posterior_mean(mixture, flat, alpha, sigma)
        else:
            mean = jax.vmap(
                lambda x, a, s, label: posterior_mean(
                    given_label(mixture, label), x[None], a, s
                )[0]
            )(flat, alpha, sigma, jnp.asarray(cond))
        return Denoised(mean.reshape(x.shape))

    return Denoiser(apply, process=process)


def draw_exact(mixture: GaussianMixture, key: Array, n: int) -> Array:
    """``n`` exact samples ``[n, D]``."""
    which, noise = jax.random.split(key)
    m = jax.random.categorical(which, mixture.log_weights, shape=(n,))
    z = jax.random.normal(noise, (n, mixture.means.shape[1]), mixture.means.dtype)
    scaled = jnp.sqrt(mixture.variances[m]) * z
    return mixture.means[m] + jnp.einsum("nde,ne->nd", mixture.axes[m], scaled)


def given_label(mixture: GaussianMixture, label: Any) -> GaussianMixture:
    """The distribution of x0 in one component, which may be traced; -1 means any."""
    hit = jnp.arange(mixture.log_weights.shape[0]) == label
    logs = jnp.where(hit | (label < 0), mixture.log_weights, -jnp.inf)
    return GaussianMixture(
        logs - jax.nn.logsumexp(logs), mixture.means, mixture.variances, mixture.axes
    )


def label_log_prob(
    mixture: GaussianMixture, x: Array, label: Any, alpha: Any, sigma: Any
) -> Array:
    """``log p(label | x_t = x)``: the exact noisy classifier, ``[B]``.

    Guidance by the energy ``-label_log_prob`` samples `given_label` exactly.
    """
    logs = jax.nn.log_softmax(component_log_density(mixture, x, alpha, sigma), axis=-1)
    label = jnp.broadcast_to(label, x.shape[:1])
    return jnp.take_along_axis(logs, label[:, None], axis=-1)[:, 0]


def given_observation(
    mixture: GaussianMixture, operator: Any, y: Any, noise: float
) -> GaussianMixture:
    """The distribution of x0 given ``y = A x0 + noise z``: a mixture again.

    ``K_m = C_m A^T (A C_m A^T + noise^2 I)^-1``, ``mu_m += K_m (y - A mu_m)``,
    ``C_m -= K_m A C_m``, ``log w_m += log N(y; A mu_m, A C_m A^T + noise^2 I)``.

    Args:
      mixture: The prior.
      operator: ``A [P, D]``.
      y: ``[P]``.
      noise: Standard deviation of the observation noise, positive.
    """
    a, y = np.asarray(operator, np.float64), np.asarray(y, np.float64)
    u, v = (np.asarray(p, np.float64) for p in (mixture.axes, mixture.variances))
    covs = np.einsum("mde,me,mfe->mdf", u, v, u)
    mu = np.asarray(mixture.means, np.float64)
    logs, means, posts = [], [], []
    for m in range(len(mu)):
        s = a @ covs[m] @ a.T + noise**2 * np.eye(len(y))
        residual = y - a @ mu[m]
        gain = np.linalg.solve(s, a @ covs[m]).T
        fit = residual @ np.linalg.solve(s, residual)
        logs.append(-0.5 * (fit + np.linalg.slogdet(2 * np.pi * s)[1]))
        means.append(mu[m] + gain @ residual)
        posts.append(covs[m] - gain @ a @ covs[m])
    logs = np.asarray(logs) + np.asarray(mixture.log_weights, np.float64)
    weights = np.exp(logs - logs.max())
    posts = np.stack(posts)
    return gaussian_mixture(
        weights, np.stack(means), (posts + posts.swapaxes(1, 2)) / 2
    )


def observation_log_prob(
    mixture: GaussianMixture,
    x: Array,
    operator: Any,
    y: Any,
    noise: float,
    alpha: Any,
    sigma: Any,
) -> Array:
    """``log p(y | x_t = x)`` for ``y = A x0 + noise z``: the exact likelihood, ``[B]``.

    Per component ``x0 | x_t`` is Gaussian, so ``y | x_t`` is a Gaussian mixture.
    Guidance by its negative samples `given_observation` exactly.
    """
    x, alpha, sigma = _at(x, alpha, sigma)
    a = jnp.asarray(operator, x.dtype)
    y = jnp.asarray(y, x.dtype)
    al, s = alpha[:, None, None], sigma[:, None, None]
    spread = al**2 * mixture.variances + s**2
    gain = al * mixture.variances / spread
    left = mixture.variances * s**2 / spread
    z = _project(mixture, x, alpha)
    means = mixture.means + jnp.einsum("bme,mde->bmd", gain * z, mixture.axes)
    visible = jnp.einsum("pd,mde->mpe", a, mixture.axes)
    cov = jnp.einsum("mpe,bme,mqe->bmpq", visible, left, visible)
    cov = cov + noise**2 * jnp.eye(a.shape[0], dtype=x.dtype)
    residual = y - jnp.einsum("pd,bmd->bmp", a, means)
    fit = jnp.einsum(
        "bmp,bmp->bm", residual, jnp.linalg.solve(cov, residual[..., None])[..., 0]
    )
    each = -0.5 * (fit + jnp.linalg.slogdet(2 * jnp.pi * cov)[1])
    share = jax.nn.log_softmax(component_log_density(mixture, x, alpha, sigma), axis=-1)
    return jax.nn.logsumexp(share + each, axis=-1)
