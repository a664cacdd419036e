"""How far two sets of samples are apart, in the features of some network.

These are sums over whole sets, for evaluation. The features are the caller's: those of
a classifier that the sampler was not guided by.
"""

import numpy as np

from jaxlib_guidance.models import Classified
from jaxlib_guidance.types import Array


def _features(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features have shapes {x.shape} and {y.shape}; expected [N, F] and [M, F]"
        )
    if min(len(x), len(y)) < 2:
        raise ValueError(f"got {len(x)} and {len(y)} samples; expected at least 2")
    return x, y


def frechet_distance(a: Array, b: Array) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.

    The Wasserstein-2 distance, squared, of the Gaussians fitted to the two sets; with
    Inception features it is the FID. Biased upwards by the finite samples, by more the
    fewer they are: compare only at equal counts.

    Args:
      a: Features of the first set of samples ``[N, F]``, N from 2.
      b: Features of the second set of samples ``[M, F]``, M from 2.

    Reference: Heusel et al., arXiv 1706.08500, eq. 6.
    """
    x, y = _features(a, b)
    cov_a, cov_b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (x, y))
    # tr (C_a C_b)^(1/2) through the symmetric C_a^(1/2) C_b C_a^(1/2), whose
    # eigenvalues are the same and are real.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    gap = np.sum((x.mean(0) - y.mean(0)) ** 2)
    return float(gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: Array, b: Array) -> float:
    """Squared maximum mean discrepancy with the kernel ``(x . y / F + 1)^3``, unbiased.

    With Inception features it is the KID. Its mean is 0 when the distributions
    agree, at any number of samples, so it can be negative.

    Args:
      a: Features of the first set of samples ``[N, F]``, N from 2.
      b: Features of the second set of samples ``[M, F]``, M from 2.

    Reference: Binkowski et al., arXiv 1801.01401, section 4.
    """
    x, y = _features(a, b)

    def kernel(u, v):
        return (u @ v.T / u.shape[1] + 1) ** 3

    def within(u):
        k = kernel(u, u)
        return (k.sum() - np.trace(k)) / (len(u) * (len(u) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def judge_samples(
    judged: Classified, held_out: Classified, labels: Array | None = None
) -> dict[str, float]:
    """Samples against held-out data, as a classifier judges them.

    Args:
      judged: Logits and features that the classifier gives the samples.
      held_out: Logits and features that the classifier gives the held-out data.
      labels: Labels ``[N]`` that the samples were to have; None if there were none.

    Returns:
      "accuracy", how often the classifier agrees with ``labels`` (NaN without them);
      "confidence", its mean largest probability; "coverage", the exponential of the
      entropy of the predicted classes, which is their number when they are even; and
      "frechet" and "kernel", the distances of the features.
    """
    logits = np.asarray(judged.logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    share = np.bincount(chance.argmax(-1)) / len(chance)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)))
    right = np.nan if labels is None else np.mean(chance.argmax(-1) == labels)
    return {
        "accuracy": float(right),
        "confidence": float(chance.max(-1).mean()),
        "coverage": float(np.exp(entropy)),
        "frechet": frechet_distance(judged.features, held_out.features),
        "kernel": kernel_distance(judged.features, held_out.features),
    }
