"""Tiny networks with named sites and parameters that are not zero.

A fresh adaLN-zero network is the zero function, on which no edit shows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.models import DiT, UNet
from jaxlib_guidance.types import Array, PyTree


def randomise(key: Array, params: PyTree, scale: float = 1.0) -> PyTree:
    """Every array, or shape of one, drawn anew from ``scale * N(0, 1 / fan_in)``.

    ``fan_in`` is the product of all axes but the last, and 25 for vectors.

    Args:
      key: Typed key.
      params: Tree of arrays or of their shapes.
      scale: Factor on the standard deviation of every array.

    Returns:
      A tree of ``params``' structure, shapes and types.
    """
    # On the host: compiling a draw for every shape would take longer than most tests.
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())

    def draw(leaf):
        fan_in = max(1, leaf.size // leaf.shape[-1]) if leaf.ndim > 1 else 25
        noise = random.standard_normal(leaf.shape)
        return jnp.asarray(scale * fan_in**-0.5 * noise, leaf.dtype)

    return jax.tree.map(draw, params)


def tiny_dit(
    key: Array,
    shape: tuple[int, ...] = (8, 8, 1),
    *,
    classes: int | None = 10,
    text: int | None = None,
    depth: int = 3,
    **options: Any,
) -> tuple[DiT, PyTree]:
    """A small `DiT` and random parameters.

    Args:
      key: Typed key.
      shape: One sample ``*S``, an image ``(H, W, C)`` or a sequence ``(L, C)``.
      classes: Number of classes, beside which there is a null class; None for a
        network without labels.
      text: Width of a text's embedding; None for a network without text.
      depth: Number of blocks, whose sites are "block0/attn", "block1/attn", ...
      **options: Other fields of `DiT`.

    Returns:
      ``(module, params)``; see `models.from_linen`.
    """
    chosen: dict[str, Any] = {"width": 32, "heads": 2, "patch": 2} | options
    module = DiT(depth=depth, classes=classes, text=text, **chosen)
    return module, _random_params(key, module, shape)


def tiny_unet(
    key: Array,
    shape: tuple[int, ...] = (8, 8, 1),
    *,
    classes: int | None = 10,
    text: int | None = None,
    **options: Any,
) -> tuple[UNet, PyTree]:
    """A small `UNet` of two levels and random parameters.

    Its sites are "down1/attn", "mid/attn" and "up1/attn".

    Args:
      key: Typed key.
      shape: One sample ``*S``, an image ``(H, W, C)`` or a sequence ``(L, C)``.
      classes: Number of classes, beside which there is a null class; None for a
        network without labels.
      text: Width of a text's embedding; None for a network without text.
      **options: Other fields of `UNet`.

    Returns:
      ``(module, params)``; see `models.from_linen`.
    """
    chosen: dict[str, Any] = {
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (1,),
        "heads": 2,
    } | options
    module = UNet(classes=classes, text=text, **chosen)
    return module, _random_params(key, module, shape)


def _random_params(key, module, shape):
    x, t = jnp.zeros((1, *shape)), jnp.zeros((1,))
    shapes = jax.eval_shape(module.init, key, x, t)["params"]
    return randomise(key, shapes)
