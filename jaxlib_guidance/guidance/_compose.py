"""Two networks composed in score space: a small one of the domain, and a prior."""

from typing import Any

from jaxlib_guidance.diffusion import from_x0
from jaxlib_guidance.guidance._base import Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
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
class Compose:
    """``eps += weight * eps of another network``. Build it with `compose`.

    Attributes:
      weight: Factor of the other network's prediction, scalar or ``[B]``; 0 is off.
      worse: Name of the other network's branch (static).
      net: Index of the other network (static).
    """

    weight: Array | float
    worse: str = static(default="net1")
    net: int = static(default=1)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other network under the caller's condition."""
        return {self.worse: Branch(ctx.cond, net=self.net)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted noise prediction, as a change of x0."""
        other = from_x0(ctx.process, "eps", evals.x0[self.worse], ctx.x, ctx.t)
        weight = per_sample(self.weight, delta, f"the weight of {self.worse!r}")
        return delta + to_x0_change(weight * other, gain_of("eps", ctx)), state


@method(
    "contrast",
    "eps_0 + w eps_1, eps_1 another network's",
    space="eps",
    evaluations=2,
    source="2506.06658",
    law="test_composed_networks_contract_by_both_variances",
)
def compose(weight: Any, net: int = 1, name: str | None = None) -> Compose:
    """Adds another network's score: ``eps = eps_0 + w eps_1``.

    At every noise level this is the score of the product ``p_0 p_1^w`` of the noisy
    densities. The coefficients sum to ``1 + w`` and not to 1, so it is no contrast, and
    the same weight means something else in another space. Adaptation of a pretrained
    network by a small one, ``d_0 + s (d_c + g p_c - d_0)``, is ``chain(cfg(s - 1,
    null), compose(s g))`` with ``d`` as the base network; its inverse has the
    pretrained one as the base.

    Args:
      weight: Factor ``w`` of the other network's noise prediction, scalar or ``[B]``;
        0 is off.
      net: Index of the other network among the sampler's denoisers.
      name: Name of the branch; None means "net1" for network 1.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: ``net`` 0, which is the base network.

    Reference: SAIL, arXiv 2506.06658, and probabilistic adaptation, arXiv 2306.01872;
      the form of the released code of adapt2act.
    """
    require_numbers("compose", weight=weight)
    if net < 1:
        raise ValueError(f"net is {net}; expected 1 or more, as 0 is the base network")
    return Compose(weight, name or f"net{net}", net)
