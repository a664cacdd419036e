"""The planner: all the evaluations that a chain asks for, in one network call.

Branches with the same name merge. What remains is folded sample-major, ``[B, K, ...] ->
[B K, ...]``: stacked beside each sample, never concatenated along the batch, so that a
sharded batch needs no communication. Branches that an energy differentiates go in a
second call, because a backward pass through a fused call would pay for all of them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import sources
from jaxlib_guidance.calls import denoisers_of
from jaxlib_guidance.guidance._active import Off, prune
from jaxlib_guidance.guidance._base import BASE, Evals, Jacobian, init_term
from jaxlib_guidance.guidance._branches import merge_branches
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._evaluate import evaluate
from jaxlib_guidance.guidance._schedule import During
from jaxlib_guidance.guidance._tree import (
    children,
    conditioned,
    rewritten,
    walk,
)
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
)

PLANS = ("auto", "fused")


@dataclasses.dataclass(frozen=True)
class GuidedDenoiser:
    """A denoiser with guidance: what the sampling loop calls. Build it with `guided`.

    Attributes:
      denoisers: Networks that branches refer to by index, the base first.
      guidance: Chain of terms, with a place-holder for what takes no part.
      plan: How branches are batched, "auto" or "fused".
    """

    denoisers: tuple[Denoiser, ...]
    guidance: Any
    plan: str = "auto"

    def init(self, x: Array) -> PyTree:
        """The terms' initial states."""
        return init_term(self.guidance, x)

    def segments(
        self, process: Process, times: np.ndarray | None, steps: int
    ) -> list[tuple[int, int, "GuidedDenoiser"]]:
        """Cuts ``steps`` into runs over which the same terms are active.

        Args:
          process: The noise process.
          times: The grid ``[N + 1]``, or None while it is traced.
          steps: ``N``.

        Returns:
          ``(start, stop, guided)`` triples that cover ``0, ..., N``.
        """
        windows = {
            id(term): term.window(process, times, steps)
            for term in walk(self.guidance)
            if isinstance(term, During)
        }

        def openings(term, outer):
            window = windows.get(id(term))
            if window is not None:
                outer = outer & window
                yield outer
            for each in children(term):
                yield from openings(each, outer)

        rows = np.stack([np.ones(steps, bool), *openings(self.guidance, True)])
        changes = np.any(rows[:, 1:] != rows[:, :-1], axis=0).nonzero()[0] + 1
        runs = itertools.pairwise([0, *changes.tolist(), steps])

        def inside(term, start):
            window = windows[id(term)]
            return None if window is None else bool(window[start])

        return [
            (
                start,
                stop,
                dataclasses.replace(
                    self,
                    guidance=prune(self.guidance, lambda t, s=start: inside(t, s)),
                ),
            )
            for start, stop in runs
        ]

    def __call__(self, ctx: Context, state: PyTree) -> tuple[Array, PyTree]:
        """The guided estimate ``x0 [B, *S]`` and the terms' new states."""
        if isinstance(self.guidance, Off):
            x0 = self.denoisers[0](ctx.x, ctx.t, ctx.cond).x0
            return at_least_float32(x0), state
        ctx = ctx._replace(cond=conditioned(self.guidance, ctx))
        base = Branch(ctx.cond, grad=bool(_jacobians(self.guidance)))
        branches = merge_branches({BASE: base}, self.guidance.branches(ctx))
        branches = rewritten(self.guidance, branches, ctx)
        evals = self._evaluate(branches, ctx)._replace(
            evaluate=lambda more: evaluate(self.denoisers, more, ctx, ctx.x)
        )
        base = evals.x0[BASE]
        delta, state = self.guidance.update(jnp.zeros_like(base), evals, state, ctx)
        return base + delta, state

    def _evaluate(self, branches, ctx) -> Evals:
        asked = _jacobians(self.guidance)
        energies = any(hasattr(term, "energy") for term in walk(self.guidance))
        if not energies and not asked:
            return evaluate(self.denoisers, branches, ctx, ctx.x)
        graded = _differentiated(branches, self.plan)
        inner = {n: b for n, b in branches.items() if n in graded}
        outer = {n: b for n, b in branches.items() if n not in graded}
        still = evaluate(self.denoisers, outer, ctx, ctx.x)

        def differentiated(x):
            return evaluate(self.denoisers, inner, ctx, x)[:2]

        push = None
        if "both" in asked:
            moving, push = jax.linearize(differentiated, ctx.x)
            pullback = jax.linear_transpose(push, ctx.x)
        else:
            moving, pullback = jax.vjp(differentiated, ctx.x)
        evals = Evals({**moving[0], **still.x0}, {**moving[1], **still.maps})
        if asked:
            evals = evals._replace(jacobian=_jacobian(moving, pullback, push))
        if not energies:
            return evals

        def gradient(energies):
            def total(x0, maps, x):
                given, here = Evals(x0, maps), ctx._replace(x=x)
                return sum(jnp.sum(_checked(e, given, here)) for e in energies)

            by_x0, by_maps, by_x = jax.grad(total, argnums=(0, 1, 2))(
                evals.x0, evals.maps, ctx.x
            )
            match energies[0].through:
                case "denoised":
                    return by_x0[BASE]
                case "noisy":
                    return by_x
                case _:
                    cotangent = (
                        {name: by_x0[name] for name in moving[0]},
                        {name: by_maps[name] for name in moving[1]},
                    )
                    return pullback(cotangent)[0] + by_x

        return evals._replace(grad=_gradients(self.guidance, gradient))


