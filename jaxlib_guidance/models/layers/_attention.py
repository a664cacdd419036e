"""The attention layer of our networks: a site that takes an edit and gives its map."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import Edit, attend, self_only
from jaxlib_guidance.types import Array


class Attention(nn.Module):
    """Multi-head attention over tokens, to themselves or to a context.

    Attributes:
      heads: Number of heads; divides the width of the input.
      qk_norm: Whether queries and keys are normalised (RMS), which keeps bfloat16
        attention stable.
      zero_init: Whether the output projection starts at 0.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; softmax and normalisation are float32.
    """

    heads: int
    qk_norm: bool = False
    zero_init: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        mask: Array | None = None,
        *,
        edit: Edit | None = None,
        grid: tuple[int, ...] | None = None,
        capture: bool | Callable[[Array], Array] = False,
    ) -> tuple[Array, Array | None]:
        """``(out [B, Q, C], probs [B, H, Q, M] or None)``.

        Args:
          x: Tokens ``[B, Q, C]``.
          context: Tokens ``[B, M, F]`` to attend to; None means ``x``.
          mask: ``bool [B, M]``, False on padding.
          edit: What to change in the map, or None.
          grid: Shape of the token grid, for blurs; None is one axis.
          capture: Whether to return the map, or a function of it to return instead.

        Raises:
          ValueError: ``heads`` does not divide the width, or a self-attention edit with
            a context.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {width}")
        if context is not None and edit is not None:
            for name, used in self_only(edit):
                if used:
                    raise ValueError(
                        f"edit.{name} has no meaning at a cross-attention site; name "
                        "the self-attention site, such as 'block0/attn'"
                    )
        source = x if context is None else context
        shape = (self.heads, width // self.heads)

        def project(name, tokens):
            return nn.DenseGeneral(shape, dtype=self.dtype, name=name)(tokens)

        q, k, v = project("q", x), project("k", source), project("v", source)
        if self.qk_norm:
            q, k = (_rms_norm(name, a) for name, a in (("q_norm", q), ("k_norm", k)))
        out, probs = attend(
            *(q, k, v, edit),
            mask=mask,
            grid=grid,
            capture=capture,
            kernel=self.kernel,
        )
        init = (
            nn.initializers.zeros if self.zero_init else nn.linear.default_kernel_init
        )
        out = nn.DenseGeneral(
            width, axis=(-2, -1), dtype=self.dtype, kernel_init=init, name="out"
        )(out)
        return out, probs


def _rms_norm(name, a):
    norm = nn.RMSNorm(dtype=jnp.float32, name=name)
    return norm(a.astype(jnp.float32)).astype(a.dtype)
