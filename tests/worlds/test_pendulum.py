"""A pushed pendulum: the usual equations, a Riccati solution, and the worst pushes."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import pendulum as world


def plain(state, torque, push, cap, price=0.1):
    """The usual swing-up task's equations (g = 10, m = l = 1), with a push."""
    angle, speed = state
    torque, push = np.clip(torque, -2, 2), np.clip(push, -cap, cap)
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    cost = wrapped**2 + 0.1 * speed**2 + price * torque**2
    speed = speed + (3 * 10 / 2 * np.sin(angle) + 3 * (torque + push)) * 0.05
    speed = np.clip(speed, -8, 8)
    return np.array([angle + speed * 0.05, speed]), cost


def test_steps_as_the_usual_equations():
    made = world.make(cap=1.0)
    state = np.array([0.1, -0.2])
    for torque, push in np.random.default_rng(0).normal(scale=2, size=(40, 2)):
        after, seen, reward, over = world.step(
            made, jnp.float32(state), jnp.float32([torque, push]), None
        )
        state, cost = plain(state, torque, push, 1.0)
        state[0] = (state[0] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(after, state, atol=2e-4)
        np.testing.assert_allclose(reward, -cost, rtol=1e-4, atol=1e-4)
        state = np.asarray(after, np.float64)
        assert not over
    np.testing.assert_array_equal(seen, after)


def test_the_linear_saddle():
    """Neither player gains by another linear gain, by sums of the linear system."""
    made = world.make()
    a = np.array([[1 + 15 * 0.05**2, 0.05], [15 * 0.05, 1.0]])
    b = 3 * 0.05 * np.array([0.05, 1.0])

    def value(k, l, g, steps=400):
        x, total = np.array([1.0, 0.5]), 0.0
        for _ in range(steps):
            u, d = -k @ x, l @ x
            total += x[0] ** 2 + 0.1 * x[1] ** 2 + 0.1 * u**2 - g**2 * d**2
            x = a @ x + b * (u + d)
        return total

    g = 2.0
    k, l = world.solve(made, g)
    here = value(k, l, g)
    for i, off in product(range(2), (-0.05, 0.05)):
        step = off * np.eye(2)[i]
        assert value(k + step, l, g) > here
        assert value(k, l + step, g) < here
    alone, still = world.solve(made, np.inf)
    np.testing.assert_array_equal(still, 0)
    assert (np.abs(alone) < np.abs(k)).all()
    with pytest.raises(ValueError, match="attenuation is 0.1"):
        world.solve(made, 0.1)


@pytest.mark.slow
def test_the_worst_pushes():
    """As good as any of all 3^6 sequences, and better than pushes by the sign."""
    made = world.make(cap=1.5)
    gain = jnp.float32(world.solve(made, np.inf)[0])
    policy = lambda x: -gain @ x  # noqa: E731
    starts = jnp.array([[0.15, 0.1], [-0.1, 0.2]])
    costs, pushes = jax.jit(lambda s: world.worst(made, policy, s, steps=6, points=41))(
        starts
    )

    def pay(start, pushes):
        state, total = np.asarray(start, np.float64), 0.0
        for push in pushes:
            state, cost = plain(state, -np.asarray(gain) @ state, push, 1.5)
            total += cost
        return total

    for start, cost, chosen in zip(starts, costs, pushes, strict=True):
        best = max(pay(start, 1.5 * np.array(x)) for x in product((-1, 0, 1), repeat=6))
        np.testing.assert_allclose(pay(start, chosen), cost, rtol=1e-4)
        assert best * 0.99 <= float(cost) <= best * 1.0001
    free, _ = world.worst(world.make(), policy, starts, steps=6, points=5)
    assert (np.asarray(free) < np.asarray(costs)).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.make(cap=float("nan")), "cap is nan"),
        (lambda: world.make(price=0), "price is 0; expected more than 0"),
        (
            lambda: world.step(world.make(), jnp.ones(2), jnp.ones(1), None),
            "action has shape",
        ),
        (lambda: world.worst(world.make(), jnp.sum, jnp.ones(2)), "start has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
