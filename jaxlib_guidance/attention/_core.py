"""Attention with an optional edit, fused whenever no map is read or changed.

Borrowing, shifting and blurring act on queries, keys and values before the kernel, and
the identity edit only mixes its output with ``v``, so all of these keep the fused
kernel; edits of logits or probabilities and captures need the map itself.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention._control import (
    LAYER,
    PIXELS,
    Edit,
    captured,
)
from jaxlib_guidance.attention._entmax import entmax15
from jaxlib_guidance.attention._gates import by_branch, mix, move_words, take
from jaxlib_guidance.attention._joint import joint_map, see_text, within
from jaxlib_guidance.attention._negative import FLIP, RULES
from jaxlib_guidance.attention._order import in_order
from jaxlib_guidance.attention._queries import queries_and_keys
from jaxlib_guidance.attention._require import require_edit, require_shapes
from jaxlib_guidance.attention._rows import by_rows
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array, expand

KERNELS = (None, "xla", "cudnn")


def attend(
    q: Array,
    k: Array,
    v: Array,
    edit: Edit | None = None,
    *,
    mask: Array | None = None,
    grid: tuple[int, ...] | None = None,
    image: slice | None = None,
    capture: bool | Callable[[Array], Array] = False,
    kernel: str | None = None,
) -> tuple[Array, Array | None]:
    """``softmax(q k^T / sqrt(D)) v``, edited.

    A query whose keys are all hidden, by ``mask`` or by the edit, attends to nothing:
    its row of the map, and its output, are 0.

    Args:
      q: Queries ``[B, Q, H, D]``. In a call of K folded branches ``B`` counts them all,
        sample major.
      k: Keys ``[B, M, H, D]``.
      v: Values ``[B, M, H, D]``.
      edit: What to change in the map, or None for plain attention.
      mask: ``bool [B, M]``, False where a key is padding.
      grid: Shape of the token grid that ``query_blur`` works on, one or two axes whose
        product is ``Q``, or the length of ``image``; None is one axis.
      image: In joint attention, where an image and a text are one sequence, the tokens
        of the image, with a start and a stop. ``query_blur`` and ``shift`` then move
        these alone, and ``identity`` lets each of them see itself and the text, and the
        text everything, as PAG does there. None means that there is no text.
      capture: Whether to return the map, or a function of it to return instead: a mean
        over its heads and queries, say, so that no whole map leaves the network;
        `queries_and_keys`, so that none is made.
      kernel: What computes unedited maps: "xla", or "cudnn" for flash attention in half
        precision on NVIDIA devices; None leaves the choice to jax.

    Returns:
      ``(out [B, Q, H, D], probs)``; ``probs`` is the edited map, float32
      ``[B, H, Q, M]``, or ``capture`` of it, or None unless captured.

    Raises:
      TypeError: An edit of features.
      ValueError: Shapes that do not fit, or an edit that has no meaning here, such as
        the identity map between unequal numbers of queries and keys.
    """
    require_shapes(q, k, v, mask)
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; expected one of {KERNELS}")
    if edit is None:
        edit = Edit()
    else:
        _require_meaning(edit, q, k)
        borrowed = dict(edit.borrow)
        gate = 1.0 if edit.borrow_gate is None else edit.borrow_gate
        q, k, v = (
            mix(own, take(own, borrowed[what], what), gate, "borrow_gate")
            if what in borrowed
            else own
            for what, own in (("q", q), ("k", k), ("v", v))
        )
        if edit.query_order is not None:
            q = in_order(q, edit.query_order, "query_order")
        if edit.key_order is not None:
            k, v = (in_order(a, edit.key_order, "key_order") for a in (k, v))
        q, k, v = (within(image, lambda a: _roll(a, edit.shift), a) for a in (q, k, v))
        if edit.query_blur is not None:
            sigma = edit.query_blur
            q = within(image, lambda a: _blur(a, sigma, grid or a.shape[1:2]), q)
    packed = capture is queries_and_keys and _is_softmax(q, k, edit, mask)
    probs = None
    if (capture and not packed) or _reads_map(edit):
        logits = _logits(q, k, edit, mask)
        probs = _softmax(logits)
        if edit.sparse is not None:
            probs = mix(probs, entmax15(logits), edit.sparse, "sparse")
        probs = _edit_probs(probs, edit)
        out = jnp.einsum("bhqm,bmhd->bqhd", probs.astype(v.dtype), v)
    else:
        out = _fused(q, k, v, mask, kernel)
    if edit.identity is not None:
        out, probs = _identity(out, probs, q, k, v, mask, edit.identity, image)
    for rule, source in edit.negative:
        out = _moved(out, q, k, v, mask, edit, rule, source, kernel)
    if packed:
        return out, jnp.stack([q, k], 1)
    if probs is None or not capture:
        return out, None
    return out, captured(probs, capture)


def _identity(out, probs, q, k, v, mask, gate, image):
    """Output and map, mixed with those of tokens that see themselves alone."""
    if image is None:
        out = mix(out, v, gate, "identity")
        if probs is not None:
            eye = jnp.eye(probs.shape[-1], dtype=probs.dtype)
            probs = mix(probs, jnp.broadcast_to(eye, probs.shape), gate, "")
        return out, probs
    alone, own, text = see_text(q, k, v, mask, image)
    out = within(image, lambda a: mix(a, alone, gate, "identity"), out)
    if probs is not None:
        probs = mix(probs, joint_map(probs, own, text, image), gate, "")
    return out, probs


def _fused(q, k, v, mask, kernel, bias=None):
    keys = None if mask is None else mask[:, None, None, :]

    def attention(*given):
        # The kernel's own code mixes bfloat16 and float32, which strict promotion
        # forbids.
        with jax.numpy_dtype_promotion("standard"):
            return jax.nn.dot_product_attention(
                *given, mask=keys, implementation=kernel
            )

    # A kernel of its own holds no map.
    whole = kernel == "cudnn"
    out = attention(q, k, v, bias) if whole else by_rows(attention, q, k, v, bias)
    if mask is None:
        return out
    return jnp.where(
        jnp.any(mask, 1)[:, None, None, None], out, jnp.zeros((), out.dtype)
    )


def _moved(out, q, k, v, mask, edit, rule, source, kernel):
    """Away from the attention to the sources' keys, in the branches that have one."""
    own = source
    if isinstance(source, tuple):
        own = tuple(i if taken < 0 else taken for i, taken in enumerate(source))
    keys, values = (take(a, own, "negative") for a in (k, v))
    hidden = None if mask is None else take(mask, own, "negative")
    if rule == FLIP:
        away = _flipped(q, (k, keys), (v, values), (mask, hidden), edit, kernel)
    else:
        away = RULES[rule](out, _fused(q, keys, values, hidden, kernel), edit)
    uses = jnp.tile(jnp.asarray(source) >= 0, out.shape[0] // len(source))
    share = 1.0 if edit.negative_mix is None else edit.negative_mix
    return mix(out, away, share * uses.astype(jnp.float32), "negative_mix")


def _flipped(q, keys, values, masks, edit, kernel):
    """One softmax over own and negative keys, the values of the latter flipped."""
    scale, bias = (
        jnp.asarray(0.0 if a is None else a, jnp.float32)
        for a in (edit.negative_scale, edit.negative_bias)
    )
    for name, number in (("scale", scale), ("bias", bias)):
        if number.shape not in ((), q.shape[:1]):
            raise ValueError(
                f"edit.negative_{name} has shape {number.shape}; expected () or "
                f"{q.shape[:1]}"
            )
    away = -(expand(scale, q) * values[1].astype(jnp.float32))
    own = keys[0].shape[1]
    added = jnp.broadcast_to(expand(bias, q), (q.shape[0], 1, 1, 2 * own))
    added = jnp.where(jnp.arange(2 * own) < own, 0, added)
    mask = None if masks[0] is None else jnp.concatenate(masks, 1)
    both = jnp.concatenate((values[0], away.astype(values[0].dtype)), 1)
    return _fused(
        q, jnp.concatenate(keys, 1), both, mask, kernel, added.astype(q.dtype)
    )


def _require_meaning(edit, q, k):
    require_edit(edit)
    for name, used in self_only(edit):
        if used and q.shape[1] != k.shape[1]:
            raise ValueError(
                f"edit.{name} needs as many queries as keys; got {q.shape[1]} queries "
                f"and {k.shape[1]} keys: is this a cross-attention site?"
            )
    for name in LAYER:
        if getattr(edit, name) is not None:
            raise ValueError(
                f"edit.{name} concerns a whole layer; expected the site of its "
                "self-attention, in a network whose layers use enter_layer"
            )
    if not edit.negative and edit.negative_mix is not None:
        raise ValueError("edit.negative_mix has no effect without edit.negative")
    if not edit.borrow and edit.borrow_gate is not None:
        raise ValueError("edit.borrow_gate has no effect without edit.borrow")
    if "probs" not in dict(edit.borrow) and edit.borrow_columns is not None:
        raise ValueError(
            "edit.borrow_columns has no effect unless 'probs' are borrowed"
        )
    if "probs" not in dict(edit.borrow) and edit.borrow_words is not None:
        raise ValueError("edit.borrow_words has no effect unless 'probs' are borrowed")


def self_only(edit: Edit) -> tuple[tuple[str, bool], ...]:
    """The fields that mean something to self-attention only; whether each is set.

    Args:
      edit: Edit of one site.

    Returns:
      Pairs of a field's name and whether the edit sets it.
    """
    return ("identity", edit.identity is not None), ("shift", bool(edit.shift))


def _is_softmax(q, k, edit, mask):
    """Whether the map is the softmax of all queries and keys and nothing else."""
    plain = edit.identity is None and not _reads_map(edit)
    return plain and mask is None and q.shape == k.shape


def _reads_map(edit):
    fields = "logit_scale", "logit_bias", "sparse", "prob_gain", "prob_offset"
    changed = any(getattr(edit, name) is not None for name in (*fields, "renormalise"))
    return changed or "probs" in dict(edit.borrow)


def _roll(a, shift):
    if not isinstance(shift, tuple):
        return jnp.roll(a, shift, axis=1) if shift else a
    view = by_branch(a, len(shift), "shift")
    rolled = [jnp.roll(view[:, i], n, axis=1) for i, n in enumerate(shift)]
    return jnp.stack(rolled, 1).reshape(a.shape)


def _blur(q, sigma, grid):
    """Gaussian blur over the token grid; weights at the border are renormalised."""
    if math.prod(grid) != q.shape[1] or len(grid) not in (1, 2):
        raise ValueError(
            f"grid is {grid}; expected one or two sizes whose product is the number of "
            f"queries, {q.shape[1]}"
        )
    sigma = jnp.asarray(sigma, jnp.float32)
    if sigma.shape not in ((), q.shape[:1]):
        raise ValueError(
            f"edit.query_blur has shape {sigma.shape}; expected () or {q.shape[:1]}"
        )
    sigma = jnp.broadcast_to(sigma, q.shape[:1])[:, None, None]
    rest = q.shape[2:]
    out = q.astype(jnp.float32)
    for axis, size in enumerate(grid):
        distance = jnp.arange(size)[:, None] - jnp.arange(size)
        square = jnp.square(distance.astype(jnp.float32))
        # Both ends are exact: 0 leaves only the token itself, inf weighs all alike.
        rate = divide(jnp.ones_like(sigma), sigma)
        weight = jnp.exp(-0.5 * square * rate**2)
        weight = jnp.where(sigma > 0, weight, jnp.eye(size))
        weight = weight / jnp.sum(weight, -1, keepdims=True)
        before, after = math.prod(grid[:axis]), math.prod(grid[axis + 1 :])
        view = out.reshape(q.shape[0], before, size, after * math.prod(rest))
        out = jnp.einsum(
            "bij,bajc->baic", weight, view, precision=jax.lax.Precision.HIGHEST
        )
    return out.reshape(q.shape).astype(q.dtype)


def _table(value, shape, name):
    value = jnp.asarray(value, jnp.float32)
    fits = value.ndim == 4 and all(
        n in (1, m) for n, m in zip(value.shape, shape, strict=True)
    )
    if value.ndim and not fits:
        raise ValueError(
            f"edit.{name} has shape {value.shape}; expected () or rank 4 that "
            f"broadcasts against the map [B, H, Q, M] = {shape}"
            f"{PIXELS if 'logit' in name else ''}"
        )
    return value


def _logits(q, k, edit, mask):
    logits = jnp.einsum("bqhd,bmhd->bhqm", q, k, preferred_element_type=jnp.float32)
    logits = logits / math.sqrt(q.shape[-1])
    if edit.logit_scale is not None:
        logits = logits * _table(edit.logit_scale, logits.shape, "logit_scale")
    if edit.logit_bias is not None:
        logits = logits + _table(edit.logit_bias, logits.shape, "logit_bias")
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, -jnp.inf)
    return logits


