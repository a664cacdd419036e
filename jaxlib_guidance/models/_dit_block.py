"""The transformer block of `DiT`: normalisations modulated by the condition."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    enter_layer,
    leave_layer,
)
from jaxlib_guidance.models.layers._attention import Attention
from jaxlib_guidance.types import Array, Captures


class DiTBlock(nn.Module):
    """Transformer block whose normalisations are modulated by ``c`` (adaLN-zero).

    Attributes:
      heads: Number of attention heads.
      mlp_ratio: Hidden width of the MLP over the width.
      qk_norm: Whether queries and keys are normalised (RMS).
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; the residual stream and norms are float32.
    """

    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        c: Array,
        context: Array | None = None,
        mask: Array | None = None,
        *,
        grid: tuple[int, ...],
        control: Mapping[str, Any],
        capture: Captures,
    ) -> tuple[Array, dict[str, Array]]:
        """``(x [B, T, C], maps)`` with maps and edits named "attn", "cross" and "".

        Args:
          x: Tokens ``[B, T, C]``, float32.
          c: Condition ``[B, C]``.
          context: Text ``[B, M, C]``, or None for no cross-attention.
          mask: ``bool [B, M]``.
          grid: Shape of the token grid.
          control: Edits by site; that of the block's output is "".
          capture: Taps to return; "" is the block's output.
        """
        width, maps = x.shape[-1], {}
        layer_edit = control.get("attn")
        x, own_edit = enter_layer(x, layer_edit)
        before, edits = x, {**control, "attn": own_edit}
        parts = nn.Dense(
            6 * width,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="modulation",
        )(nn.silu(c))[:, None]
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(
            parts.astype(jnp.float32), 6, -1
        )

        def attention(name, *inputs, **options):
            layer = Attention(
                self.heads,
                self.qk_norm,
                kernel=self.kernel,
                dtype=self.dtype,
                name=name,
                **options,
            )
            h, probs = layer(
                *inputs,
                edit=edits.get(name),
                grid=grid,
                capture=capture_at(name, capture),
            )
            if probs is not None:
                maps[name] = probs
            return h.astype(jnp.float32)

        h = plain_norm(x) * (1 + scale) + shift
        x = x + gate * attention("attn", h.astype(self.dtype))
        if context is not None:
            h = nn.LayerNorm(dtype=jnp.float32, name="cross_norm")(x)
            h = h.astype(self.dtype)
            x = x + attention("cross", h, context, mask, zero_init=True)
        h = (plain_norm(x) * (1 + scale_mlp) + shift_mlp).astype(self.dtype)
        h = nn.Dense(int(self.mlp_ratio * width), dtype=self.dtype, name="mlp_in")(h)
        h = nn.Dense(width, dtype=self.dtype, name="mlp_out")(nn.gelu(h))
        x = leave_layer(x + gate_mlp * h.astype(jnp.float32), before, layer_edit)
        x = edit_features(x, control.get(""))
        if "" in capture:
            maps[""] = captured(x, capture_at("", capture))
        return x, maps


def plain_norm(x):
    """Layer normalisation without parameters, in float32."""
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6)
