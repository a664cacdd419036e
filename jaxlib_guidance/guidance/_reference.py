"""Energy of the distance to a reference picture's attention maps and features."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.attention import map_distance, match, queries_and_keys
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    per_sample,
    pytree_dataclass,
    static,
)

# Tells this term's random stream from others'.
NOISED = 0x00905
NORMS = {"l1": jnp.abs, "l2": jnp.square}


@pytree_dataclass
class ReferenceEnergy:
    """Distance to a reference's maps and features. Build it with `reference_energy`.

    Attributes:
      weight: Factor of the gradient, scalar or ``[B]``; 0 is off.
      cond: Condition that describes the reference.
      maps: Factor of the squared distance of maps, by pattern of attention sites.
      features: Factor of the distance of features, by pattern of taps.
      picture: Reference ``[B, *S]`` that is noised, or None for ``ctx.ref``.
      norm: Distance of features, "l1" or "l2" (static).
      edited: Whether features are those under the sampler's condition, and not under
        the reference's (static).
      name: Name of the branch at the sampler's state; the reference's is "name ref"
        (static).
    """

    weight: Array | float
    cond: PyTree
    maps: Mapping[str, Array | float]
    features: Mapping[str, Array | float]
    picture: Array | None = None
    norm: str = static(default="l1")
    edited: bool = static(default=False)
    name: str = static(default="source")

    # What the planner differentiates.
    through = "network"
    linear = False

    @property
    def _reference(self):
        return f"{self.name} ref"

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The reference under its condition, and the sampler's state under it."""
        cond = like_cond(self.cond, ctx.cond)
        # Maps by what they are made of: no map is held, of either state.
        maps = tuple((pattern, queries_and_keys) for pattern in self.maps)
        features = tuple(self.features)
        asked = {
            self._reference: Branch(cond, x=self._state(ctx), capture=maps + features)
        }
        if maps or not self.edited:
            own = maps if self.edited else maps + features
            asked[self.name] = Branch(cond, grad=True, capture=own)
        if self.edited:
            asked[BASE] = Branch(ctx.cond, grad=True, capture=features)
        return asked

    def _state(self, ctx):
        if self.picture is not None:
            if jnp.shape(self.picture) != ctx.x.shape:
                raise ValueError(
                    f"reference_energy's picture has shape {jnp.shape(self.picture)}; "
                    f"expected the state's, {ctx.x.shape}"
                )
            keys = rng.fold(ctx.keys, NOISED)
            noise = rng.normal(keys, ctx.x.shape[1:])
            return ctx.alpha * self.picture + ctx.sigma * noise
        if not hasattr(ctx.ref, "shape") or ctx.ref.shape != ctx.x.shape:
            raise ValueError(
                "reference_energy compares with the states of a reference: pass "
                f"ref=[N, B, *S], as invert(...).trajectory[:-1], or picture=; got "
                f"{jax.tree.map(jnp.shape, ctx.ref)} at a step, expected {ctx.x.shape}"
            )
        return ctx.ref

    def energy(self, evals: Evals, ctx: Context) -> Array:
        """The energy ``[B]`` that the planner differentiates."""
        held = evals.maps[self._reference]
        total = jnp.zeros(ctx.x.shape[0])

        def feature_distance(near, far):
            near, far = at_least_float32(near), at_least_float32(far)
            return jnp.mean(NORMS[self.norm](near - far), sample_axes(near))

        def add(total, patterns, found, distance):
            for pattern, weight in patterns.items():
                for tap in match([pattern], tuple(found), "capture"):
                    total = total + weight * distance(found[tap], held[tap])
            return total

        if self.maps:
            total = add(total, self.maps, evals.maps[self.name], map_distance)
        if self.features:
            branch = BASE if self.edited else self.name
            total = add(total, self.features, evals.maps[branch], feature_distance)
        return total

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta - w sigma / alpha grad E``, which adds ``w grad E`` to the noise."""
        weight = per_sample(self.weight, delta, "reference_energy's weight")
        return delta - weight * divide(ctx.sigma, ctx.alpha) * evals.grad, state


@method(
    "energy",
    "D - w sigma / alpha grad E, E the distance of maps and features to a reference's",
    space="eps",
    evaluations=3,
    source="2409.01322",
    example={
        "source": 3,
        "maps": {"block1/attn": 3.0},
        "features": {"block1": 1.0},
        "norm": "l2",  # The slope of "l1" jumps.
        "picture": np.full((8, 8, 8, 1), 0.3, np.float32),
    },
    shape=(8, 8, 1),
    law="test_reference_energy_is_guide_and_rescales",
)
def reference_energy(
    weight: Any,
    source: PyTree,
    maps: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    *,
    picture: Array | None = None,
    norm: str = "l1",
    edited: bool = False,
    name: str = "source",
) -> ReferenceEnergy:
    """Guidance towards the layout of a reference: its attention maps and features.

    ``E = sum_l m_l mean (A_l(x, c) - A_l(x*, c))^2 + sum_l f_l mean |F_l(x, c) -
    F_l(x*, c)|`` with the reference's state ``x*`` and condition ``c``, means over a
    sample; ``eps -> eps + w grad_x E``. The reference does not move with ``x``.

    Args:
      weight: Factor ``w`` of the gradient, scalar or ``[B]``; 0 is off.
      source: Condition ``c`` that describes the reference: a pytree of the sampler's
        condition's structure whose leaves broadcast against it.
      maps: Factor ``m`` by name or pattern of attention sites, each a scalar or
        ``[B]``, such as ``{"*/attn": 3e5}``; None for no maps.
      features: Factor ``f`` by name or pattern of taps; None for no features.
      picture: Reference ``[B, *S]``, which is noised to each step's level by the
        sample's own noise of the step. None takes ``ref`` of `sample`: the reference's
        states, ``invert(...).trajectory[:-1]``.
      norm: "l1" for the distance of features as above, "l2" for its square.
      edited: Whether features at the sampler's state are those under the sampler's own
        condition, as for a change of style, and not under ``c``.
      name: Name of the branch.

    Returns:
      A guidance term, two evaluations beside the base; with ``edited`` and no maps one.

    Raises:
      TypeError: A number that is none.
      ValueError: Neither maps nor features, or another norm; in a step, no reference,
        or one of another shape.

    Reference: Titov et al., Guide-and-Rescale, arXiv 2409.01322, section 3.2, and the
    authors' code.
    """
    maps, features = dict(maps or {}), dict(features or {})
    require_numbers("reference_energy", weight=weight, **maps, **features)
    if not maps and not features:
        raise ValueError("reference_energy got neither maps nor features to compare")
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; expected one of {tuple(NORMS)}")
    if edited and not features:
        raise ValueError("edited has no effect without features")
    return ReferenceEnergy(
        weight,
        jax.tree.map(fix, source),
        maps,
        features,
        picture,
        norm,
        edited,
        name,
    )
