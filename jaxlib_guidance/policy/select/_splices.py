"""Trajectories that go wrong, spliced with ones that go right."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.types import Array


class Splice(NamedTuple):
    """A trajectory that goes wrong, notices, and goes right.

    Attributes:
      tokens: ``[L]``, 0 beyond the end.
      mask: 1 where it trains.
      valid: 1 up to the end.
    """

    tokens: Array
    mask: Array
    valid: Array


def splice(
    bad: Array,
    thought: Array,
    good: Array,
    *,
    error: Array | int,
    prefix: Array | int,
    thought_length: Array | int | None = None,
    good_length: Array | int | None = None,
    length: int,
) -> Splice:
    """The bad path up to its first error, a thought, the rest of the good path.

    What the bad path says does not train; the thought and what follows do. If the error
    comes right after the shared prefix, this is the good path with a thought in it.

    Args:
      bad: Tokens of the bad path, integers ``[A]``.
      thought: Tokens of the revision, integers ``[R]``.
      good: Tokens of the good path, integers ``[C]``.
      error: Number of the bad path's tokens that are kept, from its start; not less
        than ``prefix`` (what lies between is the error).
      prefix: Number of tokens that the paths share.
      thought_length: Number of tokens of ``thought`` that count; None for all.
      good_length: Number of tokens of ``good`` that count; None for all.
      length: Number ``L`` of tokens in the result, a Python integer. What does not fit
        is cut.

    Returns:
      See `Splice`. A ``good`` path with nothing beyond the prefix is no sample: its
      ``mask`` and ``valid`` are 0.

    Reference: Agent-R, Yuan et al., arXiv 2501.11425; its ``path_collection.py``.
    """
    for name, x in (("bad", bad), ("thought", thought), ("good", good)):
        if jnp.ndim(x) != 1:
            raise ValueError(f"{name} has shape {jnp.shape(x)}; expected one sequence")
    bad, thought, good = jnp.asarray(bad), jnp.asarray(thought), jnp.asarray(good)
    if thought_length is None:
        thought_length = thought.size
    if good_length is None:
        good_length = good.size
    at = jnp.arange(length)
    first = jnp.asarray(error)
    second = first + thought_length
    rest = good_length - jnp.asarray(prefix)
    tokens = jnp.where(
        at < first,
        bad[jnp.clip(at, 0, bad.size - 1)],
        jnp.where(
            at < second,
            thought[jnp.clip(at - first, 0, thought.size - 1)],
            good[jnp.clip(at - second + prefix, 0, good.size - 1)],
        ),
    )
    valid = (at < second + rest) & (rest > 0)
    return Splice(
        jnp.where(valid, tokens, 0),
        (valid & (at >= first)).astype(jnp.float32),
        valid.astype(jnp.float32),
    )
