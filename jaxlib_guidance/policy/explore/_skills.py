"""A reward for skills that can be told apart."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def skill_reward(logits: Array, skill: Array) -> Array:
    """``log q(z | s) + log Z``: how well a judge tells from a state which skill it was.

    The mean over skills drawn evenly is a lower bound of the information, in nats, that
    the state has of the skill, and at most ``log Z``; the judge is trained to make it
    largest, which is its cross-entropy. A judge that knows nothing pays 0.

    Args:
      logits: The judge's, one for each of ``Z`` skills, ``[..., Z]``.
      skill: Number of the skill that was followed, integers ``[...]``, 0 to ``Z - 1``.

    Returns:
      Float32 ``[...]``; NaN where a traced number is out of range.

    Raises:
      ValueError: Other shapes, numbers that are not integers or out of range.

    Reference: DIAYN, Eysenbach et al., arXiv 1802.06070, eq. 3.
    """
    if jnp.ndim(logits) < 1 or jnp.shape(logits)[-1] < 1:
        raise ValueError(f"logits has shape {jnp.shape(logits)}; expected [..., Z]")
    count = jnp.shape(logits)[-1]
    skill = jnp.asarray(skill)
    if not jnp.issubdtype(skill.dtype, jnp.integer):
        raise ValueError(f"skill is of {skill.dtype}; expected integers")
    require_shape("skill", skill, jnp.shape(logits)[:-1])
    require_range("skill", skill, 0, count - 1)
    said = jax.nn.log_softmax(at_least_float32(logits), -1)
    skill = jnp.where(skill < 0, count, skill)  # -1 would be the last.
    told = jnp.take_along_axis(said, skill[..., None], -1)[..., 0]
    return told + jnp.log(jnp.float32(count))
