"""Inversion that is led to a noise that one knows."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.sampling._checks import require_between
from jaxlib_guidance.sampling._inversion import ddim_inversion
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, at_least_float32, expand, per_sample


def controlled_inversion(
    noise: Array, gamma: Any = 0.5, iterations: int = 0
) -> Sampler:
    """DDIM's inversion, mixed with the straight line to a known noise.

    With ``n = alpha + sigma`` and ``tau = sigma / n``, in which a state ``x / n`` is a
    flow's, the velocity is ``v + gamma (v_1 - v)``: ``v`` of `ddim_inversion`, and
    ``v_1 = (noise - x / n) / (1 - tau)`` of the line that reaches the noise at the end.

    Args:
      noise: Standard normal noise ``[B, *S]``.
      gamma: Share ``gamma`` of the line, scalar or ``[B]``, in [0, 1]: 0 is
        `ddim_inversion`, 1 the line alone.
      iterations: Fixed-point iterations of `ddim_inversion`.

    Returns:
      The solver, for grids that grow from data to noise.

    Raises:
      ValueError: ``gamma`` outside [0, 1]; noise of another shape than the state.

    Reference: Rout et al., RF-inversion, arXiv 2410.10792, section 3.2.
    """
    require_between(gamma, "gamma", 0, 1)
    noise, plain = at_least_float32(noise), ddim_inversion(iterations)

    def step(denoise, x, state, guidance_state, interval):
        if noise.shape != x.shape:
            raise ValueError(
                f"controlled_inversion's noise has shape {noise.shape}; expected "
                f"{x.shape}"
            )
        out = plain.step(denoise, x, state, guidance_state, interval)
        (a, s, _), (a_next, s_next, _) = interval.start, interval.end
        # The share of the way to pure noise that the step goes.
        share = (s_next * a - s * a_next) / (a * (a_next + s_next))
        line = expand((a_next + s_next) / (a + s) * (1 - share), x) * x
        line = line + expand((a_next + s_next) * share, x) * noise
        mix = per_sample(gamma, x, "gamma")
        moved = (1 - mix) * out.transition.mean + mix * line
        return out._replace(transition=Transition(moved, jnp.zeros_like(s)))

    return plain._replace(step=step)
