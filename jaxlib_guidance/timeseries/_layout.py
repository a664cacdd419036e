"""Which part of a window a network diffuses, and which part is its condition.

A network has two inputs, the noisy ``x [B, L, C]`` and a condition ``[B, L, F]``, and a
layout says what goes where: TSDiff diffuses the series and all lags; a layout that
gives lags as conditions diffuses the series alone; TSDiff-Cond has the observed context
in its condition besides.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.timeseries._units import over
from jaxlib_guidance.timeseries._windows import (
    make_windows,
    mean_absolute_scale,
    window_lengths,
)
from jaxlib_guidance.types import (
    Array,
    at_least_float32,
    concrete,
    expand,
    require_array,
)

VALUES = ("plain", "root")


class Inputs(NamedTuple):
    """A batch of windows as a network takes them.

    Attributes:
      x: What is diffused ``[B, L, C]``, and for training its truth; 0 where unknown.
      mask: ``[B, L, C]``, 1 where ``x`` is known and 0 elsewhere.
      cond: Condition of the network ``[B, L, F]``, or None for a network without one.
      scale: Unit of the plain values, ``[B]`` (``[B, D]`` of ``D`` joint series).
    """

    x: Array
    mask: Array
    cond: Array | None
    scale: Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """How windows become a network's inputs; plain JSON as ``dataclasses.asdict``.

    Attributes:
      context: Steps of context, from which the scale of a window is taken.
      horizon: Steps of forecast.
      lags: Steps back of the lagged values, see `make_windows`; empty for none.
      view: Last steps of the context that the network sees; None for all of them.
      joint: Number ``D`` of series in a window.
      diffuse_lags: Whether lags are channels of ``x``, as published, or part of the
        condition, with their masks.
      conditional: Whether the observed steps are part of the condition (TSDiff-Cond);
        False for a network that is guided to them.
      covariates: Number of channels that are known for the horizon too, such as the 6
        of `calendar`.
      values: "plain" for scaled values; "root" for their square roots, which evens out
        the spread of counts, for series that are never negative.
      centre: Mean of the values, subtracted to standardise them; 0 leaves them.
      spread: Standard deviation of the values, by which they are divided; 1 leaves
        them.

    Raises:
      TypeError, ValueError: A field of another type or out of range.
    """

    context: int
    horizon: int
    lags: tuple[int, ...] = ()
    view: int | None = None
    joint: int = 1
    diffuse_lags: bool = False
    conditional: bool = False
    covariates: int = 0
    values: Literal["plain", "root"] = "plain"
    centre: float = 0.0
    spread: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "lags", tuple(self.lags))
        window_lengths(self.context, self.horizon, self.lags)
        _require_whole("view", self.context if self.view is None else self.view, 0)
        if self.view is not None and self.view > self.context:
            raise ValueError(f"view is {self.view}; expected 0 to {self.context}")
        _require_whole("joint", self.joint, 1)
        _require_whole("covariates", self.covariates, 0)
        if self.values not in VALUES:
            raise ValueError(f"values is {self.values!r}; expected one of {VALUES}")
        if not 0 < self.spread < np.inf:
            raise ValueError(f"spread is {self.spread}; expected above 0, and finite")
        if not np.isfinite(self.centre):
            raise ValueError(f"centre is {self.centre}; expected a finite number")

    @property
    def length(self) -> int:
        """Steps ``L`` that the network sees."""
        past = self.context if self.view is None else self.view
        return past + self.horizon

    @property
    def channels(self) -> int:
        """``C``, the channels of ``x``; the first ``joint`` are the series."""
        return self.joint * (1 + len(self.lags) * self.diffuse_lags)

    @property
    def features(self) -> int:
        """``F``, the channels of the condition."""
        lags = 0 if self.diffuse_lags else len(self.lags)
        return 2 * self.joint * (lags + self.conditional) + self.covariates

    def inputs(
        self,
        segments: Array,
        observed: Array,
        covariates: Array | None = None,
        scale: Array | None = None,
        *,
        truth: bool = False,
    ) -> Inputs:
        """The inputs of windows of which the steps ``observed`` are visible.

        The unit of a window is the mean absolute value of the visible part of its
        context. A context of nothing but zeros or unknown steps takes that of the lags'
        history before it, then ``scale``. A window that these leave without a unit
        keeps that of the series (``scale`` 1). To train on, all of it counts as
        unknown: its mask is 0, for what is hidden may have any size beside visible
        zeros.

        Args:
          segments: Values from `cut_segments` with this layout's context, horizon and
            lags, ``[B, T]``, or ``[B, T, D]`` of joint series.
          observed: Which steps are visible, ``[context + horizon]`` or with leading
            ``B``: `forecast_mask`, or a mask with holes to fill.
          covariates: What is known of all steps, ``[B, context + horizon,
            covariates]``, finite; None for a layout without covariates.
          scale: Size of each window's series ``[B]`` (``[B, D]``) for windows without a
            unit of their own, 0 where unknown; see `default_scale`. It must not depend
            on the horizon. None is 0.
          truth: Whether ``x`` and ``mask`` include the hidden values, to train on them.
            The condition and the scale never do.

        Returns:
          `Inputs` of the last ``length`` steps.

        Raises:
          ValueError: Covariates where there should be none, or of another shape or not
            finite; segments of another number of series; negative values for a layout
            of square roots. Values are only looked at where they are not traced.
        """
        require_array("observed", observed, lists=True)
        require_array("scale", scale, lists=True)
        self._require_arrays(segments, covariates)
        length = self.context + self.horizon
        cut = {"context": self.context, "horizon": self.horizon, "lags": self.lags}
        default = self._default_scale(segments, scale)
        or_one = jnp.where(default > 0, default, 1)
        windows = make_windows(segments, **cut, observed=observed, default_scale=or_one)
        self._require_roots(windows.x)
        visible = self._standardise(windows.x, windows.mask)
        x, mask, now = visible, windows.mask, slice(self.joint)
        if truth:
            # In the unit of what is visible: the scale of a forecast knows no future.
            whole = make_windows(segments, **cut, scale=windows.scale)
            self._require_roots(whole.x)
            sized = jnp.any(windows.x[:, : self.context, now] != 0, 1)
            sized |= jnp.reshape(default > 0, sized.shape)
            groups = whole.x.shape[-1] // self.joint
            mask = whole.mask * jnp.tile(sized, groups)[:, None].astype(x.dtype)
            x = self._standardise(whole.x, mask)
        given = []
        if not self.diffuse_lags:
            given += [visible[..., self.joint :], windows.mask[..., self.joint :]]
            x, mask = x[..., now], mask[..., now]
        if self.conditional:
            given += [visible[..., now], windows.mask[..., now]]
        if covariates is not None:
            given.append(covariates.astype(x.dtype))
        cond = jnp.concatenate(given, -1) if self.features else None
        start = length - self.length
        cond = None if cond is None else cond[:, start:]
        return Inputs(x[:, start:], mask[:, start:], cond, windows.scale)

    def standardise(self, values: Array, scale: Array) -> Array:
        """Values in the unit of their series as the network's: channel 0 of ``x``.

        Args:
          values: Values in the unit of the series, ``[B, ...]``, or ``[B, ..., D]`` of
            joint series. With "root" values the negative ones, such as another model
            may forecast, become 0.
          scale: Unit of each window ``[B]`` (``[B, D]``), from `Inputs`.

        Returns:
          An array in the shape of ``values``.
        """
        return self._standardise(over(values, _beside(scale, values)), 1.0)

    def restore(self, x: Array, scale: Array) -> Array:
        """The network's values in the unit of their series: undoes `standardise`.

        Args:
          x: Channel 0 of the network's ``x``, ``[B, ...]``, or ``[B, ..., D]`` of joint
            series. With "root" values negative roots become 0.
          scale: Unit of each window ``[B]`` (``[B, D]``), from `Inputs`.

        Returns:
          An array in the shape of ``x``.
        """
        plain = x * self.spread + self.centre
        if self.values == "root":
            plain = jnp.square(jnp.maximum(plain, 0))
        return plain * _beside(scale, x)

    def _default_scale(self, segments, given):
        """The mean absolute value before the context, else what is given, else 0."""
        past, _ = window_lengths(self.context, self.horizon, self.lags)
        before = at_least_float32(segments[:, :past])
        known = ~jnp.isnan(before)
        before = jnp.where(known, before, 0)
        any_size = jnp.any(before != 0, 1)
        given = jnp.zeros_like(any_size, before.dtype) if given is None else given
        given = jnp.asarray(given)
        if given.shape != any_size.shape:
            raise ValueError(
                f"scale has shape {given.shape}; expected {any_size.shape}"
            )
        scale = mean_absolute_scale(before, known, given)
        return jnp.where(any_size | (given > 0), scale, 0)

    def _require_arrays(self, segments, covariates):
        require_array("segments", segments)
        joint = () if self.joint == 1 else (self.joint,)
        if segments.ndim < 2 or segments.shape[2:] != joint:
            raise ValueError(
                f"segments have shape {segments.shape}; expected "
                f"{'[B, T]' if self.joint == 1 else f'[B, T, {self.joint}]'} for a "
                f"layout of {self.joint} series"
            )
        length = self.context + self.horizon
        wanted = (len(segments), length, self.covariates)
        given = None if covariates is None else covariates.shape
        if given != (wanted if self.covariates else None):
            raise ValueError(
                f"covariates have shape {given}; expected "
                f"{wanted if self.covariates else None}"
            )
        values = None if covariates is None else concrete(covariates)
        if values is not None and not np.isfinite(values.astype(np.float32)).all():
            raise ValueError(
                "covariates are not all finite; they must be known for the whole "
                "window, its horizon too"
            )

    def _require_roots(self, x):
        x = concrete(x) if self.values == "root" else None
        if x is not None and (x < 0).any():
            raise ValueError(
                f"{int((x < 0).any((1, 2)).sum())} windows have negative values, of "
                "which values='root' has no root; take 'plain' values"
            )

    def _standardise(self, x, mask):
        if self.values == "root":
            x = jnp.sqrt(jnp.maximum(x, 0))
        return (x - self.centre) / self.spread * mask


def _require_whole(name, number, least):
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not whole or number < least:
        raise ValueError(f"{name} is {number!r}; expected a whole number from {least}")


def _beside(scale, like):
    if scale.ndim == 1:
        return expand(scale, like)
    return scale.reshape(len(scale), *(1,) * (like.ndim - 2), -1)
