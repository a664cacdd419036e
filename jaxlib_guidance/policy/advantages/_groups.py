"""Groups of samples, as an axis or by name, and sums over the group of each sample."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import divide, hide, mask_like, require_shape
from jaxlib_guidance.types import Array, concrete, require_array


def _in_range(
    name: str, ids: Array, n: int, mask: Array | None = None
) -> tuple[Array, Array]:
    """Ids with ``n`` for those outside ``[0, n)``, and whether each is inside.

    ``n`` is out of range for a gather that fills and a scatter that drops; a negative
    one would count from the end.

    Args:
      name: What to call the ids in the error.
      ids: Ids of any shape, integers.
      n: Number of groups that ids may name.
      mask: 0 on ids that do not count and may be out of range, of the shape of ``ids``;
        None for all.

    Raises:
      TypeError: No integers.
      ValueError: An id out of range that is not masked, where both are known.
    """
    known = concrete(ids), None if mask is None else concrete(mask)
    if known[0] is not None and (mask is None or known[1] is not None):
        used = known[0] if known[1] is None else known[0][known[1] > 0]
        wrong = used[(used < 0) | (used >= n)]
        if wrong.size:
            raise ValueError(
                f"{name} has {np.unique(wrong)}; expected ids of 0 to {n - 1}"
            )
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} is {ids.dtype}; expected integers")
    inside = (ids >= 0) & (ids < n)
    return jnp.where(inside, ids.astype(jnp.int32), n), inside


class Groups:
    """Sums over the group of each element, broadcast back to the elements.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.

    Raises:
      TypeError: Rewards as a list.
      ValueError: Mismatched shapes, one of ids and number without the other, ids
        out of range. While they are traced, what has such an id gets NaN.
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
        require_array("rewards", rewards, "[..., G], or [B] with group_ids")
        if jnp.ndim(rewards) < 1:
            raise ValueError("rewards is a scalar; expected [..., G], or [B] with ids")
        if group_ids is not None:
            if jnp.ndim(rewards) != 1:
                raise ValueError(
                    f"rewards has shape {jnp.shape(rewards)}; expected [B] with "
                    "group_ids"
                )
            require_shape("group_ids", group_ids, jnp.shape(rewards))
        self.n = num_groups
        self.rewards = jax.lax.stop_gradient(hide(rewards, mask))
        self.mask = mask_like(mask, self.rewards) > 0
        self.ids = self.known = None
        if group_ids is not None and num_groups is not None:
            self.ids, self.known = _in_range("group_ids", group_ids, num_groups, mask)
        self.count = self.sum(self.mask.astype(self.rewards.dtype))

    def sum(self, x: Array) -> Array:
        """Sum over the group of each element, of the shape of ``x``."""
        x = jnp.where(self.mask, x, 0)
        if self.ids is None:
            return jnp.broadcast_to(jnp.sum(x, -1, keepdims=True), x.shape)
        return self._of_each(jax.ops.segment_sum(x, self.ids, self.n))

    def max(self, x: Array) -> Array:
        """Maximum over the group of each element, of the shape of ``x``."""
        x = jnp.where(self.mask, x, -jnp.inf)
        if self.ids is None:
            return jnp.broadcast_to(jnp.max(x, -1, keepdims=True), x.shape)
        return self._of_each(jax.ops.segment_max(x, self.ids, self.n))

    def _of_each(self, groups: Array) -> Array:
        return groups.at[self.ids].get(mode="fill", fill_value=jnp.nan)

    def mean(self, x: Array) -> Array:
        """Mean over the group of each element; 0 for a group without any."""
        return divide(self.sum(x), self.count)

    def differ(self) -> Array:
        """Whether the rewards of the group are not all equal; NaN differs."""
        return self.max(self.rewards) != -self.max(-self.rewards)

    def keep(self, advantage: Array) -> Array:
        """Exactly 0 for what is masked and for groups of equal rewards."""
        kept = jnp.where(self.mask & self.differ(), advantage, 0)
        if self.known is None:
            return kept
        return jnp.where(self.mask & ~self.known, jnp.nan, kept)
