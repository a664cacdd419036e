"""The scale of data, measured: what time grids and solvers want to know of them."""

import numpy as np

from jaxlib_guidance.types import Array

# Of the root below, on the tuning half of benchmarks/problems.py: from .6 to .75 is
# about as good, and without the root, by the standard deviation, all is a third worse.
SHARE = 0.7


def data_scale(examples: Array | np.ndarray) -> float:
    """The scale of data that `recommended` wants, from examples.

    Seven tenths of ``sqrt(tr(C^2) / tr(C))`` with the covariance ``C`` of the data: the
    root of the variance along a direction, averaged over directions by their shares of
    the whole. What a sample will be is decided where the noise is as large as that, and
    not as one entry is: neighbours of a pixel say what it says, so that pictures of
    32x32 are decided at far more noise than the deviation of their pixels tells.
    Independent entries of one variance have seven tenths of their standard deviation.

    Args:
      examples: Data ``[N, *S]`` in the units of the network, ``N`` at least 3; a few
        hundred tell it to a tenth. The cost is that of ``N`` inner products of all
        examples, or of all entries, whichever are fewer. Samples of the network serve
        where there are no data.

    Returns:
      The scale, a number in the units of the data.

    Raises:
      TypeError: ``examples`` are no real numbers.
      ValueError: Less than three, none that differ, or values that are not finite.

    Example:
      >>> import numpy as np
      >>> import jaxlib_guidance as jg
      >>> pixels = np.random.default_rng(0).normal(size=(500, 4, 4))
      >>> pictures = pixels.repeat(4, axis=1).repeat(4, axis=2)  # sixteen that agree
      >>> round(jg.data_scale(pixels), 1), round(jg.data_scale(pictures), 1)
      (0.7, 2.8)

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
