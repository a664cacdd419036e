"""A small decoder-only transformer: the policy of the language-model recipes.

Pre-normalised blocks of grouped-query attention with rotary positions and a gated MLP,
as in Llama and SmolLM2, in one scan over stacked parameters. `LM.read` serves training
and decoding: with a cache it continues where the cache ends. The residual stream after
each block can be captured and edited by the block's name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import FeatureEdit, edit_features
from jaxlib_guidance.models.lm._block import Block
from jaxlib_guidance.models.lm._require import require_tokens
from jaxlib_guidance.models.lm._residual import stack_edits
from jaxlib_guidance.types import Array, PyTree, concrete, require_known


class Cache(NamedTuple):
    """What a network has read: keys and values in slots, in the order of reading.

    Attributes:
      k: Keys ``[depth, B, M, kv_heads, D]``, rotated.
      v: Values ``[depth, B, M, kv_heads, D]``.
      mask: ``bool [B, M]``, True where a slot holds a token, not padding.
      length: Number of slots in use, int32 scalar.
    """

    k: Array
    v: Array
    mask: Array
    length: Array


class LM(nn.Module):
    """Language model: ``tokens [B, T] -> logits [B, T, V]``.

    Attributes:
      vocabulary: Number of tokens ``V``.
      width: Number of features of a token ``C``.
      depth: Number of blocks.
      heads: Number of query heads, which divides the width.
      kv_heads: Number of key and value heads, which divides ``heads``.
      hidden: Hidden width of the gated MLPs.
      rope_base: Longest wavelength of the rotary positions over ``2 pi``.
      eps: Number added to the mean square in normalisations.
      tied: Whether the embedding is also the unembedding.
      dtype: Type of the blocks' computation. Parameters, residual stream, norms,
        softmax and logits are float32.
      remat: Whether the backward pass recomputes each block.

    Reference: Touvron et al., arXiv 2302.13971, section 2.2 (norms, SwiGLU, rotary
    positions); Ainslie et al., arXiv 2305.13245 (grouped queries); Su et al., arXiv
    2104.09864, equation 34 (rotation).
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    rope_base: float = 10_000.0
    eps: float = 1e-5
    tied: bool = True
    dtype: Any = jnp.float32
    remat: bool = False

    def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
        """Logits ``[B, T, V]``, float32; arguments as in `read`."""
        states, _ = self.read(tokens, mask)
        params = self.variables["params"]
        return logits(states, unembedding(params))

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What can be captured and edited: the residual stream after each block."""
        return tuple(f"block{i}" for i in range(self.depth))

    def residuals(
        self,
        tokens: Array,
        mask: Array | None = None,
        *,
        capture: Sequence[str],
        control: Mapping[str, FeatureEdit] | None = None,
    ) -> dict[str, Array]:
        """The residual stream after some blocks, float32 ``[B, T, C]`` by name.

        Args:
          tokens: Token numbers, integers ``[B, T]``.
          mask: ``bool [B, T]``, False on padding; None where nothing is padding.
          capture: Names of blocks, of `feature_sites`.
          control: Edits by block, as for `read`; what is captured is edited.

        Raises:
          ValueError: A name of no block, or what `read` refuses.
        """
        return self._run(tokens, mask, None, control, capture)[2]

    def read(
        self,
        tokens: Array,
        mask: Array | None = None,
        cache: Cache | None = None,
        *,
        control: Mapping[str, FeatureEdit] | None = None,
    ) -> tuple[Array, Cache | None]:
        """Last hidden states of tokens, each of which sees those before it.

        With `unembedding` these give log-probabilities by `token_logp`, without the
        logits of a whole sequence.

        Args:
          tokens: Token numbers, integers ``[B, T]``.
          mask: ``bool [B, T]``, False on padding, on whichever side; None where nothing
            is padding.
          cache: Keys and values of what came before, with T free slots, as from
            `empty_cache`; None where the tokens are all there is.
          control: Edits of the residual stream after blocks, by the names of
            `feature_sites`, as from `attention.steer`; None changes nothing.

        Returns:
          ``(states [B, T, C] of dtype, cache)``; states of padding mean nothing. Those
          of a cache that is too full, where its length is traced, are NaN, and so are
          all that follow.

        Raises:
          ValueError: Heads that do not divide, shapes that do not fit, an edit of no
            block, or a token outside the vocabulary where the mask is True. Where
            tokens are traced, a row with such a token is NaN from there on, or as a
            whole.
          TypeError: Tokens that are not integers, or a mask that is not boolean.
        """
        states, cache, _ = self._run(tokens, mask, cache, control, ())
        return states, cache

    @nn.compact
    def _run(self, tokens, mask, cache, control, capture):
        control = dict(control or {})
        require_known("control", control, self.feature_sites, "feature sites")
        capture = tuple(capture)
        require_known("capture", capture, self.feature_sites, "feature sites")
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        self._require(tokens, mask, cache)
        table = self.param(
            "embed", nn.initializers.normal(0.02), (self.vocabulary, self.width)
        )
        if not self.tied:
            shape = (self.vocabulary, self.width)
            self.param("unembed", nn.initializers.normal(0.02), shape)
        # A token that does not exist is NaN, unless it is padding; below 0 it would be
        # counted from the end.
        known = jnp.where(mask, jnp.where(tokens < 0, self.vocabulary, tokens), 0)
        x = jnp.take(table, known, axis=0).astype(jnp.float32)
        if cache is None:
            valid, start, seen = mask, jnp.int32(0), jnp.int32(0)
        else:
            start = cache.length
            valid = jax.lax.dynamic_update_slice_in_dim(cache.mask, mask, start, 1)
            seen = jnp.sum(cache.mask, 1, keepdims=True, dtype=jnp.int32)
        place = seen + jnp.cumsum(mask, 1, dtype=jnp.int32) - 1
        head_width = self.width // self.heads
        rates = self.rope_base ** (
            -jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width
        )
        turn = place.astype(jnp.float32)[..., None] * rates
        slots, queries = jnp.arange(valid.shape[1]), jnp.arange(tokens.shape[1])
        visible = valid[:, None] & (slots <= start + queries[:, None])
        taps = {}
        watched = control, capture, taps
        x, held = cast(Any, self._blocks(x, turn, visible, cache, watched))
        if cache is not None:
            k, v = held
            cache = Cache(k, v, valid, start + jnp.int32(tokens.shape[1]))
            # What no longer fits has overwritten what came before.
            x = jnp.where(cache.length <= valid.shape[1], x, jnp.nan)
        norm = nn.RMSNorm(self.eps, dtype=jnp.float32, name="norm")
        return norm(x).astype(self.dtype), cache, taps

    def _blocks(self, x, turn, visible, cache, watched):
        sizes = (self.heads, self.kv_heads, self.width // self.heads, self.hidden)
        block = Block(*sizes, self.eps, self.dtype, parent=None)

        def init(key):
            return block.init(key, x[:1, :1], turn[:1, :1], visible[:1, :1, :1], None)

        if self.is_initializing():
            keys = jax.random.split(self.make_rng("params"), self.depth)
            stacked = self.param("blocks", lambda _: jax.vmap(init)(keys)["params"])
        else:
            # `param` would trace `init` again for every token that is decoded.
            stacked = self.get_variable("params", "blocks")

        def run(params, x, held):
            return block.apply({"params": params}, x, turn, visible, held)

        if self.remat:
            run = jax.checkpoint(run)
        control, capture, taps = watched
        adds = stack_edits(control, self.feature_sites, x.shape)
        several = cache is not None

        def step(x, inputs):
            params, held, add = inputs
            x, held = run(params, x, (*held, cache.length) if several else None)
            x = edit_features(x, None if add is None else FeatureEdit(add=add))
            return x, (held if several else None, x if capture else None)

        past = (cache.k, cache.v) if several else None
        found: Any = jax.lax.scan(step, x, (stacked, past, adds))
        x, (held, seen) = found
        taps |= {name: seen[self.feature_sites.index(name)] for name in capture}
        return x, held

    def _require(self, tokens, mask, cache):
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"width={self.width} must be a multiple of 2 heads={self.heads}, and "
                f"heads of kv_heads={self.kv_heads}"
            )
        if tokens.ndim != 2:
            raise ValueError(f"tokens is {tokens.shape}; expected [B, T]")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"tokens is {tokens.dtype}; expected integers")
        if mask.shape != tokens.shape:
            raise ValueError(f"mask is {mask.shape}; expected {tokens.shape}")
        if mask.dtype != jnp.bool_:
            raise TypeError(f"mask is {mask.dtype}; expected bool")
        require_tokens(tokens, mask, self.vocabulary, "tokens")
        if cache is None:
            return
        if (
            cache.mask.shape[0] != tokens.shape[0]
            or cache.mask.shape[1] < tokens.shape[1]
        ):
            raise ValueError(
                f"cache has (rows, slots) {cache.mask.shape}, too few for tokens "
                f"{tokens.shape}"
            )
        used = concrete(cache.length)
        if used is not None and used + tokens.shape[1] > cache.mask.shape[1]:
            raise ValueError(
                f"cache has {used} of {cache.mask.shape[1]} slots in use, too many for "
                f"tokens {tokens.shape}"
            )


def empty_cache(lm: LM, batch: int, slots: int) -> Cache:
    """A cache of a network that has read nothing and will read ``slots`` tokens.

    Args:
      lm: The network.
      batch: Number of rows ``B``.
      slots: Number of tokens ``M`` that a row has room for.
    """
    shape = (lm.depth, batch, slots, lm.kv_heads, lm.width // lm.heads)
    k, v = (jnp.zeros(shape, lm.dtype) for _ in range(2))
    return Cache(k, v, jnp.zeros((batch, slots), bool), jnp.int32(0))


def unembedding(params: PyTree) -> Array:
    """``[V, C]``: what hidden states are multiplied by; the embedding if tied."""
    return params["unembed"] if "unembed" in params else params["embed"]


def logits(states: Array, table: Array) -> Array:
    """``states table^T [..., V]``: products in the type of states, sums in float32.

    Args:
      states: Hidden states ``[..., C]`` of `LM.read`.
      table: Vectors of the vocabulary ``[V, C]``, from `unembedding`.
    """
    # Rows of one matrix: XLA's CPU lacks some products of half precision otherwise.
    rows = states.reshape(-1, states.shape[-1])
    table = table.astype(states.dtype)
    values = jnp.einsum("nc,vc->nv", rows, table, preferred_element_type=jnp.float32)
    return values.reshape(*states.shape[:-1], -1)


def lm_tiny(vocabulary: int = 50, **options: Any) -> LM:
    """A network of some 20,000 parameters, for tests and first steps.

    Args:
      vocabulary: Number of tokens.
      **options: Other attributes of `LM`.
    """
    sizes: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2}
    return LM(vocabulary, **sizes | {"hidden": 64} | options)
