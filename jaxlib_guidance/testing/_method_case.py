"""Rows of the catalogue of guidance methods as terms to check."""

import inspect
import math
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance import (
    METHODS,
    Method,
    Observed,
    cfg,
    chain,
    masking,
    measurement,
    scheduled,
)
from jaxlib_guidance.testing._law_networks import CLASSES
from jaxlib_guidance.testing._term_case import BATCH
from jaxlib_guidance.types import Context


def _energy(x0, ctx):
    return jnp.sum(jnp.sqrt(1 + (x0 - 0.3) ** 2), axis=tuple(range(1, x0.ndim)))


def _logits(x, t):
    flat = x.reshape(x.shape[0], -1)
    return jnp.stack([flat[:, 0], flat[:, 1], -flat[:, 0]], axis=1)


def _given(weight, ctx: Context):
    return weight


def _arguments(shape: tuple[int, ...]) -> dict[str, Any]:
    """What an argument of this name is, unless the row's example says otherwise."""
    tokens = math.prod(n // 2 for n in shape[:2]) if len(shape) == 3 else shape[0]
    windows = BATCH, *shape
    known = jnp.ones(windows).at[:, 0].set(0)
    return {
        "sites": "block1/attn",
        "function": _energy,
        "classifier": _logits,
        "mask": (jnp.arange(tokens) < tokens // 3).astype(jnp.float32),
        "seen": measurement(jnp.full(windows, 0.3), masking(known), 0.5),
        "y": jnp.full(windows, 0.3),
        "picture": jnp.full(windows, 0.3),
        "weights": known,
        "pool": jnp.sin(jnp.arange(5 * math.prod(shape), dtype=jnp.float32)).reshape(
            5, *shape
        ),
        "energies": jnp.linspace(0, 3, 5),
        "observed": Observed(jnp.full(windows, 0.3), jnp.ones(windows), 0.4),
    }


def method_shape(method: str | Method) -> tuple[int, ...]:
    """Shape of a sample at which a method is checked.

    Args:
      method: Row of `guidance.METHODS`, or its name.

    Returns:
      The row's, or images (8, 8, 1) for a method that takes sites, else (6,).
    """
    row = METHODS[method] if isinstance(method, str) else method
    sites = "sites" in inspect.signature(row.make).parameters
    return row.shape or ((8, 8, 1) if sites else (6,))


def method_term(
    method: str | Method, weight: Any = 1.0, shape: tuple[int, ...] | None = None
) -> Any:
    """The term of a row of the catalogue, for the networks that `check_term` takes.

    Args:
      method: Row of `guidance.METHODS`, or its name.
      weight: Factor of the method's strength, scalar or ``[B]``; 0 is off. A method
        without a strength of its own is scaled by `guidance.scheduled`.
      shape: Shape of a sample; None takes `method_shape`'s.

    Returns:
      A guidance term. A method that only reshapes what is before it follows a `cfg`,
      and a wrapper wraps one.

    Raises:
      KeyError: No method of that name.
      TypeError: The constructor needs an argument that is neither usual nor in the
        row's example.
    """
    row = METHODS[method] if isinstance(method, str) else method
    parameters = inspect.signature(row.make).parameters
    known = _arguments(method_shape(row) if shape is None else shape)
    null = known["null"] = 0.0 if row.vector else CLASSES
    arguments = {
        name: known[name]
        for name, parameter in parameters.items()
        if name in known and parameter.default is parameter.empty
    } | dict(row.example)
    if shape is not None and "picture" in arguments:
        arguments["picture"] = known["picture"]
    scale = weight
    for name in ("term", "terms"):
        if name in parameters:
            arguments[name], scale = cfg(weight, null, name="inner"), None
    if row.strength is not None:
        arguments[row.strength] = weight * arguments.get(row.strength, 1.0)
        scale = None
    term = row.make(**arguments)
    if scale is not None:
        term = scheduled(term, _given, params=scale)
    return chain(cfg(weight, null), term) if row.after else term
