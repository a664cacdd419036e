"""Newton's polynomial, integrated over a step: the terms of a multistep method."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, expand


def newton(
    moments: Sequence[Array],
    nodes: Sequence[Array],
    differences: Sequence[Array],
    degree: Array,
) -> list[Array]:
    """``d_k int (c - c_0) ... (c - c_{k-1}) dc`` over the step for k = 1, 2, ...

    Args:
      moments: Integrals of the powers of ``c - c_0``; the zeroth stands for the first
        while the polynomial is a straight line.
      nodes: Clocks ``c_0, c_1, ...`` at which the quantity is known.
      differences: Divided differences ``d_0, d_1, ...`` of the quantity at the nodes.
      degree: Highest term that counts; those above it are 0.

    Returns:
      Terms from the first on, each ``[B, *S]``.
    """
    terms = []
    product = [1.0]  # the product's coefficients of (c - c_0)^1, ^2, ...
    for k, d in enumerate(differences[1:], 1):
        weight = sum(p * m for p, m in zip(product, moments[1:], strict=False))
        if k == 1:
            weight = jnp.where(degree == 1, moments[0], weight)
        terms.append(expand(jnp.where(k <= degree, weight, 0), d) * d)
        if k < len(nodes):
            shift = nodes[0] - nodes[k]
            product = [
                a + shift * b for a, b in zip([0, *product], [*product, 0], strict=True)
            ]
    return terms


# A term counts whole while its norm is below half of that of the term before it, not at
# all where it is no smaller, and in part between, so that the sum is continuous: a
# rounding error does not turn a term on or off.
_WHOLE, _NONE = 0.5, 1.0


def shrinking(terms: Sequence[Array], guarded: Array | bool = False) -> Array | float:
    """Sum of a series up to where its terms stop shrinking, for each sample apart.

    Newton's series is cut like an asymptotic one: while the quantity is smooth on the
    scale of the steps each term is a fraction of the one before; where it is not, a
    higher order only adds what a network got wrong.

    Args:
      terms: Terms of the series, each ``[B, *S]``.
      guarded: Whether the first term, too, counts only as far as the second is smaller.
    """
    if not terms:
        return 0.0
    total, shares = terms[0], []
    for before, term in itertools.pairwise(terms):
        part = _part(before, term)
        shares.append(shares[-1] * part if shares else part)
        total += expand(shares[-1], term) * term
    if not shares:
        return total
    return expand(jnp.where(guarded, shares[0], 1), total) * total


def _part(before: Array, term: Array) -> Array:
    """The part of a term that counts, ``[B]``, by its size beside the one before."""
    axes = tuple(range(1, term.ndim))
    # In units of the larger: squares of small terms, and of their slopes, would vanish.
    unit = jnp.maximum(jnp.abs(before), jnp.abs(term)).max(axes, initial=0)
    unit = jax.lax.stop_gradient(unit)
    unit = expand(jnp.where(unit >= jnp.finfo(unit.dtype).tiny, unit, 1), term)
    old, new = (jnp.sum((each / unit) ** 2, axis=axes) for each in (before, term))
    shrinks = new < _NONE**2 * old
    ratio = new / jnp.where(shrinks, old, 1)
    part = jnp.clip((_NONE**2 - ratio) / (_NONE**2 - _WHOLE**2), 0, 1)
    # After nothing, nothing more is no reason to stop.
    return jnp.where(shrinks, part, (new == 0).astype(part.dtype))
