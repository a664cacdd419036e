"""MasaCtrl: another layout, made of what the source shows."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.attention import Before, borrow
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import by_maps, until
from jaxlib_guidance.guidance import edit_branches, mutual_masks
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
    words: tuple[Any, Any] | None = None,
    threshold: Any = None,
    cross_sites: str | Sequence[str] | None = None,
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
      words: Columns of the thing's words in the source's and in the target's text, each
        ``[M]`` or ``[B, M]``, for masks by `guidance.mutual_masks`: then the thing asks
        the picture's thing, and its ground the picture's ground. None masks nothing.
      threshold: Attention from which a place is of the thing, in (0, 1); None is the
        authors' 0.1. Only with ``words``.
      cross_sites: Cross-attention sites of the masks, by name or pattern; None is all,
        the authors take those of 16 by 16 tokens. Only with ``words``.
      weight: Factor of ``cfg``; the authors' scale of 7.5 is 6.5 here.
      source_weight: That of the source; None is the same.
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: A share outside [0, 1]; anything that `invert` or `sample` refuses.

    Reference: Cao et al., arXiv 2304.08465; the masks are those of section 4.2.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    edits = dict.fromkeys(names, borrow(("k", "v"), Before()))
    around, terms = None, until(edit_branches(edits, None), 1.0, start)
    if words is not None:
        if not isinstance(words, (tuple, list)) or len(words) != 2:
            raise ValueError(
                "words are columns of the source's and of the target's text; expected "
                f"two, got {type(words).__name__}"
            )

        def around(both):
            masked = mutual_masks(
                *(both, *words, 0.1 if threshold is None else threshold, names),
                "*/cross" if cross_sites is None else cross_sites,
            )
            return *until(both, start), *until(masked, 1.0, start)

        terms = ()
    elif threshold is not None or cross_sites is not None:
        raise ValueError("threshold and cross_sites are of masks; expected words too")
    return by_maps(
        *(keys, denoiser, grid, picture, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        terms=terms,
        inversion=inversion,
        options=options,
        around=around,
    )
