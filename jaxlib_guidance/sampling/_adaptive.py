"""DPM-Solver with error control: each sample chooses its own steps.

The step size of a sample depends on that sample's error alone: times are ``[B]``, a
sample that has arrived is frozen, and the others go on. So sample *i* is the same in
any batch, at the price of calls in which some rows are idle.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import process_of, require_cond
from jaxlib_guidance.diffusion import logsnr, require_times
from jaxlib_guidance.guidance import guided
from jaxlib_guidance.sampling._loop import initial_state
from jaxlib_guidance.sampling._prepare import (
    make_denoise,
    make_interval,
    time_type,
)
from jaxlib_guidance.sampling._sampler import Denoise
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree, concrete, expand

# Where sigma / alpha exceeds this the data is invisible: one first-order step, whose
# error is of order alpha^2, leads from there to a time at which log-SNR is finite.
NOISIEST = 1e3


class AdaptiveReport(NamedTuple):
    """What `sample_adaptive` spent, per sample ``[B]``.

    Attributes:
      evaluations: Network evaluations, rejected steps and the last one included. The
        batch as a whole makes as many calls as its most expensive sample needs.
      accepted: Steps taken.
      rejected: Steps that were too long and were tried again.
      finished: False where ``max_evaluations`` ran out; such a sample is the estimate
        at the time it had reached.
    """

    evaluations: Array
    accepted: Array
    rejected: Array
    finished: Array


class _Progress(NamedTuple):
    x: Array
    t: Array
    h: Array
    guidance_state: PyTree
    attempts: Array
    tried: Array
    accepted: Array
    done: Array


def _half_logsnr(process, t):
    return 0.5 * logsnr(process, t)


def _weights(h):
    """``int_0^h e^-(h - u) u^k du`` for k = 0, 1, 2."""
    constant = -jnp.expm1(-h)
    series = h**2 / 2 - h**3 / 6 + h**4 / 24 - h**5 / 120 + h**6 / 720
    linear = jnp.where(h < 0.1, series, h - constant)
    return constant, linear, h**2 - 2 * linear


def _embedded_step(
    denoise: Denoise,
    x: Array,
    guidance_state: PyTree,
    process: Process,
    t: Array,
    t_next: Array,
    order: int,
) -> tuple[Array, Array, PyTree]:
    """Two exponential Runge-Kutta steps, of orders ``order - 1`` and ``order``.

    ``x' = sigma'/sigma x + alpha' int_0^h e^-(h - u) p(u) du`` in log-SNR, where ``p``
    interpolates the estimates at the start, at 1/2 of the step (order 2), or at 1/3 and
    2/3 (order 3; each stage by the polynomial known so far), and the lower order leaves
    the last of them out. With the highest power exact this errs half as much as
    DPM-Solver-3, which drops part of it.

    Args:
      denoise: The guided network.
      x: State ``[B, *S]``.
      guidance_state: Guidance state.
      process: The noise process.
      t: Times ``[B]``.
      t_next: Times ``[B]``, below ``t``.
      order: 2 or 3.

    Returns:
      ``(lower, higher, guidance_state)``.

    Reference: Lu et al., arXiv 2206.00927, algorithms 1 and 2, in the data-prediction
      form of 2211.01095, with the full quadratic of its eq. 3.6.
    """
    start = _half_logsnr(process, t)
    whole = _half_logsnr(process, t_next) - start
    first, guidance_state = denoise(x, t, guidance_state)

    def move(to, *powers):
        """From ``t`` to ``to``, where x0 is ``first`` plus these times ``u, u^2``."""
        weights = _weights(_half_logsnr(process, to) - start)
        keep, alpha = process.sigma(to) / process.sigma(t), process.alpha(to)
        return expand(keep, x) * x + sum(
            expand(alpha * weight, x) * power
            for weight, power in zip(weights, (first, *powers), strict=False)
        )

    def stage(part, *powers):
        # The time is rounded, so the place it stands for is computed back from it.
        at = process.t_of_logsnr(2 * (start + part * whole))
        u = expand(_half_logsnr(process, at) - start, x)
        x0, new_state = denoise(move(at, *powers), at, guidance_state)
        return u, (x0 - first) / u, new_state

    if order == 2:
        _, slope, guidance_state = stage(1 / 2)
        return move(t_next), move(t_next, slope), guidance_state
    u, near, guidance_state = stage(1 / 3)
    v, far, guidance_state = stage(2 / 3, near)
    bend = (far - near) / (v - u)
    return move(t_next, near), move(t_next, near - u * bend, bend), guidance_state


def _freeze(keep_new, new, old):
    def choose(a, b):
        if a.shape[:1] != keep_new.shape:
            raise ValueError(
                f"guidance state has a leaf of shape {a.shape}; under an adaptive "
                f"solver, where steps differ by sample, the batch {keep_new.shape[0]} "
                "must come first"
            )
        return jnp.where(expand(keep_new, a), a, b)

    return jax.tree.map(choose, new, old)


def sample_adaptive(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    x: Any,
    cond: PyTree = None,
    *,
    order: int = 3,
    rtol: Any = 1e-2,
    atol: Any = 1e-3,
    first_step: Any = 0.1,
    safety: Any = 0.8,
    t_min: float | None = None,
    t_max: float | None = None,
    max_evaluations: int = 1000,
    guidance: Any = None,
    plan: str = "auto",
    process: Process | None = None,
) -> tuple[Array, AdaptiveReport]:
    """Draws samples with per-sample steps in log-SNR, to a stated tolerance.

    A step is accepted where the root mean square over the sample of
    ``(higher - lower) / max(atol, rtol max(|x|, |lower|))`` is at most 1, all three
    over their ``sqrt(alpha^2 + sigma^2)``, so that a tolerance means the same for every
    process. The next step is ``safety error^(-1/order)`` times as long, within a factor
    of 5. The last evaluation goes from ``t_min`` to 0. Windows of `during` act by "t",
    "sigma" or "logsnr".

    A `lax.while_loop`: forward-mode derivatives work, reverse mode does not (use
    `sample`). Under a sharded batch its stopping test is the one communication.

    Args:
      keys: Typed keys ``[B]``, one for each sample; see `sample_keys`.
      denoiser: Network, or a tuple of networks for terms that contrast them.
      x: A sample's shape ``(*S,)``, or the state ``[B, *S]`` at ``t_max``.
      cond: Condition pytree, every leaf ``[B, ...]``.
      order: Order of a step and number of its evaluations, 2 or 3.
      rtol: Tolerance relative to the state.
      atol: Absolute tolerance.
      first_step: Length of the first step that is tried, in half log-SNR.
      safety: Factor on the step length that the error would allow.
      t_min: Last time before 0; None takes the process's.
      t_max: First time; None takes the process's.
      max_evaluations: Bound on the number of calls of the network.
      guidance: Guidance term or chain of terms; None samples without guidance.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      process: Noise process; None takes the denoiser's.

    Returns:
      ``(x [B, *S], report)``.

    Raises:
      ValueError: ``order``, times or ``max_evaluations`` out of range; shapes that do
        not fit.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, report = jg.sample_adaptive(keys, denoiser, (8,))
      >>> x.shape, bool(report.finished.all())
      ((4, 8), True)

    Reference: Lu et al., DPM-Solver, arXiv 2206.00927, appendix C (DPM-Solver-12, -23).
    """
    if order not in (2, 3):
        raise ValueError(f"order is {order!r}; expected 2 or 3")
    if max_evaluations < order + 2:
        raise ValueError(
            f"max_evaluations is {max_evaluations}; expected at least {order + 2}"
        )
    network = guided(denoiser, guidance, plan)
    process = process_of(denoiser, process)
    last = process.t_min if t_min is None else t_min
    first = process.t_max if t_max is None else t_max
    require_times(process, first, "t_max")
    if not 0 < last < first:
        raise ValueError(
            f"t_min is {last} and t_max {first}; expected 0 < t_min < t_max"
        )
    with jax.ensure_compile_time_eval():
        kind = time_type(x)
        t = jnp.full((), first, kind)
        end = jnp.full((), last, kind)
        # A margin above float32's rounding, so that a start exactly there stays.
        visible = process.t_of_logsnr(jnp.full((), -2 * np.log(NOISIEST), kind))
        invisible = concrete(logsnr(process, t) < -2 * np.log(NOISIEST) - 1e-2)
    x = initial_state(keys, process, t, x)
    batch = x.shape[:1]
    require_cond(cond, batch[0])
    guidance_state = network.init(x)

    def at_step(index, t, t_next):
        interval = make_interval(process, index, t, t_next, keys)
        return make_denoise(network, process, cond, interval, None, None)

    opening = 0 if invisible is not None and not invisible else 1
    t = jnp.broadcast_to(t, batch)
    if opening:
        start = jnp.minimum(t, visible)
        x0, guidance_state = at_step(jnp.int32(0), t, start)(x, t, guidance_state)
        keep = process.sigma(start) / process.sigma(t)
        gain = process.alpha(start) - keep * process.alpha(t)
        x, t = expand(keep, x) * x + expand(gain, x) * x0, start
    final_level = _half_logsnr(process, end)

    def attempt(now: _Progress) -> _Progress:
        # A sample that has arrived repeats a harmless step: no lane may make a NaN.
        t = jnp.where(now.done, process.t_of_logsnr(2 * (final_level - 0.1)), now.t)
        here = _half_logsnr(process, t)
        arrives = here + now.h >= final_level - 1e-4
        t_next = jnp.where(arrives, end, process.t_of_logsnr(2 * (here + now.h)))
        lower, higher, guidance_state = _embedded_step(
            at_step(now.attempts + opening, t, t_next),
            now.x,
            now.guidance_state,
            process,
            t,
            t_next,
            order,
        )
        old, low, high = (
            y / expand(jnp.hypot(process.alpha(at), process.sigma(at)), x)
            for y, at in ((now.x, t), (lower, t_next), (higher, t_next))
        )
        scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(old), jnp.abs(low)))
        square = jnp.mean(((high - low) / scale) ** 2, axis=tuple(range(1, x.ndim)))
        error = jnp.sqrt(jnp.maximum(square, 1e-12))
        good = (error <= 1) & ~now.done
        grow = jnp.clip(safety * error ** (-1 / order), 0.2, 5.0)
        return _Progress(
            x=jnp.where(expand(good, x), higher, now.x),
            t=jnp.where(good, t_next, now.t),
            h=grow * jnp.minimum(now.h, final_level - here),
            guidance_state=_freeze(good, guidance_state, now.guidance_state),
            attempts=now.attempts + 1,
            tried=now.tried + (~now.done).astype(jnp.int32),
            accepted=now.accepted + good.astype(jnp.int32),
            done=now.done | (good & arrives),
        )

    none = jnp.zeros(batch, jnp.int32)
    begin = _Progress(
        x=x,
        t=t,
        h=jnp.full(batch, first_step, kind),
        guidance_state=guidance_state,
        attempts=jnp.int32(0),
        tried=none,
        accepted=none,
        done=jnp.zeros(batch, bool),
    )
    max_attempts = (max_evaluations - opening - 1) // order

    def proceed(now):
        return (now.attempts < max_attempts) & ~jnp.all(now.done)

    final = jax.lax.while_loop(proceed, attempt, begin)
    # Numbered by the bound: the attempts made depend on the slowest of the batch.
    index = jnp.int32(max_attempts + opening)
    denoise = at_step(index, final.t, jnp.zeros_like(final.t))
    x0, _ = denoise(final.x, final.t, final.guidance_state)
    report = AdaptiveReport(
        evaluations=order * final.tried + opening + 1,
        accepted=final.accepted,
        rejected=final.tried - final.accepted,
        finished=final.done,
    )
    return x0, report
