"""Conditions of a network: time, label, vector and text; and dropping them in training.

A condition is None, an integer array ``[B]`` (labels), a float array ``[B, F]`` (a
vector) or ``[B, T, F]`` (text embeddings), or a dict with any of "label", "vector",
"text" and "text_mask".
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.types import Array, PyTree, expand, require_labels

CONDITION_KINDS = ("label", "vector", "text", "text_mask")


def sinusoidal(
    t: Array, width: int, max_period: float = 10_000.0, *, endpoint: bool = False
) -> Array:
    """``[cos(t f), sin(t f)]`` with ``f`` geometric from 1 down to ``1 / max_period``.

    Args:
      t: Times or positions, any shape.
      width: Number of features, even.
      max_period: Longest wavelength, in units of ``2 pi t``.
      endpoint: Whether the slowest rate is ``1 / max_period`` itself; else the rates
        stop one short of it.

    Returns:
      Float32 ``[*t.shape, width]``.

    Raises:
      ValueError: An odd width.
    """
    if width % 2:
        raise ValueError(f"width is {width}; sine and cosine need an even number")
    half = width // 2
    share = np.arange(half) / max(half - endpoint, 1)
    rates = np.exp(-math.log(max_period) * share).astype(np.float32)
    angle = jnp.asarray(t, jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def grid_positions(grid: tuple[int, ...], width: int) -> Array:
    """Sine-cosine positions of the tokens of a grid, ``[prod(grid), width]``.

    Each axis has an equal share of the features.

    Args:
      grid: Shape of the token grid.
      width: Number of features of a token.

    Returns:
      Float32 ``[prod(grid), width]``.

    Raises:
      ValueError: ``width`` is not a multiple of twice the number of axes.
    """
    if width % (2 * len(grid)):
        raise ValueError(
            f"width is {width}; positions on {len(grid)} axes need a multiple of "
            f"{2 * len(grid)}"
        )
    index = jnp.indices(grid).reshape(len(grid), -1)
    share = width // len(grid)
    return jnp.concatenate([sinusoidal(axis, share) for axis in index], -1)


class Condition(NamedTuple):
    """A condition by kind; None where it is absent.

    Attributes:
      label: Integer labels ``[B]``.
      vector: Vectors ``[B, F]``.
      text: Text embeddings ``[B, T, F]``.
      text_mask: Mask ``bool [B, T]``, False on padding.
    """

    label: Array | None = None
    vector: Array | None = None
    text: Array | None = None
    text_mask: Array | None = None


def _read_condition(cond: PyTree) -> Condition:
    """Sorts a condition by kind; see the module's description.

    Raises:
      ValueError: Something that is none of these.
    """
    if cond is None:
        return Condition()
    if isinstance(cond, Mapping):
        unknown = [name for name in cond if name not in CONDITION_KINDS]
        if unknown:
            raise ValueError(
                f"cond has {unknown}; expected names among {CONDITION_KINDS}"
            )
        return Condition(**cond)
    array = jnp.asarray(cond)
    if jnp.issubdtype(array.dtype, jnp.integer) and array.ndim == 1:
        return Condition(label=array)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.ndim in (2, 3):
        return Condition(**{"vector" if array.ndim == 2 else "text": array})
    raise ValueError(
        f"cond is {array.dtype}{array.shape}; expected integer labels [B], a vector "
        "[B, F], text [B, T, F], or a dict of them"
    )


def _window(half: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Places in a window, at most a third of a turn apart, and their weights."""
    if not 0 < half * abs(scale) < 1e4:
        raise ValueError(
            f"time_window is {half}; expected a number from 0, below 10,000 over "
            f"time_scale, {scale}"
        )
    count = max(1, math.ceil(half * abs(scale) / 2))
    share = np.linspace(-1, 1, 2 * count + 1, dtype=np.float32)
    weights = 1 + np.cos(np.pi * share)
    return half * share, weights / weights.sum()


