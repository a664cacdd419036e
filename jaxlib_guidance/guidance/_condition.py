"""Guidance by a changed condition, annealed by noise."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.guidance._base import Evals, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false, sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    expand,
    per_sample,
    pytree_dataclass,
)

# Tells this term's random stream from others'.
ANNEALED = 0x0CAD5


@pytree_dataclass
class AnnealedCondition:
    """The condition under noise that fades. Build it with `cads`.

    Attributes:
      weight: Share of the annealing, scalar or ``[B]``; 0 is off.
      scale: Standard deviation of the noise, scalar or ``[B]``.
      start: Time left, as a share of the steps, below which there is no noise.
      end: Time left, as a share of the steps, above which only noise is left.
      mix: Share of the noisy condition that is rescaled, scalar or ``[B]``.
    """

    weight: Array | float
    scale: Array | float
    start: Array | float
    end: Array | float
    mix: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None of its own."""
        return {}

    def condition(self, ctx: Context) -> PyTree:
        """The condition with noise on its numbers."""
        if ctx.steps is None:
            raise ValueError(
                "cads needs the number of steps, which an adaptive solver does not have"
            )
        left = 1 - ctx.step / ctx.steps
        start, end = (per_sample(a, ctx.t, "cads's start or end") for a in self._ends)
        kept = jnp.clip((end - left) / (end - start), 0, 1)
        kept = jnp.clip(1 - per_sample(self.weight, ctx.t) * (1 - kept), 0, 1)
        leaves, tree = jax.tree.flatten(ctx.cond)
        floating = [jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in leaves]
        if not any(floating):
            raise ValueError(
                "cads adds noise to a condition of floating-point numbers, such as "
                "embeddings; the condition has none: "
                f"{jax.tree.map(jnp.result_type, ctx.cond)}"
            )
        return tree.unflatten(
            self._noised(jnp.asarray(leaf), kept, rng.fold(ctx.keys, ANNEALED + i))
            if numbers
            else leaf
            for i, (leaf, numbers) in enumerate(zip(leaves, floating, strict=True))
        )

    @property
    def _ends(self):
        return self.start, self.end

    def _noised(self, y, kept, keys):
        wide = y.astype(jnp.float32)
        kept = expand(jnp.broadcast_to(kept, y.shape[:1]), y)
        noise = rng.normal(keys, y.shape[1:])
        scale = per_sample(self.scale, y, "cads's scale")
        noisy = sqrt(kept) * wide + scale * sqrt(1 - kept) * noise
        mean, std = _moments(wide)
        noisy_mean, noisy_std = _moments(noisy)
        rescaled = mean + divide(std, noisy_std) * (noisy - noisy_mean)
        mix = per_sample(self.mix, y, "cads's mix")
        changed = mix * rescaled + (1 - mix) * noisy
        return jnp.where(kept < 1, changed.astype(y.dtype), y)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Leaves the correction as it is."""
        return delta, state


def _moments(y):
    """Mean and standard deviation of each sample, never of the batch."""
    axes = sample_axes(y)
    mean = jnp.mean(y, axes, keepdims=True)
    return mean, sqrt(jnp.mean((y - mean) ** 2, axes, keepdims=True))


@method(
    "perturb",
    "D(x; y'), y' = sqrt(g) y + s sqrt(1 - g) n at y's mean and deviation",
    space="condition",
    evaluations=1,
    source="2310.17347",
    law="test_cads_is_its_formula",
    off="weight = 0; start = 1",
    example={"start": 0.2, "scale": 1.0},
    vector=True,
)
def cads(
    weight: Any = 1.0,
    scale: Any = 0.25,
    start: Any = 0.6,
    end: Any = 0.9,
    mix: Any = 1.0,
) -> AnnealedCondition:
    """Condition-annealed sampling: noise on the condition that fades, for diversity.

    With ``t`` the share of the steps that is left and ``g = (end - t) / (end - start)``
    clipped to [0, 1], the condition ``y`` becomes ``y' = sqrt(g) y + scale sqrt(1 - g)
    n`` and then ``mix ((y' - mean(y')) std(y) / std(y') + mean(y)) + (1 - mix) y'``,
    mean and deviation over each sample. It changes what all branches get as the
    condition; the null condition of a `cfg` is its own and stays clean.

    Args:
      weight: Share of the annealing, scalar or ``[B]``: ``1 - weight (1 - g)`` takes
        the place of ``g``. 1 is the paper's, 0 is off.
      scale: Standard deviation ``s`` of the noise, scalar or ``[B]``.
      start: Share of steps left at which the noise has faded, scalar or ``[B]``.
      end: Share of steps left above which nothing of ``y`` is left but its mean and
        deviation, scalar or ``[B]``, above ``start``.
      mix: Share of the rescaled condition, scalar or ``[B]``, in [0, 1].

    Returns:
      A guidance term for conditions with floating-point leaves. Whole numbers and
      truth values in them, such as labels and masks, stay as they are.

    Raises:
      TypeError: An argument that is no number.
      ValueError: ``end`` not above ``start``, a negative scale, or a weight or mix
        outside [0, 1].

    Reference: Sadat et al., arXiv 2310.17347, eqs. 2 to 4. The paper's time is the
      share of steps left.
    """
    require_numbers("cads", weight=weight, scale=scale, start=start, end=end, mix=mix)
    if known_false(lambda a, b: a < b, start, end):
        raise ValueError(f"start is {start} and end {end}; expected start below end")
    if known_false(lambda a: a >= 0, scale):
        raise ValueError(f"scale is {scale}; expected at least 0")
    for name, value in (("weight", weight), ("mix", mix)):
        if known_false(lambda a: (a >= 0) & (a <= 1), value):
            raise ValueError(f"{name} is {value}; expected a share in [0, 1]")
    return AnnealedCondition(weight, scale, start, end, mix)
