"""The networks that laws are checked with: exact where they can be, and small."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxlib_guidance.diffusion import VE
from jaxlib_guidance.testing._mixtures import exact_denoiser
from jaxlib_guidance.testing._probability_flow import exact_flow, plane_mixture
from jaxlib_guidance.types import (
    Denoised,
    Denoiser,
    Process,
    at_least_float32,
    expand,
)

CLASSES = 3


def class_denoiser(
    shape: tuple[int, ...], process: Process, spread: float = 0.4
) -> Denoiser:
    """The exact denoiser of three round Gaussian classes of any sample shape.

    With ``v`` the variance of a class at time t, ``v = alpha^2 spread^2 + sigma^2``, it
    is ``sum_m p(m | x, label) (mu_m + alpha spread^2 (x - alpha mu_m) / v)``. It has no
    attention and compiles fast.

    Args:
      shape: One sample ``*S``.
      process: The noise process.
      spread: Standard deviation of a class. A wider one is a weaker network.

    Returns:
      A denoiser, of smaller samples too, whose condition is None or labels ``[B]``:
      whole numbers, of which all but 0, 1 and 2 mean any class; or logarithms of the
      classes' weights ``[B, 3]``.
    """
    means = np.random.default_rng(0).normal(size=(CLASSES, *shape))
    whole = jnp.asarray(means, jnp.float32)

    def apply(x, t, cond, *, control, capture):
        means = whole[(slice(None), *(slice(n) for n in x.shape[1:]))]
        if cond is None:
            cond = jnp.full(x.shape[:1], -1)
        weights = jnp.shape(cond) == (x.shape[0], CLASSES)
        labels = jnp.shape(cond) == x.shape[:1] and jnp.result_type(cond).kind in "iu"
        if not weights and not labels:
            raise ValueError(
                "the networks that laws are checked with take labels [B] as their "
                f"condition; got {jax.tree.map(jnp.shape, cond)}: give denoiser"
            )
        return Denoised(_of_classes(process, means, spread, x, t, jnp.asarray(cond)))

    return Denoiser(apply, process=process)


# Compiled where it is called without jit too, once for all that is checked.
@functools.partial(jax.jit, static_argnames="spread")
def _of_classes(process, means, spread, x, t, cond):
    x = at_least_float32(x)
    t = jnp.broadcast_to(at_least_float32(t), x.shape[:1])
    alpha, sigma = (expand(f(t), x[:, None]) for f in (process.alpha, process.sigma))
    offset = x[:, None] - alpha * means
    variance = alpha**2 * spread**2 + sigma**2
    logits = jnp.sum(-0.5 * offset**2 / variance, tuple(range(2, offset.ndim)))
    if cond.ndim == 2:
        logits = logits + at_least_float32(cond)
    else:
        asked, classes = cond[:, None], jnp.arange(CLASSES)
        anyone = (asked < 0) | (asked >= CLASSES)
        logits = jnp.where(anyone | (asked == classes), logits, -jnp.inf)
    share = jax.nn.softmax(logits, 1)
    each = means + alpha * spread**2 / variance * offset
    return jnp.sum(expand(share, each) * each, 1)


def in_half(net: Denoiser, kind: DTypeLike) -> Denoiser:
    """A denoiser whose estimates have the digits of half precision only."""

    def apply(*args, **options):
        out = net.apply(*args, **options)
        return out._replace(x0=out.x0.astype(kind).astype(jnp.float32))

    return dataclasses.replace(net, apply=apply)


@functools.cache
def flow_problem() -> tuple[Process, Denoiser, np.ndarray, np.ndarray]:
    """A probability flow solved exactly: process, network, states and their ends.

    The states ``[32, 2]`` are at noise ratio 20, the ends at 0.3.
    """
    process = VE(t_min=0.3, t_max=20.0)
    x = 20.0 * np.random.default_rng(0).normal(size=(32, 2))
    ends = exact_flow(plane_mixture(), x, (1.0, 20.0), (1.0, 0.3))
    denoiser = exact_denoiser(plane_mixture(), process)
    return process, denoiser, np.asarray(x, np.float32), ends
