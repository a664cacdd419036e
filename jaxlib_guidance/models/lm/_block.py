"""A block of the language model: attention with rotary positions, and a gated MLP."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    Attributes:
      heads: Number of query heads.
      kv_heads: Number of key and value heads; each serves ``heads / kv_heads`` queries.
      head_width: Number of features of a head.
      hidden: Hidden width of the MLP.
      eps: Number added to the mean square in normalisations.
      dtype: Type of the computation; residual stream, norms and softmax are float32.
    """

    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    eps: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Array, turn: Array, mask: Array, cache: Any
    ) -> tuple[Array, Any]:
        """``(x, cache)``.

        Args:
          x: Features of the tokens ``[B, T, C]``, float32.
          turn: Rotary angles ``[B, T, D / 2]``.
          mask: ``bool [B, T, M]``, True where a token may attend to a slot.
          cache: This block's ``(k, v, start)``, or None where the T tokens are all.
        """

        def norm(name):
            layer = nn.RMSNorm(self.eps, dtype=jnp.float32, name=name)
            return layer(x).astype(self.dtype)

        def dense(name, shape, a, axis=-1):
            layer = nn.DenseGeneral(
                shape, axis, use_bias=False, dtype=self.dtype, name=name
            )
            return layer(a)

        h = norm("attn_norm")
        q = _rotate(dense("q", (self.heads, self.head_width), h), turn)
        k = _rotate(dense("k", (self.kv_heads, self.head_width), h), turn)
        v = dense("v", (self.kv_heads, self.head_width), h)
        if cache is not None:
            held_k, held_v, start = cache
            k = jax.lax.dynamic_update_slice_in_dim(held_k, k, start, 1)
            v = jax.lax.dynamic_update_slice_in_dim(held_v, v, start, 1)
        # The kernel mixes bfloat16 and float32, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            h = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        width = x.shape[-1]
        x = x + dense("out", width, h, (-2, -1)).astype(jnp.float32)
        h = norm("mlp_norm")
        h = nn.silu(dense("gate", self.hidden, h)) * dense("up", self.hidden, h)
        return x + dense("down", width, h).astype(jnp.float32), (k, v)


def _rotate(a, turn):
    """Turns feature pairs ``(i, i + D/2)`` of ``a [B, T, H, D]`` by their angles."""
    cos, sin = jnp.cos(turn)[:, :, None], jnp.sin(turn)[:, :, None]
    first, second = jnp.split(a.astype(jnp.float32), 2, -1)
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(turned, -1).astype(a.dtype)
