"""T5's encoder, which reads the long text of SD3, Flux and PixArt."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.models.published._configuration import ANY, configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._layers import activation
from jaxlib_guidance.models.published._tensors import Place, fill, parameter_shapes
from jaxlib_guidance.models.published._transformer import RMSNorm
from jaxlib_guidance.types import Array, PyTree

# MLPs by their published name: whether a gate multiplies, and the activation.
MLPS = {
    "gated-gelu": (True, "gelu_new"),
    "gated-silu": (True, "silu"),
    "relu": (False, "relu"),
}


def _buckets(length, count, furthest):
    """Bucket ``[T, T]`` of the distance from a query (row) to a key (column)."""
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact, far = count // 2, count // 4, np.abs(distance)
    # In float32, as PyTorch decides at the edges.
    share = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    share = share / np.float32(math.log(furthest / exact)) * np.float32(half - exact)
    large = np.minimum(exact + share.astype(np.int64), half - 1)
    return np.where(far < exact, far, large) + half * (distance > 0)


class _Layer(nn.Module):
    heads: int
    head_dim: int
    hidden: int
    mlp: str
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x, buckets, count, bias, mask):
        def dense(name, h, features):
            layer = nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)
            return layer(h)

        width, inner = x.shape[-1], self.heads * self.head_dim
        h = RMSNorm(self.eps, self.dtype, name="layer.0.layer_norm")(x)
        name = "layer.0.SelfAttention"
        q, k, v = (
            dense(f"{name}.{a}", h, inner).reshape(*h.shape[:2], self.heads, -1)
            for a in "qkv"
        )
        if bias is None:
            # The first layer has the table of all.
            table = nn.Embed(
                *(count, self.heads),
                dtype=jnp.float32,
                name=f"{name}.relative_attention_bias",
            )
            bias = jnp.moveaxis(table(jnp.asarray(buckets)), -1, 0)[None]
            if mask is not None:
                bias = jnp.where(mask[:, None, None], bias, -1e30)
        # The kernel's own code mixes bfloat16 and float32.
        with jax.numpy_dtype_promotion("standard"):
            out = jax.nn.dot_product_attention(
                q, k, v, bias.astype(self.dtype), scale=1.0
            )
        out = dense(f"{name}.o", out.reshape(*h.shape[:2], inner), width)
        x = x + out.astype(jnp.float32)
        h = RMSNorm(self.eps, self.dtype, name="layer.1.layer_norm")(x)
        gated, act = MLPS[self.mlp]
        name = "layer.1.DenseReluDense"
        first = dense(f"{name}.wi_0" if gated else f"{name}.wi", h, self.hidden)
        hidden = activation(act)(first)
        if gated:
            hidden = hidden * dense(f"{name}.wi_1", h, self.hidden)
        return x + dense(f"{name}.wo", hidden, width).astype(jnp.float32), bias


class T5Encoder(nn.Module):
    """T5's encoder: ``tokens [B, T] -> states [B, T, W]``.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      vocab_size: Number of tokens.
      d_model: Number of features of a token.
      d_kv: Number of features of a head.
      d_ff: Hidden width of the MLPs.
      num_layers: Number of layers.
      num_heads: Number of attention heads.
      relative_attention_num_buckets: Number of buckets of distances.
      relative_attention_max_distance: Distance from which all are in one bucket.
      layer_norm_epsilon: Number added to the mean squares.
      feed_forward_proj: MLP: "gated-gelu" (T5 1.1), "gated-silu" or "relu".
      dtype: Type of the computation; residual stream and norms are float32.

    Reference: Raffel et al., arXiv 1910.10683; transformers' ``T5EncoderModel``.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
        """Encodes token numbers.

        Args:
          tokens: Integers ``[B, T]``.
          mask: ``bool [B, T]``, False on padding, as PixArt has it; None attends to
            padding too, as SD3 and Flux do.

        Returns:
          Float32 ``[B, T, W]``, after the final norm.
        """
        x = nn.Embed(self.vocab_size, self.d_model, name="shared")(tokens)
        x, bias = x.astype(jnp.float32), None
        count = self.relative_attention_num_buckets
        buckets = _buckets(tokens.shape[1], count, self.relative_attention_max_distance)
        for i in range(self.num_layers):
            x, bias = _Layer(
                *(self.num_heads, self.d_kv, self.d_ff, self.feed_forward_proj),
                *(self.layer_norm_epsilon, self.dtype),
                name=f"encoder.block.{i}",
            )(x, buckets, count, bias, mask)
        return RMSNorm(self.layer_norm_epsilon, name="encoder.final_layer_norm")(x)


# Keys that do not change the states; the MLP's kind is named by "feed_forward_proj".
NEUTRAL = {
    **dict.fromkeys(
        (
            *("architectures", "classifier_dropout", "dropout_rate", "dtype"),
            *("torch_dtype", "transformers_version", "use_cache", "initializer_factor"),
            *("eos_token_id", "pad_token_id", "decoder_start_token_id", "model_type"),
            *("num_decoder_layers", "is_decoder", "is_encoder_decoder", "n_positions"),
            *("output_past", "task_specific_params", "tie_word_embeddings"),
            *("dense_act_fn", "is_gated_act", "scale_decoder_outputs"),
        ),
        ANY,
    )
}


def load_t5(
    part: Part, *, dtype: Any = jnp.float32, sharding: Place = None
) -> tuple[T5Encoder, PyTree]:
    """T5's encoder and its parameters from a published part.

    Args:
      part: The part, from `open_part`; a decoder in its files is left out.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``(module, parameters)``.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    where = f"{part.path}/config.json"
    module = configured(T5Encoder, part.config, NEUTRAL, where, dtype=dtype)
    if module.feed_forward_proj not in MLPS:
        raise ValueError(
            f"{where}: 'feed_forward_proj' is {module.feed_forward_proj!r}, which "
            f"T5Encoder does not compute; expected one of {tuple(MLPS)}"
        )
    tensors = dict(part.tensors)
    # Some files have the embeddings twice, or under the encoder's name alone.
    embedded = tensors.pop("encoder.embed_tokens.weight", None)
    if embedded is not None:
        tensors.setdefault("shared.weight", embedded)
    shapes = parameter_shapes(module.init, jax.ShapeDtypeStruct((1, 1), jnp.int32))
    params = fill(
        shapes,
        tensors,
        dtype=dtype,
        sharding=sharding,
        ignored=("decoder.", "lm_head."),
        where=str(part.path),
    )
    return module, params
