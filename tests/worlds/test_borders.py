"""Numbers out of range and NaN are refused, by name, where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import (
    chains,
    craft,
    gaussian_bandit,
    grids,
    maze,
    pendulum,
    programs,
    pusher,
    room,
    site_graph,
    sums,
)

KEY, NAN = jax.random.key(0), float("nan")
SITE = site_graph.build(KEY, pages=4, links=2, features=3)
PROGRAM = np.zeros((4, 4), np.int32)
Bandit = gaussian_bandit.Bandit


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: gaussian_bandit.reset(Bandit(prior_mean=NAN), KEY),
            "prior_mean is nan",
        ),
        (lambda: gaussian_bandit.solve(Bandit(prior_std=0.0), 5), "prior_std is 0"),
        (lambda: gaussian_bandit.solve(Bandit(noise=-1.0), 5), "noise is -1"),
        (lambda: gaussian_bandit.solve(Bandit(), 5, gamma=NAN), "gamma is nan"),
        (lambda: gaussian_bandit.solve(Bandit(), 5, points=1), "points is 1"),
        (
            lambda: gaussian_bandit.posterior(Bandit(), jnp.array([-1]), 0.0),
            "pulls is -1",
        ),
        (lambda: gaussian_bandit.step(Bandit(), 0.0, 2, KEY), "action is 2"),
        (
            lambda: gaussian_bandit.solve(Bandit(prior_std=np.inf), 5),
            "prior_std is inf; expected more than 0 and finite",
        ),
        (
            lambda: gaussian_bandit.step(Bandit(), jnp.zeros(3), 1, KEY),
            r"state has shape \(3,\); expected \(\)",
        ),
        (
            lambda: craft.step(craft.build(), 0, jnp.zeros(2, int), KEY),
            r"action has shape \(2,\); expected \(\)",
        ),
        (
            lambda: pusher.spread(jnp.zeros((8, 2)), jnp.zeros((3, 1))),
            r"goals has shape \(3, 1\); expected \(3, 2\)",
        ),
        (lambda: site_graph.build(KEY, stray=NAN), "stray is nan"),
        (lambda: site_graph.build(KEY, stray=1.5), "stray is 1.5; expected 0 to 1"),
        (lambda: site_graph.build(KEY, features=0), "features is 0"),
        (lambda: site_graph.step(SITE, 4, 0, KEY), "state is 4"),
        (lambda: site_graph.step(SITE, 0, 2, KEY), "action is 2"),
        (lambda: site_graph.solve(SITE, jnp.ones(3, bool), -1), "clicks is -1"),
        (
            lambda: site_graph.success(
                SITE, jnp.ones(3, bool), jnp.full((4, 2), NAN), 3
            ),
            "policy is nan",
        ),
        (lambda: craft.step(craft.build(), 0, 5, KEY), "action is 5"),
        (lambda: craft.step(craft.build(), -1, 0, KEY), "state is -1"),
        (lambda: craft.step(craft.build(), 0, 0.5, KEY), "action is 0.5; expected int"),
        (lambda: craft.render(craft.build(), 0, scale=0), "scale is 0"),
        (lambda: programs.mutate(KEY, PROGRAM, NAN), "rate is nan"),
        (lambda: programs.mutate(KEY, PROGRAM, 2.0), "rate is 2"),
        (lambda: programs.run(PROGRAM + 6, jnp.ones(2)), "program's a is 6"),
        (lambda: programs.cross(KEY, PROGRAM, PROGRAM[:2]), "other has shape"),
        (lambda: programs.distance(PROGRAM, PROGRAM[:1]), "other has 1 instructions"),
        (lambda: room.make(KEY, noise=NAN), "noise is nan"),
        (lambda: room.make(KEY, speed=-0.1), "speed is -0.1"),
        (lambda: grids.four_rooms(slip=NAN), "slip is nan"),
        (
            lambda: chains.write(KEY, sums.draw(sums.Sums(), KEY), length=9, error=NAN),
            "error is nan",
        ),
    ],
)
def test_bad_numbers(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_traced_numbers_pass():
    value = jax.jit(lambda std: gaussian_bandit.solve(Bandit(prior_std=std), 2).value)
    np.testing.assert_allclose(value(1.0), gaussian_bandit.solve(Bandit(), 2).value)
    jax.eval_shape(lambda s: site_graph.build(KEY, stray=s), jnp.float32(0.5))
    jax.eval_shape(lambda r: programs.mutate(KEY, PROGRAM, r), jnp.float32(0.5))


def test_the_slope_at_the_discs_centre_is_nothing():
    made = maze.default()
    slope = jax.grad(lambda p: maze.pay(made, p))
    np.testing.assert_array_equal(slope(made.goal), 0)
    beside = slope(made.goal + jnp.array([0.05, 0.0]))
    np.testing.assert_allclose(beside, [-1 / made.radius, 0], atol=1e-5)


def test_what_is_not_a_number_is_not_safe_and_has_no_worst():
    made = pusher.default()
    state, _ = pusher.reset(made, KEY)
    assert pusher.unsafe(made, state._replace(speed=state.speed * jnp.nan))
    assert not pusher.unsafe(made, state)
    for options, message in (({"side": 0}, "side is 0"), ({"sweeps": -1}, "sweeps")):
        with pytest.raises(ValueError, match=message):
            pusher.solve(2, **options)
    rod = pendulum.make(cap=1.0)

    def fails(seen):
        return jnp.where(jnp.abs(seen[0]) > 0.5, jnp.nan, -8 * seen[0] - 2 * seen[1])

    start = jnp.array([[0.1, 0.0]], jnp.bfloat16)
    found, _ = pendulum.worst(rod, fails, start, steps=4, points=5)
    assert np.isnan(found).all()
    for options, message in (
        ({"attenuation": -10.0}, "attenuation is -10"),
        ({"attenuation": 10.0, "sweeps": 0}, "sweeps is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pendulum.solve(rod, **options)


def test_a_policy_of_links_is_probabilities():
    goal = jnp.ones(3, bool)
    with pytest.raises(ValueError, match="rows that do not sum to 1"):
        site_graph.success(SITE, goal, jnp.ones((4, 2)), 3)
