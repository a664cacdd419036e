"""KL estimators by exact enumeration: what each is an estimate of, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    entropy,
    kl_categorical,
    kl_estimate,
    kl_loss,
    kl_reward,
    score_kl,
)
from jaxlib_guidance.reduce import aggregate, finalize

pytestmark = pytest.mark.usefixtures("one_program")
THETA, REF = np.array([0.3, -0.2, 0.5]), np.array([0.0, 0.4, -0.1])
# Sums over the three actions in float64: KL(pi, ref), KL(ref, pi) and the mean under
# pi of (log pi - log ref)^2 / 2; gradients are p (d - KL) and p - q with p, q the two
# softmaxes and d = log p - log q.
REVERSE, FORWARD, SECOND = 0.1197883899, 0.1321187666, 0.1114606776
GRAD_REVERSE = (0.02243993, -0.17942006, 0.15698013)
GRAD_FORWARD = (0.05920844, -0.22472474, 0.1655163)


def expected(loss_of):
    """Value and gradient of a loss averaged over the actions of the policy."""

    def mean(theta):
        logp, ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(REF)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * loss_of(logp, ref))

    return jax.jit(jax.value_and_grad(mean))(THETA)


@pytest.mark.parametrize(
    ("loss_of", "value", "gradient"),
    [
        (lambda p, r: kl_estimate(p, r, kind="k1"), REVERSE, (0, 0, 0)),
        (lambda p, r: kl_loss(p, r, kind="k2"), SECOND, GRAD_REVERSE),
        (lambda p, r: kl_loss(p, r, kind="k3"), REVERSE, GRAD_FORWARD),
        (
            lambda p, r: kl_loss(p, r, kind="k1", correction="ratio"),
            REVERSE,
            GRAD_REVERSE,
        ),
        (
            lambda p, r: kl_loss(p, r, kind="k3", correction="ratio"),
            REVERSE,
            GRAD_REVERSE,
        ),
        (
            lambda p, r: kl_loss(p, r, kind="k2", correction="ratio"),
            SECOND,
            (-0.01103715, -0.14823346, 0.1592706),
        ),
        (
            lambda p, r: kl_loss(p, r, kind="k3", gradient="k2"),
            REVERSE,
            GRAD_REVERSE,
        ),
        (
            lambda p, r: -kl_reward(np.zeros(3), p, r, beta=1.0) * p,
            None,
            GRAD_REVERSE,
        ),
    ],
    ids=["k1", "k2", "k3", "ratio k1", "ratio k3", "ratio k2", "k3+", "reward"],
)
def test_golden_gradients(loss_of, value, gradient):
    got, slope = expected(loss_of)
    if value is not None:
        np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient, atol=1e-6)


def test_off_policy_ratio_has_the_gradient_too():
    """Actions of another policy, reweighted: still the gradient of KL(pi, ref)."""
    old = jax.nn.log_softmax(np.array([-0.5, 0.3, 0.1]))

    def mean(theta):
        logp, ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(REF)
        loss = kl_loss(logp, ref, kind="k3", correction="ratio", logp_old=old)
        return jnp.sum(jnp.exp(old) * loss)

    value, slope = jax.value_and_grad(mean)(THETA)
    np.testing.assert_allclose(value, REVERSE, rtol=1e-5)
    np.testing.assert_allclose(slope, GRAD_REVERSE, atol=1e-6)


STOP, ALIKE, LONGEST = np.array([0.3, -0.4]), np.array([-0.8, 0.9]), 4


def stopping(theta):
    """A policy that stops or goes on, ``theta`` at first and later; its sequences.

    Returns:
      Log-probabilities ``[Y, T]`` of the tokens of all sequences up to ``LONGEST``, of
      which the last never stops, and their mask.
    """
    first = jnp.arange(LONGEST) == 0
    logit = jnp.where(first, theta[0], theta[1])
    ends = jnp.arange(LONGEST) == jnp.arange(LONGEST + 1)[:, None]
    logp = jax.nn.log_sigmoid(jnp.where(ends, logit, -logit))
    return logp, jnp.arange(LONGEST) <= jnp.arange(LONGEST + 1)[:, None]


def expected_over_sequences(loss_of, how):
    """Gradient of a KL loss, exactly averaged over what the policy writes."""

    def mean(theta):
        logp, mask = stopping(theta)
        ref, _ = stopping(ALIKE)
        share = jnp.exp(jnp.sum(jnp.where(mask, logp, 0), 1))
        each = loss_of(logp, ref, mask)

        def row(loss, mask):
            return finalize(aggregate(loss[None], mask[None], how))[0]

        return jnp.sum(jax.lax.stop_gradient(share) * jax.vmap(row)(each, mask))

    return jax.jit(jax.grad(mean))(STOP)


def test_k1_with_a_mean_of_each_sequence_only_looks_at_lengths():
    """Each token has ``E[grad log pi] = 0``, so only ``1 / |y|`` has a gradient."""

    def k1(logp, ref, mask):
        return kl_estimate(logp, ref, mask, kind="k1")

    def inverse_length(theta):
        logp, mask = stopping(theta)
        share = jnp.exp(jnp.sum(jnp.where(mask, logp, 0), 1))
        return jnp.sum(share / jnp.sum(mask, 1, dtype=jnp.float32))

    got = expected_over_sequences(k1, "seq_mean_token_mean")
    np.testing.assert_allclose(got, jax.grad(inverse_length)(STOP), rtol=1e-5)
    assert np.all(np.abs(got) > 0.01)
    sums = expected_over_sequences(k1, "seq_mean_token_sum")
    np.testing.assert_allclose(sums, 0, atol=1e-6)


@pytest.mark.parametrize(("kind", "forward"), [("k2", False), ("k3", True)])
def test_the_table_holds_with_token_sums_only(kind, forward):
    """The divergence of each prefix, weighed by how often it comes about."""

    def by_prefix(theta):
        go = jax.nn.sigmoid(-STOP)
        weight = jnp.array([1, *(go[0] * go[1] ** k for k in range(LONGEST - 1))])
        place = jnp.minimum(jnp.arange(LONGEST), 1)
        p, q = (
            jnp.stack([jnp.zeros(2), jnp.asarray(x, jnp.float32)], 1)[place]
            for x in (theta, ALIKE)
        )
        direction = "forward" if forward else "reverse"
        return jnp.sum(weight * kl_categorical(p, q, direction=direction))

    def loss(logp, ref, mask):
        return kl_loss(logp, ref, mask, kind=kind)

    exact = jax.grad(by_prefix)(STOP)
    sums = expected_over_sequences(loss, "seq_mean_token_sum")
    np.testing.assert_allclose(sums, exact, rtol=1e-4)
    means = expected_over_sequences(loss, "seq_mean_token_mean")
    # Not even the direction is the same.
    cosine = means @ exact / np.linalg.norm(means) / np.linalg.norm(exact)
    assert cosine < 0.99


def test_the_divergence_itself():
    for direction, value, gradient in (
        ("reverse", REVERSE, GRAD_REVERSE),
        ("forward", FORWARD, GRAD_FORWARD),
    ):
        got, slope = jax.value_and_grad(
            lambda t, d=direction: kl_categorical(t, REF, direction=d)
        )(THETA)
        np.testing.assert_allclose(got, value, rtol=1e-5)
        np.testing.assert_allclose(slope, gradient, atol=1e-6)
        # The reference is a constant, as in all estimates of it.
        slope = jax.grad(lambda r, d=direction: kl_categorical(THETA, r, direction=d))(
            REF
        )
        assert not np.any(slope)
    p, q = np.array([0.0, 1.0, -jnp.inf]), np.array([0.0, 1.0, 2.0])
    assert np.isfinite(kl_categorical(p, q))
    assert np.isfinite(jax.grad(lambda p: kl_categorical(p, q))(p)).all()
    assert np.isposinf(kl_categorical(q, p))
    assert np.isposinf(kl_categorical(p, q, direction="forward"))


def test_entropy():
    np.testing.assert_allclose(entropy(np.zeros((2, 5))), np.log(5), rtol=1e-6)
    forbidden = np.array([0.0, -jnp.inf, 0.0, -jnp.inf])
    np.testing.assert_allclose(entropy(forbidden), np.log(2), rtol=1e-6)
    slope = jax.grad(lambda x: entropy(x))(np.array([0.3, -jnp.inf, 0.1]))
    assert np.isfinite(slope).all()
    p = np.exp(THETA) / np.exp(THETA).sum()
    np.testing.assert_allclose(entropy(THETA), -(p * np.log(p)).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, m: kl_estimate(x[..., 0], x[..., 1], m),
        lambda x, m: kl_loss(x[..., 0], x[..., 1], m, correction="ratio"),
        lambda x, m: kl_loss(x[..., 0], x[..., 1], m, gradient="k2"),
        lambda x, m: kl_reward(np.ones(2), x[..., 0], x[..., 1], m, beta=0.1),
        lambda x, m: kl_reward(x[..., 2], x[..., 0], x[..., 1], m, beta=0.1),
        lambda x, m: entropy(x, m),
        lambda x, m: kl_categorical(x, x[::-1, ::-1], m),
    ],
)
def test_what_is_masked_does_not_leak(fn):
    mask = np.array([[1.0, 0, 1], [1, 0, 1]])
    x = jax.nn.log_softmax(jnp.arange(18.0).reshape(2, 3, 3) ** 0.5)

    def value(x):
        return jnp.sum(fn(x, mask))

    both = jax.jit(jax.value_and_grad(value))
    clean, slope = both(x)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        dirty = x.at[:, 1].set(bad)
        got, slope_dirty = both(dirty)
        np.testing.assert_array_equal(got, clean)
        np.testing.assert_array_equal(slope_dirty, slope)
    assert not np.any(slope[:, 1])


def test_reward_of_a_sequence_loses_the_sum():
    logp, ref = np.array([[-1.0, -2, -3]]), np.array([[-2.0, -2.5, -9]])
    mask = np.array([[1.0, 1, 0]])
    got = kl_reward(np.array([5.0]), logp, ref, mask, beta=0.1)
    np.testing.assert_allclose(got, [5 - 0.1 * 1.5], rtol=1e-6)
    each = kl_reward(np.zeros((1, 3)), logp, ref, mask, beta=0.1)
    np.testing.assert_allclose(each, [[-0.1, -0.05, 0]], rtol=1e-6)


def test_huge_differences_stay_finite():
    far = kl_estimate(np.array([-200.0, 0.0]), np.array([0.0, -200.0]))
    np.testing.assert_allclose(far, [np.expm1(20) - 20, np.expm1(-20) + 20], rtol=1e-5)


def test_score_kl_by_turn():
    """The first stage's gradient by the second turn is 0."""
    logp, ref = np.array([[-1.0, -2, -3, -1]]), np.array([[-2.0, -1, -1, -3]])
    turns = np.array([[0, 0, 1, 1]])
    slope = jax.grad(lambda p: jnp.sum(score_kl(p, ref, turns, np.array([0.1, 0.0]))))(
        logp
    )
    np.testing.assert_allclose(slope, [[0.1, -0.1, 0, 0]], rtol=1e-6)
    both = score_kl(logp, ref, turns, np.array([0.2, 0.2]))
    np.testing.assert_allclose(both, 0.2 * kl_loss(logp, ref, kind="k2"))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kind": "k4"}, "kind is 'k4'"),
        ({"kind": "k1"}, "expected gradient 0"),
        ({"correction": "is"}, "correction is 'is'"),
        ({"gradient": "k1"}, "gradient is 'k1'"),
        ({"gradient": "k2", "correction": "ratio"}, "has its own gradient"),
        ({"logp_old": np.zeros(3)}, "logp_old has no effect"),
        ({"logp_ref": np.zeros(2)}, "logp_ref has shape"),
        ({"mask": np.zeros(2)}, "mask has shape"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        kl_loss(**{"logp": np.zeros(3), "logp_ref": np.zeros(3)} | arguments)
