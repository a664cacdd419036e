"""A skill's reward by hand, and the information that it bounds, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import skill_reward


def test_numbers():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    got = skill_reward(logits, np.array([0, 1]))
    np.testing.assert_allclose(got, np.log([1.5, 0.3]), rtol=1e-5)
    # A judge that knows nothing pays nothing, whatever the size of its logits.
    np.testing.assert_allclose(skill_reward(np.full((4, 8), 7.0), np.arange(4)), 0)


def test_the_best_judge_pays_the_information():
    """Of a joint distribution of 4 skills, drawn evenly, and 5 states."""
    given = np.random.default_rng(0).dirichlet(np.ones(5), 4)
    joint = given / 4
    state = joint.sum(0)
    information = np.sum(joint * np.log(joint / (0.25 * state)))
    skill, at = (x.ravel() for x in np.indices(joint.shape))

    def mean(judge):
        return np.sum(joint.ravel() * np.asarray(skill_reward(judge[at], skill)))

    posterior = np.log(joint / state).T
    np.testing.assert_allclose(mean(posterior), information, rtol=1e-5)
    other = posterior + np.random.default_rng(1).normal(size=posterior.shape)
    assert mean(other) < information


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: skill_reward(np.ones((2, 3)), np.array([0, 3])), "skill is 3"),
        (lambda: skill_reward(np.ones((2, 3)), np.ones(2)), "expected integers"),
        (lambda: skill_reward(np.ones((2, 3)), np.array(0)), "skill has shape"),
        (lambda: skill_reward(jnp.float32(1), np.array(0)), r"expected \[..., Z\]"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_traced_skill_out_of_range_is_not_another():
    made = jax.jit(skill_reward)(jnp.zeros((3, 3)), jnp.array([-1, 0, 3]))
    np.testing.assert_array_equal(np.isnan(made), [True, False, True])
