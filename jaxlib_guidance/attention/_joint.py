"""Joint attention, where tokens of an image and of a text stand in one sequence."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array


def within(image: slice | None, change: Callable[[Array], Array], a: Array) -> Array:
    """``a [B, T, ...]`` with the tokens of the image changed, or all of them."""
    return change(a) if image is None else a.at[:, image].set(change(a[:, image]))


def see_text(
    q: Array, k: Array, v: Array, mask: Array | None, image: slice
) -> tuple[Array, Array, Array]:
    """Attention of each token of the image to itself and to the text.

    The softmax goes over one key of the image and those of the text, so no map of the
    image to itself is ever made.

    Returns:
      ``(out [B, N, H, D], own [B, H, N], text [B, H, N, M])``, the latter two the
      probabilities of a token's own key and of the text's.
    """
    queries, own, values = (a[:, image] for a in (q, k, v))
    keys, said = (_text(a, image) for a in (k, v))
    logits = jnp.concatenate(
        [
            jnp.einsum("bnhd,bnhd->bhn", queries, own, **WIDE)[..., None],
            jnp.einsum("bnhd,bmhd->bhnm", queries, keys, **WIDE),
        ],
        -1,
    ) / math.sqrt(q.shape[-1])
    if mask is not None:
        shown = jnp.concatenate(
            [
                mask[:, image][:, :, None],
                jnp.broadcast_to(
                    _text(mask, image)[:, None],
                    (*mask[:, image].shape, keys.shape[1]),
                ),
            ],
            -1,
        )
        logits = jnp.where(shown[:, None], logits, -jnp.inf)
    top = jnp.max(logits, -1, keepdims=True)
    each = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    probs = divide(each, jnp.sum(each, -1, keepdims=True))
    first, rest = probs[..., 0], probs[..., 1:]
    weight = jnp.moveaxis(first, 1, 2)[..., None].astype(v.dtype)
    seen = jnp.einsum("bhnm,bmhd->bnhd", rest.astype(v.dtype), said)
    return weight * values + seen, first, rest


def joint_map(probs: Array, own: Array, text: Array, image: slice) -> Array:
    """The whole map ``[B, H, T, T]`` with the image's rows as `see_text` has them."""
    count = own.shape[-1]
    block = own[..., None] * jnp.eye(count, dtype=own.dtype)
    before, after = text[..., : image.start], text[..., image.start :]
    return probs.at[..., image, :].set(jnp.concatenate([before, block, after], -1))


WIDE = {"preferred_element_type": jnp.float32}


def _text(a, image):
    return jnp.concatenate([a[:, : image.start], a[:, image.stop :]], 1)
