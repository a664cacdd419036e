"""Plans among people: the shift of a linear crowd in closed form, and descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_guidance import planning
from jaxlib_guidance.worlds import crowd

KEY = jax.random.key(0)


def pushed(plan):
    """Two people: one goes where the plan says, times 3; the other stays."""
    return jnp.stack([3 * plan, jnp.zeros_like(plan) + 7], axis=2)


def test_shift_in_closed_form():
    plan = jax.random.normal(KEY, (4, 5, 2))
    null = jnp.ones((5, 2))
    got = planning.counterfactual_shift(pushed, plan, null)
    want = [
        np.mean([[9 * np.sum((p - 1) ** 2), 0] for p in np.asarray(one)])
        for one in plan
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    slope = jax.grad(lambda p: planning.counterfactual_shift(pushed, p, null).sum())
    np.testing.assert_allclose(slope(plan), 9 * (plan - 1) * 2 / 10, rtol=1e-4)
    # Not moved by the null plan, nor who does not look.
    whole = jnp.broadcast_to(null, plan.shape)
    np.testing.assert_array_equal(
        planning.counterfactual_shift(pushed, whole, null), jnp.zeros(4)
    )
    blind = planning.counterfactual_shift(
        lambda p: pushed(jnp.zeros_like(p)), plan, whole
    )
    np.testing.assert_array_equal(blind, jnp.zeros(4))


def test_what_people_would_have_done_is_given():
    plan = jax.random.normal(KEY, (1, 3, 2))

    def shift(scale, null):
        return planning.counterfactual_shift(lambda p: scale * pushed(p), plan, null)[0]

    slope = jax.grad(lambda null: shift(1.0, null))(jnp.ones((3, 2)))
    np.testing.assert_array_equal(slope, jnp.zeros((3, 2)))


def test_importance_in_closed_form():
    pushes = jnp.array([3.0, 0.0, 1.0, -4.0])
    way = jnp.arange(1.0, 6.0)[:, None] * jnp.array([0.6, 0.8])

    def importance(pushes):
        return planning.agent_importance(lambda there: there @ pushes * way, 4)

    got = importance(pushes)
    np.testing.assert_allclose(got, [3 / 8, 0, 1 / 8, 4 / 8], rtol=1e-4, atol=1e-6)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(importance(pushes[order]), got[order], atol=1e-6)
    np.testing.assert_array_equal(importance(jnp.zeros(4)), jnp.zeros(4))


def test_nearness_as_a_loop():
    gen = np.random.default_rng(0)
    robot, people = gen.normal(size=(3, 4, 2)), gen.normal(size=(3, 4, 5, 2))
    far = np.array([0.5, 1.0, 2.0])
    got = planning.nearness_energy(
        jnp.float32(robot), jnp.float32(people), jnp.float32(far)
    )
    for b in range(3):
        parts = [
            sum(
                max(far[b] - np.linalg.norm(robot[b, t] - people[b, t, n]), 0) ** 2
                for n in range(5)
            )
            for t in range(4)
        ]
        np.testing.assert_allclose(got[b], np.mean(parts), rtol=1e-5)
    # At the same place the slope is a number.
    same = jnp.zeros((1, 2, 2))
    slope = jax.grad(lambda x: planning.nearness_energy(x, same[:, :, None], 1.0).sum())
    assert jnp.isfinite(slope(same)).all()


def test_descent_finds_the_projected_minimum():
    aim = jnp.array([[3.0, 4.0], [0.1, 0.0]])

    def energy(plans):
        return jnp.sum((plans - aim) ** 2, axis=(1, 2))

    def short(plans):
        far = jnp.linalg.norm(plans, axis=-1, keepdims=True)
        return plans / jnp.maximum(far, 1)

    starts = jax.random.normal(KEY, (3, 2, 2))
    run = jax.jit(
        lambda starts: planning.descend(
            energy, starts, optax.sgd(0.2), steps=60, project=short
        )
    )
    plan, value = run(starts)
    np.testing.assert_allclose(plan, [[0.6, 0.8], [0.1, 0.0]], atol=1e-4)
    np.testing.assert_allclose(value, 16, rtol=1e-4)
    # Without steps, the best of the starts as they can be carried out.
    plan, value = planning.descend(
        energy, starts, optax.sgd(0.2), steps=0, project=short
    )
    best = min(np.asarray(short(starts)), key=lambda p: energy(p[None])[0])
    np.testing.assert_array_equal(plan, best)


def test_descent_keeps_the_best_that_it_met():
    starts = jnp.array([[[1.0]], [[2.0]], [[jnp.nan]]])
    plan, value = planning.descend(  # Each step overshoots further.
        lambda p: p[:, 0, 0] ** 2, starts, optax.sgd(1.5), steps=5
    )
    assert (float(plan[0, 0]), float(value)) == (1, 1)


@pytest.mark.slow
def test_a_plan_of_less_shift_moves_people_less():
    world = crowd.default()._replace(noise=0.0)
    state, _ = crowd.reset(world, KEY)
    state = state._replace(people=state.people * 0.4)
    ways = jnp.array([[0.0, 1.0], [0.6, 0.7], [-0.6, 0.7]])
    starts = jnp.tile(ways[:, None], (1, 12, 1))

    def people(plans):
        def one(plan):
            told = state._replace(present=plan[0, 2])
            return crowd.follow(world, told, plan[:, :2], KEY)[1].people

        return jax.vmap(one)(plans)

    def shift(actions):
        plans = jnp.concatenate([actions, jnp.ones_like(actions[..., :1])], -1)
        return planning.counterfactual_shift(people, plans, jnp.zeros((12, 3)))

    tx = optax.adam(0.05)
    with jax.numpy_dtype_promotion("standard"):  # Adam counts in integers.
        run = jax.jit(lambda starts: planning.descend(shift, starts, tx, steps=20))
        plan, value = run(starts)
    assert value < 0.5 * shift(starts).min()
    # What the energy says is what the world's counterfactual says.
    _, made = crowd.follow(world, state, plan, KEY)
    _, would = crowd.follow(world, crowd.alone(state), plan, KEY)
    true = jnp.mean(jnp.sum((made.people - would.people) ** 2, -1))
    np.testing.assert_allclose(value, true, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: planning.counterfactual_shift(pushed, jnp.ones((5, 2)), 0.0),
            r"plan has shape \(5, 2\); expected \[B, T, A\]",
        ),
        (
            lambda: planning.counterfactual_shift(pushed, jnp.ones((1, 5, 2)), 0.0),
            r"null has shape \(\); expected \(1, 5, 2\) or \(5, 2\)",
        ),
        (
            lambda: planning.counterfactual_shift(
                lambda p: p, jnp.ones((1, 5, 2)), jnp.ones((5, 2))
            ),
            r"forecast returned has shape \(1, 5, 2\); expected \[1, 5, N, D\]",
        ),
        (
            lambda: planning.agent_importance(lambda there: there, 0),
            "count is 0; expected at least 1",
        ),
        (
            lambda: planning.agent_importance(lambda there: there, 3),
            r"forecast returned has shape \(3,\); expected \[T, D\]",
        ),
        (
            lambda: planning.nearness_energy(jnp.ones((1, 5, 2)), jnp.ones((1, 5)), 1),
            r"others has shape \(1, 5\); expected \[B, T, N, D\]",
        ),
        (
            lambda: planning.nearness_energy(
                jnp.ones((1, 4, 2)), jnp.ones((1, 5, 3, 2)), 1.0
            ),
            r"points has shape \(1, 4, 2\); expected \(1, 5, 2\)",
        ),
        (
            lambda: planning.nearness_energy(
                jnp.ones((1, 5, 2)), jnp.ones((1, 5, 3, 2)), -1.0
            ),
            "distance is -1.0; expected at least 0",
        ),
        (
            lambda: planning.descend(jnp.sum, jnp.ones((2, 2)), optax.sgd(1), steps=1),
            r"starts has shape \(2, 2\); expected \[R, T, A\]",
        ),
        (
            lambda: planning.descend(
                jnp.sum, jnp.ones((2, 2, 1)), optax.sgd(1), steps=-1
            ),
            "steps is -1; expected at least 0",
        ),
        (
            lambda: planning.descend(
                jnp.sum, jnp.ones((2, 2, 1)), optax.sgd(1), steps=1
            ),
            r"what energy returned has shape \(\); expected \(2,\)",
        ),
    ],
)
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_starts_do_not_touch_each_other():
    """Nor does one whose slope is huge or no number shorten another's step."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    one = jnp.ones((1, 3, 2))
    alone = planning.descend(lambda x: jnp.sum(x**2, (1, 2)), one, tx, steps=5)
    for other in (100 * one, jnp.nan * one):
        both = jnp.concatenate([one, other])
        found = planning.descend(lambda x: jnp.sum(x**2, (1, 2)), both, tx, steps=5)
        jax.tree.map(np.testing.assert_array_equal, found, alone)


def test_nobody_is_moved_and_half_precision_is_widened():
    plan = jnp.ones((2, 4, 2))
    nobody = planning.counterfactual_shift(
        lambda x: jnp.zeros((2, 4, 0, 2)), plan, plan
    )
    np.testing.assert_array_equal(nobody, [0, 0])
    points, others = jnp.zeros((1, 4, 2), jnp.bfloat16), jnp.full((1, 4, 1, 2), 0.5)
    near = planning.nearness_energy(points, others, jnp.bfloat16(1.0))
    np.testing.assert_allclose(near, (1 - 0.5**0.5) ** 2, rtol=1e-6)
