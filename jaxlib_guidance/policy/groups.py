"""Groups of samples, as an axis or by name, and sums over the group of each sample."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import divide, hide, mask_like, require_shape
from jaxlib_guidance.types import Array


class Groups:
    """Sums over the group of each element, broadcast back to the elements.

    Args:
      rewards: ``[..., G]``, a group an axis, or ``[B]`` with ``group_ids``.
      group_ids: ``[B]`` in ``[0, num_groups)``.
      num_groups: Their number, static.
      mask: Like ``rewards``; what is masked is in no group.

    Raises:
      ValueError: Shapes that do not fit, one of ids and number without the other.
    """

    def __init__(
        self,
        rewards: Array,
        group_ids: Array | None,
        num_groups: int | None,
        mask: Array | None = None,
    ):
        if (group_ids is None) != (num_groups is None):
            raise ValueError(
                f"num_groups is {num_groups} and group_ids "
                f"{'is None' if group_ids is None else 'an array'}; expected both or "
                "neither"
            )
        if jnp.ndim(rewards) < 1:
            raise ValueError("rewards is a scalar; expected [..., G], or [B] with ids")
        if group_ids is not None:
            if jnp.ndim(rewards) != 1:
                raise ValueError(
                    f"rewards has shape {jnp.shape(rewards)}; expected [B] with "
                    "group_ids"
                )
            require_shape("group_ids", group_ids, jnp.shape(rewards))
        self.ids, self.n = group_ids, num_groups
        self.rewards = jax.lax.stop_gradient(hide(rewards, mask))
        self.mask = mask_like(mask, self.rewards) > 0
        self.count = self.sum(self.mask.astype(self.rewards.dtype))

    def sum(self, x: Array) -> Array:
        """Of the group of each element."""
        x = jnp.where(self.mask, x, 0)
        if self.ids is None:
            return jnp.broadcast_to(jnp.sum(x, -1, keepdims=True), x.shape)
        return jax.ops.segment_sum(x, self.ids, self.n)[self.ids]

    def max(self, x: Array) -> Array:
        """Of the group of each element."""
        x = jnp.where(self.mask, x, -jnp.inf)
        if self.ids is None:
            return jnp.broadcast_to(jnp.max(x, -1, keepdims=True), x.shape)
        return jax.ops.segment_max(x, self.ids, self.n)[self.ids]

    def mean(self, x: Array) -> Array:
        """Of the group of each element; 0 for a group without any."""
        return divide(self.sum(x), self.count)

    def differ(self) -> Array:
        """Whether the rewards of the group are not all equal; NaN differs."""
        return self.max(self.rewards) != -self.max(-self.rewards)

    def keep(self, advantage: Array) -> Array:
        """Exactly 0 for what is masked and for groups of equal rewards."""
        return jnp.where(self.mask & self.differ(), advantage, 0)
