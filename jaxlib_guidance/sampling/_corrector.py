"""Feynman-Kac correctors: what CFG leaves out of the product that it aims at."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.guidance import (
    BASE,
    Evals,
    fix,
    like_cond,
    sample_axes,
    step_kernel,
)
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.sampling._potentials import Proposal
from jaxlib_guidance.sampling._prepare import make_interval, make_kernel
from jaxlib_guidance.sampling._resample import Resampling
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Process,
    PyTree,
    concrete,
    expand,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class CfgCorrector:
    """Classifier-free guidance and its weights. Build it with `cfg_corrector`.

    Attributes:
      weight: Factor ``w`` of the contrast, a scalar; 0 is off.
      cond: Condition to move away from.
      worse: Name of the other branch (static).
      resampling: When and how particles are resampled (static).
    """

    weight: Array | float
    cond: PyTree
    worse: str = static(default="uncond")
    resampling: Resampling = static(default=Resampling())

    def init(self, x: Array) -> PyTree:
        """Nothing."""
        return ()

    def term(self) -> Any:
        """The guidance."""
        return _Product(self.weight, self.cond, self.worse)

    def weigh(self, proposal: Proposal, state: PyTree) -> tuple[Array, PyTree]:
        """``w (1 + w) |m_c - m_u|^2 / (2 s^2)``, and 0 at a step without noise."""
        if proposal.last:
            return jnp.zeros(proposal.x.shape[:1], jnp.float32), state
        return proposal.noted, state

    def require(
        self, sampler: Sampler, process: Process, grid: Any, guidance: Any
    ) -> None:
        """Raises unless the sampler is the reverse SDE, with no other guidance."""
        if guidance is not None:
            raise ValueError(
                "cfg_corrector guides by itself, and its weights are those of the bare "
                "network; expected guidance=None"
            )
        if grid is not None:
            _require_reverse_sde(sampler, process, grid)


@pytree_dataclass
class _Product:
    weight: Array | float
    cond: PyTree
    worse: str = static(default="uncond")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        return jnp.zeros(x.shape[:1], jnp.float32)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        kernel = step_kernel(ctx, "cfg_corrector", stochastic=True)
        c, u = evals.x0[BASE], evals.x0[self.worse]
        (to_c, std), (to_u, _) = kernel(c), kernel(u)
        gap = divide(to_c - to_u, jnp.broadcast_to(expand(std, to_c), to_c.shape))
        half = (jnp.sum(gap**2, axis=sample_axes(gap)) / 2).astype(jnp.float32)
        weight = jnp.asarray(self.weight, half.dtype)
        if weight.ndim:
            raise ValueError(
                f"cfg_corrector's weight has shape {weight.shape}; expected a scalar"
            )
        move = weight.astype(delta.dtype) * (c - u)
        return delta + move, weight * (1 + weight) * half


def _require_reverse_sde(sampler: Sampler, process: Process, grid: Any) -> None:
    """Raises if the steps' noise is known, and not that of the reverse SDE.

    A hundredth of the way to zero, where all discretisations of the one SDE that has
    the noise process for its reverse agree.
    """
    t = float(grid[(len(grid) - 1) // 2])
    if sampler.grid is not None:
        return
    with jax.ensure_compile_time_eval():
        times = jnp.asarray([t, 0.99 * t], jnp.float32)
        keys = rng.sample_keys(jax.random.key(0), 1)
        step = make_interval(process, jnp.int32(1), times[0], times[1], keys, 2**20)
        x = jnp.zeros((1, 1), jnp.float32)
        kernel = make_kernel(sampler, x, sampler.init(x), step)
        std = None if kernel is None else concrete(kernel(x).std)
        ratio = step.start.alpha / step.end.alpha
        want = concrete(step.start.sigma**2 - (ratio * step.end.sigma) ** 2)
    if std is None or want is None:
        return
    share = float(std.max()) ** 2 / float(want)
    if not 0.92 <= share <= 1.08:
        raise ValueError(
            "cfg_corrector's weights hold for the reverse SDE alone, as ddpm() and "
            "ddim(eta=1) discretise it; the variance of this sampler's steps is "
            f"{share:.2g} times that of the SDE at t = {t:.3g}"
        )


def cfg_corrector(
    weight: Any,
    null: PyTree,
    *,
    name: str = "uncond",
    resampling: Resampling | None = None,
) -> CfgCorrector:
    """Feynman-Kac correctors: classifier-free guidance that samples its product.

    CFG moves by the score of ``p_c^S p_u^(1-S)``, ``S = 1 + w``, but what it samples is
    something else, often far narrower. Weighted by

      ``dlog W = w S g^2 / 2 |grad log p_c - grad log p_u|^2 dt``

    the particles are of the product at every time. Here the increment is taken of the
    step as the solver makes it, ``w S |m_c - m_u|^2 / (2 s^2)`` with the two means that
    the step has under either estimate and its standard deviation: the ratio of
    ``N(m_c, s^2)^S N(m_u, s^2)^(1-S)`` to the proposal. What remains is the solver's
    error, of first order in the steps, and that of a start at pure noise.

    The guidance is part of this potential, so that the two weights cannot differ.

    Args:
      weight: Factor ``w`` of the contrast ``c - u``, a scalar, one for all steps; 0 is
        off, and so are the weights at -1, where the unconditional model is sampled.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; the default is shared with `cfg`.
      resampling: When and how particles are resampled; None is systematically, below
        half of the effective size.

    Returns:
      A potential for `sample_particles`, under solvers that discretise the reverse SDE
      with one evaluation a step, such as ``ddpm()``.

    Raises:
      ValueError: While sampling, a solver with other noise or none, or of several
        evaluations, or other guidance beside it.

    Reference: Skreta et al., arXiv 2503.02819, the case of classifier-free guidance.
    """
    resampling = Resampling() if resampling is None else resampling
    return CfgCorrector(weight, jax.tree.map(fix, null), name, resampling)
