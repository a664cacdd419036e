"""DDIM inversion: from data to the noise that DDIM takes back to it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.sampling._checks import require_whole
from jaxlib_guidance.sampling._loop import sample
from jaxlib_guidance.sampling._prepare import require_grid
from jaxlib_guidance.sampling._sampler import Level, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import eps_of, moments, predicted
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    expand,
)


class Inversion(NamedTuple):
    """What `invert` returns.

    Attributes:
      x: The state at the grid's first time ``[B, *S]``; sample from here.
      trajectory: States at all times of the grid ``[N + 1, B, *S]``, in its order: the
        last is the data. ``trajectory[:-1]`` is a ``ref`` for `sample`, which gives
        step ``i`` the state at the step's own noise level.
    """

    x: Array
    trajectory: Array


def ddim_inversion(iterations: int = 0) -> Sampler:
    """DDIM run towards noise, plain or iterated until it undoes DDIM's step.

    With ``n = alpha + sigma`` and ``tau = sigma / n`` DDIM takes ``x'`` at the noisier
    ``t'`` to ``x / n = x' / n' + (tau - tau') v(x', t')``, where ``v = eps - x0`` is a
    flow's velocity. Solved for ``x'`` with ``v`` at a guess, this is the plain step:

      ``x' / n' = x / n + (tau' - tau) v(y, t')``,
      ``y = x sqrt((alpha'^2 + sigma'^2) / (alpha^2 + sigma^2))``

    The guess has the variance that data of unit variance has at ``t'``; the network is
    evaluated where DDIM will evaluate it, not at ``t``. Each iteration takes the last
    ``x'`` as the guess, and the fixed point is the exact inverse. It converges where
    ``n' (tau' - tau) |dv/dx| < 1``, the better the shorter the steps; where the network
    forgets ``x`` there is no inverse to find.

    Args:
      iterations: Number of fixed-point iterations, each of which costs an evaluation;
        the default 0 is the plain step.

    Returns:
      The solver, for grids that grow from data to noise.

    Raises:
      ValueError: Negative ``iterations``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys, x = jg.sample_keys(jax.random.key(0), 4), jnp.ones((4, 8))
      >>> noise, _ = jg.sample(keys, denoiser, jg.ddim_inversion(), [0.1, 0.5, 0.9], x)
      >>> noise.shape
      (4, 8)

    Reference: Song et al., arXiv 2010.02502, section 4.3; fixed points: Pan et al.,
      AIDI, 2309.04907, and Meiri et al., 2312.12540.
    """
    require_whole(iterations, "iterations", 0)

    def step(denoise, x, state, guidance_state, interval):
        start, end = interval.start, interval.end
        # A step towards data is DDIM's own, from where it is.
        up = interval.t_next > interval.t
        level = Level(*(jnp.where(up, e, s) for e, s in zip(end, start, strict=True)))
        t = jnp.where(up, interval.t_next, interval.t)
        scale = (end.alpha + end.sigma) / (start.alpha + start.sigma)
        scaled = expand(scale, x) * x
        (span,) = moments("flow", start, end, 1)

        def move(y, guidance_state):
            x0, guidance_state = denoise(y, t, guidance_state)
            velocity = predicted("flow", x0, eps_of(y, x0, level))
            return scaled + expand(span, x) * velocity, x0, guidance_state

        grown = jnp.hypot(level.alpha, level.sigma)
        grown /= jnp.hypot(start.alpha, start.sigma)
        found, x0, guidance_state = move(expand(grown, x) * x, guidance_state)
        if iterations:
            (found, x0, guidance_state), _ = jax.lax.scan(
                lambda carry, _: (move(carry[0], carry[2]), None),
                (found, x0, guidance_state),
                length=iterations,
            )
        return Stepped(
            Transition(found, jnp.zeros_like(start.sigma)), x0, state, guidance_state
        )

    return Sampler(stateless, step, evaluations=1 + iterations, reversible=True)


def invert(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    x: Array,
    cond: PyTree = None,
    *,
    iterations: int = 0,
    guidance: Any = None,
    process: Process | None = None,
    **options: Any,
) -> Inversion:
    """The noise from which DDIM on the same grid, condition and guidance gives ``x``.

    Args:
      keys: One typed key for each sample ``[B]``, for guidance that draws.
      denoiser: Network, or a tuple of networks for terms that contrast them.
      grid: Times ``[N + 1]`` as for sampling, from noise to data. Where it ends at 0,
        the last step of sampling is a denoising, which is undone as far as it can be.
      x: Data, or the state at ``grid[-1]``, ``[B, *S]``.
      cond: Condition pytree, every leaf ``[B, ...]``; None for a network without one.
      iterations: Number of fixed-point iterations a step; the default 0 is plain DDIM
        inversion.
      guidance: Guidance term or chain of terms; None inverts without guidance.
      **options: ``ref``, ``remat``, ``progress``, ``plan`` or ``unroll`` of `sample`.
      process: Noise process; None takes the denoiser's.

    Returns:
      The noise ``[B, *S]`` and the states at all times ``[N + 1, B, *S]``.

    Raises:
      ValueError: A growing grid, or anything that `sample` refuses.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine(), "v")
      >>> keys, grid = jg.sample_keys(jax.random.key(0), 4), [0.9, 0.7, 0.5, 0.3, 0.1]
      >>> noise = jg.invert(keys, denoiser, grid, jnp.ones((4, 8))).x
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), grid, noise)
      >>> bool(abs(x - 1).max() < 0.01)
      True
    """
    x = at_least_float32(x)
    process = process_of(denoiser, process)
    grid, known = require_grid(grid, process, reversible=True, x=x)
    if known is not None and known[0] < known[-1]:
        raise ValueError("grid increases; expected sampling's, from noise to data")
    end, states = sample(
        keys,
        denoiser,
        ddim_inversion(iterations),
        grid[::-1] if known is None else known[::-1],
        x,
        cond,
        guidance=guidance,
        trace=lambda info: info.x_next,
        **options,
        process=process,
    )
    return Inversion(end, jnp.concatenate([states[::-1], x[None]]))