class ConditionEmbed(nn.Module):
    """Time and condition as one vector, and text as a context.

    Attributes:
      width: Number of features of the output.
      classes: Number of classes, or None; label ``classes`` is the null class.
      vector: Number of features of a vector condition, or None for no such condition.
      text: Number of features of text embeddings, or None for no text.
      time_scale: Factor of ``c_noise`` before its sinusoids: 1 suits DDPM's step
        numbers, 1000 times in [0, 1], and 10 EDM's ``log(sigma) / 4``, in which 1000
        would turn them twenty times between logarithms of signal to noise one apart.
      time_window: Half of the range of ``c_noise`` over which the embedding is
        averaged, by a raised cosine; 0 takes it at the level itself. Of fast sines a
        network learns by heart what it saw at one level and not at the next; no solver
        can follow that, and the mean is without it. Parameters stay the same.
      dtype: Type of the computation; the sinusoids are float32.
    """

    width: int
    classes: int | None = None
    vector: int | None = None
    text: int | None = None
    time_scale: float = 1000.0
    time_window: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, c_noise: Array, cond: PyTree
    ) -> tuple[Array, Array | None, Array | None]:
        """``(c [B, width], context [B, T, width] or None, mask bool [B, T] or None)``.

        What is absent from ``cond`` is null: the null class, a zero vector, no text. A
        label outside 0, ..., ``classes`` is an error where its value is known while
        tracing, and elsewhere gives its own sample NaN.

        Args:
          c_noise: Noise level of each sample ``[B]``.
          cond: Condition: None, labels ``[B]``, a vector ``[B, F]``, text ``[B, T, F]``
            or a dict of these.

        Raises:
          ValueError: A condition that this network has no use for, or of another width;
            a label that is none of the classes; a window below 0.
        """
        require_labels(cond, self.classes)
        given = _read_condition(cond)
        batch = c_noise.shape[0]
        self._require(given, batch)
        dense = {"dtype": self.dtype}
        time_in = nn.Dense(self.width, name="time_in", **dense)

        def embed(level):
            return nn.silu(time_in(sinusoidal(level * self.time_scale, 256)))

        level = c_noise.astype(jnp.float32)
        if self.time_window:
            offsets, weights = _window(self.time_window, self.time_scale)
            around = embed(level[:, None] + offsets).astype(jnp.float32)
            c = jnp.sum(around * weights[:, None], 1).astype(self.dtype)
        else:
            c = embed(level)
        c = nn.Dense(self.width, name="time_out", **dense)(c)
        if self.classes is not None:
            label = given.label
            if label is None:
                label = jnp.full((batch,), self.classes, jnp.int32)
            # Below 0 an index would count from the end; above, the embedding is NaN.
            label = jnp.where(label < 0, self.classes + 1, label)
            c = c + nn.Embed(
                self.classes + 1,
                self.width,
                embedding_init=nn.initializers.normal(0.02),
                name="label",
                **dense,
            )(label)
        if self.vector is not None:
            vector = given.vector
            if vector is None:
                vector = jnp.zeros((batch, self.vector))
            h = nn.silu(nn.Dense(self.width, name="vector_in", **dense)(vector))
            c = c + nn.Dense(self.width, name="vector_out", **dense)(h)
        if self.text is None:
            return c, None, None
        text, mask = given.text, given.text_mask
        if text is None:
            text, mask = jnp.zeros((batch, 1, self.text)), jnp.zeros((batch, 1), bool)
        elif mask is None:
            mask = jnp.ones(text.shape[:2], bool)
        text = nn.LayerNorm(dtype=jnp.float32, name="text_norm")(
            text.astype(jnp.float32)
        )
        context = nn.Dense(self.width, name="text_in", **dense)(text)
        return c, context, mask.astype(bool)

    def _require(self, given, batch):
        known = {"label": self.classes, "vector": self.vector, "text": self.text}
        for kind, size in known.items():
            value = getattr(given, kind)
            if value is None:
                continue
            if size is None:
                option = "classes" if kind == "label" else kind
                raise ValueError(
                    f"cond has a {kind}, but the network was built with {option}=None"
                )
            shape = {"label": (batch,), "vector": (batch, size)}.get(
                kind, (batch, *value.shape[1:2], size)
            )
            if value.shape != shape:
                raise ValueError(f"cond's {kind} is {value.shape}; expected {shape}")
        if given.text_mask is not None and (
            given.text is None or given.text_mask.shape != given.text.shape[:2]
        ):
            raise ValueError("cond's text_mask must come with text and fit it, [B, T]")


def drop_condition(
    keys: Array, cond: PyTree, null: PyTree, rate: Array | float
) -> PyTree:
    """Replaces each sample's condition by ``null`` with probability ``rate``.

    What a network trained for classifier-free guidance needs.

    Args:
      keys: Per-sample typed keys ``[B]``.
      cond: Condition pytree, every leaf ``[B, ...]``.
      null: Pytree of the same structure whose leaves broadcast: the index of the null
        class, a zero vector.
      rate: Probability of dropping, scalar or ``[B]``.

    Returns:
      ``cond`` with the leaves of dropped samples replaced, all leaves together.

    Raises:
      TypeError: Keys that are not typed keys.
      ValueError: ``null`` of another structure.

    Reference: Ho and Salimans, arXiv 2207.12598, algorithm 1.
    """
    rng.require_keys(keys)
    if jax.tree.structure(cond) != jax.tree.structure(null):
        raise ValueError(
            f"null has structure {jax.tree.structure(null)}; expected cond's, "
            f"{jax.tree.structure(cond)}"
        )
    dropped = rng.uniform(keys) < rate

    def drop(value, empty):
        value = jnp.asarray(value)
        return jnp.where(expand(dropped, value), jnp.asarray(empty, value.dtype), value)

    return jax.tree.map(drop, cond, null)
