"""Builders of attention edits, in the words of the papers that use them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._control import BORROWABLE, PIXELS, Edit
from jaxlib_guidance.types import Array, concrete


def identity(gate: Array | float = 1.0) -> Edit:
    """The map becomes the identity, so that every token sees only itself.

    Args:
      gate: 1 replaces the map, 0 leaves it; scalar or ``[B]``.

    Returns:
      An edit, for the control of a branch.

    Reference: perturbed-attention guidance, arXiv 2403.17377.
    """
    return Edit(identity=gate)


def blur(sigma: Array | float) -> Edit:
    """Queries are blurred over the token grid, which flattens the attention energy.

    Args:
      sigma: Standard deviation in tokens; ``inf`` gives every query the mean of all,
        0 changes nothing. Scalar or ``[B]``, may be traced.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: A width below 0 or NaN.

    Reference: smoothed energy guidance, arXiv 2408.00760.
    """
    known = concrete(sigma)
    if known is not None and not np.all(known >= 0):
        raise ValueError(f"sigma is {sigma}; expected a width of at least 0")
    return Edit(query_blur=sigma)


def suppress(mask: Array, scale: Array | float | None = None) -> Edit:
    """Hides the tokens in ``mask`` as keys, so that they are rebuilt from the others.

    ``logits -> lambda_q logits - inf * mask_m`` with ``lambda_q = scale`` for queries
    in the mask and 1 for the others. A mask of all tokens leaves nothing to attend to,
    and the attention output is then 0.

    Args:
      mask: Mask of tokens ``[M]`` or ``[B, M]``, non-zero on those to hide;
        `token_mask` makes it of pixels.
      scale: Similarity suppression, scalar or ``[B]``: 0 makes each hidden token a
        plain average of the others, 1 or None leaves it.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: ``mask`` or ``scale`` of another shape, or NaN in ``mask``.

    Reference: Attentive Eraser, arXiv 2412.12974.
    """
    hidden = _rows(mask, "mask").astype(bool)
    bias = jnp.where(hidden, -jnp.inf, 0.0)[:, None, None, :]
    if scale is None:
        return Edit(logit_bias=bias)
    scale = jnp.asarray(scale, jnp.float32)
    if scale.ndim > 1 or (scale.ndim and hidden.shape[0] not in (1, scale.shape[0])):
        raise ValueError(f"scale has shape {scale.shape}; expected () or [B]")
    factor = jnp.where(hidden, scale.reshape(-1, 1), 1.0)[:, None, :, None]
    return Edit(logit_bias=bias, logit_scale=factor)


def token_mask(mask: Array, grid: tuple[int, ...]) -> Array:
    """An image mask as a mask of tokens: a token counts if any of its pixels does.

    Args:
      mask: Mask of pixels ``[H, W]`` or ``[B, H, W]``, non-zero on the object.
      grid: Shape ``(h, w)`` of the token grid, which divides ``(H, W)``.

    Returns:
      Bool ``[h * w]`` or ``[B, h * w]``.

    Raises:
      ValueError: A mask of another rank or with NaN; sizes that do not divide.
    """
    if jnp.ndim(mask) not in (2, 3):
        raise ValueError(
            f"mask has shape {jnp.shape(mask)}; expected [H, W] or [B, H, W]"
        )
    _require_known(mask, "mask")
    mask = jnp.asarray(mask).astype(bool)
    *batch, height, width = mask.shape
    if len(grid) != 2 or height % grid[0] or width % grid[1]:
        raise ValueError(f"grid {grid} does not divide the mask's {(height, width)}")
    tall, wide = height // grid[0], width // grid[1]
    cells = mask.reshape(*batch, grid[0], tall, grid[1], wide)
    return jnp.any(cells, axis=(-3, -1)).reshape(*batch, grid[0] * grid[1])


def emphasise(
    columns: Array,
    weight: Array | float,
    rows: Array | None = None,
    *,
    renormalise: bool = False,
) -> Edit:
    """Adds ``weight`` to the probabilities of some keys: attend more, or less, to them.

    Args:
      columns: Keys that get it, ``[M]`` or ``[B, M]``, 1 on the tokens of a word and 0
        elsewhere; between 0 and 1 for a part.
      weight: Number that is added there, scalar or ``[B]``; mostly from -1 to 1.
      rows: Queries whose maps change, ``[Q]`` or ``[B, Q]``, 1 in a time window and 0
        elsewhere; None means all.
      renormalise: Whether rows are made to sum to 1 again; the paper does not.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Masks of another shape or with numbers outside [0, 1]; a weight that
        is neither scalar nor ``[B]``.

    Reference: MotionCLR, arXiv 2410.18977, section 4.1.
    """
    where = _window(columns, rows)
    return Edit(
        prob_offset=_weight(weight) * where, renormalise=1.0 if renormalise else None
    )


def attenuate(
    columns: Array,
    gain: Array | float,
    rows: Array | None = None,
    *,
    renormalise: bool = False,
) -> Edit:
    """Multiplies the probabilities of some keys by ``gain``; 0 erases them.

    Args:
      columns: Keys that are attenuated, ``[M]`` or ``[B, M]``, 1 on them and 0
        elsewhere; between 0 and 1 for a part.
      gain: Factor of the probabilities there, scalar or ``[B]``.
      rows: Queries whose maps change, ``[Q]`` or ``[B, Q]``, 1 on them and 0 elsewhere;
        None means all.
      renormalise: Whether rows are made to sum to 1 again.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Masks of another shape or with numbers outside [0, 1]; a gain that is
        neither scalar nor ``[B]``.

    Reference: MotionCLR, arXiv 2410.18977, section 4.1 (erasing in a time window).
    """
    where = _window(columns, rows)
    return Edit(
        prob_gain=1 + (_weight(gain) - 1) * where,
        renormalise=1.0 if renormalise else None,
    )


def borrow(
    what: str | tuple[str, ...],
    branch: str | Before,
    *,
    gate: Array | float | None = None,
    columns: Array | None = None,
    words: Array | None = None,
) -> Edit:
    """Takes queries, keys, values or probabilities from another branch of the call.

    Args:
      what: Quantities to take, one or several of "q", "k", "v", "probs".
      branch: Name of the branch to take them from, such as "cond"; or `Before`, in a
        batch of pairs.
      gate: Share that is taken, scalar or ``[B]``: 1 takes, 0 keeps the branch's own;
        None is 1.
      columns: Columns of the probabilities that are taken, ``[M]`` or ``[B, M]``, 1 on
        them and 0 elsewhere; None means all. Only with "probs".
      words: Where the borrowed columns go, ``[M, M]`` or ``[B, M, M]``, as from
        `align_words`; None leaves each at its place. Only with "probs".

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Something else to borrow; ``columns`` or ``words`` without "probs", or
        ``columns`` with numbers outside [0, 1].

    Reference: MotionCLR, arXiv 2410.18977, section 4 (replacement, style transfer);
      Prompt-to-Prompt, arXiv 2208.01626, section 3 (words).
    """
    names = (what,) if isinstance(what, str) else tuple(what)
    for name in names:
        if name not in BORROWABLE:
            raise ValueError(f"borrow of {name!r}; expected one of {BORROWABLE}")
    for name, value in (("columns", columns), ("words", words)):
        if value is not None and "probs" not in names:
            raise ValueError(f"{name} has no effect on {names}; it is of 'probs'")
    if columns is not None:
        _require_share(columns, "columns")
    pairs = tuple((name, branch) for name in names)
    return Edit(
        borrow=pairs, borrow_gate=gate, borrow_columns=columns, borrow_words=words
    )


def shift(tokens: int) -> Edit:
    """Rolls queries, keys and values, so that the output moves by ``tokens``.

    Together with ``borrow(("q", "k", "v"), source)`` this moves the source's content in
    time.

    Args:
      tokens: Number of tokens to move by, towards the end if positive (static).

    Returns:
      An edit, for the control of a branch.

    Reference: MotionCLR, arXiv 2410.18977, section 4 (sequence shifting).
    """
    return Edit(shift=tokens)


def combine(*edits: Edit) -> Edit:
    """One edit that has the fields of all.

    Args:
      *edits: Edits of the same site.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Two edits set the same field.
    """
    neutral = Edit()
    merged: dict[str, Any] = {}
    for edit in edits:
        for field in dataclasses.fields(Edit):
            value, default = getattr(edit, field.name), getattr(neutral, field.name)
            if value is default or (field.name in ("shift", "borrow") and not value):
                continue
            if field.name in merged:
                raise ValueError(f"two edits set {field.name}; merge them by hand")
            merged[field.name] = value
    return Edit(**merged)


def _rows(mask, name):
    """``[M]`` or ``[B, M]`` as ``[1 or B, M]``."""
    mask = jnp.asarray(mask)
    if mask.ndim not in (1, 2):
        raise ValueError(
            f"{name} has shape {mask.shape}; expected [M] or [B, M]{PIXELS}"
        )
    _require_known(mask, name)
    return jnp.atleast_2d(mask)


def _require_known(mask, name):
    known = concrete(mask)
    if known is not None and np.isnan(known).any():
        raise ValueError(f"{name} holds NaN; expected 0 and 1")


def _require_share(mask, name):
    known = concrete(mask)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(
            f"{name} goes from {known.min()} to {known.max()}; expected numbers in "
            "[0, 1]"
        )


def _window(columns, rows):
    _require_share(columns, "columns")
    if rows is not None:
        _require_share(rows, "rows")
    columns = _rows(columns, "columns").astype(jnp.float32)[:, None, None, :]
    if rows is None:
        return columns
    return columns * _rows(rows, "rows").astype(jnp.float32)[:, None, :, None]


def _weight(weight):
    weight = jnp.asarray(weight, jnp.float32)
    if weight.ndim > 1:
        raise ValueError(f"weight has shape {weight.shape}; expected () or [B]")
    return weight.reshape(-1, 1, 1, 1)
