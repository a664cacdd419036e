"""Trajectories, energies and plans, against linear systems and loops of Python."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import planning

RNG = np.random.default_rng(0)
A, S, T = 1, 2, 6
F = jnp.array([[1.0, 0.5], [0.0, 0.8]])
G = jnp.array([[0.1], [0.7]])
UNIT = planning.Layout(jnp.zeros(A), jnp.ones(A), jnp.zeros(S), jnp.ones(S))


def linear(states, actions):
    return states @ F.T + actions @ G.T


def roll(state, actions):
    """The states of a linear system, by a loop."""
    states = [state]
    for action in np.moveaxis(actions, -2, 0)[:-1]:
        states.append(np.asarray(linear(states[-1], action)))
    return planning.Trajectory(jnp.asarray(actions), jnp.stack(states, axis=-2))


def some(count=3):
    start, actions = RNG.normal(size=(count, S)), RNG.normal(size=(count, T, A))
    return roll(start.astype(np.float32), actions.astype(np.float32))


def gaussian():
    """The exact denoiser of N(0, I)."""
    process = jg.VPCosine()

    def mean(x, t, cond):
        a, s = (jnp.expand_dims(f(t), (1, 2)) for f in (process.alpha, process.sigma))
        return a * x / (a**2 + s**2)

    return jg.parametrize(mean, process, predicts="x0")


def test_arrays_of_trajectories_and_back():
    data = planning.Trajectory(
        3 + 2 * RNG.normal(size=(50, T, A)), -1 + 0.1 * RNG.normal(size=(50, T, S))
    )
    layout = planning.fit_layout(data)
    x = layout.pack(jax.tree.map(jnp.float32, data))
    assert x.shape == (50, T, A + S)
    np.testing.assert_allclose(x.reshape(-1, A + S).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.reshape(-1, A + S).std(0), 1, atol=1e-5)
    back = layout.unpack(x)
    for got, want in zip(back, data, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    # What does not vary is not blown up.
    still = planning.fit_layout(planning.Trajectory(np.ones((4, 1)), np.ones((4, 2))))
    np.testing.assert_allclose(still.state_std, 1e-3)


def test_windows_are_slices():
    data = planning.Trajectory(RNG.normal(size=(2, 7, A)), RNG.normal(size=(2, 7, S)))
    for part, whole in zip(planning.windows(data, 3), data, strict=True):
        assert part.shape == (2, 5, 3, whole.shape[-1])
        for i in range(5):
            np.testing.assert_array_equal(part[:, i], whole[:, i : i + 3])


def test_dynamics_energy_is_that_of_the_residuals():
    made = some()
    assert float(planning.dynamics_energy(made, linear).max()) < 1e-10
    off = made.states + jnp.asarray(RNG.normal(size=made.states.shape), jnp.float32)
    got = planning.dynamics_energy(
        made._replace(states=off), linear, jnp.array([1, 2.0])
    )
    want = np.zeros(3)
    for b in range(3):
        for t in range(T - 1):
            led = F @ off[b, t] + G @ made.actions[b, t]
            want[b] += (
                np.asarray((off[b, t + 1] - led) / jnp.array([1, 2.0])) ** 2
            ).sum() / (T - 1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_goals_phases_and_rates_in_numbers():
    values = jnp.array([[1.0, 1.0, 2.0, 3.0]])
    # From 1 to 3 in two steps: 1, 2, 3, 3.
    got = planning.goal_errors(values, 3.0, 2)
    np.testing.assert_allclose(got, [[0, 1, 1, 0]])
    points = jnp.array([[[0.0, 0.0], [3.0, 4.0]]])
    reach = planning.alignment_errors(points, jnp.zeros((1, 2, 2)))
    np.testing.assert_allclose(reach, [[0, 25]])
    np.testing.assert_allclose(planning.rate_energy(values, 0.75), [2 * 0.25**2 / 3])
    blend = planning.phase_blend(jnp.array([[0.1, 0.15, 0.2]]), 0.15, 0.02)
    np.testing.assert_allclose(blend[0, 1], 0.5, atol=1e-6)
    np.testing.assert_allclose(blend[0, 2], 1 / (1 + np.exp(-2.5)), rtol=1e-5)
    hard = planning.phase_blend(jnp.array([0.1, 0.2]), 0.15, 1e-6)
    np.testing.assert_array_equal(hard, [0, 1])
    act = jnp.array([[4.0, 8.0]])
    blend = jnp.array([[0.25, 1.0]])
    np.testing.assert_allclose(planning.phased(reach, act, blend), [(4 + 8 + 25) / 2])
    slopes = jax.grad(lambda *a: planning.phased(*a, blend).sum(), (0, 1))(reach, act)
    np.testing.assert_allclose(slopes, [[[0.125, 0.5]], [[0.375, 0]]])


def test_the_hand_goes_to_the_handle_and_not_the_handle_to_the_hand():
    """No gradient reaches targets, the way to a goal's first value, or the blend."""
    points, targets = jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2))
    total = lambda p, q: planning.alignment_errors(p, q).sum()  # noqa: E731
    to_points, to_targets = jax.grad(total, (0, 1))(points, targets)
    assert to_points.all()
    assert not to_targets.any()
    values = jnp.array([[1.0, 2.0, 4.0]])
    slope = jax.grad(lambda v: planning.goal_errors(v, 5.0, 2).sum())(values)
    np.testing.assert_allclose(slope, [[0.0, 2 * (2 - 3), 2 * (4 - 5)]])
    blend = jax.grad(lambda d: planning.phase_blend(d, 0.1, 0.1).sum())(values)
    assert not blend.any()


