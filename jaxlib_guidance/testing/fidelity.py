"""How far two sets of samples are apart, in the features of some network.

These are sums over whole sets, for evaluation. The features are the caller's: those of
a classifier that the sampler was not guided by.
"""

import numpy as np

from jaxlib_guidance.types import Array


def _features(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features have shapes {a.shape} and {b.shape}; expected [N, F] and [M, F]"
        )
    if min(len(a), len(b)) < 2:
        raise ValueError(f"got {len(a)} and {len(b)} samples; expected at least 2")
    return a, b


def frechet_distance(a: Array, b: Array) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.

    The Wasserstein-2 distance, squared, of the Gaussians fitted to the two sets; with
    Inception features it is the FID. Biased upwards by the finite samples, by more the
    fewer they are: compare only at equal counts.

    Args:
      a: Features ``[N, F]``.
      b: Features ``[M, F]``.

    Reference: Heusel et al., arXiv 1706.08500, eq. 6.
    """
    a, b = _features(a, b)
    cov_a, cov_b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b))
    # tr (C_a C_b)^(1/2) through the symmetric C_a^(1/2) C_b C_a^(1/2), whose
    # eigenvalues are the same and are real.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    gap = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: Array, b: Array) -> float:
    """Squared maximum mean discrepancy with the kernel ``(x . y / F + 1)^3``, unbiased.

    With Inception features it is the KID. Its mean is 0 when the laws agree, at any
    number of samples, so it can be negative.

    Args:
      a: Features ``[N, F]``.
      b: Features ``[M, F]``.

    Reference: Binkowski et al., arXiv 1801.01401, section 4.
    """
    a, b = _features(a, b)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
