"""How strong a chain acts, and which of many settings are worth keeping."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._contrast import Contrast, cfg
from jaxlib_guidance.guidance._geometry import sample_dot
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array, Branch, Context, PyTree, pytree_dataclass


def effective_scale(guided: Array, c: Array, u: Array) -> Array:
    """``a = <m - u, d> / |d|^2`` with ``d = c - u``: the scale of CFG that `m` has.

    Under `cfg` of weight ``w`` it is ``1 + w``, without guidance 1. Methods compare at
    an equal mean over the steps.

    Args:
      guided: Guided prediction ``m [B, *S]``.
      c: Conditional prediction ``[B, *S]``, in the same space.
      u: Unconditional prediction ``[B, *S]``, in the same space.

    Returns:
      Scales ``[B]``; NaN where ``c`` and ``u`` are equal.

    Raises:
      ValueError: Predictions of different shapes.

    Reference: arXiv 2602.22570.
    """
    guided, c, u = map(jnp.asarray, (guided, c, u))
    if not guided.shape == c.shape == u.shape:
        raise ValueError(
            f"guided, c and u have shapes {guided.shape}, {c.shape} and {u.shape}; "
            "expected one shape [B, *S]"
        )
    d = c - u
    square = sample_dot(d, d)
    scale = divide(sample_dot(guided - u, d), square)
    return jnp.where(square > 0, scale, jnp.nan).reshape(-1)


@pytree_dataclass
class MeasureScale:
    """Changes nothing and adds up effective scales. Build it with `measure_scale`.

    Attributes:
      contrast: `cfg`, which names the unconditional branch.
    """

    contrast: Contrast

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The unconditional branch."""
        return self.contrast.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """Sum of ``|a|`` and number of evaluations, each ``[B]``."""
        return jnp.zeros(x.shape[0]), jnp.zeros(x.shape[0])

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The correction as it was."""
        c, (total, count) = evals.x0[BASE], state
        scale = jnp.abs(effective_scale(c + delta, c, evals.x0[self.contrast.worse]))
        known = ~jnp.isnan(scale)
        return delta, (
            total + jnp.where(known, scale, 0),
            count + jnp.where(known, 1.0, 0.0),
        )

    def mean(self, state: PyTree) -> Array:
        """Mean of ``|a|`` over a run's evaluations.

        Args:
          state: State of the term after the run.

        Returns:
          Means ``[B]``; NaN for a sample whose two predictions never differed.
        """
        total, count = state
        return jnp.where(count > 0, divide(total, count), jnp.nan)


def measure_scale(null: PyTree, name: str = "uncond") -> MeasureScale:
    """A term that changes nothing and reads the effective scale of those before it.

    Put it at the end of a chain, and let `sample` take all its steps with ``steps=``,
    which returns the states: ``term.mean(end.guidance_state[-1])``.

    Args:
      null: Condition of the unconditional prediction, as for `cfg`.
      name: Name of its branch; the default is shared with `cfg`, and costs no further
        evaluation beside one.

    Returns:
      A guidance term.

    Reference: arXiv 2602.22570.
    """
    return MeasureScale(cfg(0.0, null, name))


def pareto_set(quality: Any, diversity: Any) -> Array:
    """Which settings no other beats in both quality and diversity.

    Args:
      quality: Numbers ``[N]``, larger is better.
      diversity: Numbers ``[N]``, larger is better.

    Returns:
      Booleans ``[N]``: nothing is at least as good in both and better in one. Equal
      settings stand together. A setting with a NaN is out, and beats nothing.

    Raises:
      ValueError: Arrays that are not two of one ``[N]``.
    """
    quality, diversity = jnp.asarray(quality), jnp.asarray(diversity)
    if quality.ndim != 1 or quality.shape != diversity.shape:
        raise ValueError(
            f"quality and diversity have shapes {quality.shape} and {diversity.shape}; "
            "expected [N] for both"
        )
    q, d = quality[:, None], diversity[:, None]
    beats = (q >= quality) & (d >= diversity) & ((q > quality) | (d > diversity))
    return ~jnp.any(beats, axis=0) & ~jnp.isnan(quality) & ~jnp.isnan(diversity)
