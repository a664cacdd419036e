"""Refinement: a model of windows corrects the forecast of another model.

The other forecast, of any kind, completes the observed window; then the window moves
down an energy, how badly the diffusion model denoises it plus how far it is from where
it started, with noise (Langevin) or without (maximum likelihood).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import coefficients, perturb
from jaxlib_guidance.guidance import (
    ObservationEnergy,
    Observed,
    find_energy,
    spread_levels,
)
from jaxlib_guidance.timeseries._adapters import quantiles_to_samples
from jaxlib_guidance.timeseries._layout import Inputs, Layout
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    concrete,
)

# Sub-streams of a step: the noise that is denoised, and that of the move.
DENOISED, MOVED = 0, 1


def noise_errors(
    denoiser: Denoiser,
    x0: Array,
    eps: Array,
    t: Array,
    cond: PyTree = None,
    mask: Array | None = None,
    *,
    process: Process | None = None,
) -> Array:
    """``sum (eps - eps_hat(alpha x0 + sigma eps, t))^2`` of each window.

    Args:
      denoiser: Denoiser of windows ``[B, L, C]``.
      x0: Clean windows ``[B, L, C]``.
      eps: Standard normal noise ``[B, L, C]``.
      t: Time of the noise level, scalar or ``[B]``.
      cond: Condition of the network, every leaf ``[B, ...]``; None for a network
        without one.
      mask: Entries that count, 1 or 0 ``[B, L, C]``; None counts all.
      process: Noise process; None takes the denoiser's.

    Returns:
      ``[B]``; 0 for a window of which nothing counts.
    """
    process = process_of(denoiser, process)
    x_t = perturb(process, x0, eps, t)
    alpha, sigma = coefficients(process, t, x_t)
    # eps_hat = (x_t - alpha x0_hat) / sigma: the error of x0 in another unit.
    error = alpha / sigma * (denoiser(x_t, t, cond).x0 - x0)
    error = error if mask is None else error * mask
    return jnp.sum(error**2, tuple(range(1, x0.ndim)))


def representative_time(
    keys: Array,
    denoiser: Denoiser,
    x0: Array,
    times: Array,
    cond: PyTree = None,
    mask: Array | None = None,
    *,
    process: Process | None = None,
) -> Array:
    """The time whose loss is nearest to the mean loss over all times.

    One noise level then stands for the training objective: `refine` denoises at it.

    Args:
      keys: Typed keys ``[B]``, one for each window.
      denoiser: Denoiser of windows ``[B, L, C]``.
      x0: Clean windows to measure on ``[B, L, C]``, a few hundred; the published batch
        has 1024.
      times: Candidate times ``[T]``, those of training.
      cond: Condition of the network, every leaf ``[B, ...]``; None for a network
        without one.
      mask: Entries of ``x0`` that are known, 1 or 0 ``[B, L, C]``; None for all.
      process: Noise process; None takes the denoiser's.

    Returns:
      One of ``times``, a scalar.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.3 and its code.
    """
    times = at_least_float32(times)

    def loss(i):
        eps = rng.normal(rng.fold(keys, i), x0.shape[1:])
        each = noise_errors(denoiser, x0, eps, times[i], cond, mask, process=process)
        return jnp.mean(each)

    losses = jax.lax.map(loss, jnp.arange(len(times)))
    return times[jnp.argmin(jnp.abs(losses - jnp.mean(losses)))]


def refine(
    keys: Array,
    denoiser: Denoiser,
    start: Observed,
    cond: PyTree = None,
    *,
    t: Any,
    energy: str | ObservationEnergy = "quantile",
    steps: int = 20,
    step_size: Any = 0.1,
    noise: Any = 0.1,
    weight: Any = 1.0,
    process: Process | None = None,
) -> Array:
    """Moves windows to where the model finds them likely, but not far from a start.

    ``y <- y - h grad E(y) + sqrt(2 h) nu z`` with
    ``E(y) = |eps - eps_hat(alpha y + sigma eps, t)|^2 + w R(y, start)`` and fresh
    ``eps`` each step. With ``noise`` 0 this is gradient descent, the published ML;
    otherwise Langevin dynamics (LMC) at temperature ``nu^2``.

    Args:
      keys: Typed keys ``[B]``, one for each window.
      denoiser: Denoiser of windows ``[B, L, C]``.
      start: Completed windows, from `completed`. Their mask says where ``R`` counts:
        published are the observed entries for "square", and these and the forecast for
        "quantile". Where it is 0 and ``y`` is not finite, the start is 0.
      cond: Condition of the network, every leaf ``[B, ...]``; None for a network
        without one.
      t: Time of the noise level to denoise at, see `representative_time`.
      energy: Distance ``R`` from the start: "quantile", "square" or a function ``(x0,
        observed) -> [B]``.
      steps: Number of moves, at least 1.
      step_size: Size ``h`` of a move.
      noise: Noise ``nu`` of a move; the published ``gamma`` is its square.
      weight: Weight ``w`` of the distance.
      process: Noise process; None takes the denoiser's.

    Returns:
      Refined windows ``[B, L, C]``.

    Raises:
      ValueError: Fewer than one step; unknown energy; a start that is not finite where
        its mask is 1, unless it is traced.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.3, algorithm 2.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; expected a whole number from 1")
    chosen = find_energy(energy)
    rng.require_keys(keys)
    h = jnp.asarray(step_size, jnp.float32)
    std = jnp.sqrt(2 * h) * noise

    def total(y, eps):
        each = noise_errors(denoiser, y, eps, t, cond, process=process)
        return jnp.sum(each + weight * chosen(y, start))

    def move(y, i):
        own = rng.fold(keys, i)
        eps = rng.normal(rng.fold(own, DENOISED), y.shape[1:])
        moved = Transition(y - h * jax.grad(total)(y, eps), std)
        return draw(moved, rng.fold(own, MOVED)), None

    y = at_least_float32(start.y)
    _require_finite("start.y", jnp.where(start.mask > 0, y, 0))
    y = jnp.where((start.mask > 0) | jnp.isfinite(y), y, 0)
    return jax.lax.scan(move, y, jnp.arange(steps))[0]


