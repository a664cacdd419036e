"""Shapes of a weight over the steps, as leaves of `scheduled`."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import betaln

from jaxlib_guidance.guidance._chain import Chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._schedule import scheduled
from jaxlib_guidance.guidance._step import step_grid
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import Array, Context


def _done(ctx: Context, what: str) -> Array:
    """Share of the steps that are done: 0 in the first, 1 in the last."""
    if ctx.steps is None:
        raise ValueError(f"{what} needs a number of steps; an adaptive solver has none")
    return jnp.asarray(ctx.step, jnp.float32) / max(ctx.steps - 1, 1)


def _linear(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 2 * _done(ctx, "ramp"))


def _inverse_linear(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 2 * (1 - _done(ctx, "ramp")))


def _cosine(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 1 - jnp.cos(jnp.pi * _done(ctx, "ramp")))


def _sine(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 1 + jnp.cos(jnp.pi * _done(ctx, "ramp")))


def _v(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 2 * jnp.abs(1 - 2 * _done(ctx, "ramp")))


def _lambda(floor: Array, ctx: Context) -> Array:
    return jnp.maximum(floor, 2 - 2 * jnp.abs(1 - 2 * _done(ctx, "ramp")))


_SHAPES = {
    "linear": _linear,
    "cosine": _cosine,
    "inverse_linear": _inverse_linear,
    "sine": _sine,
    "v": _v,
    "lambda": _lambda,
}


@method(
    "when",
    "the terms' correction times max(floor, 2 p) or another shape of the share p of "
    "the steps done",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2404.13040",
    strength=None,
    law="test_ramps_golden",
)
def ramp(term: Any, shape: str = "linear", *, floor: Any = 0.0) -> Chain:
    """A weight that changes over the steps and keeps its mean.

    The factor of what the term adds is ``max(floor, f(p))`` with ``p`` from 0 in the
    first step to 1 in the last, and ``f``: "linear" ``2 p``, "cosine" ``1 - cos(pi
    p)``, "inverse_linear" ``2 (1 - p)``, "sine" ``1 + cos(pi p)``, "v" ``2 |1 - 2 p|``,
    "lambda" ``2 (1 - |1 - 2 p|)``, each of mean 1. Here the ramp multiplies ``w``, and
    not the scale ``w + 1``.

    Args:
      term: A term or a chain.
      shape: Name of the shape.
      floor: Smallest factor, scalar or ``[B]``, which makes a clamped ramp; 0 is none.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A floor that is no number; a term that changes the condition.
      ValueError: Unknown shape; while sampling, an adaptive solver, which has no number
        of steps.

    Reference: Wang et al., arXiv 2404.13040.
    """
    if shape not in _SHAPES:
        raise ValueError(f"ramp's shape is {shape!r}; expected one of {tuple(_SHAPES)}")
    require_numbers("ramp", floor=floor)
    return scheduled(term, _SHAPES[shape], jnp.asarray(floor, jnp.float32))


@method(
    "when",
    "the terms' correction times (1 - cos(pi p^k)) / 2",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2404.13040",
    strength=None,
    example={"power": 2.0},
    law="test_ramps_golden",
)
def power_cosine(term: Any, power: Any) -> Chain:
    """The powered-cosine ramp ("pcs"), from 0 in the first step to 1 in the last.

    The factor of what the term adds is ``(1 - cos(pi p^k)) / 2``.

    Args:
      term: A term or a chain.
      power: Power ``k``, scalar or ``[B]``, above 0; the larger, the later.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A power that is no number; a term that changes the condition.
      ValueError: A power not above 0; while sampling, an adaptive solver.

    Reference: Wang et al., arXiv 2404.13040.
    """
    require_numbers("power_cosine", power=power)
    if known_false(lambda k: k > 0, power):
        raise ValueError(f"power_cosine's power is {power}; expected above 0")
    return scheduled(term, _power_cosine, jnp.asarray(power, jnp.float32))


def _power_cosine(power: Array, ctx: Context) -> Array:
    return (1 - jnp.cos(jnp.pi * _done(ctx, "power_cosine") ** power)) / 2


@method(
    "when",
    "the terms' correction times e^(rate (1 - n)), n = sigma / (alpha + sigma)",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2603.08155",
    strength=None,
    law="test_ramps_golden",
)
def exponential_ramp(term: Any, rate: Any = 0.6931472) -> Chain:
    """A weight that grows exponentially as the noise falls (C2FG).

    The factor of what the term adds is ``exp(rate (1 - n))`` with the noise level ``n =
    sigma / (alpha + sigma)``, the time of a rectified flow. The paper's factor is of
    the scale ``w + 1``; here it is of ``w``.

    Args:
      term: A term or a chain.
      rate: Rate of growth, scalar or ``[B]``; 0 changes nothing, the default doubles
        the weight, below 0 it falls.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A rate that is no number; a term that changes the condition.

    Reference: Gao et al., arXiv 2603.08155, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_numbers("exponential_ramp", rate=rate)
    return scheduled(term, _exponential, jnp.asarray(rate, jnp.float32))


