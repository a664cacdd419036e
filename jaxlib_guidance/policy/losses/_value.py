"""The critic's loss."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import hide, require_shape
from jaxlib_guidance.types import Array

stop = jax.lax.stop_gradient


def value_clip(
    values: Array,
    values_old: Array,
    targets: Array,
    mask: Array | None = None,
    *,
    clip: float | None = 0.2,
) -> Array:
    """``max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2) / 2``.

    Args:
      values: Values that the critic gives now, of any shape.
      values_old: Values that the critic gave during the roll-out, of the shape of
        ``values``; constants.
      targets: Returns ``R`` to fit, of the shape of ``values``; constants.
      mask: 0 on elements that do not count, of the shape of ``values``; None keeps all.
      clip: Half-width of the clip range around the old value; None for the plain
        squared error.

    Returns:
      Float32 of the shape of ``values``, 0 where masked.

    Reference: OpenAI baselines' PPO2; TRL's ``cliprange_value``.
    """
    for name, x in (("values_old", values_old), ("targets", targets)):
        require_shape(name, x, jnp.shape(values))
    v, old, target = (hide(x, mask) for x in (values, values_old, targets))
    old, target = stop(old), stop(target)
    error = jnp.square(v - target)
    if clip is not None:
        require_range("clip", clip, 0)
        near = jnp.clip(v, old - clip, old + clip)
        error = jnp.maximum(error, jnp.square(near - target))
    return 0.5 * error
