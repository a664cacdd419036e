"""Contrasts: push the estimate away from a worse one of the same state.

``delta += w (x0[cond] - x0[worse])``. Classifier-free guidance, negative prompts,
autoguidance and perturbed attention differ only in what makes the worse one worse: its
condition, its network, or an edit of its attention.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import Edit, FeatureEdit
from jaxlib_guidance.guidance._base import BASE, Evals, Fixed, fix, fixed
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    concrete,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class Contrast:
    """``delta += weight * (x0[cond] - x0[worse])``: away from a worse branch.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition of the worse branch, if ``own_cond``.
      control: Edits of the worse branch, by site, place or feature.
      worse: Name of the worse branch (static).
      net: Index of the worse branch's network (static).
      own_cond: Whether ``cond`` replaces the caller's condition (static).
    """

    weight: Array | float
    cond: PyTree = None
    control: Mapping[str, Edit | FeatureEdit] | None = None
    worse: str = static(default="worse")
    net: int = static(default=0)
    own_cond: bool = static(default=False)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The worse branch."""
        cond = like_cond(self.cond, ctx.cond) if self.own_cond else ctx.cond
        return {self.worse: Branch(cond, self.control, net=self.net)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        weight = per_sample(self.weight, delta, f"the weight of {self.worse!r}")
        return delta + weight * contrast, state


def like_cond(null: PyTree, cond: PyTree) -> PyTree:
    """``null`` broadcast to the condition's shapes and types, on the host if it can be.

    Args:
      null: Pytree to give the network in place of the condition, of the same structure;
        leaves may be smaller.
      cond: The caller's condition.

    Returns:
      A pytree of ``cond``'s structure, shapes and types.

    Raises:
      ValueError: No condition, another structure, or a leaf that does not fit.
    """
    if not jax.tree.leaves(cond):
        raise ValueError(
            "this guidance replaces the condition by null, but the sampler got no cond"
        )
    null = jax.tree.map(fixed, null, is_leaf=lambda leaf: isinstance(leaf, Fixed))
    if jax.tree.structure(null) != jax.tree.structure(cond):
        raise ValueError(
            f"null has structure {jax.tree.structure(null)}; expected the condition's, "
            f"{jax.tree.structure(cond)}"
        )
    return jax.tree.map(_like, null, cond)


def _like(null, cond):
    shape, kind = jnp.shape(cond), jnp.result_type(cond)
    known = concrete(null)
    if known is None:
        exact = jnp.issubdtype(kind, jnp.inexact) or jnp.result_type(null) == kind
    else:
        exact = jnp.issubdtype(kind, jnp.inexact) or (known.astype(kind) == known).all()
    try:
        fits = jnp.broadcast_shapes(jnp.shape(null), shape) == shape
    except ValueError:
        fits = False
    if not (exact and fits):
        raise ValueError(
            f"null has a leaf of shape {jnp.shape(null)} and type "
            f"{jnp.result_type(null)}; expected it to fit the condition's, {shape} of "
            f"{kind}"
        )
    if known is None or not all(isinstance(d, int) for d in shape):  # Symbolic export.
        return jnp.broadcast_to(null, shape).astype(kind)
    return np.broadcast_to(known, shape).astype(kind)


@method(
    "contrast",
    "c + w (c - u)",
    space="any",
    evaluations=2,
    source="2207.12598",
    law="test_a_contrast_samples_a_ratio_of_densities",
)
def cfg(weight: Any, null: PyTree, name: str = "uncond") -> Contrast:
    """Classifier-free guidance: ``x0 = c + w (c - u)``.

    With ``null`` a negative condition this is negative prompting. ``w`` is the weight
    of Ho and Salimans, so 0 is off; the scale ``s`` of diffusers is `cfg_scale` away.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; two different negatives need two names.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 2), jnp.array([[1.0], [3.0]])
      >>> term = jg.cfg(2.0, null=0.0)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (1,), cond, guidance=term)
      >>> x.tolist()
      [[3.0], [9.0]]

    Reference: Ho and Salimans, arXiv 2207.12598, eq. 6.
    """
    require_numbers("cfg", weight=weight)
    return Contrast(weight, jax.tree.map(fix, null), worse=name, own_cond=True)


def cfg_scale(scale: Any) -> Any:
    """The weight ``w = s - 1`` of diffusers' scale ``s`` in ``u + s (c - u)``.

    Args:
      scale: Scale ``s``, scalar or ``[B]``; 1 is off.

    Returns:
      The weight for `cfg`.

    Raises:
      TypeError: A scale that is no number.

    Example:
      >>> import jaxlib_guidance as jg
      >>> jg.cfg_scale(7.5)
      6.5
    """
    require_numbers("cfg_scale", scale=scale)
    return scale - 1


@method(
    "contrast",
    "D1 + w (D1 - D0), D0 a weaker network",
    space="any",
    evaluations=2,
    source="2406.02507",
    alias="auto",
    law="test_a_contrast_samples_a_ratio_of_densities",
)
def autoguidance(weight: Any, net: int = 1, name: str | None = None) -> Contrast:
    """Guidance by a weaker version of the network: ``x0 = D1 + w (D1 - D0)``.

    The paper's scale is ``w + 1``. Give the sampler ``denoiser=(strong, weak)``.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      net: Index of the weaker network among the sampler's denoisers.
      name: Name of the branch; None means "net1" for network 1.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: ``net`` 0, which is the network to improve.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> strong = jg.parametrize(lambda x, t, cond: 0 * x + 1.0, jg.VE())
      >>> weak = jg.parametrize(lambda x, t, cond: 0 * x + 0.5, jg.VE())
      >>> keys, term = jg.sample_keys(jax.random.key(0), 1), jg.autoguidance(2.0)
      >>> nets = (strong, weak)
      >>> jg.sample(keys, nets, jg.ddim(), [1, 0], (1,), guidance=term)[0].tolist()
      [[2.0]]

    Reference: Karras et al., arXiv 2406.02507, eq. 3.
    """
    require_numbers("autoguidance", weight=weight)
    if net < 1:
        raise ValueError(f"net is {net}; expected 1 or more, as 0 is the base network")
    return Contrast(weight, worse=name or f"net{net}", net=net)