def _softmax(logits):
    """Softmax over keys in float32; a row of nothing but ``-inf`` gives zeros."""
    top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    each = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(each, -1, keepdims=True)
    return divide(each, total)


def _edit_probs(probs, edit):
    borrowed = dict(edit.borrow)
    if "probs" in borrowed:
        taken = take(probs, borrowed["probs"], "probs")
        if edit.borrow_words is not None:
            taken = move_words(taken, edit.borrow_words)
        if edit.borrow_columns is not None:
            columns = jnp.asarray(edit.borrow_columns, jnp.float32)
            size, width = probs.shape[0], probs.shape[-1]
            if columns.shape not in ((width,), (size, width)):
                raise ValueError(
                    f"edit.borrow_columns has shape {columns.shape}; expected "
                    f"({width},) or ({size}, {width})"
                )
            columns = columns.reshape(-1, 1, 1, width)
            taken = (1 - columns) * probs + columns * taken
        gate = 1.0 if edit.borrow_gate is None else edit.borrow_gate
        probs = mix(probs, taken, gate, "borrow_gate")
    if edit.prob_gain is not None:
        probs = probs * _table(edit.prob_gain, probs.shape, "prob_gain")
    if edit.prob_offset is not None:
        probs = probs + _table(edit.prob_offset, probs.shape, "prob_offset")
    if edit.renormalise is not None:
        total = jnp.sum(probs, -1, keepdims=True)
        scaled = jnp.where(total > 0, divide(probs, total), probs)
        probs = mix(probs, scaled, edit.renormalise, "renormalise")
    return probs
