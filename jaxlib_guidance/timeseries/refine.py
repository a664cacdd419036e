"""Refinement: a model of windows corrects the forecast of another model.

The other forecast, of any kind, completes the observed window; then the window moves
down an energy, how badly the diffusion model denoises it plus how far it is from where
it started, with noise (Langevin) or without (maximum likelihood).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion.process import coefficients, perturb
from jaxlib_guidance.timeseries.energies import Energy, Observed, find_energy
from jaxlib_guidance.timeseries.layout import Inputs, Layout
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import Array, Denoiser, PyTree, at_least_float32

# Sub-streams of a step: the noise that is denoised, and the move's own.
DENOISED, MOVED = 0, 1


def noise_errors(
    denoiser: Denoiser,
    process: Any,
    x0: Array,
    eps: Array,
    t: Array,
    cond: PyTree = None,
    mask: Array | None = None,
) -> Array:
    """``sum (eps - eps_hat(alpha x0 + sigma eps, t))^2`` of each window.

    Args:
      denoiser: Of windows.
      process: Its noise process.
      x0: ``[B, L, C]``.
      eps: Standard normal noise, of the same shape.
      t: Scalar or ``[B]``.
      cond: Condition, every leaf ``[B, ...]``.
      mask: ``[B, L, C]``: only these entries count.

    Returns:
      ``[B]``.
    """
    x_t = perturb(process, x0, eps, t)
    alpha, sigma = coefficients(process, t, x_t)
    # eps_hat = (x_t - alpha x0_hat) / sigma: the error of x0 in another unit.
    error = alpha / sigma * (denoiser(x_t, t, cond).x0 - x0)
    error = error if mask is None else error * mask
    return jnp.sum(error**2, tuple(range(1, x0.ndim)))


def representative_time(
    keys: Array,
    denoiser: Denoiser,
    process: Any,
    x0: Array,
    times: Array,
    cond: PyTree = None,
    mask: Array | None = None,
) -> Array:
    """The time whose loss is nearest to the mean loss over all times.

    One noise level then stands for the training objective: `refine` denoises at it.

    Args:
      keys: Typed keys ``[B]``.
      denoiser: Of windows.
      process: Its noise process.
      x0: Windows to measure on ``[B, L, C]``, a few hundred; the published batch has
        1024.
      times: Candidates ``[T]``, those of training.
      cond: Condition, every leaf ``[B, ...]``.
      mask: ``[B, L, C]``, what is known of ``x0``.

    Returns:
      One of ``times``, a scalar.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.3 and its code.
    """
    times = at_least_float32(times)

    def loss(i):
        eps = rng.normal(rng.fold(keys, i), x0.shape[1:])
        each = noise_errors(denoiser, process, x0, eps, times[i], cond, mask)
        return jnp.mean(each)

    losses = jax.lax.map(loss, jnp.arange(len(times)))
    return times[jnp.argmin(jnp.abs(losses - jnp.mean(losses)))]


def refine(
    keys: Array,
    denoiser: Denoiser,
    process: Any,
    start: Observed,
    cond: PyTree = None,
    *,
    t: Any,
    energy: str | Energy = "quantile",
    steps: int = 20,
    step_size: Any = 0.1,
    noise: Any = 0.1,
    weight: Any = 1.0,
) -> Array:
    """Moves windows to where the model finds them likely, but not far from a start.

    ``y <- y - h grad E(y) + sqrt(2 h) nu z`` with
    ``E(y) = |eps - eps_hat(alpha y + sigma eps, t)|^2 + w R(y, start)`` and fresh
    ``eps`` each step. With ``noise`` 0 this is gradient descent, the published ML;
    otherwise Langevin dynamics (LMC) at temperature ``nu^2``.

    Args:
      keys: Typed keys ``[B]``.
      denoiser: Of windows ``[B, L, C]``.
      process: Its noise process.
      start: The completed windows, from `completed`; its mask says where ``R`` counts:
        published are the observed entries for "square", and these and the forecast for
        "quantile".
      cond: Condition, every leaf ``[B, ...]``.
      t: Noise level to denoise at; see `representative_time`.
      energy: ``R``: "quantile", "square" or a function ``(x0, observed) -> [B]``.
      steps: Moves.
      step_size: ``h``.
      noise: ``nu``; the published ``gamma`` is its square.
      weight: ``w``.

    Returns:
      ``[B, L, C]``.

    Raises:
      ValueError: Fewer than one step; unknown energy.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.3, algorithm 2.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; expected a whole number from 1")
    chosen = find_energy(energy)
    rng.require_keys(keys)
    h = jnp.asarray(step_size, jnp.float32)
    std = jnp.sqrt(2 * h) * noise

    def total(y, eps):
        each = noise_errors(denoiser, process, y, eps, t, cond)
        return jnp.sum(each + weight * chosen(y, start))

    def move(y, i):
        own = rng.fold(keys, i)
        eps = rng.normal(rng.fold(own, DENOISED), y.shape[1:])
        law = Transition(y - h * jax.grad(total)(y, eps), std)
        return draw(law, rng.fold(own, MOVED)), None

    y = at_least_float32(start.y)
    return jax.lax.scan(move, y, jnp.arange(steps))[0]


