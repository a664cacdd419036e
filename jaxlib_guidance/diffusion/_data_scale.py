"""The scale of data, measured: what time grids and solvers want to know of them."""

import numpy as np

from jaxlib_guidance.types import Array

# Of the root below, on the tuning half of benchmarks/problems.py: from .6 to .75 is
# about as good, and without the root, by the standard deviation, all is a third worse.
SHARE = 0.7


def data_scale(examples: Array | np.ndarray) -> float:
    """The scale of data that `recommended` wants, from examples.

    Seven tenths of ``sqrt(tr(C^2) / tr(C))`` with the covariance ``C`` of the data: the
    root of their mean variance, each direction weighted by its own share of it. A sample
    is decided where the noise is as large as *that*, and not as one entry: the
    neighbours of a pixel say the same thing, so pictures of 32x32 are decided at far
    more noise than their pixels' deviation tells. Data with independent entries of one
    variance have seven tenths of their standard deviation.

    Args:
      examples: Data ``[N, *S]`` in the units of the network, ``N`` at least 3; a few
        hundred tell it to a tenth, and the cost is a product of ``[N, N]`` or ``[D, D]``,
        whichever is smaller. Samples of the network serve where there are no data.

    Returns:
      The scale, a number in the units of the data.

    Raises:
      TypeError: ``examples`` are no real numbers.
      ValueError: Less than three, none that differ, or values that are not finite.

    ``tr(C^2)`` is the unbiased estimate for normal data: that of the sample covariance
    itself is too large by ``tr(C)^2 / N``, most of it where entries are many.
    """
    x = np.asarray(examples)
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise TypeError(f"examples have dtype {x.dtype}; expected real numbers")
    if x.ndim < 1 or len(x) < 3:
        shape = x.shape or "none"
        raise ValueError(f"examples have shape {shape}; expected [N, *S] with N >= 3")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("examples have values that are not finite")
    x -= x.mean(axis=0)
    inner = x @ x.T if len(x) < x.shape[1] else x.T @ x
    n = len(x) - 1
    variance, square = np.trace(inner) / n, np.sum((inner / n) ** 2)
    if not variance > 0:
        raise ValueError("examples are all alike, and have no scale")
    square = (square - variance**2 / n) * n**2 / ((n - 1) * (n + 2))
    # One direction for each example, all of one variance: nothing is known of it.
    if not square > 1e-12 * variance**2:
        raise ValueError(f"{len(x)} examples say nothing of their scale; give more")
    return float(SHARE * np.sqrt(square / variance))
