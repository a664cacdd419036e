"""Preferences between samples, by how well a network denoises each."""

import jax

from jaxlib_guidance.policy import dpo
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def diffusion_dpo(
    error_w: Array,
    error_l: Array,
    ref_w: Array,
    ref_l: Array,
    *,
    beta: float = 100.0,
) -> Array:
    """``-log sigmoid(-(beta / 2) ((e_w - e_w^ref) - (e_l - e_l^ref)))``, for each pair.

    `policy.dpo` with ``-e / 2`` for a log-probability. Errors are those of
    `denoising_loss`, all four at one time and with one noise for each pair; with
    ``weighting="eps"`` this is the paper's loss, with "velocity" that of the Flow-GRPO
    code.

    Args:
      error_w: Denoising error of the trained network on the preferred sample ``[B]``.
      error_l: Denoising error of the trained network on the other sample ``[B]``.
      ref_w: Denoising error of the reference network on the preferred sample ``[B]``,
        taken as a constant.
      ref_l: Denoising error of the reference network on the other sample ``[B]``, taken
        as a constant.
      beta: Inverse temperature. Errors are means over elements, so useful values grow
        with the sample: the Flow-GRPO code uses 100, Diffusion-DPO's 5000.

    Returns:
      Loss of each pair ``[B]``, ``log 2`` where the networks agree.

    Raises:
      ValueError: Shapes that differ.

    Reference: Wallace et al., arXiv 2311.12908, eq. 14.
    """
    require_shape("error_w", error_w, error_w.shape[:1])
    for name, value in (("error_l", error_l), ("ref_w", ref_w), ("ref_l", ref_l)):
        require_shape(name, value, error_w.shape)
    ref_w, ref_l = jax.lax.stop_gradient((ref_w, ref_l))

    def log_ratio(error, ref):
        return -0.5 * (at_least_float32(error) - at_least_float32(ref))

    return dpo(log_ratio(error_w, ref_w), log_ratio(error_l, ref_l), beta=beta)
