"""Terms that rescale what other terms propose.

They are not linear in the prediction, so each says in which space it works: the same
edit of an x0 estimate and of the eps estimate it implies are different edits.
"""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import (
    BASE,
    Evals,
    init_term,
    sample_axes,
    sample_norm,
)
from jaxlib_guidance.guidance._branches import merge_branches
from jaxlib_guidance.guidance._chain import chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._tree import changes_condition, walk
from jaxlib_guidance.reduce import divide, known_false
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
class RescaleStd:
    """Part of the way to the base's standard deviation. Build it with `rescale_std`.

    Attributes:
      weight: Share ``phi`` of the way, scalar or ``[B]``; 0 is off.
      space: Prediction whose standard deviation is meant (static).
    """

    weight: Array | float
    space: Prediction = static(default="x0")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``y += phi (std(base) / std(y) - 1) y`` in ``space``."""
        base = evals.x0[BASE]
        y = from_x0(ctx.process, self.space, base + delta, ctx.x, ctx.t)
        wanted = _std(from_x0(ctx.process, self.space, base, ctx.x, ctx.t))
        have = _std(y)
        ratio = jnp.where(have > 0, divide(wanted, have), 1)
        phi = per_sample(self.weight, delta, "rescale_std's phi")
        return delta + to_x0_change(
            phi * (ratio - 1) * y, gain_of(self.space, ctx)
        ), state


def _std(x: Array) -> Array:
    axes = sample_axes(x)
    offset = x - jnp.mean(x, axis=axes, keepdims=True)
    return sample_norm(offset) / (x[0].size ** 0.5)


@method(
    "reshape",
    "phi y std(c) / std(y) + (1 - phi) y",
    space="argument",
    off="phi = 0",
    evaluations=1,
    source="2305.08891",
    strength="phi",
    alias="rescale",
    after=True,
    law="test_rescale_std_golden",
)
def rescale_std(phi: Any, *, space: Prediction = "x0") -> RescaleStd:
    """Undoes the growth in contrast that strong guidance brings.

    ``y <- phi y std(base) / std(y) + (1 - phi) y``, with ``y`` the guided prediction
    and the standard deviation over each sample. Put it after what it corrects.

    Args:
      phi: Share of the way, scalar or ``[B]``; 0 is off, the paper uses 0.7.
      space: Prediction that ``y`` is. diffusers takes what the network predicts,
        ComfyUI v.

    Returns:
      A guidance term.

    Raises:
      TypeError: ``phi`` that is no number.
      ValueError: Unknown ``space``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 1), jnp.array([[0.0, 4.0]])
      >>> term = jg.chain(jg.cfg(2.0, null=0.0), jg.rescale_std(1.0))
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (2,), cond, guidance=term)
      >>> [round(float(value), 3) for value in x[0]]  # cfg alone gives [0.0, 12.0].
      [0.0, 4.0]

    Reference: Lin et al., arXiv 2305.08891, section 3.4.
    """
    require_numbers("rescale_std", phi=phi)
    require_prediction(space, "space")
    return RescaleStd(phi, space)


@pytree_dataclass
class RescaleNorm:
    """Terms whose total is kept within a range of norms. Build it with `rescale_norm`.

    Attributes:
      inner: Term or chain that is limited.
      low: Smallest ratio of norms, scalar or ``[B]``.
      high: Greatest ratio of norms, scalar or ``[B]``.
      relative_to: Chain whose contribution is the reference; None takes the correction
        so far.
    """

    inner: Any
    low: Array | float
    high: Array | float
    relative_to: Any = None

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branches of the terms and of the reference."""
        if self.relative_to is None:
            return self.inner.branches(ctx)
        return merge_branches(self.inner.branches(ctx), self.relative_to.branches(ctx))

    def init(self, x: Array) -> PyTree:
        """The terms' state and the reference's."""
        return init_term(self.inner, x), init_term(self.relative_to, x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + gamma part``."""
        state, reference_state = state
        moved, state = self.inner.update(delta, evals, state, ctx)
        reference = delta
        if self.relative_to is not None:
            reference, reference_state = self.relative_to.update(
                jnp.zeros_like(delta), evals._replace(grad=None), reference_state, ctx
            )
        part = moved - delta
        low = per_sample(self.low, delta, "rescale_norm's low")
        high = per_sample(self.high, delta, "rescale_norm's high")
        have, unit = sample_norm(part), sample_norm(reference)
        wanted = jnp.clip(have, low * unit, high * unit)
        return delta + divide(wanted, have) * part, (state, reference_state)


@method(
    "reshape",
    "what terms add, its norm kept within [low, high] of the correction before",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2409.01322",
    strength=None,
    after=True,
    example={"low": 0.3, "high": 0.5},
    law="test_rescale_norm_is_guide_and_rescale",
)
def rescale_norm(
    terms: Any, low: Any, high: Any, *, relative_to: Any = None
) -> RescaleNorm:
    """Keeps what terms add within a range of norms, relative to what came before them.

    ``gamma = clip(r, low, high) / r`` with ``r = |part| / |reference|``, norms over
    each sample. ``chain(cfg(w, null), rescale_norm(energy(f), low, high))`` is
    Guide-and-Rescale. A ratio of corrections is the same in every space. A part that is
    zero stays zero, and so does the part where the reference is zero.

    Args:
      terms: A term or a chain, whose part is limited.
      low: Smallest ratio ``r``, scalar or ``[B]``; 0 only limits from above.
      high: Greatest ratio ``r``, scalar or ``[B]``.
      relative_to: Term or chain whose contribution is the reference; None takes the
        whole correction so far. Terms that are also in the chain cost nothing more.

    Returns:
      A guidance term.

    Raises:
      TypeError: Bounds that are no numbers; a reference with an energy or a Jacobian.
      ValueError: Bounds that are not ``0 <= low <= high``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 1), jnp.array([[0.0, 4.0]])
      >>> pull = jg.energy(lambda x0, ctx: -9 * x0.sum(1), through="denoised")
      >>> term = jg.chain(jg.cfg(1.0, null=0.0), jg.rescale_norm(pull, 0.0, 0.5))
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (2,), cond, guidance=term)
      >>> round(float(jnp.linalg.norm(x - 2 * cond)), 3)  # Half the norm of cfg's part.
      2.0

    Reference: Titov et al., Guide-and-Rescale, arXiv 2409.01322.
    """
    require_numbers("rescale_norm", low=low, high=high)
    if known_false(lambda low, high: (low >= 0) & (low <= high), low, high):
        raise ValueError(
            f"rescale_norm got low {low} and high {high}; expected 0 <= low <= high"
        )
    reference = None if relative_to is None else chain(relative_to)
    if any(changes_condition(part) for part in (chain(terms), reference)):
        raise TypeError(
            "rescale_norm got a term that changes the condition, which is no "
            "correction to limit; put that term beside it"
        )
    for term in walk(reference) if reference else ():
        if hasattr(term, "energy") or hasattr(term, "jacobian"):
            raise TypeError("relative_to has an energy; expected contrasts only")
    return RescaleNorm(chain(terms), low, high, reference)
