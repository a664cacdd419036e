"""Branches evaluated together: one batched call for each network."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import captured, fold_controls, match, match_edit
from jaxlib_guidance.guidance._base import Evals
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Denoiser,
    at_least_float32,
    require_labels,
)


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
        if not 0 <= net < len(denoisers):
            raise IndexError(
                f"a guidance term evaluates network {net}, but the sampler was given "
                f"{len(denoisers)}: pass denoiser=(main, other, ...)"
            )
        group = {name: b for name, b in branches.items() if b.net == net}
        some, theirs = _call(denoisers[net], group, ctx, x)
        x0 |= some
        maps |= theirs
    return Evals(x0, maps)


def _call(denoiser, group, ctx, x):
    names, branches = list(group), list(group.values())
    for name, branch in group.items():
        require_labels(branch.cond, denoiser.classes, f"the condition of {name!r}")
        if branch.t is not None and jnp.shape(branch.t) != ctx.t.shape:
            raise ValueError(
                f"the branch {name!r} has a time of shape {jnp.shape(branch.t)}; "
                f"expected {ctx.t.shape}"
            )
    batch, count = x.shape[0], len(names)
    controls = [_by_name(branch.control or {}, denoiser) for branch in branches]
    captures = [_by_tap(branch.capture, denoiser.taps) for branch in branches]
    wanted = _of_all(captures)
    reduced = any(function is not None for function in wanted.values())
    capture = wanted if reduced and denoiser.reduces else tuple(wanted)
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
        fold([ctx.t if b.t is None else b.t for b in branches], "times"),
        cond,
        control=control,
        capture=capture,
    )
    estimate = at_least_float32(out.x0)
    x0 = {name: unfold(estimate, k) for k, name in enumerate(names)}
    found = dict(out.maps)
    if reduced and not denoiser.reduces:
        found = {tap: captured(found[tap], wanted[tap] or True) for tap in wanted}
    if count > 1:
        _require_rows(found, batch * count)

    def of_branch(k, tap, function):
        array = unfold(found[tap], k)
        if function == wanted[tap]:
            return array
        array = captured(array, function)
        _require_rows({tap: array}, batch)
        return array

    maps = {
        name: {tap: of_branch(k, tap, f) for tap, f in captures[k].items()}
        for k, name in enumerate(names)
        if captures[k]
    }
    return x0, maps


def _by_tap(capture, taps):
    """``{tap: function or None}`` of what a branch captures, in the network's order."""
    found = {}
    for entry in capture:
        pattern, function = (entry, None) if isinstance(entry, str) else entry
        for tap in match([pattern], taps, "capture"):
            if found.setdefault(tap, function) != function:
                raise ValueError(
                    f"two captures of {tap!r} in one branch want different functions "
                    f"of it, {found[tap]} and {function} (None is the array as it is); "
                    "capture one that serves both"
                )
    return {tap: found[tap] for tap in taps if tap in found}


def _of_all(captures):
    """What a call captures: where branches want different functions, the array."""
    wanted = {}
    for one in captures:
        for tap, function in one.items():
            same = wanted.setdefault(tap, function) == function
            wanted[tap] = function if same else None
    return wanted


def _require_rows(found, rows):
    for tap, array in found.items():
        if jnp.shape(array)[:1] != (rows,):
            raise ValueError(
                f"what is captured of {tap!r} has shape {jnp.shape(array)}; expected "
                f"the {rows} rows of the call first"
            )


def _by_name(control, denoiser):
    edits = {}
    for pattern, edit in control.items():
        for site in match_edit(pattern, edit, denoiser.sites, denoiser.feature_sites):
            if site in edits:
                raise ValueError(
                    f"a branch's control edits {site!r} twice: {list(control)}"
                )
            edits[site] = edit
    return edits