def test_plans_of_a_linear_system_are_the_nearest_that_satisfy_it():
    """Data N(0, I), dynamics, start and goal as exact observations: the guided plan is
    the projection of the unguided one of the same noise on all that is asked."""
    shape, goal = (T, A + S), 1.5

    def asked(x):
        actions, states = x[..., :A], x[..., A:]
        residual = states[:, 1:] - linear(states[:, :-1], actions[:, :-1])
        parts = residual, states[:, :1], states[:, -1:, :1]
        return jnp.concatenate([p.reshape(len(x), -1) for p in parts], axis=1)

    operator = jg.guidance.linear_map(asked, shape)
    state = jnp.asarray(RNG.normal(size=(4, S)), jnp.float32)
    rest = jnp.zeros((4, (T - 1) * S))
    y = jnp.concatenate([rest, state, jnp.full((4, 1), goal)], axis=1)
    seen = jg.guidance.measurement(y, operator, 1e-4)
    term = jg.guidance.mmps(seen, iterations=y.shape[1])
    denoiser, keys = gaussian(), jg.sample_keys(jax.random.key(0), 4)
    grid = jg.logsnr_grid(denoiser.process, 40)
    draw = jax.jit(
        lambda guidance: planning.plan(
            *(keys, denoiser, jg.ddim(), grid, UNIT, state, T), guidance=guidance
        )
    )
    made, free = draw(term), draw(None)
    rows = np.asarray(asked(jnp.eye(T * (A + S)).reshape(-1, *shape))).T
    z = np.asarray(UNIT.pack(free)).reshape(4, -1)
    want = z + (np.asarray(y) - z @ rows.T) @ np.linalg.pinv(rows).T
    got = np.asarray(UNIT.pack(made)).reshape(4, -1)
    np.testing.assert_allclose(got, want, atol=0.02)
    assert float(planning.dynamics_energy(made, linear).max()) < 1e-4
    np.testing.assert_allclose(made.states[:, -1, 0], goal, atol=5e-3)
    # The plan begins in the given state to the bit; unguided ones ignore the rest.
    np.testing.assert_array_equal(made.states[:, 0], state)
    np.testing.assert_array_equal(free.states[:, 0], state)
    assert float(planning.dynamics_energy(free, linear).min()) > 0.1


def test_an_energy_says_how_far_a_goal_is():
    """Guided at the estimate; a goal outside the data is told by what is left."""
    denoiser, keys = gaussian(), jg.sample_keys(jax.random.key(1), 16)
    grid = jg.logsnr_grid(denoiser.process, 20)
    last = lambda made: planning.goal_errors(made.states[..., 0], 1.0, 3).mean(1)  # noqa: E731
    state, traced = jnp.zeros((16, S)), []

    def left(goal):
        traced.append(goal)

        def energy(made):
            return planning.goal_errors(made.states[..., 0], goal, 3).mean(1)

        term = jg.energy(UNIT.energy(energy), 20.0, through="denoised")
        made = planning.plan(
            *(keys, denoiser, jg.ddim(), grid, UNIT, state, T), guidance=term
        )
        return energy(made).mean(), last(made).mean()

    left = jax.jit(left)
    near, far = left(1.0), left(10.0)
    free = planning.plan(keys, denoiser, jg.ddim(), grid, UNIT, state, T)
    assert float(near[0]) < 0.5 * float(last(free).mean())
    assert float(far[0]) > 20 * float(near[0])
    assert len(traced) == 1


