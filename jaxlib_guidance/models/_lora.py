"""Low-rank changes of a network's parameters."""

import math

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, PyTree


def lora_init(key: Array, params: PyTree, rank: int = 16) -> PyTree:
    """A small change of parameters, which changes nothing yet.

    Args:
      key: One typed key.
      params: Parameters. A leaf of two axes or more is a kernel ``[..., out]``, read as
        a matrix ``[in, out]``; another one is a bias or a scale.
      rank: Largest rank of the change of a kernel.

    Returns:
      Dict of ``params``' flattened leaves by path: for a kernel ``{"a" [in, rank], "b"
      [rank, out]}`` with ``b = 0``, else ``{"shift"}``, zeros.

    Raises:
      ValueError: A rank below 1.

    Reference: Hu et al., LoRA, arXiv 2106.09685; with biases and norms, as in PPAP,
      arXiv 2212.05973.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected at least 1")
    factors = {}
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(params)):
        if leaf.ndim < 2:
            factors[jax.tree_util.keystr(path)] = {"shift": jnp.zeros_like(leaf)}
            continue
        width, out = math.prod(leaf.shape[:-1]), leaf.shape[-1]
        bound = (3 / width) ** 0.5
        a = jax.random.uniform(
            jax.random.fold_in(key, i), (width, rank), leaf.dtype, -bound, bound
        )
        b = jnp.zeros((rank, out), leaf.dtype)
        factors[jax.tree_util.keystr(path)] = {"a": a, "b": b}
    return factors


def lora_merge(params: PyTree, factors: PyTree, alpha: float = 8.0) -> PyTree:
    """``W + alpha / rank A B`` for kernels, ``b + shift`` for other leaves.

    Args:
      params: Parameters that stay as they are.
      factors: Changes, from `lora_init`.
      alpha: Scale of the changes of kernels.

    Returns:
      Parameters of the structure of ``params``.

    Raises:
      ValueError: Changes of another network.

    Reference: Hu et al., LoRA, arXiv 2106.09685.
    """
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params)]
    if set(names) != set(factors):
        raise ValueError(
            f"factors change {sorted(factors)}; expected the leaves of params, "
            f"{sorted(names)}"
        )

    def merged(path, leaf):
        own = factors[jax.tree_util.keystr(path)]
        if "shift" in own:
            return leaf + own["shift"]
        rank = own["a"].shape[-1]
        return leaf + (alpha / rank) * (own["a"] @ own["b"]).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(merged, params)
