"""Symbolic regression by linear programs, with a program known for every target.

A program is ``[L, 4]`` of integers, an instruction a row: ``(op, a, b, to)`` writes the
result of ``op`` on the sources ``a`` and ``b`` into register ``to``. Sources 0 to 3 are
the registers, which start at 0, and 4 is the input; register 0 is the output.

| op | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
|---|---|---|---|---|---|---|---|---|
| result | a + b | a - b | a b | a / b, 1 near b = 0 | sin a | cos a | a | 1 |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number
from jaxlib_guidance.worlds._picture import paper

OPS, SOURCES, REGISTERS = 8, 5, 4
LIMITS = (OPS, SOURCES, SOURCES, REGISTERS)
COLUMNS = ("op", "a", "b", "to")
TARGETS = ("quartic", "quintic", "sines")
"""``x^4 + x^3 + x^2 + x``, ``x^5 - 2 x^3 + x`` and ``sin(x^2) cos(x) - 1``."""


class World(NamedTuple):
    """What is to be found.

    Attributes:
      x: Inputs, ``[N]``.
      y: What a program must answer, ``[N]``.
    """

    x: Array
    y: Array


def make(target: str, *, points: int = 20) -> World:
    """A target at evenly spaced points of [-1, 1].

    Args:
      target: One of ``TARGETS``.
      points: How many points, at least 2.

    Returns:
      The world.

    Raises:
      ValueError: Another target, too few points.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; expected one of {TARGETS}")
    require_number("points", points, 2)
    x = jnp.linspace(-1.0, 1.0, points, dtype=jnp.float32)
    y = {
        "quartic": x**4 + x**3 + x**2 + x,
        "quintic": x**5 - 2 * x**3 + x,
        "sines": jnp.sin(x**2) * jnp.cos(x) - 1,
    }[target]
    return World(x, y)


def run(program: Array, x: Array) -> Array:
    """What a program answers: ``[L, 4]`` and ``[N]`` to ``[N]``, cut to +-100.

    Args:
      program: Instructions, int32 ``[L, 4]``.
      x: Inputs, ``[N]``.

    Returns:
      Float32 ``[N]``.

    Raises:
      ValueError: Another shape of ``program``, known numbers that no instruction has.
    """
    _require_program("program", program)
    x = jnp.asarray(x, jnp.float32)

    def one(registers, row):
        op, a, b, to = row
        sources = jnp.concatenate([registers, x[None]])
        a, b = sources[a], sources[b]
        small = jnp.abs(b) < 1e-3
        results = jnp.stack(
            [
                a + b,
                a - b,
                a * b,
                jnp.where(small, 1.0, a / jnp.where(small, 1.0, b)),
                jnp.sin(a),
                jnp.cos(a),
                a,
                jnp.ones_like(a),
            ]
        )
        return registers.at[to].set(jnp.clip(results[op], -100.0, 100.0)), None

    registers = jnp.zeros((REGISTERS, len(x)), jnp.float32)
    return jax.lax.scan(one, registers, jnp.asarray(program, jnp.int32))[0][0]


def error(world: World, program: Array) -> Array:
    """Largest ``|answer - y|`` over the points.

    Args:
      world: The target.
      program: Instructions, int32 ``[L, 4]``.

    Returns:
      Float32 scalar.
    """
    return jnp.max(jnp.abs(run(program, world.x) - world.y))


def reset(key: Array, *, length: int = 16) -> Array:
    """A program drawn uniformly.

    Args:
      key: Typed key.
      length: Instructions, at least 1.

    Returns:
      int32 ``[length, 4]``.

    Raises:
      ValueError: ``length`` below 1.
    """
    require_number("length", length, 1)
    return _numbers(jax.random.uniform(key, (length, 4)))


def _numbers(u):
    """Uniform numbers ``[L, 4]`` as instructions; quicker to compile than integers."""
    high = jnp.array(LIMITS, jnp.int32)
    return jnp.minimum((u * high.astype(jnp.float32)).astype(jnp.int32), high - 1)


def mutate(key: Array, program: Array, rate: float | Array) -> Array:
    """Each number of a program is drawn anew with probability ``rate``.

    Args:
      key: Typed key.
      program: Instructions, int32 ``[L, 4]``.
      rate: Probability, in [0, 1].

    Returns:
      int32 ``[L, 4]``.

    Raises:
      ValueError: Another shape of ``program``, ``rate`` that is no probability.
    """
    _require_program("program", program)
    require_chance("rate", rate)
    which, fresh = jax.random.uniform(key, (2, *program.shape))
    return jnp.where(which < rate, _numbers(fresh), program)


