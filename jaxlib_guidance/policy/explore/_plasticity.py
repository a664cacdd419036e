"""Networks that stop learning: how much sleeps, how much to explore, where to push."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.types import Array, PyTree, at_least_float32


def dormant_ratio(activations: Array, *, threshold: float = 0.025) -> Array:
    """Share of a layer's units whose mean size is at most a share of the layer's.

    A unit is dormant where ``mean |h_i| <= threshold mean_j mean |h_j|``, over a batch,
    so of a layer that is 0 everywhere all units are, and of one of NaN too.

    Args:
      activations: Outputs of a layer, ``[N, H]``.
      threshold: Share of the layer's mean up to which a unit is dormant, at least 0.

    Returns:
      Float32 scalar in [0, 1].

    Raises:
      ValueError: Another shape, nothing in it, a negative threshold.

    Reference: Sokar et al., arXiv 2302.12902, definition 3.1; MENTOR, Huang et al.,
    arXiv 2410.14972, whose code has "<", by which a dead layer has no dormant unit.
    """
    if jnp.ndim(activations) != 2 or not jnp.size(activations):
        raise ValueError(
            f"activations has shape {jnp.shape(activations)}; expected [N, H], some"
        )
    require_range("threshold", threshold, 0)
    size = jnp.mean(jnp.abs(at_least_float32(activations)), 0)
    awake = size > threshold * jnp.mean(size)
    return jnp.mean((~awake).astype(jnp.float32))


def dormant_std(ratio: Array, *, steepness: float = 10.0, middle: float = 0.2) -> Array:
    """``sigmoid(steepness (ratio - middle))``: explore more, the more units sleep.

    Args:
      ratio: Dormant ratio, of any shape, in [0, 1].
      steepness: Slope of the sigmoid, per unit of ratio.
      middle: Ratio at which the standard deviation is a half.

    Returns:
      Standard deviation of the actions' noise, float32 of the shape of ``ratio``.

    Reference: MENTOR, Huang et al., arXiv 2410.14972; its code.
    """
    require_range("ratio", ratio, 0, 1)
    return jax.nn.sigmoid(steepness * (at_least_float32(ratio) - middle))


def perturb_factor(
    ratio: Array, *, slope: float = 2.0, low: float = 0.2, high: float = 0.95
) -> Array:
    """``clip(1 - slope ratio, low, high)``: what of a network `perturb_toward` keeps.

    Args:
      ratio: Dormant ratio, of any shape, in [0, 1].
      slope: How fast it falls, at least 0.
      low: Least that is kept, in [0, ``high``].
      high: Most that is kept, at most 1; .9 to .95 in the released code.

    Returns:
      Float32 of the shape of ``ratio``.

    Raises:
      ValueError: Numbers out of range.

    Reference: MENTOR, Huang et al., arXiv 2410.14972; its code.
    """
    require_range("ratio", ratio, 0, 1)
    require_range("slope", slope, 0)
    require_range("high", high, 0, 1)
    require_range("low", low, 0, high)
    return jnp.clip(1 - slope * at_least_float32(ratio), low, high)


def perturb_toward(
    key: Array, params: PyTree, checkpoints: PyTree, factor: float | Array
) -> PyTree:
    """``f theta + (1 - f) theta~`` with ``theta~`` drawn from good checkpoints.

    Each weight of ``theta~`` is drawn from a normal distribution of the mean and the
    standard deviation (ddof 0) that it has among the checkpoints of the best returns.
    Adam's moments are then started anew.

    Args:
      key: Typed key.
      params: Weights now, a tree of arrays of floating-point numbers.
      checkpoints: Weights of the checkpoints, each array with a leading ``[K]``; one is
        enough, and then nothing is drawn.
      factor: Share ``f`` that is kept, in [0, 1], from `perturb_factor`; 1 changes
        nothing.

    Returns:
      A tree as ``params``.

    Raises:
      ValueError: Another tree, other shapes, no checkpoint, integers, ``factor`` out of
        range.

    Reference: MENTOR, Huang et al., arXiv 2410.14972; its code.
    """
    require_range("factor", factor, 0, 1)
    leaves, tree = jax.tree.flatten(params)
    stored, other = jax.tree.flatten(checkpoints)
    if tree != other:
        raise ValueError(f"checkpoints is {other}; expected a tree as {tree}")
    keys = jax.random.split(key, max(len(leaves), 1))
    moved = []
    for leaf, good, one in zip(leaves, stored, keys, strict=False):
        if jnp.shape(good)[1:] != jnp.shape(leaf) or jnp.ndim(good) == jnp.ndim(leaf):
            raise ValueError(
                f"checkpoints has an array {jnp.shape(good)}; expected "
                f"[K, {', '.join(map(str, jnp.shape(leaf)))}]"
            )
        if jnp.shape(good)[0] < 1:
            raise ValueError("checkpoints has none; expected at least one, [K, ...]")
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            raise ValueError(
                f"params has an array of {jnp.asarray(leaf).dtype}; expected "
                "floating-point numbers, which can be averaged"
            )
        good = at_least_float32(good)
        noise = jax.random.normal(one, jnp.shape(leaf), good.dtype)
        drawn = jnp.mean(good, 0) + sqrt(jnp.var(good, 0)) * noise
        kept = factor * at_least_float32(leaf) + (1 - factor) * drawn
        moved.append(kept.astype(jnp.asarray(leaf).dtype))
    return jax.tree.unflatten(tree, moved)


def expert_gate(logits: Array, *, k: int) -> Array:
    """Softmax over the ``k`` largest of the experts' logits, 0 for the others.

    Args:
      logits: One for each expert, ``[..., E]``.
      k: How many experts answer, 1 to ``E``; 4 of 16 in the paper.

    Returns:
      Weights that sum to 1, float32 ``[..., E]``; of equal logits the first ones win.

    Raises:
      ValueError: ``k`` out of range.

    Reference: MENTOR, Huang et al., arXiv 2410.14972; its code.
    """
    if jnp.ndim(logits) < 1 or not 1 <= k <= jnp.shape(logits)[-1]:
        raise ValueError(
            f"k is {k} for logits {jnp.shape(logits)}; expected 1 to the last axis"
        )
    logits = at_least_float32(logits)
    _, best = jax.lax.top_k(logits, k)
    chosen = jnp.sum(jax.nn.one_hot(best, logits.shape[-1]), -2) > 0
    return jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf), -1)
