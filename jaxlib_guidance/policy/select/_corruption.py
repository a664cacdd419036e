"""Good trajectories made bad in a known way, to train a judge of outcomes."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.types import Array, PyTree

Corruption = Literal["truncate", "redundant", "swap", "wrong_end"]
KINDS = ("truncate", "redundant", "swap", "wrong_end")
SHORTEST = {"truncate": 2, "redundant": 2, "swap": 2, "wrong_end": 3}


class Corrupted(NamedTuple):
    """A trajectory that is no success any more.

    Attributes:
      steps: Its steps, leaves ``[S, ...]``; what lies beyond the length is arbitrary.
      length: Number of its steps, int32 scalar.
    """

    steps: PyTree
    length: Array


def corrupt(
    key: Array,
    steps: PyTree,
    length: Array,
    other: PyTree | None = None,
    other_length: Array | None = None,
    *,
    kind: Corruption,
) -> Corrupted:
    """Damages a successful trajectory, whose last step says that it is finished.

    "truncate" drops the last one, two or three steps, but never all; "redundant"
    repeats a step before the last, right after it; "swap" puts a step of another
    trajectory in the place of one before the last; "wrong_end" stops early: one step or
    more before the last are left out, and the last follows. All choices are drawn
    evenly.

    Args:
      key: A typed key.
      steps: Steps of one trajectory, a pytree of leaves ``[S, ...]``; `jax.vmap` for a
        batch.
      length: Number of steps that are the trajectory's, at least 2, for "wrong_end" 3;
        for "redundant" below ``S``.
      other: Steps of another trajectory, like ``steps``; for "swap" alone.
      other_length: Number of steps of ``other``, 2 to ``S``; its last is not taken.
      kind: What is done: "truncate", "redundant", "swap" or "wrong_end".

    Returns:
      The damaged trajectory, of the shapes of ``steps``.

    Raises:
      ValueError: Another kind, a trajectory too short or too long for it, or another
        trajectory that is missing or not asked for.

    Reference: UI-Genie, Xiao et al., arXiv 2505.21496 (controlled corruption).
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    given = other is not None, other_length is not None
    if given != (kind == "swap",) * 2:
        raise ValueError(
            f"other and other_length are {'given' if any(given) else 'missing'} for "
            f'kind {kind!r}; expected both for "swap", and neither else'
        )
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(steps)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"leaves of steps have first axes {sorted(sizes)}; expected one, [S, ...]"
        )
    ((size,),) = sizes
    longest = size - (kind == "redundant")
    require_range("length", length, SHORTEST[kind], longest)
    length = jnp.asarray(length, jnp.int32)
    place = jnp.arange(size)
    if kind == "truncate":
        dropped = jax.random.randint(key, (), 1, jnp.minimum(3, length - 1) + 1)
        return Corrupted(steps, length - dropped)
    if kind == "redundant":
        which = jax.random.randint(key, (), 0, length - 1)
        taken = jnp.where(place > which, place - 1, place)
        return Corrupted(_take(steps, taken), length + 1)
    if kind == "wrong_end":
        kept = jax.random.randint(key, (), 1, length - 1)
        taken = jnp.where(place == kept, length - 1, place)
        return Corrupted(_take(steps, taken), kept + 1)
    assert other_length is not None
    shapes = [jax.tree.map(jnp.shape, x) for x in (steps, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"other has shapes {shapes[1]}; expected {shapes[0]}")
    require_range("other_length", other_length, 2, size)
    one, two = jax.random.split(key)
    which = jax.random.randint(one, (), 0, length - 1)
    source = jax.random.randint(two, (), 0, jnp.asarray(other_length) - 1)

    def swap(own, foreign):
        return jnp.asarray(own).at[which].set(jnp.asarray(foreign)[source])

    return Corrupted(jax.tree.map(swap, steps, other), length)


def _take(steps, index):
    return jax.tree.map(lambda x: jnp.asarray(x)[index], steps)
