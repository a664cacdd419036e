"""Sliding-window guidance: away from a network that sees a part at a time."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class SlidingWindow:
    """A contrast with estimates of overlapping crops. Build it with `sliding_window`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      window: Size of a crop along each axis but channels; one number for all (static).
      stride: Distance of crops along each axis; one number for all (static).
      worse: Name of the crops' branches, before their number (static).
    """

    weight: Array | float
    window: tuple[int, ...] = static()
    stride: tuple[int, ...] = static()
    worse: str = static(default="window")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None: crops are evaluated by themselves, in one call."""
        return {}

    def _crops(self, shape):
        """A tuple of slices for each crop of samples of a shape ``[*space, C]``."""
        space = shape[:-1]
        window, stride = (
            sizes * len(space) if len(sizes) == 1 else sizes
            for sizes in (self.window, self.stride)
        )
        fits = len(space) == len(window) == len(stride) > 0
        if not fits or any(w > n for w, n in zip(window, space, strict=True)):
            raise ValueError(
                f"sliding_window's window is {self.window}; expected one size for each "
                f"axis of samples of shape {shape} but channels, none larger"
            )
        starts = (
            sorted({*range(0, n - w, s), n - w})
            for n, w, s in zip(space, window, stride, strict=True)
        )
        return [
            (
                slice(None),
                *(slice(a, a + w) for a, w in zip(at, window, strict=True)),
            )
            for at in itertools.product(*starts)
        ]

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the contrast with the average of the crops' estimates."""
        if evals.evaluate is None:
            raise ValueError("sliding_window evaluates crops; evals has no evaluate")
        crops = dict(enumerate(self._crops(ctx.x.shape[1:])))
        found = evals.evaluate(
            {
                f"{self.worse}:{i}": Branch(ctx.cond, x=ctx.x[c])
                for i, c in crops.items()
            }
        ).x0
        total = jnp.zeros_like(delta)
        count = np.zeros((1, *ctx.x.shape[1:-1], 1), np.float32)
        for i, crop in crops.items():
            total = total.at[crop].add(found[f"{self.worse}:{i}"])
            count[crop] += 1
        contrast = evals.x0[BASE] - total / count
        weight = per_sample(self.weight, delta, "sliding_window's weight")
        return delta + weight * contrast, state


@method(
    "perturb",
    "D + w (D - D_win), D_win the average over estimates of overlapping crops",
    space="any",
    evaluations=5,
    source="2411.10257",
    law="test_windows_are_averaged_where_they_overlap",
    example={"window": 4, "stride": 4},
    shape=(8, 8, 1),
)
def sliding_window(
    weight: Any,
    window: int | tuple[int, ...],
    stride: int | tuple[int, ...],
    name: str = "window",
) -> SlidingWindow:
    """Sliding-window guidance: away from a network that sees a crop at a time.

    ``x0 = D(x) + w (D(x) - D_win(x))`` with ``D_win`` the average, where they overlap,
    of the same network's estimates of crops. It needs no training and no condition, and
    strengthens what holds over long distances. The network must take pictures of the
    window's size, and a condition that is not one number for each place.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      window: Size of a crop, a number for all axes but channels or one for each.
      stride: Distance of neighbouring crops, a number for all axes or one for each, at
        most the window's size. The last crop ends at the border.
      name: Beginning of the branches' names.

    Returns:
      A guidance term for images ``[H, W, C]`` and sequences ``[L, C]``. Its crops are
      evaluated in one call beside the step's own, as many as fit.

    Raises:
      TypeError: A weight that is no number, or sizes that are not whole.
      ValueError: Sizes below 1, or a stride above the window's size.

    Reference: Kaiser et al., arXiv 2411.10257.
    """
    require_numbers("sliding_window", weight=weight)
    sizes = {}
    for what, value in (("window", window), ("stride", stride)):
        sizes[what] = (value,) if isinstance(value, int) else tuple(value)
        if not all(isinstance(n, int) for n in sizes[what]):
            raise TypeError(f"{what} is {value!r}; expected whole numbers")
        if not sizes[what] or min(sizes[what]) < 1:
            raise ValueError(f"{what} is {value!r}; expected sizes of at least 1")
    many = max(map(len, sizes.values()))
    wide, step = (n * many if len(n) == 1 else n for n in sizes.values())
    if len(wide) != len(step) or any(s > w for s, w in zip(step, wide, strict=True)):
        raise ValueError(
            f"stride is {stride} and window {window}; expected a stride for each axis, "
            "at most the window's size, so that crops leave no gap"
        )
    return SlidingWindow(weight, sizes["window"], sizes["stride"], name)
