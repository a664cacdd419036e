"""A loop in which a planner learns from what its own plans led to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlib_guidance.types import Array, PyTree


class Improvement(NamedTuple):
    """What a self-adapting loop came to.

    Attributes:
      params: Parameters after the last iteration.
      success: Share of episodes that succeeded ``[N + 1]``: with the parameters at
        first, and after each iteration.
      kept: Number of episodes that each iteration learned from, older ones with them
        ``[N]``.
    """

    params: PyTree
    success: np.ndarray
    kept: np.ndarray


def improve(
    key: Array,
    params: PyTree,
    roll_out: Callable[[Array, PyTree], tuple[PyTree, Array]],
    finetune: Callable[[Array, PyTree, PyTree], PyTree],
    *,
    iterations: int,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Improvement:
    """Rolls out, keeps episodes, fine-tunes on all that were kept, and again.

    A loop of Python, on the host, for what is kept is of another size each time; both
    functions may be jitted. What helps the first roll-outs, such as a prior network
    that `guidance.compose` adds and that is never fine-tuned, is in ``roll_out`` alone.

    Args:
      key: One typed key.
      params: Parameters at first.
      roll_out: Function ``(key, params) -> (episodes, success)``: a pytree of leaves
        ``[E, ...]``, and bools or 0 and 1 ``[E]``.
      finetune: Function ``(key, params, episodes) -> params``. It is given the episodes
        that all iterations kept so far, at least one, as numpy arrays.
      iterations: Number ``N`` of iterations.
      keep: Function ``success [E] -> bool [E]`` of the episodes to learn from, such as
        ``lambda success: success``; None keeps all. With none at all the parameters
        stay.

    Returns:
      The parameters, and the success before each iteration and after the last.

    Raises:
      ValueError: No iterations, success of another shape than ``[E]`` or that is
        neither 0 nor 1, or a filter that returns another shape.

    Reference: SAIL, arXiv 2506.06658.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1")
    shares, counts, kept = [], [], []
    for i in range(iterations + 1):
        now = jax.random.fold_in(key, 2 * i)
        episodes, success = roll_out(now, params)
        episodes, success = jax.tree.map(np.asarray, episodes), np.asarray(success)
        size = _episodes(episodes)
        if success.shape != (size,):
            raise ValueError(
                f"success has shape {success.shape}; expected ({size},), one an episode"
            )
        if not np.isin(success, (0, 1)).all():
            raise ValueError(f"success has {success}; expected bools, or 0 and 1")
        success = success.astype(bool)
        shares.append(success.mean())
        if i == iterations:
            break
        mask = np.ones(size, bool) if keep is None else np.asarray(keep(success))
        if mask.shape != (size,) or mask.dtype != bool:
            raise ValueError(
                f"keep returned {mask.dtype} {mask.shape}; expected bool ({size},)"
            )
        kept.append(jax.tree.map(lambda x, mask=mask: x[mask], episodes))
        counts.append((counts[-1] if counts else 0) + int(mask.sum()))
        if counts[-1]:
            known = jax.tree.map(lambda *x: np.concatenate(x), *kept)
            params = finetune(jax.random.fold_in(key, 2 * i + 1), params, known)
    return Improvement(params, np.array(shares), np.array(counts))


def _episodes(episodes: Any) -> int:
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(episodes) if np.ndim(leaf)}
    if len(sizes) != 1 or not all(np.ndim(x) for x in jax.tree.leaves(episodes)):
        raise ValueError(
            f"episodes have leaves of {sorted(sizes)} episodes; expected one number"
        )
    return sizes.pop()
