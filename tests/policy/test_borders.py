"""What is equal, what is not known, and what is out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import policy
from jaxlib_guidance.policy import grpo
from jaxlib_guidance.policy.losses._algorithms import _clipped
from jaxlib_guidance.reduce import aggregate, finalize

EQUAL = (
    (jnp.ones(4), None),
    (jnp.full(7, 0.1), None),
    (jnp.array([3.0]), None),
    (jnp.array([0.7, 1, 1]), jnp.array([1.0, 0, 0])),
    (jnp.array([0.1, jnp.nan, 0.1]), jnp.array([1.0, 0, 1])),
)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize(("advantages", "mask"), EQUAL)
def test_equal_advantages_are_whitened_to_0(advantages, mask, shift):
    value, back = jax.vjp(lambda a: policy.whiten(a, mask, shift=shift), advantages)
    assert not np.any(value)
    assert not np.any(back(jnp.ones_like(value))[0])
    rows = jnp.stack([advantages, 2 * advantages])
    assert not np.any(jax.vmap(lambda a: policy.whiten(a, mask, shift=shift))(rows))


def test_whiten_without_shift_divides_only():
    """By hand: the deviation of 0 and 10 is 5; TRL's argument would give 4 and 6."""
    np.testing.assert_allclose(policy.whiten(jnp.array([0.0, 10]), shift=False), [0, 2])


def test_nan_is_not_equal_to_anything():
    x = jnp.array([1.0, jnp.nan, 1])
    assert np.isnan(policy.whiten(x)).all()
    _, shaped = policy.running_meanstd(policy.init_reward_stats(), x)
    assert np.isnan(shaped).all()
    stats = policy.init_prompt_stats(1, 4)
    _, gain = policy.prompt_norm(stats, x, jnp.zeros(3, jnp.int32), min_count=1)
    assert np.isnan(gain).all()


NOTHING = jnp.full((1, 3), -jnp.inf)


@pytest.mark.parametrize(
    "fn",
    [
        policy.entropy,
        policy.log_collision,
        lambda x: policy.kl_categorical(x, jnp.zeros((1, 3))),
        lambda x: policy.kl_categorical(x, NOTHING),
        lambda x: policy.kl_categorical(x, NOTHING, direction="forward"),
    ],
)
def test_a_row_with_nothing_allowed_is_0(fn):
    value, back = jax.vjp(fn, NOTHING)
    np.testing.assert_array_equal(value, [0])
    np.testing.assert_array_equal(back(jnp.ones(1))[0], np.zeros((1, 3)))


def test_a_reference_that_allows_what_the_policy_lacks_is_infinitely_far():
    def far(x):
        return policy.kl_categorical(x, jnp.zeros((1, 3)), direction="forward")

    value, back = jax.vjp(far, NOTHING)
    np.testing.assert_array_equal(value, [np.inf])
    np.testing.assert_array_equal(back(jnp.ones(1))[0], np.zeros((1, 3)))


def test_collision_and_entropy_of_one_legal_move_and_of_nan():
    one = jnp.array([[0.0, -jnp.inf, -jnp.inf]])
    for fn in (policy.entropy, policy.log_collision):
        value, back = jax.vjp(fn, one)
        np.testing.assert_array_equal(value, [0])
        assert np.isfinite(back(jnp.ones(1))[0]).all()
        assert np.isnan(fn(jnp.full((1, 3), jnp.nan))).all()


def test_the_slope_of_a_parent_visited_once():
    slope = jax.grad(lambda n: policy.uct_scores(jnp.zeros(2), jnp.ones(2), n).sum())(
        1.0
    )
    assert slope == 0


def test_a_score_that_nobody_knows_is_not_the_best():
    nan = jnp.nan
    index, best = policy.best_of_n(jnp.array([[1.0, nan, 2], [nan, nan, nan]]))
    np.testing.assert_array_equal(index, [2, 0])
    np.testing.assert_array_equal(best, [2, -np.inf])
    pairs = policy.pair_from_scores(jnp.array([[nan, 1.0, 3], [nan, nan, 1]]))
    assert (int(pairs.chosen[0]), int(pairs.rejected[0])) == (2, 1)
    np.testing.assert_array_equal(pairs.mask, [1, 0])
    action, means = policy.lookahead_select(jnp.array([[[nan, nan], [-1, nan]]]))
    assert int(action[0]) == 1
    np.testing.assert_array_equal(means, [[nan, -1]])
    seen = jnp.array([[1.0, 1], [0, 0]])
    judged = policy.hindsight_score(jnp.full((2, 2), -1.0), seen)
    np.testing.assert_array_equal(judged, [-1, nan])
    assert int(policy.pair_from_scores(jnp.append(judged, -2)).chosen) == 0
    vote = policy.weighted_vote(jnp.array([4, 5]), jnp.array([nan, 0.1]))
    assert int(vote.label) == 5


