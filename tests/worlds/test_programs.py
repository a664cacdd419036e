"""Programs against an interpreter in Python, and the targets' own programs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import programs as world


def interpret(program, x):
    """One input, one instruction at a time."""
    registers = [0.0] * 4
    for op, a, b, to in np.asarray(program).tolist():
        sources = [*registers, x]
        a, b = sources[a], sources[b]
        near = abs(b) < 1e-3
        result = [a + b, a - b, a * b, 1.0 if near else a / b]
        result += [math.sin(a), math.cos(a), a, 1.0]
        result = result[op]
        registers[to] = min(max(result, -100.0), 100.0)
    return registers[0]


def test_programs_mean_what_an_interpreter_says():
    x = np.linspace(-1, 1, 5)
    draw = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 200))
    got = jax.jit(jax.vmap(lambda p: world.run(p, x)))(draw)
    want = np.array([[interpret(p, v) for v in x] for p in draw])
    # Not where a divisor falls on the border, or a sine of a large number.
    close = np.isclose(got, want, rtol=1e-3, atol=1e-3).all(1)
    assert close.mean() > 0.97
    assert len(np.unique(np.asarray(draw)[..., 0])) == world.OPS


@pytest.mark.parametrize("target", world.TARGETS)
def test_a_known_program_hits_its_target(target):
    made = world.make(target)
    assert made.x.shape == (20,)
    assert float(world.error(made, world.solve(target))) < 1e-5
    x = np.float64(made.x)
    want = {
        "quartic": x**4 + x**3 + x**2 + x,
        "quintic": x**5 - 2 * x**3 + x,
        "sines": np.sin(x**2) * np.cos(x) - 1,
    }[target]
    np.testing.assert_allclose(made.y, want, atol=1e-5)


def test_children():
    one, other = world.solve("quartic"), world.solve("sines") + 0
    other = (other + 1) % np.array(world.LIMITS)
    other[:, 0] = (one[:, 0] + 1) % world.OPS  # Differs from the first everywhere.
    keys = jax.random.split(jax.random.key(0), 100)
    children = np.asarray(jax.jit(jax.vmap(lambda k: world.cross(k, one, other)))(keys))
    from_one = (children == one).all(-1)
    assert (from_one | (children == other).all(-1)).all()
    assert (np.abs(np.diff(from_one.astype(int))).sum(1) <= 2).all()
    np.testing.assert_allclose(world.distance(children, one), (~from_one).mean(-1))
    same = world.mutate(jax.random.key(1), one, 0.0)
    np.testing.assert_array_equal(same, one)
    fresh = np.asarray(jax.jit(jax.vmap(lambda k: world.mutate(k, one, 1.0)))(keys))
    assert (fresh < np.array(world.LIMITS)).all()
    np.testing.assert_allclose((fresh[..., 0] == 2).mean(), 1 / 8, atol=0.04)


def test_errors_and_a_picture():
    made = world.make("quartic")
    picture = np.asarray(world.render(made, world.solve("quartic"), size=48))
    assert (picture == np.float32([0.2, 0.3, 0.9])).all(-1).sum() > 40
    with pytest.raises(ValueError, match="target is 'cubic'"):
        world.make("cubic")
    with pytest.raises(ValueError, match="points is 1"):
        world.make("quartic", points=1)
    with pytest.raises(ValueError, match="target is 'cubic'"):
        world.solve("cubic")
    with pytest.raises(ValueError, match="length is 0"):
        world.reset(jax.random.key(0), length=0)
    with pytest.raises(ValueError, match="program has shape"):
        world.run(jnp.zeros(4, jnp.int32), made.x)
