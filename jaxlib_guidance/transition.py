"""A Gaussian step: what samplers emit and what policy gradients score.

``x_next ~ N(mean, std^2 I)``. A sampler's stochastic step and the log-probability that
a diffusion policy gradient needs are the same object, so on-policy ratios are 1.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.types import Array, expand


class Transition(NamedTuple):
    """``N(mean [B,*S], std^2 I)`` with ``std`` a scalar or ``[B]``; 0 is a point."""

    mean: Array
    std: Array


def draw(transition: Transition, keys: Array) -> Array:
    """One sample ``mean + std * noise``, ``[B, *S]``, noise from each sample's key."""
    mean, std = transition
    return mean + expand(std, mean) * rng.normal(keys, mean.shape[1:], mean.dtype)


def log_prob(transition: Transition, x: Array) -> Array:
    """``log N(x; mean, std^2 I)`` summed over the sample.

    Where ``std`` is 0 the distribution is a point and has no density: the value is
    ``nan``, in keeping with DDPO, which leaves such steps out.

    Args:
      transition: Distribution with ``mean [B, *S]`` and ``std`` scalar or ``[B]``.
      x: State ``[B, *S]`` whose density is asked for.

    Returns:
      Float32 ``[B]``: a sum of many terms keeps no digit in half precision, so what is
      narrower is widened first.
    """
    (mean, std), x = _wide(transition), _widened(x)
    scale = expand(std, mean)
    safe = jnp.where(scale > 0, scale, 1)
    z = (x - mean) / safe
    each = -0.5 * z**2 - jnp.log(safe) - 0.5 * math.log(2 * math.pi)
    each = jnp.where(scale > 0, each, jnp.nan)
    return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def kl(p: Transition, q: Transition) -> Array:
    """``KL(p || q)`` of two Gaussian steps, summed over the sample.

    With ``r = s_p / s_q``, ``(r^2 - 1) / 2 - log r + |m_p - m_q|^2 / (2 s_q^2)`` per
    element: for equal ``std`` the first two are 0 and no digit of the gap is lost.

    Args:
      p: Distribution with ``mean [B, *S]`` and positive ``std``, scalar or ``[B]``.
      q: Distribution with ``mean [B, *S]`` and positive ``std``, scalar or ``[B]``.

    Returns:
      Float32 ``[B]``; what is narrower is widened first.
    """
    p, q = _wide(p), _wide(q)
    s_p, s_q = expand(p.std, p.mean), expand(q.std, q.mean)
    r = s_p / s_q
    each = 0.5 * (r**2 - 1) - jnp.log(r) + (p.mean - q.mean) ** 2 / (2 * s_q**2)
    return jnp.sum(each, axis=tuple(range(1, each.ndim)))


def _wide(transition):
    return Transition(_widened(transition.mean), _widened(transition.std))


def _widened(a):
    """Half precision becomes float32; what is float32, wider or weak stays as it is."""
    a = jnp.asarray(a)
    half = jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize < 4
    return a.astype(jnp.float32) if half else a
