"""Guide-and-Rescale: a new description, held to the picture's own attention."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxlib_guidance.guidance import (
    cfg,
    chain,
    during,
    reference_energy,
    rescale_norm,
)
from jaxlib_guidance.sampling import Inversion, Sampler, ddim, invert, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree


class Edited(NamedTuple):
    """What an edit by inversion returns.

    Attributes:
      x: Changed pictures ``[B, *S]``.
      inversion: The noise and the states of the picture that it began from, which serve
        other edits of the same picture.
    """

    x: Array
    inversion: Inversion


def guide_and_rescale(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    weight: Any = 6.5,
    maps: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    norm: str = "l1",
    edited: bool = False,
    share: float = 0.6,
    low: Any = 0.33,
    high: Any = 3.0,
    inversion: Inversion | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> Edited:
    """Changes a picture to another description and keeps its layout.

    The picture is inverted under ``source`` and drawn again under ``target`` by ``cfg
    (w)`` and, in the first ``share`` of the steps, by the gradient of
    `reference_energy`, whose norm is kept between ``low`` and ``high`` times that of
    the other.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with attention sites or taps, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data. The authors take 50 even steps.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, every leaf ``[B, ...]``.
      null: Condition of no description, as for `cfg`.
      weight: Factor ``w`` of ``cfg``; the authors' scale of 7.5 is 6.5 here.
      maps: Factors of the distance of self-attention maps; None, without features
        too, is the authors' ``{"*/attn": 3e5}``.
      features: Factors of the distance of features, by tap. The authors take 500 for
        the last level of the way up.
      norm: "l1", or "l2" as for a change of style.
      edited: Whether features under ``target`` are compared, as for a change of style.
      share: Share of the steps with the reference, in (0, 1].
      low: Least ratio of the norms, scalar or ``[B]``.
      high: Greatest ratio of the norms; for a change of style the authors take 1.5 for
        both, 1e5 for maps, 2.5 for features and half of the steps.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      sampler: Solver; None is `ddim`.
      **options: Other options of `sample`, such as ``process``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: Anything that `invert`, `sample` or the terms refuse.

    Reference: Titov et al., arXiv 2409.01322, and the authors' code.
    """
    if maps is None and features is None:
        maps = {"*/attn": 3e5}
    if inversion is None:
        inversion = invert(keys, denoiser, grid, picture, source, **options)
    reference = reference_energy(1.0, source, maps, features, norm=norm, edited=edited)
    guidance = chain(
        cfg(weight, null), during(rescale_norm(reference, low, high), 0.0, share)
    )
    x, _ = sample(
        keys,
        denoiser,
        ddim() if sampler is None else sampler,
        grid,
        inversion.x,
        target,
        guidance=guidance,
        ref=inversion.trajectory[:-1],
        **options,
    )
    return Edited(x, inversion)