def _exponential(rate: Array, ctx: Context) -> Array:
    alpha, sigma = (f.reshape(f.shape[0]) for f in (ctx.alpha, ctx.sigma))
    return jnp.exp(rate * alpha / (alpha + sigma))


@method(
    "when",
    "the terms' correction times the density Beta(p; a, b)",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2502.10574",
    strength=None,
    example={"a": 1.5, "b": 1.0},
    law="test_ramps_golden",
)
def beta_ramp(term: Any, a: Any = 2.0, b: Any = 2.0) -> Chain:
    """A weight with the shape of a Beta density over the steps, of mean 1.

    The factor of what the term adds is ``Beta(p; a, b)`` with ``p`` from 0 in the first
    step to 1 in the last; ``Beta(p; 2, 2) = 6 p (1 - p)``.

    Args:
      term: A term or a chain.
      a: First parameter of the density, scalar or ``[B]``, at least 1.
      b: Second parameter of the density, scalar or ``[B]``, at least 1.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A parameter that is no number; a term that changes the condition.
      ValueError: A parameter below 1, where the density has no bound; while sampling,
        an adaptive solver.

    Reference: Malarz et al., arXiv 2502.10574.
    """
    require_numbers("beta_ramp", a=a, b=b)
    for what, value in (("a", a), ("b", b)):
        if known_false(lambda v: v >= 1, value):
            raise ValueError(f"beta_ramp's {what} is {value}; expected at least 1")
    params = tuple(jnp.asarray(value, jnp.float32) for value in (a, b))
    return scheduled(term, _beta, params)


def _beta(params: tuple[Array, Array], ctx: Context) -> Array:
    (a, b), done = params, _done(ctx, "beta_ramp")
    return done ** (a - 1) * (1 - done) ** (b - 1) / jnp.exp(betaln(a, b))


@method(
    "when",
    "the terms' correction times a triangle over the steps whose mean over time is 1",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="2509.22007",
    strength=None,
    law="test_triangle_ramp_has_mean_one_on_any_grid",
)
def triangle_ramp(term: Any, peak: Any = 0.5) -> Chain:
    """A weight that rises to a peak and falls again, of mean 1 over the time (TV-CFG).

    The factor of what the term adds in step ``n`` of ``N`` is ``n / M`` up to ``M =
    ceil(peak N)`` and ``(N - n) / (N - M)`` from there, divided by its mean over the
    grid's steps weighted by their lengths in ``t``. Here the triangle multiplies ``w``,
    and not the scale ``w + 1``.

    Args:
      term: A term or a chain.
      peak: Share of the steps at which the weight is largest, scalar or ``[B]``, in
        (0, 1].

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A peak that is no number; a term that changes the condition.
      ValueError: A peak outside (0, 1]; while sampling, an adaptive solver.

    Reference: Jin et al., arXiv 2509.22007, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_numbers("triangle_ramp", peak=peak)
    if known_false(lambda p: (p > 0) & (p <= 1), peak):
        raise ValueError(f"triangle_ramp's peak is {peak}; expected a share in (0, 1]")
    return scheduled(term, _triangle, jnp.asarray(peak, jnp.float32))


def _triangle(peak: Array, ctx: Context) -> Array:
    grid = step_grid(ctx, "triangle_ramp")
    count = grid.shape[0] - 1
    top = jnp.maximum(jnp.ceil(peak * count), 1)[..., None]
    step = jnp.arange(count, dtype=jnp.float32)
    falling = (count - step) / jnp.maximum(count - top, 1)
    shape = jnp.where(step <= top, step / top, falling)
    lengths = jnp.abs(jnp.diff(grid))
    total = jnp.sum(shape * lengths, -1, keepdims=True)
    # Of a single step the triangle is its foot; the mean asks for 1.
    mean = jnp.where(total > 0, shape * jnp.sum(lengths) / total, 1)
    return mean[..., ctx.step]
