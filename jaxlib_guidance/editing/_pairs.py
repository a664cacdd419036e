"""What editors beside the source's own trajectory share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.guidance import (
    cfg,
    chain,
    during,
    join_pairs,
    like_cond,
    split_pairs,
)
from jaxlib_guidance.sampling import (
    Inversion,
    difference,
    invert,
    noised_states,
    sample,
)
from jaxlib_guidance.types import Array, Denoiser, PyTree, concrete


def steps_taken(strength: float, grid: Any) -> tuple[Any, int]:
    """The grid, known where it can be, and the first step that is taken.

    Raises:
      ValueError: A strength outside [0, 1], or one that is not known.
    """
    known = concrete(strength)
    if known is None or known.ndim or not 0 <= known <= 1:
        raise ValueError(f"strength is {strength}; expected a number in [0, 1]")
    traced = any(concrete(t) is None for t in jax.tree.leaves(grid))
    grid = jnp.asarray(grid, jnp.float32) if traced else np.asarray(grid)
    steps = len(grid) - 1
    return grid, steps - int(known * steps)


def require_states(inversion: Inversion, grid: Any) -> None:
    """Raises unless an inversion has a state for each time of the grid.

    Raises:
      ValueError: Another number of states.
    """
    if len(inversion.trajectory) != len(grid):
        raise ValueError(
            f"inversion has {len(inversion.trajectory)} states; expected one for each "
            f"of the {len(grid)} times of the grid"
        )


def independent(
    keys: Array, denoiser: Any, grid: Any, picture: Array, options: dict[str, Any]
) -> Inversion:
    """The picture with other noise at each time, as an inversion."""
    process = process_of(denoiser, options.get("process"))
    states = noised_states(keys, process, grid, picture)
    return Inversion(states[0], states)


def by_maps(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    conds: tuple[PyTree, PyTree, PyTree],
    weights: tuple[Any, Any],
    *,
    strength: float,
    terms: Sequence[Any],
    inversion: Inversion | None,
    options: dict[str, Any],
    around: Callable[[Any], Sequence[Any]] | None = None,
) -> Edited:
    """An edit beside DDIM's inversion of the picture under the source's condition."""
    if inversion is None:
        inversion = invert(keys, denoiser, grid, picture, conds[0], **options)
    x = edit_beside(
        *(keys, denoiser, grid, inversion.trajectory, conds, weights),
        strength=strength,
        terms=terms,
        options=options,
        around=around,
    )
    return Edited(x, inversion)


def until(term: Any, share: float, start: float = 0.0) -> tuple[Any, ...]:
    """The term in a share of the steps, or no term where that is none.

    Raises:
      ValueError: A share outside [0, 1], or one that is not known.
    """
    for each in (start, share):
        known = concrete(each)
        if known is None or known.ndim or known.dtype.kind not in "biuf":
            raise ValueError(
                f"a share of the steps is {each}; expected a known number from 0 to 1"
            )
        if not 0 <= known <= 1:
            raise ValueError(f"a share of the steps is {each}; expected 0 to 1")
    return (during(term, start, share),) if share > start else ()


def edit_beside(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    states: Array,
    conds: tuple[PyTree, PyTree, PyTree],
    weights: tuple[Any, Any],
    *,
    eta: Any = 0.0,
    strength: float = 1.0,
    terms: Sequence[Any] = (),
    options: dict[str, Any],
    around: Callable[[Any], Sequence[Any]] | None = None,
) -> Array:
    """Edits ``[B, *S]`` beside sources with states ``[N + 1, B, *S]``.

    Conditions are those of the source and of the target, and the null condition;
    weights those of `cfg` at the source, None for the target's, and at the target.
    ``terms`` of pairs follow `cfg`; ``options`` are other options of `sample`;
    ``around`` gives the terms that stand for `cfg`, None that term itself.
    """
    source, target, null = conds
    grid, first = steps_taken(strength, grid)
    if first == len(grid) - 1:
        return states[-1]
    if states.shape[0] != len(grid):
        raise ValueError(
            f"the source has {states.shape[0]} states; expected one for each of the "
            f"{len(grid)} times of the grid"
        )
    nulls = (like_cond(null, cond) for cond in (source, target))
    own, weight = weights
    both = cfg(
        join_pairs(*(_each(w, keys) for w in (weight if own is None else own, weight))),
        join_pairs(*nulls),
    )
    x, _ = sample(
        join_pairs(keys, keys),
        denoiser,
        difference(states[first:], eta, grid[first:]),
        grid[first:],
        join_pairs(states[first], states[first]),
        join_pairs(source, target),
        guidance=chain(*((both,) if around is None else around(both)), *terms),
        **options,
    )
    return split_pairs(x)[1]


def _each(weight, keys):
    """A weight for each sample, known where it can be."""
    known = concrete(weight)
    shape = keys.shape
    if jnp.shape(weight) not in ((), shape):
        raise ValueError(
            f"a weight has shape {jnp.shape(weight)}; expected () or {shape}"
        )
    if known is None:
        return jnp.broadcast_to(jnp.asarray(weight, jnp.float32), shape)
    return np.broadcast_to(known.astype(np.float32), shape)
