"""One advantage from several critics, whatever the sizes of their rewards."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy.advantages import whiten
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def aggregate_advantages(
    advantages: Array,
    weights: Array,
    mask: Array | None = None,
    *,
    axis_name: str | None = None,
) -> Array:
    """``sum_c w_c whiten(A_c)``: each critic's advantages normalised by themselves.

    A reward a thousand times larger has the same say. A critic whose advantages are all
    equal has none.

    Args:
      advantages: One set a critic, ``[C, ...]``.
      weights: ``w``, ``[C]`` (the paper's are unverified).
      mask: Of one set, ``[...]``.
      axis_name: Mapped axis over which the batch is split.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Shapes that do not fit.

    Reference: SLIM, Emukpere et al., arXiv 2402.00823.
    """
    if jnp.ndim(advantages) < 1:
        raise ValueError("advantages is a scalar; expected [C, ...]")
    require_shape("weights", weights, jnp.shape(advantages)[:1])
    each = jax.vmap(lambda a: whiten(a, mask, axis_name=axis_name))(
        jnp.asarray(advantages)
    )
    return jnp.tensordot(at_least_float32(weights), each, 1)