def cross(key: Array, one: Array, other: Array) -> Array:
    """The first program with a stretch of instructions from the second, in its place.

    Args:
      key: Typed key.
      one: Instructions, int32 ``[L, 4]``.
      other: Instructions of the other parent, int32 ``[L, 4]``.

    Returns:
      int32 ``[L, 4]``.

    Raises:
      ValueError: Other shapes, or two of them.
    """
    _require_program("one", one)
    _require_program("other", other)
    require_shape("other", other, jnp.shape(one))
    ends = jnp.floor(jax.random.uniform(key, (2,)) * (len(one) + 1))
    at = jnp.arange(len(one), dtype=jnp.float32)
    inside = (at >= jnp.min(ends)) & (at < jnp.max(ends))
    return jnp.where(inside[:, None], other, one)


def distance(one: Array, other: Array) -> Array:
    """Share of instructions that differ, ``[..., L, 4]`` each to ``[...]``.

    Raises:
      ValueError: Lengths that differ.
    """
    for name, program in (("one", one), ("other", other)):
        if jnp.ndim(program) < 2 or jnp.shape(program)[-1] != len(LIMITS):
            raise ValueError(
                f"{name} has shape {jnp.shape(program)}; expected [..., L, 4]"
            )
    if jnp.shape(one)[-2] != jnp.shape(other)[-2]:
        raise ValueError(
            f"other has {jnp.shape(other)[-2]} instructions; expected those of one, "
            f"{jnp.shape(one)[-2]}"
        )
    return jnp.mean(jnp.any(one != other, -1).astype(jnp.float32), -1)


def solve(target: str) -> np.ndarray:
    """A program whose answer is the target, written by hand.

    Args:
      target: One of ``TARGETS``.

    Returns:
      int32 ``[16, 4]``.

    Raises:
      ValueError: Another target.
    """
    add, sub, mul, sin, cos, copy, unit = 0, 1, 2, 4, 5, 6, 7
    x = 4
    rows = {
        "quartic": [
            (unit, 0, 0, 1),
            (add, x, 1, 0),
            (mul, x, 0, 0),
            (add, 0, 1, 0),
            (mul, x, 0, 0),
            (add, 0, 1, 0),
            (mul, x, 0, 0),
        ],
        "quintic": [
            (unit, 0, 0, 1),
            (mul, x, x, 0),
            (sub, 0, 1, 0),
            (mul, 0, 0, 0),
            (mul, x, 0, 0),
        ],
        "sines": [
            (mul, x, x, 0),
            (sin, 0, 0, 0),
            (cos, x, 0, 1),
            (mul, 0, 1, 0),
            (unit, 0, 0, 1),
            (sub, 0, 1, 0),
        ],
    }
    if target not in rows:
        raise ValueError(f"target is {target!r}; expected one of {TARGETS}")
    found = rows[target]
    return np.array(found + [(copy, 0, 0, 0)] * (16 - len(found)), np.int32)


def render(world: World, program: Array, *, size: int = 64) -> Array:
    """The target's curve in green and a program's in blue, over [-1, 1] and [-2, 4].

    Args:
      world: The target.
      program: Instructions, int32 ``[L, 4]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1].
    """
    picture, x, y = paper(size)
    across = 2 * x[0] - 1
    wanted = jnp.interp(across, world.x, world.y)
    for curve, color in (
        (wanted, (0.3, 0.7, 0.3)),
        (run(program, across), (0.2, 0.3, 0.9)),
    ):
        near = jnp.abs(y - (curve + 2) / 6) < 1.0 / size
        picture = jnp.where(near[..., None], jnp.array(color, jnp.float32), picture)
    return picture


def _require_program(name, program):
    """Raises for another shape, and for known numbers that no instruction has."""
    if jnp.ndim(program) != 2 or jnp.shape(program)[1] != len(LIMITS):
        raise ValueError(f"{name} has shape {jnp.shape(program)}; expected [L, 4]")
    for column, (what, count) in enumerate(zip(COLUMNS, LIMITS, strict=True)):
        require_index(f"{name}'s {what}", program[:, column], count)
