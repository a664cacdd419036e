"""The normalisation of our convolutional networks."""

import math

import flax.linen as nn
import jax.numpy as jnp


def group_norm_layer(channels: int, name: str) -> nn.GroupNorm:
    """Group normalisation in float32, in as many as 32 groups."""
    return nn.GroupNorm(math.gcd(32, channels), dtype=jnp.float32, name=name)
