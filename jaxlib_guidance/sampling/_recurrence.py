"""Recurrence and inpainting: wrappers that re-noise and composite around any solver."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import require_sampler, require_whole
from jaxlib_guidance.sampling._sampler import Interval, Sampler, Stepped
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import Array, PyTree, concrete, expand


def _renoise(x: Array, interval: Interval) -> Transition:
    """The noise process itself, from ``t_next`` back up to ``t``.

    ``q(x_t | x_next) = N(r x_next, (sigma^2 - r^2 sigma'^2) I)`` with
    ``r = alpha / alpha'``: what has the right distribution at ``t_next`` has
    it at ``t``.

    Args:
      x: State ``[B, *S]`` at ``t_next``.
      interval: Step of the time grid, from ``t`` to ``t_next``.
    """
    ratio = interval.start.alpha / interval.end.alpha
    variance = interval.start.sigma**2 - (ratio * interval.end.sigma) ** 2
    return Transition(expand(ratio, x) * x, sqrt(jnp.maximum(variance, 0)))


def with_recurrence(
    sampler: Sampler, repeats: int, start: Any = None, stop: Any = None
) -> Sampler:
    """Time travel: each step is taken, noised back and taken again ``repeats`` times.

    Guidance that acts a little at a time, inpainting above all, gets ``repeats + 1``
    tries a step to agree with the rest of the sample. Guidance's state runs through
    all tries; the solver's is each time that of the step's start, which suits solvers
    without state best. A step's transition is its distribution given where the last
    try began.

    Args:
      sampler: Solver whose step is repeated: jumps are one step long.
      repeats: Number of repetitions of each step; 0 changes nothing.
      start: Time, a scalar, which may be traced; only steps that begin above it are
        repeated. None sets no bound.
      stop: Time, a scalar, which may be traced; only steps that begin at or below it
        are repeated. None sets no bound.

    Returns:
      The solver; a step that is not repeated costs what it did.

    Raises:
      ValueError: Negative ``repeats``.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> sampler = jg.with_recurrence(jg.ddpm(), repeats=2)
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Lugmayr et al., RePaint, arXiv 2201.09865, algorithm 1
      (``U = repeats + 1``); Bansal et al., 2302.07121, algorithm 1.
    """
    require_sampler(sampler)
    require_whole(repeats, "repeats", 0)
    if repeats == 0:
        return sampler

    def step(denoise, x, state, guidance_state, interval):
        streams = rng.fold(interval.keys, rng.RECURRENCE)

        def attempt(i, x, guidance_state):
            keys = rng.fold(streams, i)
            own = jax.lax.cond(i == 0, lambda: interval.keys, lambda: keys)
            out = sampler.step(
                denoise, x, state, guidance_state, interval._replace(keys=own)
            )
            mean, std = out.transition
            transition = Transition(mean, jnp.broadcast_to(std, x.shape[:1]))
            return out._replace(transition=transition), keys

        def body(i, carry):
            x, out = carry
            out, keys = attempt(i, x, out.guidance_state)
            x = draw(out.transition, rng.fold(keys, 0))
            return draw(_renoise(x, interval), rng.fold(keys, 1)), out

        inside = jnp.array(True)
        if start is not None:
            inside &= interval.t > start
        if stop is not None:
            inside &= interval.t <= stop
        zeros = Transition(jnp.zeros_like(x), jnp.zeros(x.shape[:1], x.dtype))
        empty = Stepped(zeros, jnp.zeros_like(x), state, guidance_state)

        def guarded(carry, i):
            go = (i == 0) | inside
            return jax.lax.cond(go, body, lambda i, c: c, i, carry), None

        (_, out), _ = jax.lax.scan(guarded, (x, empty), jnp.arange(repeats + 1))
        return out

    return Sampler(
        sampler.init,
        step,
        stochastic=sampler.stochastic,
        evaluations=(repeats + 1) * sampler.evaluations,
        grid=sampler.grid,
    )


class _Inpainting(NamedTuple):
    inner: PyTree
    eps: Array
    begun: Array


def inpaint(
    sampler: Sampler,
    source: Array,
    known: Array,
    noise: Literal["fresh", "fixed"] = "fresh",
) -> Sampler:
    """Keeps a known region: before each step it is set to the source, noised to match.

    ``x = known (alpha source + sigma z) + (1 - known) x``; the step to ``sigma = 0``
    ends with the source itself. Alone this conditions weakly, as the unknown region is
    only asked to agree one step at a time; `with_recurrence` around it asks again.

    Args:
      sampler: Solver for the region that is not known.
      source: Data ``[B, *S]``, whose known part stays.
      known: Mask, 1 where the source is to stay, 0 where it is not, ``[B, *S]`` or a
        shape that broadcasts to it; values in between blend.
      noise: "fresh" draws ``z`` anew for every step. "fixed" keeps each sample's first,
        ``(x - alpha source) / sigma`` of the initial state: right for deterministic
        solvers, and for a start at ``invert``'s noise, which it leaves as it is.

    Returns:
      The solver, with the evaluations of ``sampler``.

    Raises:
      ValueError: Unknown ``noise``, or a ``known`` that does not fit the source.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys, known = jg.sample_keys(jax.random.key(0), 4), jnp.array([1.0, 1.0, 0.0])
      >>> sampler = jg.inpaint(jg.ddim(), jnp.ones((4, 3)), known)
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (3,))
      >>> x[0, :2].tolist()
      [1.0, 1.0]

    Reference: Lugmayr et al., RePaint, arXiv 2201.09865, eq. 8.
    """
    require_sampler(sampler)
    if noise not in ("fresh", "fixed"):
        raise ValueError(f"noise is {noise!r}; expected 'fresh' or 'fixed'")
    values = concrete(known)
    # Written so that NaN fails too.
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"known has values from {values.min()} to {values.max()}; expected 0 to 1 "
            "(a mask read from a picture is 0 to 255: divide it, or compare it to 127)"
        )
    source = jnp.asarray(source, jnp.float32)
    mask = jnp.asarray(known, jnp.float32)
    pairs = zip(mask.shape[::-1], source.shape[::-1], strict=False)
    if mask.ndim > source.ndim or any(m not in (1, s) for m, s in pairs):
        raise ValueError(
            f"known has shape {mask.shape}; expected to broadcast to source's, "
            f"{source.shape}"
        )

    def init(x):
        if x.shape != source.shape:
            raise ValueError(
                f"source has shape {source.shape}; expected x's, {x.shape}"
            )
        eps = jnp.zeros_like(x) if noise == "fixed" else jnp.zeros((), x.dtype)
        return _Inpainting(sampler.init(x), eps, jnp.array(False))

    def step(denoise, x, state, guidance_state, interval):
        keep = mask.astype(x.dtype)
        # What is not known may be NaN, as in a picture with holes.
        data = jnp.where(keep > 0, source.astype(x.dtype), 0)
        clean = expand(interval.start.alpha, x) * data
        sigma = expand(interval.start.sigma, x)
        if noise == "fixed":
            eps = jnp.where(state.begun, state.eps, (x - clean) / sigma)
            kept = eps
        else:
            keys = rng.fold(interval.keys, rng.KNOWN)
            eps, kept = rng.normal(keys, x.shape[1:], x.dtype), state.eps
        x = keep * (clean + sigma * eps) + (1 - keep) * x
        out = sampler.step(denoise, x, state.inner, guidance_state, interval)
        mean, std = out.transition
        final = expand(interval.end.sigma, x) == 0
        exact = keep * expand(interval.end.alpha, x) * data + (1 - keep) * mean
        return out._replace(
            transition=Transition(jnp.where(final, exact, mean), std),
            state=_Inpainting(out.state, kept, jnp.array(True)),
        )

    return Sampler(
        init,
        step,
        stochastic=sampler.stochastic,
        evaluations=sampler.evaluations,
        grid=sampler.grid,
    )