def test_a_plan_depends_on_its_own_key():
    denoiser, grid = gaussian(), jnp.array([0.9, 0.5, 0.1, 0.0])
    state = jnp.ones((5, S))
    keys = jg.sample_keys(jax.random.key(0), 5)
    draw = partial(planning.plan, denoiser=denoiser, sampler=jg.ddpm(), grid=grid)
    whole = draw(keys, layout=UNIT, state=state, horizon=T)
    one = draw(keys[3:4], layout=UNIT, state=state[3:4], horizon=T)
    np.testing.assert_allclose(one.actions[0], whole.actions[3], atol=1e-6)


def test_carrying_out_is_a_loop_of_python():
    def make(keys, seen):
        noise = jax.vmap(lambda k: jax.random.normal(k, (4, A)))(keys)
        states = jnp.repeat(seen[:, None], 4, axis=1)
        return planning.Trajectory(noise + seen[:, None, :1], states)

    def step(state, action):
        after = linear(state, action)
        return after, after, after[:, 0]

    keys = jg.sample_keys(jax.random.key(2), 3)
    start = jnp.asarray(RNG.normal(size=(3, S)), jnp.float32)
    carry = jax.jit(
        lambda: planning.carry_out(
            *(keys, make, step, start, start), plans=2, execute=3
        )
    )
    got = carry()
    state, actions, states, rewards, planned = start, [], [], [], []
    for i in range(2):
        made = make(jg.rng.fold(keys, i), state)
        planned.append(made.states)
        for t in range(3):
            actions.append(made.actions[:, t])
            states.append(state)
            state, _, reward = step(state, made.actions[:, t])
            rewards.append(reward)
    for a, b in (
        (got.trajectory.actions, jnp.stack(actions, 1)),
        (got.trajectory.states, jnp.stack(states, 1)),
        (got.rewards, jnp.stack(rewards, 1)),
        (got.planned, jnp.stack(planned, 1)),
        (got.state, state),
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_actions_lead_to_is_a_loop_and_the_best_of_them_is_chosen():
    made = some(12)
    led = planning.roll_out(linear, made.states[:, 0], made.actions)
    np.testing.assert_allclose(led.states, made.states, atol=1e-5)
    # Plans that dream: their own states are at the goal, their actions lead elsewhere.
    plans = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), made)
    start = plans.states[:, :1, :1]
    plans = plans._replace(states=jnp.broadcast_to(start, plans.states.shape))
    want = roll(np.asarray(start[:, 0, 0])[:, None].repeat(4, 1), plans.actions)

    def energy(made):
        return jnp.sum(made.states[..., 0] ** 2, axis=-1)

    best = np.asarray(jnp.argmin(energy(want), axis=1))
    got = jax.jit(lambda p: planning.choose(p, linear, energy))(plans)
    np.testing.assert_array_equal(got.actions, plans.actions[np.arange(3), best])
    assert len(set(best)) > 1

    few = planning.choose(plans, linear, energy, steps=2)
    short = want._replace(states=want.states[:, :, :3])
    best = np.asarray(jnp.argmin(energy(short), axis=1))
    np.testing.assert_array_equal(few.actions, plans.actions[np.arange(3), best])

    def broken(made):
        return jnp.where(made.actions[:, 0, 0] == got.actions[:, 0, 0], jnp.nan, 1.0)

    other = planning.choose(plans, linear, broken)
    assert (other.actions[:, 0] != got.actions[:, 0]).all()
    # Nor is a plan with a hole in it.
    torn = plans._replace(actions=plans.actions.at[:, 0, -1].set(jnp.nan))
    one = planning.choose(torn, linear, lambda p: 0 * p.states[:, 0, 0])
    np.testing.assert_array_equal(one.actions, plans.actions[:, 1])
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), plans)
    assert planning.choose(half, linear, energy).actions.dtype == jnp.bfloat16


