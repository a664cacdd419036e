"""Forecasts and imputations by observation self-guidance.

The model is of whole windows and does not know what is observed. While it samples, the
gradient of an energy between its estimate and the observed entries, taken through the
network, draws the window to them, and what was not observed follows. Which entries
those are is the caller's business: a forecast hides the horizon, an imputation any set.

Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.guidance import (
    ObservationEnergy,
    Observed,
    observation,
    spread_levels,
)
from jaxlib_guidance.sampling import Sampler, ddpm, guided_after, sample
from jaxlib_guidance.timeseries._layout import Inputs, Layout
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    concrete,
)

Form = Literal["posterior", "estimate", "after"]
FORMS = ("posterior", "estimate", "after")


def infill(
    keys: Array,
    denoiser: Denoiser,
    observed: Observed,
    cond: PyTree = None,
    *,
    grid: Any,
    energy: str | ObservationEnergy = "quantile",
    scale: Any = 1.0,
    form: Form = "posterior",
    sampler: Sampler | None = None,
    process: Process | None = None,
) -> Array:
    """Windows that agree with what was observed: forecasts, imputations.

    Observed entries are drawn to ``observed.y``, not copied: compare them to see how
    well.

    Args:
      keys: Typed keys ``[B]``, one for each window.
      denoiser: Denoiser of windows ``[B, L, C]``.
      observed: Observed entries, their mask and each path's quantile level.
      cond: Condition of the network, every leaf ``[B, ...]``; None for a network
        without one.
      grid: Times of the solver ``[N + 1]``.
      energy: Energy between estimate and observation: "quantile", "square" or a
        function ``(x0, observed) -> [B]``.
      scale: Guidance scale, scalar or ``[B]``; 0 samples without guidance.
      form: Where the energy's gradient acts: "posterior" or "estimate" (see
        `observation`), or "after" (see `guided_after`).
      sampler: Solver; None is ``ddpm()``.
      process: Noise process; None takes the denoiser's.

    Returns:
      Windows ``[B, L, C]``.

    Raises:
      ValueError: Unknown energy or form; shapes that do not fit; "posterior" or "after"
        guidance of a solver that draws no noise.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected one of {FORMS}")
    sampler = ddpm() if sampler is None else sampler
    known = concrete(scale)
    guided = known is None or bool(np.any(known))
    if form == "posterior" and guided and not sampler.stochastic:
        raise ValueError(
            "form 'posterior' moves by a step's variance and needs a stochastic "
            "sampler, such as ddpm(); take form 'estimate' for one that draws no noise"
        )
    guidance = None
    if form == "after":
        sampler = guided_after(sampler, observed, energy, scale)
    else:
        guidance = observation(observed, energy, scale, form)
    shape = observed.y.shape[1:]
    return sample(
        keys, denoiser, sampler, grid, shape, cond, guidance=guidance, process=process
    )[0]


def paths_of(inputs: Inputs, samples: int) -> tuple[Observed, PyTree]:
    """Each window ``samples`` times, at levels that are spread over its paths.

    Args:
      inputs: Inputs of ``N`` windows, from ``layout.inputs``.
      samples: Number ``S`` of paths of each window, at least 1.

    Returns:
      What is observed and the condition, with batch ``N S``; the paths of a window are
      next to each other.

    Raises:
      ValueError: ``samples`` that is no whole number from 1.
    """
    levels = spread_levels(samples)
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, 0), inputs)
    level = jnp.tile(levels, len(inputs.x))
    return Observed(many.x, many.mask, level), many.cond


def forecast(
    keys: Array,
    denoiser: Denoiser,
    layout: Layout,
    inputs: Inputs,
    samples: int,
    *,
    grid: Any,
    energy: str | ObservationEnergy = "quantile",
    scale: Any = 1.0,
    form: Form = "posterior",
    sampler: Sampler | None = None,
    process: Process | None = None,
) -> Array:
    """Paths of each window in the unit of its series: history and future.

    A conditional network, which has what is observed in its condition, samples
    unguided; then ``scale`` must be 0.

    Args:
      keys: Typed keys ``[N]``, one for each window.
      denoiser: Denoiser of windows ``[B, L, C]``.
      layout: Layout of the network's inputs.
      inputs: Inputs of ``N`` windows, from ``layout.inputs``.
      samples: Number ``S`` of paths of each window.
      grid: Times of the solver.
      energy: Energy between estimate and observation: "quantile", "square" or a
        function ``(x0, observed) -> [N S]``.
      scale: Guidance scale, scalar or one for each path ``[N S]``.
      form: Where the energy's gradient acts: "posterior", "estimate" or "after"; see
        `infill`.
      sampler: Solver; None is ``ddpm()``.
      process: Noise process; None takes the denoiser's.

    Returns:
      ``[N, S, L]``, or ``[N, S, L, D]`` of joint series. The last ``layout.horizon``
      steps are the forecast; where the window was observed, paths show how closely the
      guidance follows it.

    Raises:
      TypeError: Inputs that are none.
      ValueError: Inputs of another layout, such as a horizon that the network was not
        trained for; guidance of a conditional network.
    """
    rng.require_keys(keys)
    known = concrete(scale)
    if layout.conditional and (known is None or known.any()):
        raise ValueError(
            "scale must be 0: this network is conditional, it is not guided to what is "
            "observed"
        )
    if not isinstance(inputs, Inputs):
        raise TypeError(
            f"inputs is {type(inputs).__name__}; expected Inputs, from layout.inputs"
        )
    wanted = (keys.shape[0], layout.length, layout.channels)
    if inputs.x.shape != wanted:
        raise ValueError(
            f"inputs have shape {inputs.x.shape}; expected {wanted} for {len(keys)} "
            f"keys and the layout's {layout.length} steps and {layout.channels} "
            "channels"
        )
    observed, cond = paths_of(inputs, samples)
    own = jax.vmap(
        lambda key: jax.vmap(partial(jax.random.fold_in, key))(
            jnp.arange(samples, dtype=jnp.uint32)
        )
    )(keys).reshape(-1)
    x = infill(
        own,
        denoiser,
        observed,
        cond,
        grid=grid,
        energy=energy,
        scale=scale,
        form=form,
        sampler=sampler,
        process=process,
    )
    x = x[..., : layout.joint].reshape(*wanted[:1], samples, layout.length, -1)
    if layout.joint == 1:
        x = x[..., 0]
    return layout.restore(x, inputs.scale)
