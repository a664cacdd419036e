"""MasaCtrl: another layout, made of what the source shows."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.attention import Before, borrow
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import by_maps, until
from jaxlib_guidance.guidance import edit_branches
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import Array, Denoiser, PyTree


def masactrl(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    sites: str | Sequence[str] = "*/attn",
    start: float = 0.08,
    weight: Any = 6.5,
    source_weight: Any = None,
    strength: float = 1.0,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """MasaCtrl: self-attention of the edit to the source's keys and values.

    The first steps make the target's layout; from ``start`` on, each place of the edit
    asks the picture what it looks like. For changes of pose, not of colour.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with self-attention sites, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50 even steps.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, of the same shapes.
      null: Condition of no description, as for `cfg`.
      sites: Self-attention sites, by place, name or pattern. The authors take layers
        10 to 15 of Stable Diffusion's 16, ``("up2", "up3")``.
      start: Share of the steps before it begins, in [0, 1); the authors' 4 of 50.
      weight: Factor of ``cfg``; the authors' scale of 7.5 is 6.5 here.
      source_weight: That of the source; None is the same.
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: A share outside [0, 1]; anything that `invert` or `sample` refuses.

    Reference: Cao et al., arXiv 2304.08465, without the masks of section 4.2.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    edits = dict.fromkeys(names, borrow(("k", "v"), Before()))
    return by_maps(
        *(keys, denoiser, grid, picture, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        terms=until(edit_branches(edits, None), 1.0, start),
        inversion=inversion,
        options=options,
    )
