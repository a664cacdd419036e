"""At which noise levels to train: quantile functions of a uniform number.

Each distribution of ``t`` is given by its quantile function, ``u in [0, 1) -> t``, so
where ``u`` comes from is a separate choice: ``rng.uniform(keys)`` draws each sample's
own, `stratified` spreads a batch evenly, which lowers the variance of any of them.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxlib_guidance.diffusion._process import Process
from jaxlib_guidance.types import Array


def stratified(key: Array, index: Array, n: int) -> Array:
    """``u_i = frac(i / n + offset)``: evenly spread, each one uniform.

    Sample ``i``'s number depends on the step's key and on ``i`` alone, so that a batch
    may be cut among devices or micro-batches.

    Args:
      key: One key, the same for the whole batch; another each step.
      index: Positions in the global batch, any shape.
      n: Size of the global batch.

    Returns:
      Numbers in [0, 1), of ``index``'s shape.

    Raises:
      ValueError: ``n`` below 1.

    Reference: Kingma et al., arXiv 2107.00630, appendix I.1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected the size of the batch, at least 1")
    offset = jax.random.uniform(key)
    return jnp.mod(jnp.asarray(index, jnp.float32) / n + offset, 1.0)


def _bounded(process, t):
    return jnp.clip(t, process.t_min, process.t_max)


def uniform_t(process: Process, u: Array) -> Array:
    """``t`` uniform in ``[t_min, t_max]``.

    Args:
      process: The noise process.
      u: Uniform numbers, any shape.

    Returns:
      Times of ``u``'s shape.
    """
    return process.t_min + u * (process.t_max - process.t_min)


def log_normal_t(
    process: Process, u: Array, mean: float = -1.2, std: float = 1.2
) -> Array:
    """``log(sigma / alpha) ~ N(mean, std^2)``, clipped to ``[t_min, t_max]``.

    Args:
      process: The noise process.
      u: Uniform numbers, any shape.
      mean: Mean of the log noise ratio, EDM's ``P_mean``; EDM2 uses -0.4.
      std: Standard deviation of the log noise ratio, EDM's ``P_std``; EDM2 uses 1.0.

    Returns:
      Times of ``u``'s shape.

    Reference: Karras et al., arXiv 2206.00364, table 1; arXiv 2312.02696.
    """
    return _bounded(process, process.t_of_logsnr(-2 * (mean + std * ndtri(u))))


def logit_normal_t(
    process: Process, u: Array, mean: float = 0.0, std: float = 1.0
) -> Array:
    """``t = sigmoid(mean + std z)``, clipped to ``[t_min, t_max]``; for t in [0, 1].

    Args:
      process: The noise process.
      u: Uniform numbers, any shape.
      mean: Mean of the logit; positive leans to noise, negative to data.
      std: Standard deviation of the logit.

    Returns:
      Times of ``u``'s shape.

    Raises:
      ValueError: A process whose time does not end at 1.

    Reference: Esser et al., arXiv 2403.03206, eq. 19.
    """
    if process.t_max > 1:
        raise ValueError(
            f"logit_normal_t needs times in [0, 1]; the process has t_max "
            f"{process.t_max}. Use log_normal_t"
        )
    return _bounded(process, jax.nn.sigmoid(mean + std * ndtri(u)))
