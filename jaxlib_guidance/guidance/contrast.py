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

from jaxlib_guidance.attention.control import Edit
from jaxlib_guidance.guidance.base import BASE, Evals
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
    """``delta += weight * (x0[better] - x0[worse])``.

    Attributes:
      weight: Scalar or ``[B]``; 0 is off.
      worse: Name of the worse branch.
      cond: The worse branch's condition, if ``own_cond``.
      control: The worse branch's attention edits.
      net: The worse branch's network.
      own_cond: Whether ``cond`` replaces the caller's condition.
    """

    weight: Array | float
    cond: PyTree = None
    control: Mapping[str, Edit] | None = None
    worse: str = static(default="worse")
    net: int = static(default=0)
    own_cond: bool = static(default=False)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The worse branch."""
        cond = _like_cond(self.cond, ctx.cond) if self.own_cond else ctx.cond
        return {self.worse: Branch(cond, self.control, net=self.net)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        return delta + per_sample(self.weight, delta) * contrast, state


def _like_cond(null: PyTree, cond: PyTree) -> PyTree:
    """``null`` broadcast to the condition's shapes and types, on the host if it can be."""
    if jax.tree.structure(null) != jax.tree.structure(cond):
        raise ValueError(
            f"null has structure {jax.tree.structure(null)}; expected the condition's, "
            f"{jax.tree.structure(cond)}"
        )

    def broadcast(n, c):
        known = concrete(n)
        if known is None:
            return jnp.broadcast_to(n, jnp.shape(c)).astype(c.dtype)
        return np.broadcast_to(known, jnp.shape(c)).astype(c.dtype)

    return jax.tree.map(broadcast, null, cond)


def cfg(weight: Any, null: PyTree, name: str = "uncond") -> Contrast:
    """Classifier-free guidance: ``x0 = c + w (c - u)``.

    With ``null`` a negative condition this is negative prompting. ``w`` is the weight of
    Ho and Salimans, so 0 is off; the scale ``s`` of diffusers is `cfg_scale` away.

    Args:
      weight: ``w``, scalar or ``[B]``.
      null: The condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; two different negatives need two names.

    Reference: Ho and Salimans, arXiv 2207.12598, eq. 6.
    """
    return Contrast(weight, cond=null, worse=name, own_cond=True)


def cfg_scale(scale: Any) -> Any:
    """The weight ``w = s - 1`` of a scale in ``u + s (c - u)``, as diffusers writes it."""
    return scale - 1


def autoguidance(weight: Any, net: int = 1, name: str | None = None) -> Contrast:
    """Guidance by a weaker version of the network: ``x0 = D1 + w (D1 - D0)``.

    The paper's scale is ``w + 1``. Give the sampler ``denoiser=(strong, weak)``.

    Args:
      weight: ``w``, scalar or ``[B]``.
      net: Index of the weaker network.
      name: Name of the branch.

    Reference: Karras et al., arXiv 2406.02507, eq. 3.
    """
    return Contrast(weight, worse=name or f"net{net}", net=net)