def base_paths(forecast: Array, samples: int) -> Array:
    """Another model's forecast as paths, one for each quantile level.

    Samples are sorted step by step, so that path ``i`` suits level ``(i + 1) /
    (S + 1)``; more or fewer than ``samples`` are brought to that number by their
    quantiles. A point forecast is repeated.

    Args:
      forecast: Samples ``[N, S', H]`` or a point forecast ``[N, H]``.
      samples: ``S``.

    Returns:
      ``[N, S, H]``.

    Raises:
      ValueError: Another number of axes, or something not finite.
    """
    forecast = at_least_float32(jnp.asarray(forecast))
    if forecast.ndim not in (2, 3):
        raise ValueError(
            f"forecast has shape {forecast.shape}; expected [N, H] or [N, S, H]"
        )
    if forecast.ndim == 2:
        return jnp.repeat(forecast[:, None], samples, 1)
    if forecast.shape[1] == samples:
        return jnp.sort(forecast, axis=1)
    levels = (jnp.arange(samples, dtype=forecast.dtype) + 0.5) / samples
    return jnp.moveaxis(jnp.quantile(forecast, levels, axis=1), 0, 1)


def completed(inputs: Inputs, layout: Layout, paths: Array, *, whole: bool) -> Observed:
    """Observed windows completed by a forecast: where `refine` starts.

    Args:
      inputs: Of ``N`` windows, from ``layout.inputs``.
      layout: Of the model.
      paths: ``[N, S, horizon]`` in the unit of the series, from `base_paths`.
      whole: Whether the forecast counts as observed too, as "quantile" wants.

    Returns:
      Windows, masks and levels with batch ``N S``. Lags that point into the horizon
      stay unknown.

    Raises:
      ValueError: Paths of another shape; a layout of several joint series.
    """
    if paths.ndim != 3 or paths.shape[::2] != (len(inputs.x), layout.horizon):
        raise ValueError(
            f"paths have shape {paths.shape}; expected [{len(inputs.x)}, S, "
            f"{layout.horizon}]"
        )
    if layout.joint != 1:
        raise ValueError(f"layout has {layout.joint} joint series; expected 1")
    samples = paths.shape[1]
    x = jnp.repeat(inputs.x, samples, 0)
    mask = jnp.repeat(inputs.mask, samples, 0)
    future = layout.standardise(paths, inputs.scale).reshape(-1, layout.horizon)
    x = x.at[:, -layout.horizon :, 0].set(future)
    if whole:
        mask = mask.at[:, -layout.horizon :, 0].set(1)
    level = (jnp.arange(samples, dtype=jnp.float32) + 1) / (samples + 1)
    return Observed(x, mask, jnp.tile(level, len(inputs.x)))
