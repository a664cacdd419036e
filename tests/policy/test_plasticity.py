"""MENTOR's numbers by hand, and what a perturbation cannot change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    dormant_ratio,
    dormant_std,
    expert_gate,
    perturb_factor,
    perturb_toward,
)

KEY = jax.random.key(0)


def test_numbers():
    """From the formulas of the released code of arXiv 2410.14972, on paper."""
    layer = np.array([[1, 1, 0.01, 0], [1, 3, 0.01, 0]])
    np.testing.assert_allclose(dormant_ratio(layer), 0.5)
    # At threshold 0 the dead ones; of a dead layer all, as by definition 3.1 of ReDo.
    np.testing.assert_allclose(dormant_ratio(-layer, threshold=0.0), 0.25)
    np.testing.assert_array_equal(dormant_ratio(np.zeros((3, 4))), 1)
    ratio = np.array([0, 0.1, 0.2, 0.5])
    np.testing.assert_allclose(perturb_factor(ratio), [0.95, 0.8, 0.6, 0.2], rtol=1e-6)
    std = [0.119203, 0.268941, 0.5, 0.952574]
    np.testing.assert_allclose(dormant_std(ratio), std, rtol=1e-5)


def test_a_gate_keeps_the_largest():
    got = expert_gate(np.array([2.0, 1, 0, -1]), k=2)
    np.testing.assert_allclose(got, [0.731059, 0.268941, 0, 0], rtol=1e-5)
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(expert_gate(x, k=6), jax.nn.softmax(x), rtol=1e-5)
    one = np.asarray(expert_gate(x, k=1))
    np.testing.assert_array_equal(one.argmax(-1), x.argmax(-1))
    np.testing.assert_array_equal((one > 0).sum(-1), 1)
    slope = jax.grad(lambda v: expert_gate(v, k=2)[0])(jnp.array([2.0, 1, 0, -1]))
    want = 0.731059 * 0.268941
    np.testing.assert_allclose(slope, [want, -want, 0, 0], rtol=1e-4)


def test_perturbation_is_drawn_from_the_checkpoints():
    params = {"w": jnp.zeros((50, 40)), "b": jnp.ones(7)}
    gen = np.random.default_rng(0)
    good = {
        "w": jnp.float32(gen.normal(size=(4, 1, 1)) + np.zeros((4, 50, 40))),
        "b": jnp.full((4, 7), 3.0),
    }
    same = perturb_toward(KEY, params, good, 1.0)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    got = perturb_toward(KEY, params, good, 0.25)
    np.testing.assert_allclose(got["b"], 0.25 + 0.75 * 3, rtol=1e-6)
    w, spread = np.asarray(got["w"]) / 0.75, np.asarray(good["w"])[:, 0, 0]
    np.testing.assert_allclose(w.mean(), spread.mean(), atol=0.1)
    np.testing.assert_allclose(w.std(), spread.std(), rtol=0.1)
    alone = jax.tree.map(lambda x: x[:1], good)
    moved = perturb_toward(KEY, params, alone, 0.5)
    np.testing.assert_allclose(moved["w"], 0.5 * alone["w"][0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dormant_ratio(np.ones(3)), r"expected \[N, H\]"),
        (lambda: perturb_factor(1.5), "ratio is 1.5"),
        (lambda: perturb_factor(0.1, low=0.99), "low is 0.99"),
        (lambda: expert_gate(np.ones(3), k=4), "k is 4 for logits .3,."),
        (lambda: perturb_toward(KEY, {"a": 1.0}, {"b": 1.0}, 0.5), "expected a tree"),
        (
            lambda: perturb_toward(KEY, np.ones(2), np.ones(2), 0.5),
            r"expected \[K, 2\]",
        ),
        (lambda: perturb_toward(KEY, np.ones(2), np.ones((1, 2)), 2.0), "factor is 2"),
        (lambda: perturb_toward(KEY, np.ones(2), np.ones((0, 2)), 0.5), "has none"),
        (lambda: perturb_toward(KEY, np.arange(2), np.ones((1, 2)), 0.5), "of int32"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_units_of_nan_sleep_and_one_checkpoint_has_a_slope():
    assert dormant_ratio(jnp.full((4, 3), jnp.nan)) == 1
    with pytest.raises(ValueError, match="expected .N, H., some"):
        dormant_ratio(jnp.ones((0, 3)))
    params = {"a": jnp.ones(2)}

    def total(good):
        return perturb_toward(KEY, params, {"a": good}, 0.5)["a"].sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((1, 2))), 0.5)
