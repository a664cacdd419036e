"""RF-inversion: to noise and back by flows that are led at both ends."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import require_states, steps_taken, until
from jaxlib_guidance.guidance import cfg, chain, toward
from jaxlib_guidance.sampling import Inversion, controlled_inversion, ddim, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree, at_least_float32


def rf_inversion(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    weight: Any = 0.0,
    gamma: Any = 0.5,
    eta: Any = 0.9,
    share: float = 0.25,
    strength: float = 1.0,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """RF-inversion: an inversion led to fresh noise, an edit led to the picture.

    On the way to noise the velocity goes ``gamma`` of the way to the straight line to a
    noise of the sample's key; on the way back, in the first ``share`` of the steps,
    ``eta`` of the way to the line to the picture, which is `guidance.toward`. Any
    process is taken as a flow.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 28 steps.
      picture: What is changed ``[B, *S]``.
      source: Condition of the inversion, every leaf ``[B, ...]``; the authors take that
        of no text.
      target: Condition that describes the result, every leaf ``[B, ...]``.
      null: Condition of no description, as for `cfg`.
      weight: Factor of ``cfg``, scalar or ``[B]``. The authors' networks take their
        guidance as a condition, hence the default of 0.
      gamma: Share of the line on the way to noise, scalar or ``[B]``, in [0, 1].
      eta: Share of the line on the way back, scalar or ``[B]``: 0 lets the picture go,
        1 with a share of 1 gives it back.
      share: Share of the steps that are led to the picture, in [0, 1].
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid and with the same
        strength; None inverts.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: Shares or ``gamma`` outside [0, 1]; an inversion of another grid or
        strength; anything that `sample` refuses.

    Reference: Rout et al., arXiv 2410.10792, algorithms 1 and 2.
    """
    picture = at_least_float32(picture)
    grid, first = steps_taken(strength, grid)
    if first == len(grid) - 1:
        return Edited(picture, Inversion(picture, picture[None]))
    grid = grid[first:]
    if inversion is None:
        noise = rng.normal(rng.fold(keys, rng.NOISING), picture.shape[1:])
        x, states = sample(
            *(keys, denoiser, controlled_inversion(noise, gamma), grid[::-1]),
            *(picture, source),
            trace=lambda info: info.x_next,
            **options,
        )
        inversion = Inversion(x, jnp.concatenate([states[::-1], picture[None]]))
    require_states(inversion, grid)
    pull = until(toward(eta, picture), share)
    x, _ = sample(
        *(keys, denoiser, ddim(), grid, inversion.x, target),
        guidance=chain(cfg(weight, null), *pull),
        **options,
    )
    return Edited(x, inversion)
