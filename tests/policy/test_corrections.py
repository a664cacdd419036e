"""Weights and masks of data that another policy made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    effective_sample_size,
    entropy_quantile_mask,
    mixed_policy_weight,
    off_policy_mask,
    reinforce,
    rollout_weight,
    truncation_mask,
)

pytestmark = pytest.mark.usefixtures("one_program")
RATIO = np.array([[0.2, 1.0, 3.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
LOGP, ROLLOUT = jnp.log(RATIO) - 2, np.full((2, 4), -2.0)
MASK = np.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("truncate", [[0.5, 1, 3, 0], [1, 1, 0, 0]]),
        ("mask", [[0, 1, 3, 0], [1, 1, 0, 0]]),
        ("reject", [[0, 1, 1, 0], [1, 1, 0, 0]]),
    ],
)
def test_rollout_weight(mode, expected):
    got = rollout_weight(LOGP, ROLLOUT, MASK, mode=mode, low=0.5, high=5.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rollout_weight_of_sequences():
    whole = rollout_weight(LOGP, ROLLOUT, MASK, level="seq_sum", high=5.0)
    np.testing.assert_allclose(whole, [[0.6, 0.6, 0.6, 0], [1, 1, 0, 0]], rtol=1e-5)
    mean = rollout_weight(LOGP, ROLLOUT, MASK, level="seq")
    np.testing.assert_allclose(mean[0, :3], 0.6 ** (1 / 3), rtol=1e-5)


def test_kept_mass_undoes_the_renormalisation_of_top_p():
    """The sampler keeps 0.8 of the mass; on policy the weights are 1 again."""
    logp = jnp.log(np.array([[0.4, 0.24]]))
    reported = logp - jnp.log(0.8)
    np.testing.assert_allclose(rollout_weight(logp, reported), 0.8, rtol=1e-5)
    kept = np.full((1, 2), jnp.log(0.8))
    again = rollout_weight(logp, reported, kept_mass=kept)
    np.testing.assert_allclose(again, 1, rtol=1e-5)


def test_off_policy_mask():
    logp, rollout = np.full((3, 4), -2.0), np.full((3, 4), -1.0)
    got = off_policy_mask(logp, rollout, np.array([1.0, -1.0, -1.0]), threshold=0.9)
    np.testing.assert_array_equal(got, [[1] * 4, [0] * 4, [0] * 4])
    near = off_policy_mask(logp, rollout, -np.ones(3), threshold=1.1)
    assert np.all(near)
    same = off_policy_mask(logp, logp, -np.ones(3), threshold=0.0)
    assert np.all(same)


def test_entropy_quantile_mask():
    entropy = jnp.arange(10.0).reshape(2, 5)
    got = entropy_quantile_mask(entropy, top=0.2)
    np.testing.assert_array_equal(got, entropy >= 8)
    mask = (entropy < 5).astype(jnp.float32)
    got = entropy_quantile_mask(jnp.where(mask > 0, entropy, jnp.nan), mask, top=0.4)
    np.testing.assert_array_equal(got, (entropy >= 3) & (entropy < 5))
    np.testing.assert_array_equal(entropy_quantile_mask(entropy, mask, top=1.0), mask)
    assert not np.any(entropy_quantile_mask(entropy, 0 * mask))


def test_truncation_mask():
    got = truncation_mask(MASK, np.array([True, False]))
    np.testing.assert_array_equal(got, [[1, 1, 1, 0], [0] * 4])


def test_mixed_policy_weight():
    off = np.array([[0.0, 1, 1, 1], [0, 0, 0, 0]])
    ratio = mixed_policy_weight(LOGP, off, MASK, shape="ratio", logp_old=ROLLOUT)
    np.testing.assert_allclose(ratio[0, :3], [1, 1, 3], rtol=1e-5)
    # No teacher's token: every shape leaves the loss alone.
    for shape, extra in (
        ("none", {}),
        ("shaped", {}),
        ("ratio", {"logp_old": ROLLOUT}),
    ):
        got = mixed_policy_weight(LOGP, 0 * off, MASK, shape=shape, **extra)
        np.testing.assert_array_equal(got, MASK)


@pytest.mark.parametrize(
    ("shape", "objective"),
    [
        ("none", lambda logp, old: logp),
        ("ratio", lambda logp, old: jnp.exp(logp - old)),
        ("shaped", lambda logp, old: jnp.exp(logp) / (jnp.exp(logp) + 0.1)),
    ],
)
def test_a_teacher_weight_makes_the_gradient_of_its_objective(shape, objective):
    """``-A objective`` is what LUFFY's code differentiates on a teacher's tokens."""
    p = np.array([[0.01, 0.1, 0.5, 0.9]], np.float32)
    logp, old, a = np.log(p), np.log(p) - 0.3, np.array([-1.5])
    extra = {"logp_old": old} if shape == "ratio" else {}

    def taught(x):
        weight = mixed_policy_weight(x, np.ones_like(p), shape=shape, **extra)
        return jnp.sum(weight * reinforce(x, a))

    want = jax.grad(lambda x: jnp.sum(1.5 * objective(x, old)))(logp)
    np.testing.assert_allclose(jax.grad(taught)(logp), want, rtol=1e-5)
    if shape == "shaped":
        golden = 1.5 * np.array([[0.0826446, 0.25, 0.1388889, 0.09]])
        np.testing.assert_allclose(want, golden, rtol=1e-5)


def test_a_teacher_weight_by_advantage():
    """Beside the released ``compute_policy_loss``, written anew for one token."""

    def released(p, a):
        if a < 0 and p < 0.01:
            return 1.0  # Such a token has PPO's loss, at its first step.
        part = (4 - a) / 8
        return p / (p + min(max(0.001 - 0.002 * part, -0.001), 0.001))

    p = np.array([[1e-5, 1e-3, 0.02, 0.9]] * 4, np.float32)
    a = np.array([2.0, -2.0, 0.0, 9.0])
    got = mixed_policy_weight(
        np.log(p), np.ones_like(p), shape="advantage", advantage=a
    )
    want = [[released(x, y) for x in row] for row, y in zip(p, a, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    own = mixed_policy_weight(
        np.log(p), np.zeros_like(p), shape="advantage", advantage=a
    )
    np.testing.assert_array_equal(own, np.ones_like(p))


def test_effective_sample_size():
    assert float(effective_sample_size(np.ones(7))) == 1
    one = effective_sample_size(np.array([0.0, 5, 0, jnp.nan]), np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(one, 1 / 3, rtol=1e-6)
    assert float(effective_sample_size(np.zeros(3))) == 0
    assert np.isnan(effective_sample_size(np.ones(3), np.zeros(3)))


def test_weights_are_constants():
    def total(p):
        return sum(
            jnp.sum(w)
            for w in (
                rollout_weight(p, ROLLOUT, MASK),
                mixed_policy_weight(p, MASK, MASK),
                off_policy_mask(p, ROLLOUT, LOGP, MASK, threshold=1.0),
            )
        )

    assert not np.any(jax.grad(total)(LOGP))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rollout_weight(LOGP, ROLLOUT, mode="clip"), "mode is 'clip'"),
        (lambda: rollout_weight(LOGP, ROLLOUT, low=2.0), "expected low < high"),
        (lambda: rollout_weight(LOGP, ROLLOUT, kept_mass=LOGP[0]), "kept_mass has"),
        (lambda: entropy_quantile_mask(LOGP, top=0.0), "top is 0.0"),
        (lambda: truncation_mask(MASK, MASK), "finished has shape"),
        (lambda: mixed_policy_weight(LOGP, MASK, shape="p"), "shape is 'p'"),
        (lambda: mixed_policy_weight(LOGP, MASK, shape="ratio"), "logp_old is for"),
        (lambda: mixed_policy_weight(LOGP, MASK, logp_old=LOGP), "logp_old is for"),
        (lambda: mixed_policy_weight(LOGP, MASK, advantage=LOGP), "advantage is for"),
        (lambda: mixed_policy_weight(LOGP, MASK, shape="none", c=0.1), "c is for"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
