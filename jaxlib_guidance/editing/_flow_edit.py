"""FlowEdit: from the picture to the edit without a way back to noise."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.editing._pairs import edit_beside, independent
from jaxlib_guidance.types import Array, Denoiser, PyTree


def flow_edit(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    weight: Any = 12.5,
    source_weight: Any = 2.5,
    strength: float = 0.66,
    **options: Any,
) -> Array:
    """FlowEdit: the picture moved by the difference of two conditions' flows.

    The edit ``z`` begins at the picture ``x``. At each time both are noised by the same
    new noise, and ``dz = (v(z_t, target) - v(x_t, source)) dt``, here for any process:
    a step is `sampling.difference` of `sampling.noised_states`.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, of the same shapes.
      null: Condition of no description, as for `cfg`.
      weight: Factor of ``cfg`` under the target, scalar or ``[B]``; the authors' 13.5
        for SD3 is 12.5 here, their 5.5 for Flux 4.5.
      source_weight: That under the source; the authors take 3.5 and 1.5, less 1 here.
      strength: Share of the steps that are taken, in [0, 1]: the authors' ``n_max``
        over their number of steps. 0 gives the picture back.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures ``[B, *S]``.

    Raises:
      ValueError: A strength outside [0, 1]; conditions of two shapes; anything that
        `sample` refuses.

    Reference: Kulikov et al., arXiv 2412.08629, algorithm 1, with one noise a step and
      no ``n_min``.
    """
    states = independent(keys, denoiser, grid, picture, options).trajectory
    return edit_beside(
        *(keys, denoiser, grid, states, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        options=options,
    )
