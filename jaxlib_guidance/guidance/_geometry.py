"""Lengths and angles of each sample, which communicate nothing and are smooth at 0."""

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import sample_axes, sample_norm
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array


def sample_dot(u: Array, v: Array) -> Array:
    """Inner product of each sample.

    Args:
      u: Array ``[B, *S]``.
      v: Array ``[B, *S]``.

    Returns:
      Products ``[B, 1, ...]``.
    """
    return jnp.sum(u * v, axis=sample_axes(u), keepdims=True)


def sample_mean(x: Array) -> Array:
    """Mean over each sample.

    Args:
      x: Array ``[B, *S]``.

    Returns:
      Means ``[B, 1, ...]``.
    """
    return jnp.mean(x, axis=sample_axes(x), keepdims=True)


def project(u: Array, onto: Array) -> Array:
    """The part of each sample along another, ``<u, v> v / |v|^2``.

    Args:
      u: Array ``[B, *S]``.
      onto: Directions ``v [B, *S]`` of any length; along 0 there is no part.

    Returns:
      The part ``[B, *S]``; ``u`` less it is perpendicular to ``v``.
    """
    return divide(sample_dot(u, onto), sample_dot(onto, onto)) * onto


def cosine(u: Array, v: Array) -> Array:
    """Cosine of the angle between two arrays in each sample; 0 if one of them is 0.

    Args:
      u: Array ``[B, *S]``.
      v: Array ``[B, *S]``.

    Returns:
      Cosines ``[B, 1, ...]``.
    """
    return divide(sample_dot(u, v), sample_norm(u) * sample_norm(v))
