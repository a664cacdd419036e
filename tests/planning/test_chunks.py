"""Chunks of a flow policy: their joints, their delay and their cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import guidance, planning

RNG = np.random.default_rng(0)
B, H, A, S = 3, 6, 2, 2
FLOW = jg.RectifiedFlow()
# Actions and observations of another scale, so that nothing passes unscaled.
LAYOUT = planning.Layout(
    jnp.array([1.0, -2.0]), jnp.array([2.0, 0.5]), jnp.ones(S), jnp.full(S, 3.0)
)
KEYS = jg.sample_keys(jax.random.key(0), B)
SEEN = jnp.asarray(RNG.normal(size=(B, S)), jnp.float32)
GRID = jg.flow_grid(FLOW, 5)


def unit(seen=None):
    """The denoiser of N(0, I), which may note the conditions that it meets."""

    def apply(x, t, cond):
        if seen is not None:
            seen.append(cond)
        a, s = (f(t)[:, None, None] for f in (FLOW.alpha, FLOW.sigma))
        return a * x / (a**2 + s**2)

    return jg.parametrize(apply, FLOW)


def draw(denoiser, **options):
    return planning.draw_chunk(
        *(KEYS, denoiser, jg.euler(), GRID, LAYOUT, SEEN, H), **options
    )


def test_a_new_policy_moves_nothing_and_takes_what_is_seen():
    params = planning.init_flow_policy(jax.random.key(1), LAYOUT, H, (16,))
    x = jnp.asarray(RNG.normal(size=(B, H, A)), jnp.float32)
    t = jnp.array([0.1, 0.5, 1.0])
    np.testing.assert_array_equal(planning.flow_policy(params)(x, t, SEEN).x0, x)
    # Once the last layer is something, chunk, time and observation all count.
    kernel = jax.random.normal(jax.random.key(2), (16, H * A))
    params["layer1"]["kernel"] = kernel
    apply = lambda x, t, o: planning.flow_policy(params)(x, t, o).x0 - x  # noqa: E731
    slopes = jax.grad(lambda *a: (apply(*a) ** 2).sum(), (0, 1, 2))(x, t, SEEN)
    assert all(bool((s != 0).all()) for s in slopes)


def test_a_chunk_goes_on_from_what_is_held():
    """Data N(0, I), no limit: frozen actions are met, others are drawn as before."""
    held = jnp.asarray(RNG.normal(size=(B, H, A)), jnp.float32).at[:, 4:].set(jnp.nan)
    weights = guidance.chunk_weights(H, 2, 4, "zeros")
    conditions = []
    free = draw(unit(conditions))
    np.testing.assert_allclose(conditions[0], (SEEN - 1) / 3, atol=1e-6)
    made = draw(unit(), held=held, weights=weights, w_max=jnp.inf)
    np.testing.assert_allclose(made[:, :2], held[:, :2], atol=1e-4)
    np.testing.assert_allclose(made[:, 2:], free[:, 2:], atol=1e-5)
    # Nothing held is nothing done, beside other guidance too.
    none = draw(unit(), held=held, weights=0 * weights)
    np.testing.assert_array_equal(none, free)
    term = jg.energy(lambda x0, ctx: (x0**2).sum((1, 2)), 0.3, through="denoised")
    alone = draw(unit(), guidance=term)
    both = draw(unit(), guidance=term, held=held, weights=0 * weights)
    np.testing.assert_allclose(both, alone, atol=1e-6)
    assert float(jnp.abs(alone - free).max()) > 0.01


def test_a_step_costs_one_vector_jacobian_product():
    counts = {"forward": 0, "backward": 0}

    def count(name):
        counts[name] += 1

    @jax.custom_vjp
    def network(x):
        return 0.5 * x

    def forward(x):
        jax.debug.callback(partial(count, "forward"))
        return network(x), None

    def backward(_, slope):
        jax.debug.callback(partial(count, "backward"))
        return (0.5 * slope,)

    network.defvjp(forward, backward)
    denoiser = jg.parametrize(lambda x, t, cond: network(x), FLOW, "velocity")
    held, weights = jnp.zeros((B, H, A)), guidance.chunk_weights(H, 2, 4)
    jax.block_until_ready(jax.jit(lambda: draw(denoiser, held=held, weights=weights))())
    jax.effects_barrier()
    steps = len(GRID) - 1
    assert 0 < counts["forward"] <= steps
    assert 0 < counts["backward"] <= steps


def by_hand(make, step, start, plans, execute, delay, decay):
    """What all chunks say of each step, in lists, and the actions that it gives."""
    says = {}

    def hear(now, chunk):
        for i in range(H):
            says.setdefault(now + i, []).append(chunk[:, i])

    def mean(now):
        if decay is None:
            return says[now][-1]
        rows = np.stack(says[now])
        weights = np.exp(-decay * np.arange(len(rows)))
        return np.tensordot(weights / weights.sum(), rows, 1)

    state, taken, rewards = start, [], []
    hear(0, np.asarray(make(jg.rng.fold(KEYS, 2 * plans), state, None)))
    for i in range(plans):
        now = i * execute
        before = {now + j: mean(now + j) for j in range(delay)}
        held = np.full((B, H, A), np.nan, np.float32)
        for j in range(H):
            if now + j in says:
                held[:, j] = mean(now + j)
        hear(now, np.asarray(make(jg.rng.fold(KEYS, 2 * i), state, jnp.array(held))))
        for j in range(execute):
            action = before[now + j] if j < delay else mean(now + j)
            key = jg.rng.fold(KEYS, 2 * (now + j) + 1)
            state, _, reward = step(state, jnp.asarray(action), key)
            taken.append(action)
            rewards.append(reward)
    return np.stack(taken, 1), np.stack(rewards, 1), state


@pytest.mark.parametrize(
    ("execute", "delay", "decay"),
    [
        *((1, 0, None), (3, 2, None), (3, 3, None), (1, 1, 0.5), (2, 1, -1.0)),
        *((3, 0, 0.0), (1, 0, -40.0)),
    ],
)
def test_late_chunks_are_lists_of_python(execute, delay, decay):
    def make(keys, seen, held):
        noise = jg.rng.normal(keys, (H, A)) + seen[:, None]
        # A step without an action is NaN, and the others say which chunk they are of.
        return noise if held is None else noise + jnp.where(held > 0, 1.0, 0.0)

    def step(state, actions, keys):
        after = 0.8 * state + 0.1 * actions + 0.1 * jg.rng.normal(keys, (S,))
        return after, after, after[:, 0]

    run = jax.jit(
        lambda: planning.carry_out_chunks(
            *(KEYS, make, step, SEEN, SEEN),
            chunks=5,
            execute=execute,
            delay=delay,
            decay=decay,
        )
    )
    got = run()
    actions, rewards, state = by_hand(make, step, SEEN, 5, execute, delay, decay)
    np.testing.assert_allclose(got.trajectory.actions, actions, atol=1e-5)
    np.testing.assert_allclose(got.rewards, rewards, atol=1e-5)
    np.testing.assert_allclose(got.state, state, atol=1e-5)
    np.testing.assert_array_equal(got.trajectory.states[:, 0], SEEN)
    assert got.chunks.shape == (B, 5, H, A)


def test_averaging_has_a_slope():
    def total(decay):
        def make(keys, seen, held):
            return jg.rng.normal(keys, (H, A)) + seen[:, None]

        def step(state, actions, keys):
            after = 0.8 * state + 0.1 * actions
            return after, after, after[:, 0]

        options = {"chunks": 4, "execute": 2, "decay": decay}
        run = planning.carry_out_chunks(KEYS, make, step, SEEN, SEEN, **options)
        return run.trajectory.actions.sum()

    slope = jax.jit(jax.grad(total))(0.1)
    apart = (total(0.11) - total(0.09)) / 0.02
    np.testing.assert_allclose(slope, apart, rtol=2e-2)


def made(*args, horizon=H, batch=B):
    return jnp.zeros((batch, horizon, A))


def still(state, actions, keys):
    return state, state, state[:, 0]


def carry(make, step=still, keys=KEYS, seen=SEEN):
    return planning.carry_out_chunks(keys, make, step, SEEN, seen, chunks=2, execute=1)


def test_no_episodes_are_carried_out():
    none = SEEN[:0]
    run = planning.carry_out_chunks(
        *(KEYS[:0], partial(made, batch=0), still, none, none), chunks=2, execute=3
    )
    assert run.rewards.shape == (0, 6)


def test_lists_whole_numbers_and_halves_are_numbers():
    """What is seen is float32 from the first step on, and chunks are too."""
    whole = jnp.arange(B * S).reshape(B, S)
    types = []

    def chunk(keys, seen, held):
        types.append(seen.dtype)
        return [[[1.0] * A] * H] * B if held is None else jnp.ones((B, H, A), "float16")

    def world(state, actions, keys):
        after = (state + actions).astype("bfloat16")
        return state + 1, after, after[:, 0]

    got = planning.carry_out_chunks(
        *(KEYS, chunk, world, jnp.zeros((B, S)), whole), chunks=2, execute=1
    )
    assert set(types) == {jnp.dtype("float32")}
    np.testing.assert_array_equal(got.trajectory.states[:, 0], whole)
    np.testing.assert_array_equal(got.trajectory.states[:, 1], 1.0)
    held, weights = np.ones((B, H, A)), guidance.chunk_weights(H, 2, 4)
    seen = np.asarray(SEEN).tolist()
    setting = KEYS, unit(), jg.euler(), GRID, LAYOUT, seen, H
    listed = planning.draw_chunk(*setting, held=held.tolist(), weights=weights.tolist())
    np.testing.assert_array_equal(listed, draw(unit(), held=held, weights=weights))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw(unit(), held=jnp.zeros((B, H, A))), "held without weights"),
        (lambda: draw(unit(), weights=np.ones(H)), "weights without held"),
        (
            lambda: draw(unit(), held=jnp.zeros((B, H - 1, A)), weights=np.ones(H)),
            r"held has shape .3, 5, 2.; expected .3, 6, 2.",
        ),
        (
            lambda: planning.draw_chunk(
                *(KEYS, unit(), jg.euler(), GRID, LAYOUT, jnp.ones((B, 5)), H)
            ),
            r"observation has shape .3, 5.; expected .3, 2.",
        ),
        (lambda: planning.init_flow_policy(KEYS[0], LAYOUT, 0), "horizon is 0"),
        (
            lambda: planning.init_flow_policy(KEYS[0], LAYOUT, 1.5),
            "horizon is 1.5; expected a Python integer",
        ),
        (
            lambda: draw(
                planning.flow_policy(
                    planning.init_flow_policy(KEYS[0], LAYOUT, H + 1, (4,))
                )
            ),
            r"chunks have shape .3, 6, 2. and observations .3, 2., 30 entries with "
            "those of time; expected the 32 of the policy's parameters",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, made, None, SEEN, SEEN, chunks=0, execute=1
            ),
            "chunks is 0",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, made, None, SEEN, SEEN, chunks=1, execute=2, delay=3
            ),
            "horizon 6, execute 2, delay 3; expected delay from 0 to execute",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, made, None, SEEN, SEEN, chunks=1, execute=4, delay=3
            ),
            "horizon 6, execute 4, delay 3",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, partial(made, batch=1), None, SEEN, SEEN, chunks=1, execute=1
            ),
            r"what make_chunk returned has shape .1, 6, 2.; expected .B, H, A. with b",
        ),
        (
            lambda: carry(lambda k, o, held: made(horizon=H if held is None else 5)),
            r"has shape .3, 5, 2., given held; expected that of its first chunk, .3, 6",
        ),
        (lambda: carry(made, keys=KEYS[0]), r"keys has shape ..; expected .B."),
        (lambda: carry(made, seen=SEEN[:2]), r"observation has shape .2, 2.; expected"),
        (
            lambda: carry(made, lambda s, a, k: (s, s[:, :1], s[:, 0])),
            r"what step returned as observation has shape .3, 1.; expected .3, 2.",
        ),
        (
            lambda: carry(made, lambda s, a, k: (s, s, s[:, :1])),
            r"what step returned as rewards has shape .3, 1.; expected .3,.",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, made, None, SEEN, SEEN, chunks=1, execute=1, decay=np.ones(H + 1)
            ),
            r"decay has shape .7,.; expected ..",
        ),
        (
            lambda: planning.draw_chunk(
                *(KEYS[0], unit(), jg.euler(), GRID, LAYOUT, SEEN, H)
            ),
            r"keys has shape ..; expected .B.",
        ),
        (
            lambda: planning.carry_out_chunks(
                KEYS, made, None, SEEN, SEEN, chunks=1, execute=1, decay=np.nan
            ),
            "decay is nan; expected a finite number",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
