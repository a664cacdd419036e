"""Null conditions with which guided DDIM follows a picture's own states."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.editing._pairs import require_states
from jaxlib_guidance.guidance import like_cond
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    expand,
    per_sample,
)


class NullText(NamedTuple):
    """What `optimise_null` found.

    Attributes:
      nulls: Null condition of each step, every leaf ``[N, B, ...]``, for
        `guidance.null_steps`.
      states: States of guided DDIM with them ``[N + 1, B, *S]``; the last is the
        picture as it comes back.
      losses: Mean squared distance of each state to the picture's own ``[N, B]``.
    """

    nulls: PyTree
    states: Array
    losses: Array


def optimise_null(
    denoiser: Denoiser,
    grid: Any,
    inversion: Inversion,
    source: PyTree,
    null: PyTree,
    *,
    weight: Any = 6.5,
    iterations: int = 10,
    rate: float = 1e-2,
    tolerance: float | None = 1e-5,
    tuned: Sequence[str] | None = None,
    process: Process | None = None,
) -> NullText:
    """Null-text optimisation: the null condition that undoes what guidance does.

    From the inversion's noise, step by step, Adam lowers

      ``|s_{i + 1} - ddim(x_i, c + w (c - u))|^2``

    by the null condition of ``u``, with the picture's own states ``s``; then ``x_{i +
    1}`` is the step with it, and the next step begins with the null condition of this
    one. Each sample is a problem of its own.

    Args:
      denoiser: Network.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50 even steps.
      inversion: The picture's, from `sampling.invert` under ``source`` without
        guidance.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      null: Condition to begin with, as for `cfg`.
      weight: Factor ``w`` of ``cfg``, scalar or ``[B]``; the authors' scale of 7.5 is
        6.5 here.
      iterations: Steps of Adam in each step, each of which differentiates an
        evaluation.
      rate: Adam's rate, which falls to half of it over the steps, as the authors' does.
      tolerance: Loss below which a sample's iterations end, ``tolerance (1 + 100 i /
        N)`` in step ``i``; None ends none.
      tuned: Names of the parts of a condition by name that are changed; None is all of
        floating point.
      process: Noise process; None takes the denoiser's.

    Returns:
      Null conditions, states and losses.

    Raises:
      TypeError: A weight that is no number.
      ValueError: An inversion of another grid, nothing to tune, or numbers out of
        range.

    Reference: Mokady et al., arXiv 2211.09794, algorithm 1, and the authors' code,
      which makes a last change where the loss is below the tolerance; here none is.
    """
    _require(iterations, rate, tolerance, weight)
    process = process_of(denoiser, process)
    targets = at_least_float32(inversion.trajectory)
    grid = jnp.asarray(grid, jnp.float32)
    require_states(inversion, grid)
    steps = len(grid) - 1
    start = like_cond(null, source)
    leaves, tree = jax.tree.flatten(start)
    chosen = _chosen(start, tuned)
    # In float32, whatever the network takes: the steps are small.
    begin = [
        at_least_float32(leaf) for leaf, own in zip(leaves, chosen, strict=True) if own
    ]
    factor = per_sample(weight, targets[0], "optimise_null's weight")

    def condition(values):
        rest = iter(values)
        whole = [
            next(rest).astype(leaf.dtype) if own else jnp.asarray(leaf)
            for leaf, own in zip(leaves, chosen, strict=True)
        ]
        return jax.tree.unflatten(tree, whole)

    def step(carry, row):
        x, values = carry
        index, t, t_next, wanted = row
        times = jnp.broadcast_to(t, x.shape[:1])
        keep = process.sigma(t_next) / process.sigma(t)
        take = process.alpha(t_next) - keep * process.alpha(t)
        guided = at_least_float32(denoiser(x, times, source).x0)

        def moved(values):
            away = at_least_float32(denoiser(x, times, condition(values)).x0)
            return keep * x + take * (guided + factor * (guided - away))

        def total(values):
            losses = _each(moved(values) - wanted)
            return jnp.sum(losses), losses

        share = index / steps
        least = -1.0 if tolerance is None else tolerance * (1 + 100 * share)
        adam = rate * (1 - share / 2)

        def improve(carry, count):
            values, moments, going = carry
            (_, losses), slopes = jax.value_and_grad(total, has_aux=True)(values)
            going = going & (losses >= least)
            found = [
                _adam(a, g, m, count, adam)
                for a, g, m in zip(values, slopes, moments, strict=True)
            ]
            values = [
                jnp.where(expand(going, a), new, a)
                for a, (new, _) in zip(values, found, strict=True)
            ]
            return (values, [m for _, m in found], going), None

        still = [(jnp.zeros_like(a), jnp.zeros_like(a)) for a in values]
        begun = values, still, jnp.ones(x.shape[:1], bool)
        counts = jnp.arange(1, iterations + 1, dtype=jnp.float32)
        (values, *_), _ = jax.lax.scan(improve, begun, counts)
        after = moved(values)
        found = condition(values), after, _each(after - wanted)
        return (after, values), found

    rows = (
        jnp.arange(steps, dtype=jnp.float32),
        grid[:-1],
        grid[1:],
        targets[1:],
    )
    _, (nulls, states, losses) = jax.lax.scan(step, (targets[0], begin), rows)
    return NullText(nulls, jnp.concatenate([targets[:1], states]), losses)


def _adam(value, slope, moments, count, rate):
    """The value after step ``count`` of Adam, and the moments."""
    first, second = moments
    first = 0.9 * first + 0.1 * slope
    second = 0.999 * second + 0.001 * slope**2
    mean, square = first / (1 - 0.9**count), second / (1 - 0.999**count)
    return value - rate * mean / (jnp.sqrt(square) + 1e-8), (first, second)


def _each(a):
    """Mean square of each sample."""
    return jnp.mean(a**2, axis=tuple(range(1, a.ndim)))


def _chosen(cond, tuned):
    """Which leaves of a condition are changed."""
    paths, _ = jax.tree.flatten_with_path(cond)
    names = [getattr(path[0], "key", None) if path else None for path, _ in paths]
    if tuned is not None and (isinstance(tuned, str) or not {*tuned} <= {*names}):
        raise ValueError(
            f"tuned is {tuned!r}; expected names of the condition's parts, {names}"
        )
    chosen = [
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        and (tuned is None or name in tuned)
        for name, (_, leaf) in zip(names, paths, strict=True)
    ]
    if not any(chosen):
        raise ValueError(
            "the condition has no part of floating point to tune"
            + ("" if tuned is None else f" among {tuned!r}")
        )
    return chosen


def _require(iterations, rate, tolerance, weight):
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not whole or iterations < 0:
        raise ValueError(
            f"iterations is {iterations!r}; expected a whole number from 0"
        )
    for name, value in (("rate", rate), ("tolerance", tolerance)):
        if value is not None and known_false(lambda a: a >= 0, value):
            raise ValueError(f"{name} is {value}; expected at least 0")
    if isinstance(weight, str | list | tuple) or weight is None:
        raise TypeError(f"weight is {weight!r}; expected a number or an array")
    if known_false(lambda w: ~np.isnan(w), weight):
        raise ValueError(f"weight is {weight}; expected no NaN")
