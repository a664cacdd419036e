"""CLIP's text encoder, as Stable Diffusion 1.x, 2.x and XL, SD3 and Flux use it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.models.published._configuration import ANY, configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._layers import LayerNorm, activation
from jaxlib_guidance.models.published._tensors import (
    Change,
    Place,
    fill,
    parameter_shapes,
)
from jaxlib_guidance.types import Array, PyTree


class TextStates(NamedTuple):
    """What a text encoder says of a batch of texts.

    Attributes:
      hidden: The embeddings, then the output of each layer: each ``[B, T, W]``.
      last: The last of these after the final norm, ``[B, T, W]``.
      pooled: ``last`` at the end token, projected where the encoder projects,
        ``[B, P]``.
    """

    hidden: tuple[Array, ...]
    last: Array
    pooled: Array


class _Layer(nn.Module):
    heads: int
    hidden: int
    act: str
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]

        def dense(name, features):
            return nn.Dense(features, dtype=self.dtype, name=name)

        h = LayerNorm(self.eps, dtype=self.dtype, name="layer_norm1")(x)
        q, k, v = (
            dense(f"self_attn.{name}_proj", width)(h).reshape(
                *h.shape[:2], self.heads, -1
            )
            for name in "qkv"
        )
        # The kernel's own code mixes bfloat16 and float32.
        with jax.numpy_dtype_promotion("standard"):
            h = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + dense("self_attn.out_proj", width)(h.reshape(x.shape))
        h = LayerNorm(self.eps, dtype=self.dtype, name="layer_norm2")(x)
        h = activation(self.act)(dense("mlp.fc1", self.hidden)(h))
        return x + dense("mlp.fc2", width)(h)


class CLIPText(nn.Module):
    """CLIP's text encoder: ``tokens [B, T] -> TextStates``.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      vocab_size: Number of tokens.
      hidden_size: Number of features of a token.
      intermediate_size: Hidden width of the MLPs.
      num_hidden_layers: Number of layers.
      num_attention_heads: Number of attention heads.
      max_position_embeddings: Largest number of tokens of a text.
      hidden_act: Activation of the MLPs: "quick_gelu" (OpenAI) or "gelu" (OpenCLIP).
      layer_norm_eps: Number added to the variances.
      eos_token_id: Token that ends a text. 2, which no text has, is an old mistake of
        the files and means the largest number of a text.
      projection_dim: Width of the projected vector.
      projected: Whether there is a projection.
      dtype: Type of the computation; norms and softmax are float32.

    Reference: Radford et al., arXiv 2103.00020; transformers' ``CLIPTextModel``.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    projection_dim: int = 512
    projected: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> TextStates:
        """Encodes token numbers; padding is attended to, as in training.

        Args:
          tokens: Integers ``[B, T]``.

        Raises:
          ValueError: More tokens than positions.
        """
        length = tokens.shape[1]
        if length > self.max_position_embeddings:
            raise ValueError(
                f"tokens has {length} columns; expected at most "
                f"{self.max_position_embeddings}"
            )

        def table(name, rows):
            return nn.Embed(
                rows, self.hidden_size, dtype=self.dtype, name=f"embeddings.{name}"
            )

        x = table("token_embedding", self.vocab_size)(tokens)
        places = table("position_embedding", self.max_position_embeddings)
        x = x + places(jnp.arange(length))
        hidden = [x]
        for i in range(self.num_hidden_layers):
            x = _Layer(
                self.num_attention_heads,
                self.intermediate_size,
                self.hidden_act,
                self.layer_norm_eps,
                self.dtype,
                name=f"encoder.layers.{i}",
            )(x)
            hidden.append(x)
        norm = LayerNorm(self.layer_norm_eps, dtype=self.dtype, name="final_layer_norm")
        last = norm(x)
        if self.eos_token_id == 2:
            end = jnp.argmax(tokens, 1)
        else:
            end = jnp.argmax(tokens == self.eos_token_id, 1)
        pooled = jnp.take_along_axis(last, end[:, None, None], 1)[:, 0]
        if self.projected:
            pooled = nn.Dense(
                self.projection_dim,
                use_bias=False,
                dtype=self.dtype,
                name="text_projection",
            )(pooled)
        return TextStates(tuple(hidden), last, pooled)


# Keys that do not change the states, or that every published encoder has alike.
NEUTRAL = {
    **dict.fromkeys(
        (
            *("architectures", "attention_dropout", "dropout", "bos_token_id"),
            *("pad_token_id", "initializer_factor", "initializer_range", "dtype"),
            *("torch_dtype", "transformers_version", "use_cache"),
        ),
        ANY,
    ),
    "model_type": "clip_text_model",
}


def load_clip_text(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
) -> tuple[CLIPText, PyTree]:
    """A text encoder and its parameters from a published part.

    Args:
      part: The part, from `open_part`.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      change: Change of each tensor while it is read; see `fill`.

    Returns:
      ``(module, parameters)``. There is a projection where the file has one.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    # Files of transformers have had the prefix, and have it no more.
    part = part.renamed(lambda name: name.removeprefix("text_model."))
    module = configured(
        CLIPText,
        part.config,
        NEUTRAL,
        f"{part.path}/config.json",
        projected="text_projection.weight" in part.tensors,
        dtype=dtype,
    )
    tokens = jax.ShapeDtypeStruct((1, module.max_position_embeddings), jnp.int32)
    shapes = parameter_shapes(module.init, tokens)
    params = fill(
        shapes,
        part.tensors,
        dtype=dtype,
        sharding=sharding,
        change=change,
        where=str(part.path),
    )
    return module, params
