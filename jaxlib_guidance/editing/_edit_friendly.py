"""Edit-friendly DDPM: the picture's own noise, under another description."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import edit_beside, independent
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import Array, Denoiser, PyTree


def edit_friendly(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    weight: Any = 14.0,
    source_weight: Any = 2.5,
    strength: float = 0.64,
    eta: Any = 1.0,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """The picture drawn again by DDPM with noise that gives the picture itself.

    Its states have independent noise, and the noise of each step is what takes one to
    the next: ``z_i = (x_{i + 1} - m(x_i, source)) / std_i``. Under another description
    the same noise gives the edit. Both run as pairs here, in which the noise cancels;
    `sampling.noise_maps` returns it.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 100.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, of the same shapes.
      null: Condition of no description, as for `cfg`.
      weight: Factor of ``cfg`` under the target, scalar or ``[B]``; the authors' scale
        of 15 is 14 here.
      source_weight: That under the source; the authors' 3.5 is 2.5 here.
      strength: Share of the steps that are taken, in [0, 1]; the authors skip 36 of
        100. 0 gives the picture back.
      eta: Share of the posterior's standard deviation, in [0, 1].
      inversion: The picture's, of an edit before, on the same grid; None draws it.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the states that they began from.

    Raises:
      ValueError: A strength or ``eta`` outside [0, 1]; conditions of two shapes;
        anything that `sample` refuses.

    Reference: Huberman-Spiegelglas et al., arXiv 2304.06140. The authors leave out the
      noise of the last step, with which the picture comes back exactly.
    """
    if inversion is None:
        inversion = independent(keys, denoiser, grid, picture, options)
    x = edit_beside(
        *(keys, denoiser, grid, inversion.trajectory, (source, target, null)),
        (source_weight, weight),
        eta=eta,
        strength=strength,
        options=options,
    )
    return Edited(x, inversion)
