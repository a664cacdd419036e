"""A small network with attention to edit, which compiles fast."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import (
    attend,
    capture_at,
    captured,
    edit_features,
    enter_layer,
    join_features,
    leave_layer,
)
from jaxlib_guidance.diffusion import parametrize
from jaxlib_guidance.models import Adapted
from jaxlib_guidance.types import Array, Denoiser, Process

WIDTH, HEADS, BLOCKS, WORDS, LABELS = 8, 2, 2, 3, 10
SITES = ("block0/attn", "block1/attn", "block1/cross")


def site_denoiser(shape: tuple[int, ...], process: Process, seed: int = 0) -> Denoiser:
    """Two blocks of attention with random weights, the second with cross-attention.

    Tokens are patches of two by two pixels, or steps of a sequence. Cross-attention is
    to three words that the label stands for. A smaller picture, as of a crop, has the
    places of the upper left corner.

    Args:
      shape: One sample ``*S``, an image ``(H, W, C)`` with even sides or a sequence
        ``(L, C)``.
      process: The noise process.
      seed: Another seed is another network.

    Returns:
      A denoiser with the sites "block0/attn", "block1/attn" and "block1/cross", which
      can be captured too, as can the features "block0" and "block1" ``[B, T, 8]``,
      which accept edits, as does their join, "join". Its condition is labels ``[B]``
      from 0 to 10.
    """
    return parametrize(_network(shape, seed), process, "v")


# Of one shape there is one, whose compiled form serves all terms.
@functools.cache
def _network(shape, seed) -> Adapted:
    whole = _grid(shape)
    inputs = math.prod(shape) // math.prod(whole)
    weights = _weights(seed, math.prod(whole), inputs)
    places = weights["place"].reshape(*whole, WIDTH)

    # Compiled where it is called without jit too: what is checked is the term.
    @functools.partial(jax.jit, static_argnames="capture")
    def compiled(x, t, cond, control, capture):
        capture, maps = dict(capture), {}
        edits: dict[str, Any] = dict(control)
        grid = _grid(x.shape[1:])
        here = places[tuple(map(slice, grid))].reshape(-1, WIDTH)

        def attention(site, queries, keys):
            q = _heads(queries @ weights[f"{site} q"])
            k, v = (_heads(keys @ weights[f"{site} {part}"]) for part in "kv")
            out, probs = attend(
                *(q, k, v, edits.get(site)),
                grid=grid,
                capture=capture_at(site, capture),
            )
            maps[site] = probs
            return jnp.tanh(out.reshape(queries.shape))

        h = _tokens(x, grid) @ weights["in"] + here
        words = weights["words"][cond]
        h = skip = h + words[:, :1] + t[:, None, None]
        for block in (f"block{i}" for i in range(BLOCKS)):
            layer_edit = edits.get(f"{block}/attn")
            h, edits[f"{block}/attn"] = enter_layer(h, layer_edit)
            before = h
            for site, keys in ((f"{block}/attn", h), (f"{block}/cross", words)):
                if site in SITES:
                    h = h + attention(site, h, keys)
            h = leave_layer(h, before, layer_edit)
            h = edit_features(h, edits.get(block))
            if block in capture:
                maps[block] = captured(h, capture_at(block, capture))
        h = join_features(h, skip, edits.get("join"))
        value = _picture(h @ weights["out"], grid, x.shape)
        return value, {name: maps[name] for name in capture}

    def call(x, t, cond, *, control, capture):
        named = capture if isinstance(capture, Mapping) else dict.fromkeys(capture)
        return compiled(x, t, cond, control, tuple(named.items()))

    blocks = tuple(f"block{i}" for i in range(BLOCKS))
    return Adapted(
        call,
        SITES,
        (*SITES, *blocks),
        classes=LABELS,
        reduces=True,
        feature_sites=(*blocks, "join"),
    )


def _grid(shape):
    """How many tokens there are along each axis."""
    return tuple(n // 2 for n in shape[:2]) if len(shape) == 3 else shape[:1]


def _weights(seed, tokens, inputs) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    shapes = {
        "in": (inputs, WIDTH),
        "place": (tokens, WIDTH),
        "words": (LABELS + 1, WORDS, WIDTH),
        "out": (2 * WIDTH, inputs),
    } | {f"{site} {part}": (WIDTH, WIDTH) for site in SITES for part in "qkv"}
    return {
        name: jnp.asarray(random.normal(size=s) / s[-2] ** 0.5, jnp.float32)
        for name, s in shapes.items()
    }


def _heads(a):
    return a.reshape(*a.shape[:2], HEADS, WIDTH // HEADS)


def _tokens(x, grid):
    if len(grid) == 1:
        return x
    rows, columns = grid
    patches = x.reshape(x.shape[0], rows, 2, columns, 2, x.shape[-1])
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows * columns, -1)


def _picture(tokens, grid, shape):
    if len(grid) == 1:
        return tokens
    patches = tokens.reshape(shape[0], *grid, 2, 2, shape[-1])
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(shape)
