"""Edits of features: what a block hands on, and where a U-Net joins two of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._gates import gate_of, mix, take
from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import (
    Array,
    at_least_float32,
    expand,
    pytree_dataclass,
    static,
)

GATES = {"borrow_gate": 1.0, "backbone": 1.0, "skip": 1.0}
JOIN = ("backbone", "skip")


@pytree_dataclass
class FeatureEdit:
    """What to change in features ``[B, ..., C]``, or where two are joined.

    Fields apply in the order below.

    Attributes:
      borrow: Branch of the same call whose features are taken, or `Before`, or None
        (static).
      borrow_gate: 1 takes them, 0 keeps the branch's own; scalar or ``[B]``.
      add: Direction ``[C]`` or ``[B, C]`` that is added at each place.
      backbone: At a join: gain ``b`` of the first half of the backbone's channels,
        scalar or ``[B]``.
      skip: At a join: gain ``s`` of the skip's lowest frequencies, scalar or ``[B]``.
    """

    borrow: Any = static(default=None)
    borrow_gate: Array | float | None = None
    add: Array | None = None
    backbone: Array | float | None = None
    skip: Array | float | None = None


def inject(branch: str | Before, gate: Array | float = 1.0) -> FeatureEdit:
    """Takes the features of another branch of the same call.

    Args:
      branch: Name of the branch; or `Before`, in a batch of pairs.
      gate: 1 takes them, 0 keeps the branch's own; scalar or ``[B]``.

    Returns:
      An edit, for the control of a branch.

    Reference: plug-and-play diffusion features, arXiv 2211.12572.
    """
    return FeatureEdit(borrow=branch, borrow_gate=gate)


def steer(direction: Array, strength: Array | float = 1.0) -> FeatureEdit:
    """Adds ``strength * direction`` to the features at each place.

    Args:
      direction: Steering vector ``[C]``, as from `steering_direction`.
      strength: Factor of the direction, scalar or ``[B]``; 0 is off.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: A direction that is no vector, or a strength of another shape.
    """
    direction = at_least_float32(direction)
    strength = at_least_float32(jnp.asarray(strength))
    if direction.ndim != 1 or strength.ndim > 1:
        raise ValueError(
            f"direction has shape {direction.shape} and strength {strength.shape}; "
            "expected [C] and () or [B]"
        )
    return FeatureEdit(add=strength[..., None] * direction)


def edit_features(x: Array, edit: FeatureEdit | None) -> Array:
    """The features of one place, edited.

    This is all that a network of your own needs for `inject` and `steer`.

    Args:
      x: Features ``[B, ..., C]``.
      edit: What to change, or None.

    Returns:
      Features of ``x``'s shape and type.

    Raises:
      TypeError: An edit of attention.
      ValueError: A direction of another width, a gate of another shape, or an edit of
        a join.
    """
    if edit is None:
        return x
    _require_kind(edit)
    for name in JOIN:
        if getattr(edit, name) is not None:
            raise ValueError(
                f"edit.{name} concerns a join of backbone and skip; expected a place "
                "such as 'up1/join'"
            )
    if edit.borrow is None and edit.borrow_gate is not None:
        raise ValueError("edit.borrow_gate has no effect without edit.borrow")
    if edit.borrow is not None:
        gate = 1.0 if edit.borrow_gate is None else edit.borrow_gate
        x = mix(x, take(x, edit.borrow, "the features"), gate, "borrow_gate")
    if edit.add is None:
        return x
    add = at_least_float32(edit.add)
    if add.shape not in (x.shape[-1:], (x.shape[0], x.shape[-1])):
        raise ValueError(
            f"edit.add has shape {add.shape}; expected {x.shape[-1:]} or "
            f"{(x.shape[0], x.shape[-1])}"
        )
    if add.ndim == 2:
        add = add.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    return (at_least_float32(x) + add).astype(x.dtype)


def join_features(x: Array, skip: Array, edit: FeatureEdit | None) -> Array:
    """Backbone and skip of a U-Net, one after the other, edited.

    The first half of the backbone's channels is multiplied, at each place, by ``1 + (b
    - 1) m``, where ``m`` is the mean over its channels taken to [0, 1] over the places;
    frequencies -1 and 0 of the skip, in each of its axes of places, by ``s``.

    Args:
      x: Features of the backbone ``[B, ..., C]``.
      skip: Features of the way down ``[B, ..., D]``.
      edit: What to change, or None.

    Returns:
      Joined features ``[B, ..., C + D]``.

    Raises:
      TypeError: An edit of attention.
      ValueError: Places that differ, a gain that is neither a scalar nor ``[B]``, or an
        edit that is not of a join.

    Reference: FreeU, arXiv 2309.11497, equations 2 to 5, and the authors' code.
    """
    require_shape("skip without its channels", skip[..., 0], x.shape[:-1])
    if edit is None:
        return jnp.concatenate([x, skip], -1)
    _require_kind(edit)
    if edit.borrow is not None or edit.borrow_gate is not None or edit.add is not None:
        raise ValueError(
            "a join of backbone and skip takes edit.backbone and edit.skip alone; name "
            "a place such as 'up1' for the others"
        )
    if edit.backbone is not None:
        x = _amplified(x, expand(gate_of(edit.backbone, x, "backbone"), x))
    if edit.skip is not None:
        skip = _damped(skip, expand(gate_of(edit.skip, skip, "skip"), skip))
    return jnp.concatenate([x, skip], -1)


def _require_kind(edit):
    if not isinstance(edit, FeatureEdit):
        raise TypeError(
            f"features were given {type(edit).__name__}; expected attention."
            "FeatureEdit: attention edits are for sites such as 'mid/attn'"
        )


def _amplified(x, gain):
    places = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(at_least_float32(x), -1, keepdims=True)
    least = jnp.min(mean, places, keepdims=True)
    mean = divide(mean - least, jnp.max(mean, places, keepdims=True) - least)
    first = jnp.arange(x.shape[-1]) < x.shape[-1] // 2
    factor = 1 + jnp.where(first, (gain - 1) * mean, 0)
    return (at_least_float32(x) * factor).astype(x.dtype)


def _damped(x, gain):
    """The low frequencies alone, so that no transform of the whole is needed."""
    low = at_least_float32(x).astype(jnp.complex64)
    for axis in range(1, x.ndim - 1):
        turn = 2j * np.pi * np.arange(x.shape[axis]) / x.shape[axis]
        wave = (
            np.exp(turn).astype(np.complex64).reshape(-1, *(1,) * (x.ndim - 1 - axis))
        )
        mean = jnp.mean(low, axis, keepdims=True)
        # One place has the frequency 0 alone.
        once = jnp.mean(low * wave, axis, keepdims=True) * wave.conj()
        low = mean + once if x.shape[axis] > 1 else mean
    return (at_least_float32(x) + (gain - 1) * low.real).astype(x.dtype)
