"""The planner: all the evaluations that a chain asks for, in one network call.

Branches with the same name merge. What remains is folded sample-major, ``[B, K, ...] ->
[B K, ...]``: stacked beside each sample, never concatenated along the batch, so that a
sharded batch needs no communication. Branches that an energy differentiates go in a
second call, because a backward pass through a fused call would pay for all of them.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention.control import fold_controls, match
from jaxlib_guidance.guidance.base import (
    BASE,
    Chain,
    During,
    Evals,
    core,
    init_state,
    is_energy,
    is_off,
)
from jaxlib_guidance.types import Array, Branch, Context, Denoiser, PyTree, concrete

PLANS = ("auto", "fused")


def collect(terms: Sequence[Any], ctx: Context) -> dict[str, Branch]:
    """The union of the branches that the terms ask for, the base branch first.

    Raises:
      ValueError: Two terms give one name to different evaluations.
    """
    union = {BASE: Branch(ctx.cond)}
    for term in terms:
        for name, branch in term.branches(ctx).items():
            held = union.get(name)
            if held is not None and not _same(held, branch):
                raise ValueError(
                    f"two terms ask for different evaluations under the name {name!r}; "
                    "give one of them another name"
                )
            if held is not None:
                branch = branch._replace(
                    grad=held.grad or branch.grad,
                    capture=tuple(dict.fromkeys(held.capture + branch.capture)),
                )
            union[name] = branch
    return union


def _same(a: Branch, b: Branch) -> bool:
    one = (a.cond, a.control, a.x, a.net)
    two = (b.cond, b.control, b.x, b.net)
    if jax.tree.structure(one) != jax.tree.structure(two):
        return False

    def equal(x, y):
        if x is y:
            return True
        x, y = concrete(x), concrete(y)
        return x is not None and y is not None and np.array_equal(x, y)

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(equal(x, y) for x, y in pairs)


def evaluate(
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
        if net >= len(denoisers):
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
    batch, count = x.shape[0], len(names)
    controls = [
        {
            site: edit
            for pattern, edit in (branch.control or {}).items()
            for site in match([pattern], denoiser.sites, "attention site")
        }
        for branch in branches
    ]
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
    x0 = {name: unfold(out.x0, k) for k, name in enumerate(names)}
    maps = {
        name: {tap: unfold(out.maps[tap], k) for tap in captures[k]}
        for k, name in enumerate(names)
        if captures[k]
    }
    return x0, maps


@dataclasses.dataclass(frozen=True)
class Steered:
    """A denoiser with guidance: what the sampling loop calls.

    Attributes:
      denoisers: The networks that branches index.
      terms: The chain's terms.
      active: Which of them take part; the others keep their state and cost nothing.
      plan: "auto" or "fused".
    """

    denoisers: tuple[Denoiser, ...]
    terms: tuple[Any, ...]
    active: tuple[bool, ...]
    plan: str = "auto"

    def init(self, x: Array) -> PyTree:
        """The terms' memories."""
        return tuple(init_state(term, x) for term in self.terms)

    def segments(
        self, process: Any, times: np.ndarray | None, steps: int
    ) -> list[tuple[int, int, "Steered"]]:
        """Cuts ``steps`` into runs over which the same terms are active.

        Args:
          process: The noise process.
          times: The grid ``[N + 1]``, or None while it is traced.
          steps: ``N``.

        Returns:
          ``(start, stop, steered)`` triples that cover ``0, ..., N``.
        """
        windows = [
            term.window(process, times, steps) if isinstance(term, During) else None
            for term in self.terms
        ]
        terms = tuple(
            term if window is None else term.inner
            for term, window in zip(self.terms, windows, strict=True)
        )
        columns = np.ones((len(terms), steps), bool)
        for row, window in enumerate(windows):
            if window is not None:
                columns[row] = window
        columns &= np.asarray(self.active, bool)[:, None]
        changes = np.any(columns[:, 1:] != columns[:, :-1], axis=0).nonzero()[0] + 1
        cuts = [0, *changes.tolist(), steps]
        return [
            (
                start,
                stop,
                dataclasses.replace(self, terms=terms, active=tuple(columns[:, start])),
            )
            for start, stop in itertools.pairwise(cuts)
        ]

    def __call__(self, ctx: Context, state: PyTree) -> tuple[Array, PyTree]:
        """The guided estimate ``x0 [B, *S]`` and the terms' new memories."""
        active = [i for i, on in enumerate(self.active) if on]
        terms = [self.terms[i] for i in active]
        branches = collect(terms, ctx)
        evals, grads = self._evaluate(terms, branches, ctx)
        delta = jnp.zeros_like(evals.x0[BASE])
        new = list(state)
        for i, term, grad in zip(active, terms, grads, strict=True):
            delta, new[i] = term.update(delta, evals._replace(grad=grad), state[i], ctx)
        return evals.x0[BASE] + delta, tuple(new)

    def _evaluate(self, terms, branches, ctx):
        groups = _energy_groups(terms)
        if not groups:
            return evaluate(self.denoisers, branches, ctx, ctx.x), [None] * len(terms)
        fused = self.plan == "fused" and any(b.grad for b in branches.values())
        inner = {n: b for n, b in branches.items() if b.grad or fused}
        outer = {n: b for n, b in branches.items() if n not in inner}
        still = evaluate(self.denoisers, outer, ctx, ctx.x)

        def differentiated(x):
            return evaluate(self.denoisers, inner, ctx, x)[:2]

        moving, pullback = jax.vjp(differentiated, ctx.x)
        evals = Evals(moving[0] | still.x0, dict(moving[1]) | dict(still.maps))
        grads: list[Array | None] = [None] * len(terms)
        for group in groups:
            energies = [core(terms[i]) for i in group]

            def total(x0, maps, x, energies=energies):
                seen, here = Evals(x0, maps), ctx._replace(x=x)
                each = [energy.energy(seen, here) for energy in energies]
                for value in each:
                    if value.shape != ctx.x.shape[:1]:
                        raise ValueError(
                            f"an energy returned shape {value.shape}; expected one "
                            f"number a sample, {ctx.x.shape[:1]}"
                        )
                return sum(jnp.sum(value) for value in each)

            by_x0, by_maps, by_x = jax.grad(total, argnums=(0, 1, 2))(
                evals.x0, evals.maps, ctx.x
            )
            through = energies[0].through
            if through == "denoised":
                grads[group[0]] = by_x0[BASE]
            elif through == "noisy" or not inner:
                grads[group[0]] = by_x
            else:
                cotangent = (
                    {name: by_x0[name] for name in moving[0]},
                    {name: by_maps[name] for name in moving[1]},
                )
                grads[group[0]] = pullback(cotangent)[0] + by_x
        return evals, grads


