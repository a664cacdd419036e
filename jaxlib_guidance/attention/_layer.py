"""Edits of the layer around a self-attention site: left out, or shuffled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.attention._control import LAYER, Edit
from jaxlib_guidance.attention._gates import gate_of
from jaxlib_guidance.attention._require import require_edit
from jaxlib_guidance.types import Array, concrete, expand


def enter_layer(x: Array, edit: Edit | None) -> tuple[Array, Edit | None]:
    """The tokens with which a layer begins, and the edit of its self-attention.

    With `leave_layer` this is all that a layer of a network of your own needs for
    ``Edit.skip`` and ``Edit.shuffle``.

    Args:
      x: Tokens ``[B, T, C]`` that enter the layer.
      edit: Edit at the site of the layer's self-attention, or None.

    Returns:
      Tokens ``[B, T, C]``, shuffled where the edit says so, and the edit for `attend`.

    Raises:
      TypeError: An edit of features.
      ValueError: A seed that is neither a scalar nor ``[B]``.
    """
    if edit is None:
        return x, edit
    require_edit(edit)
    if all(getattr(edit, name) is None for name in LAYER):
        return x, edit
    if edit.shuffle is not None:
        seeds = gate_of(edit.shuffle, x, "shuffle").astype(jnp.uint32)
        keys = jax.vmap(jax.random.key)(jnp.broadcast_to(seeds, x.shape[:1]))
        order = jnp.argsort(rng.uniform(keys, x.shape[1:2]), axis=-1)
        order = jnp.where(expand(seeds, order) > 0, order, jnp.arange(x.shape[1]))
        x = jnp.take_along_axis(x, order[..., None], axis=1)
    return x, dataclasses.replace(edit, skip=None, shuffle=None)


def leave_layer(x: Array, before: Array, edit: Edit | None) -> Array:
    """What a layer hands on: its result, or what entered it where it is skipped.

    Args:
      x: The layer's result ``[B, ...]``.
      before: What entered it, of the same shape.
      edit: Edit at the site of the layer's self-attention, or None.

    Returns:
      Tokens of ``x``'s shape.

    Raises:
      ValueError: A gate that is neither a scalar nor ``[B]``.
    """
    if edit is None or edit.skip is None:
        return x
    skip = expand(gate_of(edit.skip, x, "skip"), x).astype(x.dtype)
    return (1 - skip) * x + skip * before


def skip(gate: Array | float = 1.0) -> Edit:
    """Leaves out the layer that a self-attention site is part of.

    Args:
      gate: 1 leaves it out, 0 keeps it; scalar or ``[B]``.

    Returns:
      An edit, for the control of a branch.

    Reference: spatiotemporal skip guidance, arXiv 2411.18664 (STG-R).
    """
    return Edit(skip=gate)


def shuffle(seed: Array | int) -> Edit:
    """Permutes the tokens that enter the layer of a self-attention site.

    Args:
      seed: Whole number from 1 to 2^24 - 1, scalar or ``[B]``: each is a permutation.
        0 permutes nothing.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Another seed.

    Reference: token perturbation guidance, arXiv 2506.10036.
    """
    known = concrete(seed)
    if known is not None:
        whole = (known >= 0) & (known < 2**24) & (known == np.floor(known))
        if not np.all(whole):
            raise ValueError(f"seed is {seed}; expected whole numbers below 2^24")
    return Edit(shuffle=seed)
