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

from jaxlib_guidance.attention import fold_controls, match, match_sites
from jaxlib_guidance.guidance._active import Off, prune
from jaxlib_guidance.guidance._base import BASE, Evals, init_term
from jaxlib_guidance.guidance._branches import merge_branches
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._schedule import During
from jaxlib_guidance.guidance._tree import children, walk
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    require_labels,
)

PLANS = ("auto", "fused")


def _evaluate(
    denoisers: Sequence[Denoiser],
    branches: Mapping[str, Branch],
    ctx: Context,
    x: Array,
) -> Evals:
    """Evaluates branches, one batched call for each network.

    Args:
      denoisers: The networks that `Branch.net` indexes.
      branches: What to evaluate.
      ctx: The step.
      x: The state ``[B, *S]`` of the branches that bring none.

    Returns:
      Estimates and captured maps by branch name.

    Raises:
      IndexError: A branch of a network that was not given.
    """
    x0, maps = {}, {}
    for net in sorted({branch.net for branch in branches.values()}):
        if not 0 <= net < len(denoisers):
            raise IndexError(
                f"a guidance term evaluates network {net}, but the sampler was given "
                f"{len(denoisers)}: pass denoiser=(main, other, ...)"
            )
        group = {name: b for name, b in branches.items() if b.net == net}
        found, captured = _call(denoisers[net], group, ctx, x)
        x0 |= found
        maps |= captured
    return Evals(x0, maps)


def _call(denoiser, group, ctx, x):
    names, branches = list(group), list(group.values())
    for name, branch in group.items():
        require_labels(branch.cond, denoiser.classes, f"the condition of {name!r}")
    batch, count = x.shape[0], len(names)
    controls = [_by_site(branch.control or {}, denoiser.sites) for branch in branches]
    captures = [match(b.capture, denoiser.taps, "capture") for b in branches]
    capture = tuple(dict.fromkeys(tap for taps in captures for tap in taps))
    control = fold_controls(controls, names, batch)

    def fold(leaves, what):
        if count == 1:
            return leaves[0]
        shapes = {jnp.shape(leaf) for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(
                f"branches {names} bring {what} of different shapes: {sorted(shapes)}"
            )
        stacked = jnp.stack([jnp.asarray(leaf) for leaf in leaves], axis=1)
        return stacked.reshape(batch * count, *stacked.shape[2:])

    def unfold(array, k):
        if count == 1:
            return array
        return array.reshape(batch, count, *array.shape[1:])[:, k]

    structures = {jax.tree.structure(branch.cond) for branch in branches}
    if len(structures) > 1:
        raise ValueError(
            f"branches {names} have conditions of different structure: "
            f"{[str(s) for s in structures]}"
        )
    cond = jax.tree.map(lambda *c: fold(c, "conditions"), *[b.cond for b in branches])
    out = denoiser(
        fold([x if b.x is None else b.x for b in branches], "states"),
        fold([ctx.t] * count, "times"),
        cond,
        control=control,
        capture=capture,
    )
    estimate = at_least_float32(out.x0)
    x0 = {name: unfold(estimate, k) for k, name in enumerate(names)}
    maps = {
        name: {tap: unfold(out.maps[tap], k) for tap in captures[k]}
        for k, name in enumerate(names)
        if captures[k]
    }
    return x0, maps


def _by_site(control, sites):
    edits = {}
    for pattern, edit in control.items():
        for site in match_sites(pattern, sites):
            if site in edits:
                raise ValueError(
                    f"a branch's control edits {site!r} twice: {list(control)}"
                )
            edits[site] = edit
    return edits


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
        branches = merge_branches({BASE: Branch(ctx.cond)}, self.guidance.branches(ctx))
        evals = self._evaluate(branches, ctx)
        base = evals.x0[BASE]
        delta, state = self.guidance.update(jnp.zeros_like(base), evals, state, ctx)
        return base + delta, state

    def _evaluate(self, branches, ctx) -> Evals:
        if not any(hasattr(term, "energy") for term in walk(self.guidance)):
            return _evaluate(self.denoisers, branches, ctx, ctx.x)
        graded = _differentiated(branches, self.plan)
        inner = {n: b for n, b in branches.items() if n in graded}
        outer = {n: b for n, b in branches.items() if n not in graded}
        still = _evaluate(self.denoisers, outer, ctx, ctx.x)

        def differentiated(x):
            return _evaluate(self.denoisers, inner, ctx, x)[:2]

        moving, pullback = jax.vjp(differentiated, ctx.x)
        evals = Evals({**moving[0], **still.x0}, {**moving[1], **still.maps})

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
        for _, source in edit.borrow
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
    nets = [denoiser] if isinstance(denoiser, Denoiser) else denoiser
    if not isinstance(nets, (tuple, list)) or not nets:
        raise TypeError(
            f"denoiser is {type(denoiser).__name__}; expected a Denoiser, as from "
            "parametrize, or a tuple of them"
        )
    for net in nets:
        if not isinstance(net, Denoiser):
            raise TypeError(
                f"denoiser holds {type(net).__name__}; expected Denoisers, as from "
                "parametrize"
            )
    if guidance is None and len(nets) != 1:
        raise ValueError(f"{len(nets)} denoisers were given but no guidance")
    guidance = chain() if guidance is None else guidance
    if not (hasattr(guidance, "branches") and hasattr(guidance, "update")):
        raise TypeError(
            f"guidance is {type(guidance).__name__}; expected a guidance term or a "
            "chain of terms"
        )
    return GuidedDenoiser(tuple(nets), prune(guidance, lambda term: None), plan)