LOGP, ADV = -jnp.ones((2, 3)), jnp.ones(2)
PAIR = (jnp.ones(2), jnp.zeros(2))
T3 = (jnp.ones(3),) * 3 + (jnp.zeros(3),) * 2


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: policy.ppo_clip(LOGP, LOGP, ADV, clip_low=-0.2), "clip_low is -0.2"),
        (lambda: policy.ppo_clip(LOGP, LOGP, ADV, clip_high=jnp.nan), "clip_high is"),
        (lambda: policy.gmpo(LOGP, LOGP, ADV, clip_low=-1.0), "clip_low is -1.0"),
        (lambda: policy.sapo(LOGP, LOGP, ADV, tau_pos=0.0), "tau_pos is 0.0"),
        (lambda: policy.nft(LOGP, LOGP, -ADV, ADV / 2), "correct is -1.0"),
        (lambda: policy.nft(LOGP, LOGP, ADV, 80 * ADV), "success_rate is 80.0"),
        (lambda: policy.value_clip(ADV, ADV, ADV, clip=-0.1), "clip is -0.1"),
        (lambda: policy.log_ratio(LOGP, LOGP, limit=-1.0), "limit is -1.0"),
        (lambda: policy.kl_reward(ADV, LOGP, LOGP, beta=-0.1), "beta is -0.1"),
        (lambda: policy.dpo(*PAIR, beta=-0.1), "beta is -0.1"),
        (lambda: policy.ipo(*PAIR, beta=0.0), "beta is 0.0"),
        (lambda: policy.discopop(*PAIR, tau=0.0), "tau is 0.0"),
        (lambda: policy.orpo(*PAIR), "mean_w is 1.0"),
        (lambda: policy.kto(ADV, -ADV, 0.0), "desirable is -1.0"),
        (lambda: policy.focal_nll(LOGP, gamma=-1.0), "gamma is -1.0"),
        (lambda: policy.gae(*T3, gamma=1.1, lam=0.9), "gamma is 1.1"),
        (lambda: policy.gae(*T3, gamma=0.9, lam=-0.1), "lam is -0.1"),
        (lambda: policy.td_targets(*T3[:3], gamma=99.0), "gamma is 99.0"),
        (lambda: policy.potential_shaping(1.0, 1.0, 0, gamma=2.0), "gamma is 2.0"),
        (lambda: policy.soft_policy(ADV, -1.0), "alpha is -1.0"),
        (lambda: policy.sensitivity_bound(ADV, ADV, alpha=0.0, gamma=0.9), "alpha"),
        (lambda: policy.discount_schedule(ADV, alpha=2.0), "alpha is 2.0"),
        (lambda: policy.rate(jnp.array([0, 255])), "hits is 255"),
        (lambda: policy.pass_at_k(3, 5, 1), "correct has 5; expected at most"),
        (lambda: policy.outcome_reward(-ADV, ADV), "correct is -1.0"),
        (lambda: policy.step_mask(jnp.array([0, 4]), jnp.ones(2)), "step_ids is 4"),
        (lambda: policy.count_bonus(jnp.array([-1])), "visits is -1"),
        (lambda: policy.punishment(2 * ADV, ADV), "punish is"),
        (lambda: policy.reputation_change(-ADV), "defected is -"),
        (lambda: policy.multiplier_step(-1.0, 0.0, rate=0.1), "multiplier is -1.0"),
        (lambda: policy.win_rate(100 * jnp.eye(2)[::-1]), "expected"),
    ],
)
def test_values_out_of_range(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_masked_or_unknown_may_have_any_value():
    hits = jnp.array([1.0, 7, jnp.nan, 0])
    got = policy.rate(hits, jnp.array([1.0, 0, 0, 1]))
    np.testing.assert_allclose(got.value, 0.5)


def primitives(jaxpr, shape):
    """Number of each primitive with a result of ``shape``, in nested programs too."""
    found = {}
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            if hasattr(inner := getattr(value, "jaxpr", None), "eqns"):
                for name, n in primitives(inner, shape).items():
                    found[name] = found.get(name, 0) + n
        if any(v.aval.shape == shape for v in eqn.outvars):
            found[eqn.primitive.name] = found.get(eqn.primitive.name, 0) + 1
    return found


@pytest.mark.parametrize("reference", [False, True])
def test_log_ratios_are_computed_once(reference):
    """Two differences a ratio: of logs, and in the k3 of what is reported of it."""
    shape = (3, 4, 7)
    logp = jax.ShapeDtypeStruct(shape, jnp.float32)
    rewards = jax.ShapeDtypeStruct(shape[:2], jnp.float32)

    def loss(logp, old, ref, rewards):
        return grpo(logp, old, rewards, logp_ref=ref if reference else None)

    jaxpr = jax.make_jaxpr(loss)(logp, logp, logp, rewards).jaxpr
    found = primitives(jaxpr, shape)
    assert found["exp"] == 1
    assert found["expm1"] == 1 + reference
    # k3 to the reference is expm1(-d) + d: one difference, of its own logs.
    assert found["sub"] == 2 + reference


@pytest.mark.parametrize("level", ["token", "seq", "seq_token", "seq_sum"])
def test_a_shared_ratio_has_the_numbers_of_the_public_pieces(level):
    gen = np.random.default_rng(0)
    logp, old = jnp.asarray(-gen.exponential(size=(2, 5, 6)), jnp.float32)
    advantage = jnp.asarray(gen.normal(size=5), jnp.float32)
    mask = jnp.asarray(gen.integers(0, 2, (5, 6)), jnp.float32)
    clip = {"clip_low": 0.1, "clip_high": 0.3}

    def shared(logp):
        out = _clipped(logp, old, advantage, mask, "token_mean", level=level, **clip)
        return finalize(out)

    def pieces(logp):
        each = policy.ppo_clip(logp, old, advantage, mask, level=level, **clip)
        aux = policy.ratio_stats(logp, old, advantage, mask, level=level, **clip)
        return finalize(aggregate(each, mask, "token_mean", aux=aux))

    got, want = (jax.value_and_grad(f, has_aux=True)(logp) for f in (shared, pieces))
    jax.tree.map(np.testing.assert_array_equal, got, want)