def _energy_groups(terms) -> list[list[int]]:
    """Neighbouring energies that are only added share one backward pass."""
    groups: list[list[int]] = []
    for i, term in enumerate(terms):
        if not is_energy(term):
            continue
        last = terms[groups[-1][-1]] if groups else None
        if (
            last is not None
            and groups[-1][-1] == i - 1
            and last is core(last)
            and term is core(term)
            and (last.through, last.linear) == (term.through, True)
        ):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def steer(
    denoiser: Denoiser | Sequence[Denoiser], guidance: Chain | Any, plan: str = "auto"
) -> Steered:
    """A guided denoiser.

    Args:
      denoiser: The network, or a tuple of networks of which the first is the base and
        the others are what terms such as `autoguidance` refer to.
      guidance: A chain or a single term. Terms whose weight is known to be 0 are left
        out.
      plan: "auto" runs differentiated branches in a call of their own; "fused" runs
        everything in one, which costs more work but fewer launches.

    Raises:
      ValueError: Unknown ``plan``.
    """
    if plan not in PLANS:
        raise ValueError(f"plan is {plan!r}; expected one of {PLANS}")
    terms = guidance.terms if isinstance(guidance, Chain) else (guidance,)
    denoisers = (denoiser,) if isinstance(denoiser, Denoiser) else tuple(denoiser)
    return Steered(denoisers, terms, tuple(not is_off(term) for term in terms), plan)
