"""Who mates with whom."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def tournament(key: Array, fitness: Array, *, size: int = 5) -> Array:
    """The best of ``size`` individuals drawn at random, with replacement.

    Args:
      key: Typed key.
      fitness: Fitness of each individual, ``[N]``; more is better.
      size: How many are drawn, at least 1.

    Returns:
      Index of the winner, int32 scalar.

    Raises:
      ValueError: Another shape, ``size`` below 1.
    """
    drawn = _candidates(key, fitness, size)
    known = jnp.nan_to_num(at_least_float32(jnp.asarray(fitness)), nan=-jnp.inf)
    return drawn[jnp.argmax(known[drawn])]


def choose_mate(
    key: Array,
    fitness: Array,
    distance: Array | None = None,
    *,
    size: int = 5,
    kind: Literal["ideal", "random", "tournament"] = "ideal",
) -> Array:
    """The second parent: of ``size`` candidates the one nearest to the first's ideal.

    An individual carries, beside its solution, an ideal mate that is inherited and
    mutates with it. The first parent is chosen by `tournament`; whom it likes depends
    on nobody's fitness.

    Args:
      key: Typed key.
      fitness: Fitness of each individual, ``[N]``; more is better.
      distance: Of the first parent's ideal mate to each individual, ``[N]``; given for
        ``kind`` "ideal" and for no other.
      size: How many candidates are drawn, at least 1, with replacement.
      kind: "ideal" as above; "random" takes a candidate by chance, "tournament" the
        best one.

    Returns:
      Index of the mate, int32 scalar.

    Raises:
      ValueError: Another shape, ``size`` below 1, another kind, a distance that is
        missing or has no effect.

    Reference: PIMP, Simões et al., arXiv 2303.17441; the distance is the caller's.
    """
    if kind not in ("ideal", "random", "tournament"):
        raise ValueError(
            f'kind is {kind!r}; expected "ideal", "random" or "tournament"'
        )
    if (kind == "ideal") != (distance is not None):
        given = "None" if distance is None else "given"
        raise ValueError(f"distance is {given} for kind {kind!r}")
    if kind == "tournament":
        return tournament(key, fitness, size=size)
    drawn = _candidates(key, fitness, size)
    if kind == "random":
        return drawn[0]
    assert distance is not None
    require_shape("distance", distance, jnp.shape(fitness))
    known = jnp.nan_to_num(at_least_float32(jnp.asarray(distance)), nan=jnp.inf)
    return drawn[jnp.argmin(known[drawn])]


def _candidates(key, fitness, size):
    if jnp.ndim(fitness) != 1:
        raise ValueError(f"fitness has shape {jnp.shape(fitness)}; expected [N]")
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1")
    # `jax.random.randint` compiles for three times as long.
    drawn = jax.random.uniform(key, (size,)) * len(fitness)
    return jnp.minimum(drawn.astype(jnp.int32), len(fitness) - 1)