def base_paths(forecast: Array, samples: int) -> Array:
    """Another model's forecast as paths, one for each quantile level.

    Samples are sorted step by step, so that path ``i`` suits its level, ``(i + 1) /
    (S + 1)``; more or fewer than ``samples`` are brought to that number by
    `quantiles_to_samples`, which gives the sorted samples where the numbers agree. A
    point forecast is repeated.

    Args:
      forecast: Samples ``[N, S', H]`` or a point forecast ``[N, H]``; for ``D`` joint
        series samples ``[N, S', H, D]``, of which a point forecast has one.
      samples: Number ``S`` of paths, at least 1.

    Returns:
      ``[N, S, H]``, or ``[N, S, H, D]`` of joint series.

    Raises:
      ValueError: Another number of axes; something that is not finite, unless it is
        traced; ``samples`` that is no whole number from 1.
    """
    forecast = at_least_float32(jnp.asarray(forecast))
    if forecast.ndim not in (2, 3, 4):
        raise ValueError(
            f"forecast has shape {forecast.shape}; expected [N, H], [N, S, H] or "
            "[N, S, H, D]"
        )
    _require_finite("forecast", forecast)
    each = forecast[:, None] if forecast.ndim == 2 else forecast
    flat = each.reshape(*each.shape[:2], -1)
    levels = spread_levels(flat.shape[1])
    paths = quantiles_to_samples(flat, levels.tolist(), samples)
    return paths.reshape(len(each), samples, *each.shape[2:])


def completed(inputs: Inputs, layout: Layout, paths: Array, *, whole: bool) -> Observed:
    """Observed windows completed by a forecast: where `refine` starts.

    Args:
      inputs: Inputs of ``N`` windows, from ``layout.inputs``.
      layout: Layout of the network's inputs.
      paths: Forecast ``[N, S, horizon]`` in the unit of the series, from `base_paths`;
        ``[N, S, horizon, D]`` of joint series.
      whole: Whether the forecast counts as observed too, as published for "quantile".

    Returns:
      Windows, masks and levels with batch ``N S``. Lags that point into the horizon
      stay unknown.

    Raises:
      ValueError: Paths of another shape; or not finite, unless they are traced.
    """
    joint = () if layout.joint == 1 else (layout.joint,)
    wanted = (len(inputs.x), layout.horizon, *joint)
    if paths.ndim != 3 + len(joint) or (paths.shape[0], *paths.shape[2:]) != wanted:
        sizes = ", ".join(map(str, wanted[1:]))
        raise ValueError(
            f"paths have shape {paths.shape}; expected [{wanted[0]}, S, {sizes}]"
        )
    _require_finite("paths", paths)
    samples, now = paths.shape[1], slice(layout.joint)
    x = jnp.repeat(inputs.x, samples, 0)
    mask = jnp.repeat(inputs.mask, samples, 0)
    future = layout.standardise(paths, inputs.scale)
    future = future.reshape(len(x), layout.horizon, layout.joint)
    x = x.at[:, -layout.horizon :, now].set(future)
    if whole:
        mask = mask.at[:, -layout.horizon :, now].set(1)
    return Observed(x, mask, jnp.tile(spread_levels(samples), len(inputs.x)))


def _require_finite(name, values):
    """Raises where ``values [N, ...]`` are known and not finite."""
    known = concrete(values)
    if known is not None and not np.isfinite(known).all():
        bad = ~np.isfinite(known)
        first = int(np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} values that are not finite, the first in "
            f"window {first}; fill them, or leave these windows out"
        )
