"""Plug-and-play: another look, on the source's features and self-attention."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.attention import Before, borrow, inject
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import by_maps, until
from jaxlib_guidance.guidance import edit_branches
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import Array, Denoiser, PyTree


def plug_and_play(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    features: str | Sequence[str] = "up1/res1",
    sites: str | Sequence[str] = "*/attn",
    feature_share: float = 0.8,
    self_share: float = 0.5,
    weight: Any = 6.5,
    source_weight: Any = None,
    strength: float = 1.0,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """Plug-and-play: features and self-attention maps of the picture, other words.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with features and self-attention sites that accept edits, or a
        tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50 even steps.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``; the authors
        take that of no text.
      target: Condition that describes the result, of the same shapes.
      null: Condition of no description, as for `cfg`.
      features: Features that are taken, by name or pattern; the default is the authors'
        of Stable Diffusion.
      sites: Self-attention sites whose maps are taken, by place, name or pattern; the
        authors take those of ``("up1", "up2", "up3")`` but the first.
      feature_share: Share of the steps with the features, in [0, 1].
      self_share: Share of the steps with the maps, in [0, 1].
      weight: Factor of ``cfg``; the authors' scale of 7.5 is 6.5 here.
      source_weight: That of the source; None is the same.
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: Shares outside [0, 1]; anything that `invert` or `sample` refuses.

    Reference: Tumanyan et al., arXiv 2211.12572. The authors give both branches the
      source's conditional features; here each gets those of its own kind, so that the
      same words change nothing.
    """
    places = (features,) if isinstance(features, str) else tuple(features)
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    taken = edit_branches(dict.fromkeys(places, inject(Before())), None)
    maps = edit_branches(dict.fromkeys(names, borrow(("q", "k"), Before())), None)
    return by_maps(
        *(keys, denoiser, grid, picture, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        terms=(*until(taken, feature_share), *until(maps, self_share)),
        inversion=inversion,
        options=options,
    )