def test_learned_dynamics_begin_at_rest_and_learn_a_linear_system():
    made = some(64)
    layout = planning.fit_layout(jax.tree.map(np.asarray, made))
    params = planning.init_dynamics(jax.random.key(0), layout, (32,))
    at = made.states[:, :-1], made.actions[:, :-1]
    np.testing.assert_array_equal(planning.apply_dynamics(params, layout, *at), at[0])
    inverse = planning.init_inverse(jax.random.key(1), layout, (32,))
    both = made.states[:, :-1], made.states[:, 1:]
    shape = planning.apply_inverse(inverse, layout, *both).shape
    assert shape == made.actions[:, :-1].shape

    def loss(params):
        led = planning.apply_dynamics(params, layout, *at)
        return jnp.mean(((led - made.states[:, 1:]) / layout.state_std) ** 2)

    @jax.jit
    def descend(params):
        def one(params, _):
            slope = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), None

        return jax.lax.scan(one, params, length=300)[0]

    assert float(loss(descend(params))) < 0.05 * float(loss(params))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_plans_lower_for_accelerators(platform):
    denoiser, grid = gaussian(), jnp.array([0.9, 0.5, 0.0])

    def draw(keys, state, goal):
        energy = UNIT.energy(
            lambda made: planning.goal_errors(made.states[..., 0], goal, 3).mean(1)
        )
        term = jg.energy(energy, 1.0)
        return planning.plan(
            *(keys, denoiser, jg.ddim(), grid, UNIT, state, T), guidance=term
        )

    keys = jg.sample_keys(jax.random.key(0), 2)
    shapes = keys, jax.ShapeDtypeStruct((2, S), jnp.float32), jnp.float32(0)
    text = jax.export.export(jax.jit(draw), platforms=[platform])(*shapes).mlir_module()
    assert "all_gather" not in text


DENOISER, GRID = gaussian(), jnp.array([0.9, 0.0])
KEYS, TWO = jg.sample_keys(jax.random.key(0), 2), some(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNIT.pack(planning.Trajectory(np.ones((2, T, 3)), 0)), "actions have"),
        (lambda: UNIT.unpack(np.ones((2, T, 7))), r"x has shape .2, 6, 7.; expected"),
        (
            lambda: planning.fit_layout(
                planning.Trajectory(np.ones(3), np.array([np.nan]))
            ),
            "states have 1 values; expected finite",
        ),
        (lambda: planning.fit_layout(some(), least=0), "least is 0"),
        (lambda: planning.windows(some(), T + 1), "horizon is 7; expected 1 to 6"),
        (
            lambda: planning.windows(
                planning.Trajectory(np.ones((2, T, A)), np.ones((2, 4, S))), 3
            ),
            "actions and states have shapes",
        ),
        (
            lambda: planning.dynamics_energy(
                planning.Trajectory(jnp.ones((3, 2, A)), jnp.ones((3, 4, S))), linear
            ),
            r"actions has shape .3, 2, 1.; expected .3, 4, 1.",
        ),
        (lambda: planning.goal_errors(jnp.ones((2, 3)), 1.0, 0), "steps is 0"),
        (lambda: planning.goal_errors(jnp.ones((2, 1)), 1.0, 1), "at least 2 steps"),
        (lambda: planning.goal_errors(jnp.ones((2, 3)), jnp.ones(3), 1), "goal has"),
        (lambda: planning.alignment_errors(jnp.ones((1, 2, 2)), 0.0), "targets has"),
        (lambda: planning.phase_blend(jnp.ones(2), 0.1, 0), "softness is 0"),
        (lambda: planning.rate_energy(jnp.ones((2, 3)), -1), "limit is -1"),
        (
            lambda: planning.phased(
                jnp.ones((1, 2)), jnp.ones((1, 3)), jnp.ones((1, 2))
            ),
            "act has shape",
        ),
        (
            lambda: planning.dynamics_energy(some(), lambda s, a: s[..., :1]),
            "what dynamics returned has shape",
        ),
        (
            lambda: planning.plan(
                *(KEYS, DENOISER, jg.ddim(), GRID, UNIT, jnp.ones((2, 3)), T)
            ),
            r"state has shape .2, 3.; expected .2, 2.",
        ),
        (
            lambda: planning.plan(
                *(KEYS, DENOISER, jg.ddim(), GRID, UNIT, jnp.ones((2, S)), 1)
            ),
            "horizon is 1",
        ),
        (
            lambda: planning.carry_out(
                *(KEYS, lambda k, s: TWO, None, None, jnp.ones((2, S))),
                plans=1,
                execute=T + 1,
            ),
            "execute is 7; expected 1 to 6",
        ),
        (
            lambda: planning.roll_out(linear, jnp.ones((2, S)), jnp.ones((3, T, A))),
            r"state has shape .2, 2.; expected .3, 2.",
        ),
        (
            lambda: planning.choose(some(), linear, lambda p: p.states[:, 0, 0]),
            r"expected .B, M, T, A. and .B, M, T, S.",
        ),
        (
            lambda: planning.choose(
                jax.tree.map(lambda x: x[None], some()), linear, None, steps=T
            ),
            "steps is 6; expected 1 to 5, or None",
        ),
        (
            lambda: planning.carry_out(
                KEYS, None, None, None, None, plans=0, execute=1
            ),
            "plans is 0",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
