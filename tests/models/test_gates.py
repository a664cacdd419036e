"""Gates of residual blocks: their formula, what they reduce to, what they see."""

import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import SEGate, StepGate

RNG = np.random.default_rng(0)
F, CHANGE = (RNG.normal(size=(3, 4, 4, 6)).astype(np.float32) for _ in range(2))


def drawn(gate, *arrays):
    """Parameters that are all random, biases too."""
    params = jax.eval_shape(gate.init, jax.random.key(0), *arrays)["params"]
    flat = traverse.flatten_dict(params)
    made = {k: RNG.normal(size=v.shape).astype(np.float32) for k, v in flat.items()}
    return traverse.unflatten_dict(made)


def test_the_step_gate_is_its_formula_and_without_the_change_the_other():
    step, se = StepGate(5), SEGate(5)
    params = drawn(step, F, CHANGE)
    found = step.apply({"params": params}, F, CHANGE)
    assert found.shape == (3, 1, 1, 6)
    mean, change = F.mean((1, 2)), CHANGE.mean((1, 2))
    inner = mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"]
    inner = np.maximum(inner + change @ params["change"]["kernel"], 0)
    outer = inner @ params["excite"]["kernel"] + params["excite"]["bias"]
    np.testing.assert_allclose(found[:, 0, 0], 1 / (1 + np.exp(-outer)), rtol=1e-5)
    # Samples are alone.
    alone = step.apply({"params": params}, F[1:2], CHANGE[1:2])
    np.testing.assert_allclose(alone, found[1:2], rtol=1e-6)
    params["change"]["kernel"] = np.zeros_like(params["change"]["kernel"])
    blind = step.apply({"params": params}, F, CHANGE)
    del params["change"]
    np.testing.assert_array_equal(blind, se.apply({"params": params}, F))
    assert np.abs(blind - found).max() > 0.01


def test_an_open_gate_leaves_the_plain_block():
    params = drawn(SEGate(5), F)
    params["excite"]["kernel"] *= 0
    params["excite"]["bias"] = np.full(6, 40, np.float32)
    gate = SEGate(5).apply({"params": params}, F)
    np.testing.assert_array_equal(CHANGE + gate * F, CHANGE + F)


def test_vectors_and_half_precision():
    gate = SEGate(5)
    params = drawn(gate, F)
    want = gate.apply({"params": params}, F)
    vectors = gate.apply({"params": params}, F.mean((1, 2)))
    np.testing.assert_allclose(vectors, want[:, 0, 0], rtol=1e-5)
    half = gate.clone(dtype=jnp.bfloat16).apply(
        {"params": params}, F.astype("bfloat16")
    )
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.03)


@pytest.mark.parametrize(
    ("gate", "arrays", "message"),
    [
        (SEGate(0), (F,), "hidden is 0; expected at least 1"),
        (SEGate(5), (F[0, 0, 0],), r"f has shape \(6,\)"),
        (
            StepGate(5),
            (F, CHANGE[:1]),
            r"change has shape \(1, 4, 4, 6\); expected \(3,",
        ),
    ],
)
def test_what_is_refused(gate, arrays, message):
    with pytest.raises(ValueError, match=message):
        gate.init(jax.random.key(0), *arrays)


@pytest.mark.parametrize(
    ("gate", "arrays", "message"),
    [
        (SEGate(5), (F.tolist(),), "f is a list"),
        (SEGate(5), (F.astype(int),), "f has dtype int32; expected real floats"),
        (StepGate(5), (F, CHANGE.tolist()), "change is a list"),
    ],
)
def test_what_is_no_array_of_floats(gate, arrays, message):
    with pytest.raises(TypeError, match=message):
        gate.init(jax.random.key(0), *arrays)
