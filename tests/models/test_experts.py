"""Experts by noise range: borders, gathering, transfer and low-rank changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.models import (
    expert_index,
    experts,
    lora_init,
    lora_merge,
    transfer_kl,
)

TRACED = []


def classifier(params, x, t):
    TRACED.append(1)
    return jnp.tanh(x @ params["w"] + params["b"]) * (1 + t.reshape(-1, 1))


def parameters(seed):
    w, b = jax.random.normal(jax.random.key(seed), (2, 3, 3))
    return {"w": w, "b": b[0]}


def test_borders_belong_to_one_slice():
    """The released code of PPAP gives t = 200 to expert 0, which saw 0 to 199."""
    t = jnp.asarray([0, 199, 200, 399, 400, 599, 600, 799, 800, 999, 1000])
    want = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    np.testing.assert_array_equal(expert_index(t, 1000, 5), want)
    assert expert_index(0.2, 1.0, 5) == 1
    assert expert_index(-1.0, 1.0, 5) == 0
    with pytest.raises(ValueError, match="experts is 0; expected at least 1"):
        expert_index(t, 1000, 0)


def test_each_sample_has_the_expert_of_its_own_time():
    """Stacked gather is dispatch in Python, sample by sample; equal experts are one."""
    x = jax.random.normal(jax.random.key(9), (6, 3))
    t = jnp.asarray([0.05, 0.2, 0.9, 1.0, 0.55, 0.2])
    each = [parameters(i) for i in range(5)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *each)
    multi = jax.jit(experts(classifier))
    TRACED.clear()
    got = multi(stacked, x, t)
    assert len(TRACED) == 1
    for i, n in enumerate([0, 1, 4, 4, 2, 1]):
        want = classifier(each[n], x[i : i + 1], t[i : i + 1])
        np.testing.assert_allclose(got[i], want[0], rtol=1e-5, atol=1e-6)
    same = jax.tree.map(lambda a: jnp.stack([a] * 5), each[0])
    np.testing.assert_allclose(
        multi(same, x, t), classifier(each[0], x, t), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(  # One time for all runs one expert.
        experts(classifier)(stacked, x, jnp.float32(0.5)),
        classifier(each[2], x, jnp.float32(0.5)),
        rtol=1e-5,
    )
    term = jg.classifier_guidance(experts(classifier), 1.0, 1, stacked)
    jg.testing.check_term(term, x=x, only=["acts", "batch"])


def test_low_rank_changes():
    """``B = 0`` changes nothing; merged equals unmerged, ``x W + alpha/r (x A) B``,
    where the released code of PPAP differs by the factor in one of the two."""
    params = parameters(0)
    factors = lora_init(jax.random.key(1), params, rank=2)
    assert factors["['w']"]["a"].shape == (3, 2)
    start = lora_merge(params, factors)
    jax.tree.map(np.testing.assert_array_equal, start, params)
    b = jax.random.normal(jax.random.key(2), (2, 3))
    factors["['w']"]["b"] = b
    factors["['b']"]["shift"] = jnp.ones(3)
    x = jax.random.normal(jax.random.key(3), (4, 3))
    merged = lora_merge(params, factors, alpha=8.0)
    plain = x @ params["w"] + 4.0 * (x @ factors["['w']"]["a"]) @ b
    np.testing.assert_allclose(x @ merged["w"], plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(merged["b"], params["b"] + 1)
    with pytest.raises(ValueError, match="factors change"):
        lora_merge({"w": params["w"]}, factors)
    with pytest.raises(ValueError, match="rank is 0; expected at least 1"):
        lora_init(jax.random.key(1), params, rank=0)
    small = experts(classifier, merge=lora_merge)
    both = jax.tree.map(lambda a: jnp.stack([jnp.zeros_like(a), a]), factors)
    got = small((params, both), x[:2, :], jnp.asarray([0.1, 0.9]))
    want = classifier(merged, x[1:2], jnp.asarray([0.9]))
    np.testing.assert_allclose(got[1], want[0], rtol=1e-4, atol=1e-5)


def test_transfer_loss():
    """By hand; no gradient at the sharpened teacher, none to the teacher."""
    teacher = jnp.asarray([[1.0, 0.0, -0.5], [0.2, 0.1, 0.0]])
    p = np.exp(np.asarray(teacher) * 4)
    p /= p.sum(1, keepdims=True)
    loss = transfer_kl(jnp.zeros((2, 3)), teacher)
    np.testing.assert_allclose(loss, (p * np.log(3 * p)).sum(1) / 3, rtol=1e-5)
    total = jax.grad(lambda s, t: transfer_kl(s, t).sum(), (0, 1))
    np.testing.assert_allclose(total(teacher / 0.25, teacher)[0], 0, atol=1e-6)
    np.testing.assert_array_equal(total(jnp.zeros((2, 3)), teacher)[1], 0)
    with pytest.raises(ValueError, match=r"expected \[B, C\] for both"):
        transfer_kl(teacher, teacher[:1])
