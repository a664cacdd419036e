"""Editing from a noisy version of the picture."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.editing._pairs import steps_taken
from jaxlib_guidance.sampling import Sampler, ddim, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree, at_least_float32


def sdedit(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    cond: PyTree = None,
    *,
    strength: float = 0.75,
    sampler: Sampler | None = None,
    **options: Any,
) -> Array:
    """SDEdit: the picture, noised as far as ``strength`` says, drawn again.

    ``x = alpha(t) picture + sigma(t) eps`` at the grid's time with ``int(strength N)``
    steps left, and these steps from there.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks for terms that contrast them.
      grid: Times ``[N + 1]`` from noise to data.
      picture: What is changed ``[B, *S]``.
      cond: Condition that describes the result, every leaf ``[B, ...]``.
      strength: Share of the steps that are taken, in [0, 1]: 0 gives the picture back,
        and what 1 gives depends on it through the noise's mean alone.
      sampler: Solver; None is `ddim`.
      **options: ``guidance``, ``process`` and other options of `sample`.

    Returns:
      Pictures ``[B, *S]``.

    Raises:
      ValueError: A strength outside [0, 1], or anything that `sample` refuses.

    Reference: Meng et al., arXiv 2108.01073.
    """
    picture = at_least_float32(picture)
    process = process_of(denoiser, options.get("process"))
    grid, first = steps_taken(strength, grid)
    if first == len(grid) - 1:
        return picture
    t = jnp.asarray(grid[first], jnp.float32)
    noise = rng.normal(rng.fold(keys, rng.NOISING), picture.shape[1:])
    x = perturb(process, picture, noise, t)
    sampler = ddim() if sampler is None else sampler
    x, _ = sample(keys, denoiser, sampler, grid[first:], x, cond, **options)
    return x
