"""What chunks are worth, and chunks that are drawn by it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import guidance, planning, sampling

RNG = np.random.default_rng(0)
B, P, H, A, S = 3, 3, 5, 2, 3
FLOW = jg.RectifiedFlow()
LAYOUT = planning.Layout(
    *(jnp.array([1.0, -2.0]), jnp.array([2.0, 0.5])),
    *(jnp.array([1.0, 0.0, -1.0]), jnp.array([3.0, 1.0, 0.5])),
)
KEYS = jg.sample_keys(jax.random.key(0), B)
SEEN = jnp.asarray(RNG.normal(size=(B, S)), jnp.float32)
SLOPE = jnp.asarray(RNG.normal(size=(H, A)), jnp.float32)


def linear(seen, chunk):
    """A critic whose slope is known."""
    return (SLOPE * chunk).sum((1, 2)) + seen[:, 0]


def policy(pull=0.0):
    """Data N(pull o, I) in unit scale: the exact denoiser."""

    def apply(x, t, cond):
        a, s = (f(t)[:, None, None] for f in (FLOW.alpha, FLOW.sigma))
        mean = pull * cond.sum(1)[:, None, None]
        return mean + a * (x - a * mean) / (a**2 + s**2)

    return jg.parametrize(apply, FLOW)


def draw(denoiser, steps=3, keys=KEYS, seen=SEEN, sampler=None, **options):
    grid, sampler = (
        jg.flow_grid(FLOW, steps),
        jg.euler() if sampler is None else sampler,
    )
    return planning.draw_chunk(
        *(keys, denoiser, sampler, grid, LAYOUT, seen, H), **options
    )


@pytest.mark.parametrize("steps", [1, 3, 9, None])
def test_returns_are_sums(steps):
    rewards, values = RNG.normal(size=(2, 6)), RNG.normal(size=(2, 7))
    ends = np.array([[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)

    def by_hand(row, t):
        total, discount = 0.0, 1.0
        for i in range(t, 6 if steps is None else min(t + steps, 6)):
            total += discount * rewards[row, i]
            discount *= 0.9
            if ends[row, i]:
                return total
        after = 6 if steps is None else min(t + steps, 6)
        return total + discount * values[row, after]

    expected = [[by_hand(row, t) for t in range(6)] for row in range(2)]
    run = jax.jit(partial(planning.chunk_returns, steps=steps))
    got = run(rewards, ends, values, gamma=0.9)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # Without values nothing follows the end.
    none = planning.chunk_returns(rewards, ends, steps=steps, gamma=0.9)
    zero = planning.chunk_returns(rewards, ends, 0 * values, steps=steps, gamma=0.9)
    np.testing.assert_array_equal(none, zero)


def test_what_is_kept_after_an_end_counts_for_nothing():
    rewards, ends = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([False, True, False])
    values = jnp.array([0.0, 0.0, jnp.nan, jnp.nan])
    returns = planning.chunk_returns(rewards, ends, values, gamma=0.5)
    np.testing.assert_array_equal(returns, [2.0, 2.0, np.nan])


def test_whole_numbers_are_told_what_numbers_are():
    seen = np.arange(B * S).reshape(B, S)
    told = np.array([0.5, -1.0, 1.0])
    want = np.concatenate([seen, told[:, None]], axis=1)
    for kind in ("int32", "uint8", "float16"):
        got = planning.tell_advantage(seen.astype(kind), told)
        np.testing.assert_array_equal(got, want)


def test_no_episodes_have_no_chunks():
    none = KEYS[:0], SEEN[:0]
    policy = planning.flow_policy(
        planning.init_flow_policy(KEYS[0], LAYOUT, H, widths=(4,))
    )
    assert draw(policy, 1, *none).shape == (0, H, A)
    critic = planning.init_critic(KEYS[0], LAYOUT, H, (4,))
    worth = planning.apply_critic(critic, LAYOUT, none[1], jnp.ones((0, H, A)))
    assert worth.shape == (0,)


def test_a_critic_is_of_unit_scale():
    params = planning.init_critic(jax.random.key(0), LAYOUT, H, ())
    chunk = jnp.asarray(RNG.normal(size=(B, P, H, A)), jnp.float32)
    seen = jnp.broadcast_to(SEEN[:, None], (B, P, S))
    np.testing.assert_array_equal(planning.apply_critic(params, LAYOUT, seen, chunk), 0)
    kernel = RNG.normal(size=(S + H * A, 1)).astype(np.float32)
    params["layer0"]["kernel"] = jnp.asarray(kernel)
    unit = np.concatenate(
        [
            (seen - LAYOUT.state_mean) / LAYOUT.state_std,
            ((chunk - LAYOUT.action_mean) / LAYOUT.action_std).reshape(B, P, H * A),
        ],
        axis=-1,
    )
    got = planning.apply_critic(params, LAYOUT, seen, chunk)
    np.testing.assert_allclose(got, (unit @ kernel)[..., 0], atol=1e-5)
    # A value knows what is seen alone.
    params = planning.init_critic(jax.random.key(0), LAYOUT, 0, (4,))
    assert planning.apply_critic(params, LAYOUT, SEEN).shape == (B,)


def test_what_is_told_stands_last():
    layout = planning.with_advantage(LAYOUT)
    told = planning.tell_advantage(SEEN, jnp.array([1.0, 0.0, -1.0]))
    np.testing.assert_array_equal(layout.scale(told)[:, :S], LAYOUT.scale(SEEN))
    np.testing.assert_array_equal(layout.scale(told)[:, S], [1, 0, -1])
    assert planning.tell_advantage(SEEN[0], 1.0).tolist()[-1] == 1
    params = planning.init_flow_policy(jax.random.key(0), layout, H, (4,))
    x = jnp.ones((B, H, A))
    cond = layout.scale(told)
    assert planning.flow_policy(params)(x, jnp.ones(B), cond).x0.shape == x.shape


def test_the_energy_of_a_critic_tilts_a_gaussian():
    """``N(0, I) exp(w Q)`` with linear ``Q`` is ``N(w slope, I)``: each draw moves."""
    value = planning.chunk_value(linear, LAYOUT)
    term = jg.energy(lambda x, c: -value(x, c), 0.5, through="denoised")
    moved = draw(policy(), guidance=term) - draw(policy())
    expected = jnp.broadcast_to(0.5 * SLOPE * LAYOUT.action_std**2, moved.shape)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_guidance_against_a_policy_that_is_told_less_goes_beyond():
    """A policy linear in what it sees does as if it saw ``o + w (o - null)``."""
    null = SEEN - 1
    alone = draw(policy(0.3))
    off = draw(policy(0.3), null=null, null_weight=0.0)
    np.testing.assert_array_equal(off, alone)
    weight = jnp.array([0.5, 2.0, -1.0])
    made = draw(policy(0.3), null=null, null_weight=weight)
    beyond = draw(policy(0.3), seen=SEEN + weight[:, None] * (SEEN - null))
    np.testing.assert_allclose(made, beyond, atol=1e-5)
    np.testing.assert_allclose(made[2], draw(policy(0.3), seen=null)[2], atol=1e-5)


def everything(batch=slice(None)):
    """Chunk before, guidance and null of some samples."""
    held = jnp.asarray(np.random.default_rng(1).normal(size=(B, H, A)), jnp.float32)
    return {
        "held": held.at[:, 3:].set(jnp.nan)[batch],
        "weights": guidance.chunk_weights(H, 1, 3),
        "w_max": jnp.array([1.0, 2.0, 3.0])[batch],
        "null": (SEEN - 1)[batch],
        "null_weight": jnp.array([0.5, 1.0, 2.0])[batch],
        "guidance": jg.energy(
            planning.chunk_value(linear, LAYOUT), 0.1, through="denoised"
        ),
    }


def test_the_best_of_several_chunks_is_that_of_a_critic():
    def square(seen, chunk):
        return -((chunk - seen[:, None, :1]) ** 2).sum((1, 2))

    potential = sampling.best_of_n(planning.chunk_value(square, LAYOUT))
    take = partial(draw, policy(0.3), potential=potential, best=True, **everything())
    one = draw(policy(0.3), **everything())
    np.testing.assert_array_equal(take(particles=1), one)
    # Drawn one by one, and chosen among.
    rows = np.repeat(np.arange(B), P)
    keys = sampling.particle_keys(KEYS, P)
    several = draw(policy(0.3), keys=keys, seen=SEEN[rows], **everything(rows))
    worth = np.asarray(square(SEEN[rows], several)).reshape(B, P)
    chosen = np.asarray(several).reshape(B, P, H, A)[np.arange(B), worth.argmax(1)]
    np.testing.assert_allclose(take(particles=P), chosen, atol=1e-5)
    assert (worth.argmax(1) > 0).any()


def test_particles_tilt_a_gaussian():
    """``N(0, 1) exp(-(a - 1)^2 / 2)`` has mean and variance of a half."""
    count, one = 1500, jnp.ones(1)
    layout = planning.Layout(0 * one, one, 0 * one, one)
    value = planning.chunk_value(lambda o, a: -0.5 * ((a - 1) ** 2).sum((1, 2)), layout)
    made = jax.jit(
        lambda: planning.draw_chunk(
            *(jg.sample_keys(jax.random.key(1), count), policy(), jg.ddpm("middle")),
            *(jg.flow_grid(FLOW, 20), layout, jnp.zeros((count, 1)), 1),
            potential=sampling.steering(value),
            particles=16,
        )
    )()
    np.testing.assert_allclose(made.mean(), 0.5, atol=0.06)
    np.testing.assert_allclose(made.var(), 0.5, atol=0.07)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw(policy(), null=SEEN), "null without null_weight; expected both"),
        (lambda: draw(policy(), null_weight=1.0), "null_weight without null"),
        (
            lambda: draw(policy(), null=SEEN[:, :2], null_weight=1.0),
            r"null has shape .3, 2.; expected .3, 3.",
        ),
        (lambda: draw(policy(), particles=2), "particles without potential"),
        (lambda: draw(policy(), best=True), "best is True without a potential"),
        (
            lambda: draw(
                *(policy(),),
                potential=sampling.steering(planning.chunk_value(linear, LAYOUT)),
                particles=2,
            ),
            "sampler draws no noise",
        ),
        (
            lambda: planning.chunk_returns(jnp.ones(3), jnp.zeros(2), gamma=1.0),
            r"terminated has shape .2,.; expected .3,.",
        ),
        (
            lambda: planning.chunk_returns(
                jnp.ones(3), jnp.zeros(3), jnp.zeros(3), gamma=1.0
            ),
            r"values has shape .3,.; expected .4,.",
        ),
        (
            lambda: planning.chunk_returns(jnp.ones(3), jnp.zeros(3), gamma=1.1),
            r"gamma is 1.1; expected a number in .0, 1.",
        ),
        (
            lambda: planning.chunk_returns(
                jnp.ones(3), jnp.zeros(3), steps=0, gamma=1.0
            ),
            "steps is 0; expected at least 1, or None",
        ),
        (
            lambda: planning.chunk_returns(1.0, 0.0, gamma=1.0),
            r"rewards have shape ..; expected",
        ),
        (
            lambda: planning.init_critic(jax.random.key(0), LAYOUT, -1),
            "horizon is -1; expected at least 0",
        ),
        (
            lambda: planning.init_critic(jax.random.key(0), LAYOUT, 1.5),
            "horizon is 1.5; expected a Python integer",
        ),
        (
            lambda: planning.apply_critic(
                planning.init_critic(jax.random.key(0), LAYOUT, H), LAYOUT, SEEN
            ),
            r"and chunk None, 3 entries; expected the 13 of the parameters",
        ),
        (
            lambda: planning.tell_advantage(SEEN, jnp.ones(2)),
            r"advantage has shape .2,.; expected .. or .3,.",
        ),
        (
            lambda: planning.tell_advantage(SEEN, SEEN[:, 0] > 0),
            "advantage is boolean.*; expected numbers",
        ),
        (
            lambda: planning.chunk_returns(
                jnp.ones(3), jnp.zeros(3), steps=2.5, gamma=1.0
            ),
            "steps is 2.5; expected a Python integer, or None",
        ),
        (
            lambda: planning.chunk_returns(jnp.ones(3), jnp.zeros(3), gamma=np.ones(3)),
            r"gamma has shape .3,.; expected ..",
        ),
        (
            lambda: planning.apply_critic(
                planning.init_critic(jax.random.key(0), LAYOUT, 0), LAYOUT, SEEN[:, :1]
            ),
            r"observation has shape .3, 1.; expected .\.\.\., 3.",
        ),
        (
            lambda: planning.apply_critic(
                *(planning.init_critic(jax.random.key(0), LAYOUT, H), LAYOUT, SEEN),
                jnp.ones((B, H, 1)),
            ),
            r"chunk has shape .3, 5, 1.; expected .3, H, 2., one for each observation",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
