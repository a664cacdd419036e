"""Log-probabilities of given tokens, with no array of tokens by vocabulary.

With ``l = h W^T / tau``, a scan over slices of the vocabulary keeps, for each token,
the maximum, the sum of exponentials and the token's own logit. The gradient makes each
slice of logits again: ``d logp / d l_v = 1[v = token] - p_v``, and of the entropy
``dH / d l_v = -p_v (l_v - E[l])``.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array


class _Row(NamedTuple):
    """What is known of each row of logits, all ``[N]``.

    Attributes:
      top: Largest logit so far.
      total: Sum of ``exp(l - top)``.
      moment: Sum of ``exp(l - top) l``.
      own: The token's own logit, 0 until its slice has come.
    """

    top: Array
    total: Array
    moment: Array
    own: Array


def token_logp(
    hidden: Array,
    unembedding: Array,
    tokens: Array,
    *,
    chunk: int = 4096,
    temperature: float = 1.0,
) -> Array:
    """``log softmax(hidden unembedding^T / temperature)`` at ``tokens``.

    Equal to the dense computation, values and both gradients, to float32 rounding.
    Memory beyond arguments and results grows with ``chunk``, not with the vocabulary.

    Args:
      hidden: Last hidden states, ``[..., D]``. The matrix products are of this type;
        their sums, and all else, are float32.
      unembedding: Matrix that maps hidden states to logits, ``[V, D]``, in any floating
        type.
      tokens: Ids of the tokens, integers ``[...]`` in ``[0, V)``; elsewhere the result
        is NaN, so give padding any token and mask what comes of it.
      chunk: Number of the vocabulary's entries that are scored at a time; it need not
        divide ``V``.
      temperature: Positive number that divides the logits. Ratios to behaviour
        log-probabilities need the sampler's own.

    Returns:
      Float32 ``[...]``. A row whose result is masked has gradient exactly 0, also one
      of NaN or infinity.

    Raises:
      TypeError: Arrays of a wrong kind, or a temperature that is not a plain number.
      ValueError: Mismatched shapes, or a chunk or temperature out of range.
    """
    return token_logp_and_entropy(
        hidden, unembedding, tokens, chunk=chunk, temperature=temperature
    )[0]


def token_logp_and_entropy(
    hidden: Array,
    unembedding: Array,
    tokens: Array,
    *,
    chunk: int = 4096,
    temperature: float = 1.0,
) -> tuple[Array, Array]:
    """`token_logp`, and the entropy of the distribution of each position in nats.

    ``H = logsumexp(l) - E[l]``, exact, not an estimate from the token. Arguments as in
    `token_logp`.

    Returns:
      ``(logp [...], entropy [...])``, float32, both differentiable.
    """
    for name, array, kind in (
        ("hidden", hidden, jnp.floating),
        ("unembedding", unembedding, jnp.floating),
        ("tokens", tokens, jnp.integer),
    ):
        if not jnp.issubdtype(array.dtype, kind):
            raise TypeError(f"{name} is {array.dtype}; expected {kind.__name__}")
    if unembedding.ndim != 2 or hidden.shape != (*tokens.shape, unembedding.shape[1]):
        raise ValueError(
            f"hidden is {hidden.shape}, unembedding {unembedding.shape} and tokens "
            f"{tokens.shape}; expected [..., D], [V, D] and [...]"
        )
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise TypeError(
            f"temperature is {type(temperature).__name__}; expected a plain number"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}; expected a positive integer")
    # Under shard_map a gradient must vary along the mesh axes that its array does, so
    # all arrays vary alike before the custom gradient; XLA drops the integer zeros.
    zero = jnp.int32(0)
    for array in (hidden, unembedding, tokens):
        zero += 0 * jnp.any(array != array).astype(jnp.int32)
    # Rows of one matrix: XLA's CPU lacks some products of half precision otherwise.
    rows = hidden.reshape(-1, hidden.shape[-1])
    scored = _scored(
        rows + zero.astype(hidden.dtype),
        unembedding + zero.astype(unembedding.dtype),
        tokens.reshape(-1).astype(jnp.int32) + zero,
        min(chunk, unembedding.shape[0]),
        float(temperature),
    )
    logp, entropy = (a.reshape(tokens.shape) for a in scored)
    return logp, entropy


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scored(hidden, unembedding, tokens, chunk, temperature):
    return _forward(hidden, unembedding, tokens, chunk, temperature)[0]


def _logits(hidden, part, temperature):
    """``[N, C]`` of a slice ``[C, D]`` of the vocabulary, in float32 or wider."""
    part = part.astype(hidden.dtype)
    wide = _wide(hidden)
    logits = jnp.einsum("nd,vd->nv", hidden, part, preferred_element_type=wide)
    return logits / temperature


def _wide(hidden):
    return jnp.float64 if hidden.dtype == jnp.float64 else jnp.float32


def _is_own(tokens, start, part):
    """Where the slice that starts at ``start`` holds the token, bool ``[N, C]``."""
    place = jnp.arange(part.shape[0], dtype=jnp.int32) + start
    return tokens[:, None] == place


def _over_vocabulary(step, carry, unembedding, chunk):
    """``carry = step(carry, part, start)`` over slices of ``chunk`` rows.

    The first slice is what the others leave over. It runs outside the scan, so that the
    scan's carry has the types, and under shard_map the axes, of what a step returns.
    """
    vocabulary = unembedding.shape[0]
    first = vocabulary % chunk or chunk
    carry = step(carry, unembedding[:first], jnp.int32(0))
    if first == vocabulary:
        return carry

    def slice_step(carry, start):
        part = jax.lax.dynamic_slice_in_dim(unembedding, start, chunk)
        return step(carry, part, start), None

    starts = jnp.arange(first, vocabulary, chunk, dtype=jnp.int32)
    return jax.lax.scan(slice_step, carry, starts)[0]


def _forward(hidden, unembedding, tokens, chunk, temperature):
    def step(row, part, start):
        logits = _logits(hidden, part, temperature)
        top = jnp.maximum(row.top, jnp.max(logits, -1))
        exp = jnp.exp(logits - top[:, None])
        keep = jnp.exp(row.top - top)
        own = jnp.where(_is_own(tokens, start, part), logits, 0)
        return _Row(
            top,
            keep * row.total + jnp.sum(exp, -1),
            keep * row.moment + jnp.sum(exp * logits, -1),
            row.own + jnp.sum(own, -1),
        )

    nothing = _Row(
        *(jnp.asarray(value, _wide(hidden)) for value in (-jnp.inf, 0, 0, 0))
    )
    row = _over_vocabulary(step, nothing, unembedding, chunk)
    normaliser, mean = row.top + jnp.log(row.total), row.moment / row.total
    known = (tokens >= 0) & (tokens < unembedding.shape[0])
    logp = jnp.where(known, row.own - normaliser, jnp.nan)
    scored = logp, normaliser - mean
    return scored, (hidden, unembedding, tokens, normaliser, mean)


def _backward(chunk, temperature, held, gradients):
    hidden, unembedding, tokens, normaliser, mean = held
    of_logp, of_entropy = (gradient[:, None] for gradient in gradients)
    # A row that nothing asks about may be NaN, and 0 times NaN is not 0.
    live = (of_logp != 0) | (of_entropy != 0)
    hidden = jnp.where(live, hidden, 0)

    def step(carry, part, start):
        to_hidden, to_unembedding = carry
        logits = _logits(hidden, part, temperature)
        p = jnp.exp(logits - normaliser[:, None])
        own = _is_own(tokens, start, part).astype(p.dtype)
        slope = of_logp * (own - p) - of_entropy * p * (logits - mean[:, None])
        slope = jnp.where(live, slope, 0)
        # Rounded as the dense gradient is: half precision keeps its fast products.
        slope = (slope / temperature).astype(hidden.dtype)
        to_hidden += jnp.einsum(
            "nv,vd->nd",
            slope,
            part.astype(hidden.dtype),
            preferred_element_type=p.dtype,
        )
        to_part = jnp.einsum("nv,nd->vd", slope, hidden, preferred_element_type=p.dtype)
        to_unembedding = jax.lax.dynamic_update_slice_in_dim(
            to_unembedding, to_part.astype(unembedding.dtype), start, 0
        )
        return to_hidden, to_unembedding

    nothing = jnp.zeros((), mean.dtype), jnp.zeros_like(unembedding)
    to_hidden, to_unembedding = _over_vocabulary(step, nothing, unembedding, chunk)
    return to_hidden.astype(hidden.dtype), to_unembedding, None


_scored.defvjp(_forward, _backward)
