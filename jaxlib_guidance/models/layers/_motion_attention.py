"""Attention among frames that were seen from different places, by the motions between.

What another frame says about here depends on where it was taken. So its key and value
are made of the frame and of the motion that leads there, for each pair anew.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import hide, mask_like
from jaxlib_guidance.types import Array, require_array


class MotionAttention(nn.Module):
    """Motion-aware attention: ``h_i + W sum_j softmax_j(q_i k_ij / sqrt(d)) v_ij``.

    ``q_i = Q(h_i)``, ``k_ij = K([h_j; m_ij])``, ``v_ij = V([h_j; m_ij])`` with ``m_ij =
    M(r_ij)`` of the motion from frame ``i`` to frame ``j``. Q, K, V are two layers with
    GELU between, M two with SiLU. Only relative motions enter, no place and no order:
    frames may be permuted, and moved together. Where all motions are equal it is the
    attention of a set of frames. Costs ``N^2`` keys and values.

    Attributes:
      heads: Number of heads; divides the width of the frames.
      dtype: Type of the computation; the softmax is float32.

    Reference: Yue et al., arXiv 2504.13065, and its released code (``geomlp``). The
    mask is ours.
    """

    heads: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Array, motions: Array, mask: Array | None = None
    ) -> Array:
        """What each frame is, after it has heard of the others.

        Args:
          frames: A vector for each frame, ``h [B, N, D]``.
          motions: What leads from frame ``i`` (rows) to ``j``, in coordinates of ``i``
            and at a scale of about 1, ``r [B, N, N, d]``.
          mask: ``[B, N]``, 0 where a frame is not known, which may be NaN; so may the
            motions from it and to it. None: all are known.

        Returns:
          ``[B, N, D]`` of the type of ``frames``, 0 where a frame is not known.

        Raises:
          TypeError: Lists of arrays.
          ValueError: ``heads`` that do not divide the width, or shapes that do not fit.
        """
        require_array("frames", frames)
        require_array("motions", motions)
        if frames.ndim != 3:
            raise ValueError(f"frames has shape {frames.shape}; expected [B, N, D]")
        batch, count, width = frames.shape
        if motions.ndim != 4 or motions.shape[:3] != (batch, count, count):
            raise ValueError(
                f"motions has shape {motions.shape}; expected ({batch}, {count}, "
                f"{count}, d) for frames {frames.shape}"
            )
        if self.heads < 1 or width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {width}")
        known = mask_like(mask, frames[..., 0]) > 0
        if mask is not None:
            pairs = known[:, :, None] & known[:, None]
            frames = hide(frames, _wide(known, frames)).astype(frames.dtype)
            motions = hide(motions, _wide(pairs, motions))

        def dense(name, x, **options):
            return nn.Dense(width, dtype=self.dtype, name=name, **options)(x)

        def finish(name, x):
            x = dense(f"{name}_out", nn.gelu(x, approximate=False))
            return x.reshape(*x.shape[:-1], self.heads, width // self.heads)

        # Half of the variance each: the first layer of a concatenation is a sum.
        half = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")

        def of_pair(name):
            frame = dense(f"{name}_frame", frames, kernel_init=half)[:, None]
            moved = dense(f"{name}_motion", m, kernel_init=half, use_bias=False)
            return finish(name, frame + moved)

        m = dense("motion_out", nn.silu(dense("motion", motions)))
        q, k, v = finish("q", dense("q", frames)), of_pair("k"), of_pair("v")
        scores = jnp.einsum("bihd,bijhd->bhij", q, k).astype(jnp.float32)
        scores = scores / (width // self.heads) ** 0.5
        # With nobody to hear of, a softmax over nothing would be NaN, its gradient too.
        hear = known[:, None, None, :] | ~known.any(-1)[:, None, None, None]
        weights = jax.nn.softmax(jnp.where(hear, scores, -jnp.inf), -1)
        heard = jnp.einsum("bhij,bijhd->bihd", weights.astype(v.dtype), v)
        out = frames + dense("out", heard.reshape(batch, count, width))
        return jnp.where(known[..., None], out, 0).astype(frames.dtype)


def _wide(mask, x):
    return jnp.broadcast_to(mask[..., None], x.shape)
