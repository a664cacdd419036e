"""Attentive Eraser: an object goes, and what is around it fills its place."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.editing._masks import prepare_mask, site_masks
from jaxlib_guidance.editing._pairs import require_states, steps_taken
from jaxlib_guidance.guidance import chain, during, redirect
from jaxlib_guidance.sampling import Inversion, Sampler, ddim, inpaint, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree, at_least_float32, concrete


def erase(
    keys: Array,
    denoiser: Denoiser,
    grid: Any,
    picture: Array,
    mask: Any,
    cond: PyTree = None,
    *,
    sites: str | Sequence[str],
    weight: Any = 9.0,
    suppression: Any = 0.3,
    share: float = 0.25,
    dilation: float = 0.0,
    strength: float = 0.8,
    inversion: Inversion | None = None,
    sampler: Sampler | None = None,
    **options: Any,
) -> Array:
    """Removes what a mask covers, by self-attention that does not see it.

    The picture is noised as far as ``strength`` says and drawn again by ``redirect
    (w)``, towards the network whose attention is blind to the masked tokens; in the
    first ``share`` of the steps their own similarities are multiplied by
    ``suppression`` besides. At every step the rest of the picture is put back, with the
    noise that it began with.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network of pictures with attention sites.
      grid: Times ``[N + 1]`` from noise to data. The authors take 50 even steps.
      picture: Pictures or latents ``[B, H, W, C]``; latents of a picture take a mask of
        the picture.
      mask: What is to go, of any size and kind that `prepare_mask` takes. One of
        nothing gives the picture back, bit for bit.
      cond: Condition, every leaf ``[B, ...]``; the authors give an empty text.
      sites: Self-attention sites, by place, name or pattern. The authors take the way
        up of Stable Diffusion, ``"up*"``, and for XL the middle too.
      weight: Factor ``w`` of the redirection, scalar or ``[B]``; 0 leaves inpainting.
      suppression: Factor of the similarities of masked queries, scalar or ``[B]``; None
        does without.
      share: Share of the steps with ``suppression``, in [0, 1]: 10 of 40 here.
      dilation: Standard deviation by which the mask is dilated, in pixels of
        ``picture``; see `prepare_mask`.
      strength: Share of the steps that are taken, in [0, 1].
      inversion: The picture's by `invert` on the same grid, to begin from in place of
        noise, without chance; the authors then take ``strength`` 1.
      sampler: Solver; None is `ddim`.
      **options: Other options of `sample`, such as ``progress``.

    Returns:
      Pictures ``[B, H, W, C]``, the given ones outside of the mask.

    Raises:
      ValueError: A mask of the whole picture; shares outside [0, 1]; no sites; an
        inversion of another grid; anything that `prepare_mask`, `site_masks` or
        `sample` refuses.

    Reference: Sun et al., arXiv 2412.12974, and the authors' code.
    """
    picture = at_least_float32(picture)
    if picture.ndim != 4:
        raise ValueError(f"picture has shape {picture.shape}; expected [B, H, W, C]")
    known = concrete(share)
    if known is None or known.ndim or not 0 <= known <= 1:
        raise ValueError(f"share is {share}; expected a share of the steps in [0, 1]")
    _, height, width, _ = picture.shape
    hidden = prepare_mask(mask, (height, width), dilation)
    known = concrete(hidden)
    if known is not None and known.all((-2, -1)).any():
        raise ValueError("mask covers a whole picture; expected a part to fill it from")
    if hidden.ndim == 3 and hidden.shape[0] not in (1, len(picture)):
        raise ValueError(
            f"mask has shape {jnp.shape(mask)}, for {hidden.shape[0]} pictures of one "
            f"channel; expected [H, W], or one or {len(picture)} of it"
        )
    if inversion is not None:
        require_states(inversion, grid)
    masks = site_masks(denoiser, picture, cond, sites, hidden)
    if not masks:
        raise ValueError(f"sites is {sites!r}; expected at least one attention site")
    grid, first = steps_taken(strength, grid)
    if first == len(grid) - 1:
        return picture

    def towards(scale, name):
        return redirect(weight, tuple(masks), masks, scale, name)

    if suppression is None or share == 0:
        guidance = chain(towards(None, "erase"))
    elif share == 1:
        guidance = chain(towards(suppression, "erase"))
    else:
        guidance = chain(
            during(towards(suppression, "erase:suppressed"), 0.0, share),
            during(towards(None, "erase"), share, 1.0),
        )
    if inversion is None:
        process = process_of(denoiser, options.get("process"))
        noise = rng.normal(rng.fold(keys, rng.NOISING), picture.shape[1:])
        x = perturb(process, picture, noise, jnp.asarray(grid[first], jnp.float32))
    else:
        x = inversion.trajectory[first]
    solver = inpaint(
        ddim() if sampler is None else sampler, picture, ~hidden[..., None], "fixed"
    )
    x, _ = sample(
        keys, denoiser, solver, grid[first:], x, cond, guidance=guidance, **options
    )
    # A published grid may end at a noise above 0.
    return jnp.where(hidden[..., None], x, picture)
