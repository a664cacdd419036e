"""Forecasts and imputations by observation self-guidance.

The model is of whole windows and was never told what is observed. While it samples, the
gradient of an energy between its estimate and the observed entries, taken through the
network, draws the window to them, and what was not observed follows. Which entries
those are is the caller's business: a forecast hides the horizon, an imputation any set.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.guidance.base import Chain, chain
from jaxlib_guidance.guidance.energy import energy as energy_term
from jaxlib_guidance.guidance.schedule import scheduled
from jaxlib_guidance.sampling.ddim import ddpm
from jaxlib_guidance.sampling.loop import Sampler, sample
from jaxlib_guidance.timeseries.energies import (
    Energy,
    Observed,
    find_energy,
    spread_levels,
)
from jaxlib_guidance.timeseries.layout import Inputs, Layout
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import (
    Array,
    Context,
    Denoiser,
    PyTree,
    concrete,
    expand,
    per_sample,
)

Form = Literal["posterior", "estimate", "after"]
FORMS = ("posterior", "estimate", "after")


def observation(
    observed: Observed,
    energy: str | Energy = "quantile",
    scale: Any = 1.0,
    form: Literal["posterior", "estimate"] = "posterior",
) -> Chain:
    """Observation self-guidance as guidance terms, to chain with others.

    - form="posterior": the mean of a step of `ddpm` moves by ``-s std^2 grad E`` with
      its own ``std``; so the last step is not guided. The paper's. Other solvers weigh
      an estimate otherwise: theirs moves by less the less noise they draw, and `infill`
      refuses those that draw none.
    - form="estimate": ``eps += s sigma grad E``, which at ``s = 1`` samples the data
      tilted by ``exp(-E)`` if ``E`` were exact for the noisy state, whatever the
      solver. The released code's form for DDIM.

    Scales do not carry over from one form, number of steps or solver to another: search
    them on validation windows.

    Args:
      observed: What is known.
      energy: "quantile", "square" or a function ``(x0, observed) -> [B]``.
      scale: ``s``, scalar or ``[B]``; 0 is off.
      form: One of these.

    Raises:
      ValueError: Unknown energy or form; a scale of another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, eq. 7 and algorithm 1.
    """
    chosen = find_energy(energy)
    if form not in ("posterior", "estimate"):
        raise ValueError(f"form is {form!r}; expected 'posterior' or 'estimate'")
    scale = _require_scale(scale, observed)
    term = energy_term(lambda known, x0, ctx: chosen(x0, known), scale, params=observed)
    return chain(term) if form == "estimate" else scheduled(term, _posterior_share)


def _posterior_share(ctx: Context) -> Array:
    """What takes ``sigma^2 / alpha``, an energy's step, to ``std^2`` of the mean.

    The posterior's mean has ``alpha' (1 - r^2)`` of the estimate and its variance is
    ``sigma'^2 (1 - r^2)``, so the factor is ``sigma'^2 alpha / (sigma^2 alpha')``.
    """
    t, t_next = ctx.t_step, ctx.t_next
    alpha, sigma = ctx.process.alpha(t), ctx.process.sigma(t)
    next_alpha, next_sigma = ctx.process.alpha(t_next), ctx.process.sigma(t_next)
    return (next_sigma / sigma) ** 2 * alpha / next_alpha


def guided_after(
    sampler: Sampler,
    observed: Observed,
    energy: str | Energy = "quantile",
    scale: Any = 1.0,
) -> Sampler:
    """Each step of a stochastic solver, then a move at the state where it arrived.

    ``x' ~ step(x, t)``, ``x' - s std^2 grad E(x0(x', t))``: the gradient is taken at
    the new state with the old time, which is how the released code guides DDPM. It
    costs one more evaluation a step than `observation`. A step's transition is then
    the point it arrived at.

    Args:
      sampler: A stochastic solver, such as ``ddpm()``.
      observed: What is known.
      energy: See `observation`.
      scale: ``s``, scalar or ``[B]``.

    Raises:
      ValueError: A solver that draws no noise, whose ``std`` would be 0 throughout; a
        scale of another shape.

    Reference: the released code of arXiv 2307.11494.
    """
    chosen = find_energy(energy)
    if not sampler.stochastic:
        raise ValueError("guided_after needs a stochastic sampler, such as ddpm()")
    scale = _require_scale(scale, observed)

    def step(denoise, x, memory, guide, interval):
        out = sampler.step(denoise, x, memory, guide, interval)
        x_next = draw(out.transition, interval.keys)

        def total(x):
            x0, _ = denoise(x, interval.t, out.guide)
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
    )


def _require_scale(scale, observed):
    """The scale, once it is one number or one for each window."""
    per_sample(scale, observed.y, "scale")
    # A number that is 0 before tracing costs nothing: it must stay one.
    return scale if np.ndim(scale) == 0 else jnp.asarray(scale, jnp.float32)


def infill(
    keys: Array,
    denoiser: Denoiser,
    process: Any,
    observed: Observed,
    cond: PyTree = None,
    *,
    grid: Any,
    energy: str | Energy = "quantile",
    scale: Any = 1.0,
    form: Form = "posterior",
    sampler: Sampler | None = None,
) -> Array:
    """Windows that agree with what was observed: forecasts, imputations.

    Observed entries are drawn to ``y``, not copied: compare them to see how well.

    Args:
      keys: Typed keys ``[B]``.
      denoiser: Of windows ``[B, L, C]``.
      process: Its noise process.
      observed: What is known, and each path's level.
      cond: Condition, every leaf ``[B, ...]``.
      grid: Times ``[N + 1]``.
      energy: "quantile", "square" or a function ``(x0, observed) -> [B]``.
      scale: Guidance scale, scalar or ``[B]``; 0 samples without guidance.
      form: "posterior", "estimate" (see `observation`) or "after" (`guided_after`).
      sampler: The solver; None is ``ddpm()``.

    Returns:
      ``[B, L, C]``.

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
        keys, denoiser, process, sampler, grid, shape, cond, guidance=guidance
    )[0]


def paths_of(inputs: Inputs, samples: int) -> tuple[Observed, PyTree]:
    """Each window ``samples`` times, at levels that are spread over its paths.

    Args:
      inputs: Of ``N`` windows.
      samples: Paths ``S`` of each.

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
    process: Any,
    layout: Layout,
    inputs: Inputs,
    samples: int,
    *,
    grid: Any,
    energy: str | Energy = "quantile",
    scale: Any = 1.0,
    form: Form = "posterior",
    sampler: Sampler | None = None,
) -> Array:
    """Paths of each window in the unit of its series: history and future.

    A network that is told what is observed samples unguided; then ``scale`` must be 0.

    Args:
      keys: Typed keys, one for each window ``[N]``.
      denoiser: Of windows ``[B, L, C]``.
      process: Its noise process.
      layout: Of its inputs.
      inputs: Of ``N`` windows, from ``layout.inputs``.
      samples: Paths ``S`` of each window.
      grid: Times.
      energy: See `infill`; so also the rest.
      scale: Guidance scale, scalar or one for each path ``[N S]``.
      form: Form of the guidance.
      sampler: The solver.

    Returns:
      ``[N, S, L]``, or ``[N, S, L, D]`` of joint series. The last ``layout.horizon``
      steps are the forecast; where the window was observed, paths show how closely the
      guidance follows it.

    Raises:
      ValueError: Inputs of another layout, such as a horizon that the network was not
        trained for; guidance of a network that is told.
    """
    rng.require_keys(keys)
    known = concrete(scale)
    if layout.told and (known is None or known.any()):
        raise ValueError(
            "scale must be 0: this network is told what is observed, not guided there"
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
        process,
        observed,
        cond,
        grid=grid,
        energy=energy,
        scale=scale,
        form=form,
        sampler=sampler,
    )
    x = x[..., : layout.joint].reshape(*wanted[:1], samples, layout.length, -1)
    if layout.joint == 1:
        x = x[..., 0]
    return layout.restore(x, inputs.scale)
