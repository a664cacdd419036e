"""A sparse alternative to the softmax."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention._control import Edit
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.types import Array, at_least_float32


def entmax15(logits: Array) -> Array:
    """1.5-entmax over the last axis: ``p_i = max(l_i / 2 - tau, 0)^2`` that sums to 1.

    Between softmax and sparsemax: keys far below the best get exactly 0.

    Args:
      logits: Logits ``l [..., M]``; ``-inf`` hides a key.

    Returns:
      Probabilities ``[..., M]``, float32; a row of nothing but ``-inf`` gives zeros.

    Reference: Peters et al., arXiv 1905.05702, algorithm 2 (exact, by sorting).
    """
    logits = at_least_float32(logits)
    top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    known = jnp.isfinite(logits)
    half = (logits - jnp.where(jnp.isfinite(top), top, 0)) / 2
    # Below -1 a key never has a share; a finite number keeps the sums clean.
    half = jnp.where(known, jnp.maximum(half, -2), -2)
    ordered = -jnp.sort(-half, axis=-1)
    count = jnp.arange(1, half.shape[-1] + 1, dtype=half.dtype)
    mean = jnp.cumsum(ordered, -1) / count
    spread = count * (jnp.cumsum(ordered**2, -1) / count - mean**2)
    tau = mean - sqrt(jnp.maximum((1 - spread) / count, 0))
    size = jnp.sum(tau <= ordered, -1, keepdims=True)
    tau = jnp.take_along_axis(tau, size - 1, -1)
    return jnp.where(known, jnp.maximum(half - tau, 0) ** 2, 0)


def sparse(share: Array | float = 1.0) -> Edit:
    """The map becomes ``s entmax + (1 - s) softmax``, with 1.5-entmax.

    Args:
      share: Share ``s`` of the sparse map, scalar or ``[B]``: 0 changes nothing, 1 is
        the sparse map, more goes beyond it.

    Returns:
      An edit, for the control of a branch.

    Reference: PLADIS, arXiv 2503.07677.
    """
    return Edit(sparse=share)