def _jacobians(term: Any) -> set[str]:
    """What the terms ask for of the denoiser's Jacobian."""
    kinds = (getattr(each, "jacobian", None) for each in walk(term))
    asked = {kind for kind in kinds if kind is not None}
    if not asked <= {"transpose", "both"}:
        raise ValueError(
            f"a term's jacobian is one of {asked}; expected 'transpose' or 'both'"
        )
    return asked


def _jacobian(value, pullback, push) -> Jacobian:
    """Of the base estimate among all that is differentiated."""
    nothing = jax.tree.map(jnp.zeros_like, value)

    def transpose(v):
        x0, maps = nothing
        return pullback(({**x0, BASE: v}, maps))[0]

    return Jacobian(transpose, None if push is None else lambda v: push(v)[0][BASE])


def _differentiated(branches: Mapping[str, Branch], plan: str) -> set[str]:
    """Names of the branches that go into the differentiated call."""
    graded = {name for name, branch in branches.items() if branch.grad}
    if plan == "fused" and graded:
        return set(branches)
    # Those that share attention must share a call.
    shared = [
        {name, source}
        for name, branch in branches.items()
        for edit in (branch.control or {}).values()
        for source in sources(edit)
    ]
    for _ in shared:
        graded = graded.union(*(pair for pair in shared if pair & graded))
    return graded


def _checked(term, evals, ctx):
    value = term.energy(evals, ctx)
    if value.shape != ctx.x.shape[:1]:
        raise ValueError(
            f"an energy returned shape {value.shape}; expected one number a sample, "
            f"{ctx.x.shape[:1]}"
        )
    return value


def _gradients(term: Any, gradient: Callable[[list[Any]], Array]) -> Any:
    """``Evals.grad`` for a term, in a chain's case a tuple.

    Energies that stand next to each other and are only added share one backward pass.
    """
    if isinstance(term, Chain):

        def alike(each):
            additive = hasattr(each, "energy") and getattr(each, "linear", False)
            return each.through if additive else None

        grads = []
        for through, run in itertools.groupby(term.terms, alike):
            run = list(run)
            if through is None:
                grads += [_gradients(each, gradient) for each in run]
            else:
                grads += [gradient(run), *[None] * (len(run) - 1)]
        return tuple(grads)
    if hasattr(term, "inner"):
        return _gradients(term.inner, gradient)
    return gradient([term]) if hasattr(term, "energy") else None


def guided(
    denoiser: Denoiser | Sequence[Denoiser], guidance: Any = None, plan: str = "auto"
) -> GuidedDenoiser:
    """A denoiser together with its guidance: what the sampling loop calls.

    Args:
      denoiser: The network, or a tuple of networks of which the first is the base and
        the others are what terms such as `autoguidance` refer to.
      guidance: A term or a chain of terms; None means no guidance. Terms whose weight
        is known to be 0 are left out.
      plan: How branches are batched: "auto" runs differentiated branches in a call of
        their own; "fused" runs everything in one, which costs more work but fewer
        launches.

    Returns:
      The guided denoiser, whose call maps a `Context` and the guidance's state to the
      guided estimate ``[B, *S]`` and the new state.

    Raises:
      TypeError: Something that is not a denoiser, or guidance that is not a term.
      ValueError: Unknown ``plan``; several networks without guidance to use them.

    Example:
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VE())
      >>> both = jg.guided(denoiser, jg.clip_x0(-1.0, 1.0))
      >>> both.plan, len(both.denoisers)
      ('auto', 1)
    """
    if plan not in PLANS:
        raise ValueError(f"plan is {plan!r}; expected one of {PLANS}")
    nets = denoisers_of(denoiser)
    if guidance is None and len(nets) != 1:
        raise ValueError(f"{len(nets)} denoisers were given but no guidance")
    guidance = chain() if guidance is None else guidance
    if not (hasattr(guidance, "branches") and hasattr(guidance, "update")):
        raise TypeError(
            f"guidance is {type(guidance).__name__}; expected a guidance term or a "
            "chain of terms"
        )
    return GuidedDenoiser(tuple(nets), prune(guidance, lambda term: None), plan)
