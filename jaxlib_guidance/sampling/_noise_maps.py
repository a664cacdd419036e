"""Edit-friendly inversion: the noise with which DDPM draws a picture itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.sampling._checks import require_between
from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._difference import noised_states
from jaxlib_guidance.sampling._loop import sample
from jaxlib_guidance.sampling._sampler import Sampler, Stepped, stateless
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Denoiser, PyTree


class NoiseMaps(NamedTuple):
    """What `noise_maps` returns.

    Attributes:
      x: State at the first time ``[B, *S]``; sample from here.
      residuals: What each step adds to DDPM's mean ``[N, B, *S]``: the noise maps times
        the steps' standard deviations, and the network's error in a step without noise.
      trajectory: The states ``[N + 1, B, *S]``.
    """

    x: Array
    residuals: Array
    trajectory: Array


def noise_maps(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    x: Array,
    cond: PyTree = None,
    *,
    eta: Any = 1.0,
    **options: Any,
) -> NoiseMaps:
    """The residuals with which DDPM goes through independently noised states of ``x``.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks for terms that contrast them.
      grid: Times ``[N + 1]`` from noise to data.
      x: Data, or the state at the last time, ``[B, *S]``.
      cond: Condition, every leaf ``[B, ...]``; None for a network without one.
      eta: Share of the posterior's standard deviation, in [0, 1].
      **options: ``guidance``, ``process`` and other options of `sample`.

    Returns:
      Residuals and states, at one evaluation a step.

    Raises:
      ValueError: ``eta`` outside [0, 1], or anything that `sample` refuses.

    Reference: Huberman-Spiegelglas et al., arXiv 2304.06140, algorithm 1; states are
      corrected as there, so that errors of rounding do not add up.
    """
    states = noised_states(keys, process_of(denoiser, options.get("process")), grid, x)
    require_between(eta, "eta", 0, 1)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        mean = posterior(x, x0, interval, eta).mean
        residual = states[interval.index + 1] - mean
        still = jnp.zeros_like(interval.end.sigma)
        return Stepped(Transition(mean + residual, still), x0, residual, guidance_state)

    sampler = Sampler(jnp.zeros_like, step)
    _, (after, residuals) = sample(
        *(keys, denoiser, sampler, grid, states[0], cond),
        trace=lambda info: (info.x_next, info.state),
        **options,
    )
    return NoiseMaps(states[0], residuals, jnp.concatenate([states[:1], after]))


def replay(residuals: Array, eta: Any = 1.0, grid: Array | None = None) -> Sampler:
    """DDPM with known noise: its mean plus the residual of each step.

    Args:
      residuals: Those of `noise_maps` ``[N, B, *S]``.
      eta: Share of the posterior's standard deviation that they were made with.
      grid: Times ``[N + 1]`` that they belong to, which `sample` then compares with its
        own; None compares nothing.

    Returns:
      The solver, with one evaluation a step. With the condition of `noise_maps` it
      gives the data back; with another an edit of it.

    Raises:
      ValueError: ``eta`` outside [0, 1].

    Reference: Huberman-Spiegelglas et al., arXiv 2304.06140.
    """
    require_between(eta, "eta", 0, 1)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        mean = posterior(x, x0, interval, eta).mean + residuals[interval.index]
        still = jnp.zeros_like(interval.end.sigma)
        return Stepped(Transition(mean, still), x0, state, guidance_state)

    return Sampler(stateless, step, grid=grid)
