"""Contrasts with the same network asked otherwise: at a noisier time, of anything."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import logsnr
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)

_LABELS = 7  # Number of the random numbers that `icg` draws of a step's keys.


@pytree_dataclass
class Noisier:
    """Away from the network at a noisier time. Build it with `self_guidance`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      shift: Relative growth of the noise level, scalar or ``[B]``.
      name: Name of the branch (static).
    """

    weight: Array | float
    shift: Array | float
    name: str = static(default="noisier")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The same state and condition at a later time."""
        shift = jnp.asarray(self.shift, jnp.float32)
        if shift.shape not in ((), ctx.t.shape):
            raise ValueError(
                f"self_guidance's shift has shape {shift.shape}; expected () or "
                f"{ctx.t.shape}"
            )
        level = logsnr(ctx.process, ctx.t) - 2 * jnp.log1p(shift)
        t = jnp.minimum(ctx.process.t_of_logsnr(level), ctx.process.t_max)
        return {self.name: Branch(ctx.cond, t=t)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (D(x; t) - D(x; t'))``."""
        weight = per_sample(self.weight, delta, "self_guidance's weight")
        return delta + weight * (evals.x0[BASE] - evals.x0[self.name]), state


@method(
    "perturb",
    "D(x, t) + w (D(x, t) - D(x, t')), sigma / alpha larger at t' by a share",
    space="x0",
    evaluations=2,
    source="2412.05827",
    example={"shift": 0.3},
    law="test_self_guidance_widens_a_gaussian",
)
def self_guidance(weight: Any, shift: Any = 0.01, *, name: str = "noisier") -> Noisier:
    """Self-guidance: away from the same network told that there is more noise.

    ``x0 = D(x, t) + w (D(x, t) - D(x, t'))`` at the same state, with the time ``t'`` at
    which ``sigma / alpha`` is ``1 + shift`` times as large, at most the process's last.
    It needs no null condition and nothing of the network's inside. In a variance-
    exploding process samples of N(0, v) come out with variance ``v (1 + shift)^(2 w)``.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      shift: Relative growth of the noise level, scalar or ``[B]``, above -1; 0 is off.
      name: Name of the branch; two different shifts need two names.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A shift not above -1.

    Reference: Li et al., arXiv 2412.05827, whose shift is of the time index.
    """
    require_numbers("self_guidance", weight=weight, shift=shift)
    if known_false(lambda s: s > -1, shift):
        raise ValueError(f"self_guidance's shift is {shift}; expected above -1")
    return Noisier(weight, shift, name)


@pytree_dataclass
class RandomLabel:
    """Away from a random label. Build it with `icg`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      classes: Number of labels (static).
      name: Name of the branch (static).
    """

    weight: Array | float
    classes: int = static()
    name: str = static(default="random")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The same state under a label drawn anew in each step."""
        labels = ctx.cond
        shape, kind = jnp.shape(labels), jnp.result_type(labels)
        if shape != ctx.x.shape[:1] or not jnp.issubdtype(kind, jnp.integer):
            raise ValueError(
                f"icg draws labels [B]; got a condition of shape {shape} of {kind}"
            )

        def draw(key):
            key = jax.random.fold_in(key, _LABELS)
            return jax.random.randint(key, (), 0, self.classes, kind)

        return {self.name: Branch(jax.vmap(draw)(ctx.keys))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - r)``."""
        weight = per_sample(self.weight, delta, "icg's weight")
        return delta + weight * (evals.x0[BASE] - evals.x0[self.name]), state


@method(
    "perturb",
    "c + w (c - r), r under a random label",
    space="any",
    evaluations=2,
    source="2407.02687",
    example={"classes": 3},
    law="test_icg_is_cfg_against_a_drawn_label",
)
def icg(weight: Any, classes: int, *, name: str = "random") -> RandomLabel:
    """Independent condition guidance: CFG without a null condition.

    ``x0 = c + w (c - r)`` with ``r`` the estimate under a label drawn uniformly, anew
    in each step and for each sample by itself, so that no network has to be trained
    without conditions.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      classes: Number of labels ``0, 1, ...`` to draw from.
      name: Name of the branch.

    Returns:
      A guidance term for networks whose condition is a label.

    Raises:
      TypeError: A weight that is no number.
      ValueError: ``classes`` that is no whole number from 1; while sampling, a
        condition that is no label.

    Reference: Sadat et al., arXiv 2407.02687.
    """
    require_numbers("icg", weight=weight)
    whole = isinstance(classes, int) and not isinstance(classes, bool)
    if not whole or classes < 1:
        raise ValueError(
            f"icg's classes is {classes!r}; expected a whole number from 1"
        )
    return RandomLabel(weight, classes, name)
