"""Policies that draw chunks of actions by a flow, and what a draw is steered by."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import RectifiedFlow, parametrize
from jaxlib_guidance.guidance import cfg, chain, inpaint_flow
from jaxlib_guidance.planning._layers import apply_layers, init_layers
from jaxlib_guidance.planning._trajectories import Layout
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling import (
    Potential,
    Sampler,
    best_particle,
    draw_particle,
    per_particle,
    sample,
    sample_particles,
)
from jaxlib_guidance.types import Array, Denoiser, PyTree

_FREQUENCIES = 8


def init_flow_policy(
    key: Array, layout: Layout, horizon: int, widths: Sequence[int] = (256, 256, 256)
) -> PyTree:
    """New parameters of `flow_policy`.

    Args:
      key: One typed key.
      layout: How actions and observations are scaled.
      horizon: Number ``H`` of actions in a chunk.
      widths: Units of the hidden layers.

    Returns:
      Layers ``{"layer0": {"kernel", "bias"}, ...}``; the last is 0.

    Raises:
      TypeError: A horizon that is no whole number.
      ValueError: No actions in a chunk.
    """
    _require_chunk(horizon)
    outputs = horizon * layout.actions
    entries = outputs + layout.states + 2 * _FREQUENCIES
    return init_layers(key, entries, outputs, widths)


def flow_policy(params: PyTree) -> Denoiser:
    """A policy as the velocity ``v(x, t, o)`` of a flow to chunks of actions.

    Train it with `diffusion.denoising_loss` and ``weighting="velocity"``, on actions
    and observations in unit scale.

    Args:
      params: Parameters.

    Returns:
      A denoiser of arrays ``[B, H, A]`` on a `diffusion.RectifiedFlow`, whose condition
      is the observation in unit scale ``[B, S]``. When called it raises ValueError for
      chunks of another horizon or observations of another layout than the parameters'.

    Reference: Black et al., pi0, arXiv 2410.24164, eq. 1, with a small network.
    """

    def velocity(x: Array, t: Array, cond: Array) -> Array:
        angles = t[:, None] * 100.0 ** jnp.linspace(0, 1, _FREQUENCIES)
        flat = x.reshape(len(x), math.prod(x.shape[1:]))
        parts = flat, cond, jnp.sin(angles), jnp.cos(angles)
        entries = jnp.concatenate(parts, axis=-1)
        expected = params["layer0"]["kernel"].shape[0]
        if entries.shape[-1] != expected:
            raise ValueError(
                f"chunks have shape {x.shape} and observations {cond.shape}, "
                f"{entries.shape[-1]} entries with those of time; expected the "
                f"{expected} of the policy's parameters, another horizon or layout"
            )
        return apply_layers(params, entries).reshape(x.shape)

    return parametrize(velocity, RectifiedFlow(), "velocity")


def draw_chunk(
    keys: Array,
    denoiser: Any,
    sampler: Sampler,
    grid: Array,
    layout: Layout,
    observation: Array,
    horizon: int,
    *,
    held: Array | None = None,
    weights: Array | None = None,
    w_max: Array | float = 5.0,
    null: Array | None = None,
    null_weight: Array | float | None = None,
    guidance: Any = None,
    potential: Potential | None = None,
    particles: int | None = None,
    best: bool = False,
    **options: Any,
) -> Array:
    """Draws a chunk of actions, as one that goes on from the chunk before.

    Of the chunk before, what is still to be executed is inpainted with
    `guidance.inpaint_flow`; each step of the solver then costs one vector-Jacobian
    product of the denoiser more. With ``null`` the draw is guided away from what the
    policy does where it sees that instead, at one evaluation more a step. With a
    ``potential`` several chunks are drawn as particles, and one of them is taken. All
    of these go together.

    Args:
      keys: Typed keys ``[B]``, one a chunk.
      denoiser: Denoiser of arrays ``[B, H, A]`` whose condition is the observation in
        unit scale ``[B, S]``, such as `flow_policy`.
      sampler: Solver; one that draws noise where particles are resampled.
      grid: Times ``[N + 1]``.
      layout: How actions and observations are scaled.
      observation: What is seen ``[B, S]``, in the units of the world.
      horizon: Number ``H`` of actions in a chunk.
      held: The chunk before, moved up to the present ``[B, H, A]``, in the units of the
        world; where a weight is 0 it may be anything, NaN too. None is none, and each
        chunk is drawn anew.
      weights: How firmly each action of it holds ``[H]``, from `guidance.chunk_weights`
        with ``overlap`` the horizon less the actions executed of a chunk.
      w_max: Largest weight of the inpainting, see `guidance.inpaint_flow`.
      null: What is seen where the policy is told less ``[B, S]``, such as
        `tell_advantage` of 0, for classifier-free guidance; None is none.
      null_weight: Weight of `guidance.cfg` against it, scalar or ``[B]``: 0 draws by
        the observation alone, and a scale ``s`` is the weight ``s - 1``.
      guidance: Term or chain beside it; None is none. With particles its leaves that
        differ by sample lead with ``B P``.
      potential: What weighs particles, such as `sampling.steering`,
        `sampling.best_of_n` or `sampling.svdd` of a `chunk_value`; None draws one
        chunk.
      particles: Number ``P`` of them, with a potential.
      best: Whether to take the particle of largest weight, as `sampling.best_of_n` and
        `sampling.svdd` want it; False draws one by its weight.
      **options: Of `sampling.sample`, or of `sampling.sample_particles`.

    Returns:
      Actions ``[B, H, A]`` in the units of the world.

    Raises:
      TypeError: Keys that are not typed keys, or a horizon that is no whole number.
      ValueError: One key for all, an observation or a chunk of another shape, ``held``
        without ``weights``, ``null`` without ``null_weight``, a potential without
        ``particles``, or any of these without the first; anything that `sample`
        refuses.

    Reference: Black et al., real-time chunking, arXiv 2506.07339; guidance against a
      policy that is told less: Frans et al., CFGRL, arXiv 2505.23458.
    """
    _require_chunk(horizon)
    rng.require_keys(keys)
    observation = jnp.asarray(observation, jnp.float32)
    require_shape("observation", observation, (len(keys), layout.states))
    for one, other, given in (
        ("held", "weights", (held, weights)),
        ("null", "null_weight", (null, null_weight)),
        ("potential", "particles", (potential, particles)),
    ):
        if (given[0] is None) != (given[1] is None):
            there, missing = (other, one) if given[0] is None else (one, other)
            raise ValueError(f"{there} without {missing}; expected both or neither")
    if best and potential is None:
        raise ValueError("best is True without a potential; expected particles to take")
    rows = lambda x: x if particles is None else per_particle(x, particles)  # noqa: E731
    own = lambda x, ndim: rows(x) if jnp.ndim(x) == ndim else x  # noqa: E731
    shape, terms = (horizon, layout.actions), []
    if null is not None:
        null = jnp.asarray(null, jnp.float32)
        require_shape("null", null, observation.shape)
        terms.append(cfg(own(null_weight, 1), rows(layout.scale(null))))
    if guidance is not None:
        terms.append(guidance)
    if held is not None:
        held = jnp.asarray(held, jnp.float32)
        require_shape("held", held, (len(keys), *shape))
        known = layout.scale_actions(held)
        weights = own(jnp.asarray(weights), 3)
        terms.append(inpaint_flow(rows(known), weights, own(w_max, 1)))
    cond = layout.scale(observation)
    setting = keys, denoiser, sampler, grid, shape, cond
    options["guidance"] = chain(*terms) if terms else None
    if potential is None or particles is None:
        x, _ = sample(*setting, **options)
    else:
        drawn = sample_particles(
            *setting, potential=potential, particles=particles, **options
        )
        x = best_particle(drawn) if best else draw_particle(keys, drawn)
    return layout.unscale_actions(x)


def _require_chunk(horizon: int) -> None:
    if not isinstance(horizon, int | np.integer):
        raise TypeError(f"horizon is {horizon!r}; expected a Python integer")
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; expected at least 1")
