"""Batches of pairs: a source, and beside it what is made of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, PyTree


def join_pairs(source: PyTree, edited: PyTree) -> PyTree:
    """Two batches as one of pairs, ``[B, ...]`` and ``[B, ...]`` to ``[2 B, ...]``.

    Each source stands before its edit, so that a batch that is split among devices
    keeps its pairs together.

    Args:
      source: Pytree whose leaves lead with ``B``: states, conditions or keys.
      edited: Another of the same structure and shapes.

    Returns:
      The pytree with leaves ``[2 B, ...]``.

    Raises:
      ValueError: Different structures or shapes.
    """
    trees = [jax.tree.structure(each) for each in (source, edited)]
    shapes = [
        [jnp.shape(leaf) for leaf in jax.tree.leaves(each)] for each in (source, edited)
    ]
    if trees[0] != trees[1] or shapes[0] != shapes[1]:
        raise ValueError(
            f"a pair has source {trees[0]} of shapes {shapes[0]} and edited {trees[1]} "
            f"of shapes {shapes[1]}; expected the same"
        )

    def join(a, b):
        # What is known stays known under jit.
        traced = isinstance(a, jax.Array) or isinstance(b, jax.Array)
        both = jnp.stack([a, b], 1) if traced else np.stack([a, b], 1)
        return both.reshape(-1, *both.shape[2:])

    return jax.tree.map(join, source, edited)


def split_pairs(x: Array) -> tuple[Array, Array]:
    """A batch of pairs as two: ``[2 B, ...]`` to sources and edits ``[B, ...]``.

    Args:
      x: Array that leads with an even number.

    Returns:
      The sources, and the edits.

    Raises:
      ValueError: An odd batch.
    """
    if x.shape[0] % 2:
        raise ValueError(f"got a batch of {x.shape[0]}; expected pairs")
    view = x.reshape(-1, 2, *x.shape[1:])
    return view[:, 0], view[:, 1]
