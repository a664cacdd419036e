"""Recurrence and inpainting: wrappers that re-noise and composite around any solver."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.sampling._sampler import Interval, Sampler, Stepped
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import Array, PyTree, concrete, expand


def _renoise(x: Array, interval: Interval) -> Transition:
    """The noise process itself, from ``t_next`` back up to ``t``.

    ``q(x_t | x_next) = N(r x_next, (sigma^2 - r^2 sigma'^2) I)`` with
    ``r = alpha / alpha'``: what has the right law at ``t_next`` has it at ``t``.

    Args:
      x: State ``[B, *S]`` at ``t_next``.
      interval: The step whose ends they are.
    """
    ratio = interval.alpha / interval.alpha_next
    variance = interval.sigma**2 - (ratio * interval.sigma_next) ** 2
    return Transition(expand(ratio, x) * x, jnp.sqrt(jnp.maximum(variance, 0)))


def with_recurrence(
    sampler: Sampler, repeats: int, start: Any = None, stop: Any = None
) -> Sampler:
    """Time travel: each step is taken, noised back and taken again ``repeats`` times.

    Guidance that acts a little at a time, inpainting above all, gets ``repeats + 1``
    tries a step to agree with the rest of the sample. Guidance's state runs through
    all tries; the solver's is each time that of the step's start, which suits solvers
    without state best. A step's transition is its law given the last try's start.

    Args:
      sampler: The solver, whose step is repeated: jumps are one step long.
      repeats: How often; 0 changes nothing.
      start: Repeat only where a step's first time is above this; may be traced.
      stop: Repeat only where it is at most this. Steps outside cost one evaluation.

    Raises:
      ValueError: Negative ``repeats``.

    Reference: Lugmayr et al., RePaint, arXiv 2201.09865, algorithm 1
      (``U = repeats + 1``); Bansal et al., 2302.07121, algorithm 1.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 0:
        raise ValueError(f"repeats is {repeats!r}; expected 0 or more")
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
            law = out.transition
            law = Transition(law.mean, jnp.broadcast_to(law.std, x.shape[:1]))
            return out._replace(transition=law), keys

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
    )


class _Inpainting(NamedTuple):
    inner: PyTree
    eps: Array
    seen: Array


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
      sampler: The solver for the rest.
      source: Data ``[B, *S]``.
      known: 1 where the source is to stay, 0 where it is not, ``[B, *S]`` or a shape
        that broadcasts to it; in between blends.
      noise: "fresh" draws ``z`` anew for every step. "fixed" keeps each sample's first,
        ``(x - alpha source) / sigma`` of the initial state: right for deterministic
        solvers, and for a start at ``invert``'s noise, which it leaves as it is.

    Raises:
      ValueError: Unknown ``noise``, or a ``known`` that does not fit the source.

    Reference: Lugmayr et al., RePaint, arXiv 2201.09865, eq. 8.
    """
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
        data, keep = source.astype(x.dtype), mask.astype(x.dtype)
        clean = expand(interval.alpha, x) * data
        sigma = expand(interval.sigma, x)
        if noise == "fixed":
            eps = jnp.where(state.seen, state.eps, (x - clean) / sigma)
            held = eps
        else:
            keys = rng.fold(interval.keys, rng.KNOWN)
            eps, held = rng.normal(keys, x.shape[1:], x.dtype), state.eps
        x = keep * (clean + sigma * eps) + (1 - keep) * x
        out = sampler.step(denoise, x, state.inner, guidance_state, interval)
        mean, std = out.transition
        final = expand(interval.sigma_next, x) == 0
        exact = keep * expand(interval.alpha_next, x) * data + (1 - keep) * mean
        return out._replace(
            transition=Transition(jnp.where(final, exact, mean), std),
            state=_Inpainting(out.state, held, jnp.array(True)),
        )

    return Sampler(
        init, step, stochastic=sampler.stochastic, evaluations=sampler.evaluations
    )
