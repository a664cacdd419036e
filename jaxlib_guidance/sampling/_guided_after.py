"""A stochastic step, then a move along an energy's gradient where it arrived."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance import (
    ObservationEnergy,
    Observed,
    find_energy,
    require_scale,
)
from jaxlib_guidance.sampling._checks import require_sampler
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import (
    expand,
    per_sample,
)


def guided_after(
    sampler: Sampler,
    observed: Observed,
    energy: str | ObservationEnergy = "quantile",
    scale: Any = 1.0,
) -> Sampler:
    """Each step of a stochastic solver, then a move at the state where it arrived.

    ``x' ~ step(x, t)``, ``x' - s std^2 grad E(x0(x', t))``: the gradient is taken at
    the new state with the old time, which is how the released code guides DDPM. It
    costs one more evaluation a step than `observation`. A step's transition is then
    the point it arrived at.

    Args:
      sampler: Stochastic solver, such as ``ddpm()``.
      observed: Observed entries of the data, and which they are.
      energy: Name of an energy of observations, or a function
        ``(x0, observed) -> [B]``; see `guidance.observation`.
      scale: Factor ``s`` of the move, scalar or ``[B]``.

    Returns:
      The solver, with one evaluation a step more.

    Raises:
      ValueError: A solver that draws no noise, whose ``std`` would be 0 throughout; a
        scale of another shape.

    Reference: the released code of arXiv 2307.11494.
    """
    chosen = find_energy(energy)
    require_sampler(sampler)
    if not sampler.stochastic:
        raise ValueError("guided_after needs a stochastic sampler, such as ddpm()")
    scale = require_scale(scale, observed)

    def step(denoise, x, state, guidance_state, interval):
        out = sampler.step(denoise, x, state, guidance_state, interval)
        x_next = draw(out.transition, interval.keys)

        def total(x):
            x0, _ = denoise(x, interval.t, out.guidance_state)
            return jnp.sum(chosen(x0, observed))

        variance = expand(jnp.square(out.transition.std), x)
        move = per_sample(scale, x, "scale") * variance * jax.grad(total)(x_next)
        std = jnp.zeros_like(out.transition.std)
        return out._replace(transition=Transition(x_next - move, std))

    return Sampler(
        sampler.init,
        step,
        stochastic=True,
        evaluations=sampler.evaluations + 1,
        grid=sampler.grid,
    )
