"""Losses that are sums and weights, in the train step: one step however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_guidance import policy, rng
from jaxlib_guidance.reduce import LossOut, Peak, aggregate, finalize
from jaxlib_guidance.training import (
    data_mesh,
    init_state,
    make_train_step,
    replicate,
    shard_batch,
)

P, G, T, V = 16, 4, 5, 7


def log_prob(params, tokens):
    logits = params["w"] + params["b"][:, None]
    return jnp.take_along_axis(
        jax.nn.log_softmax(logits[tokens[..., 0]]), tokens[..., 1:], -1
    )


def batch_of():
    """Prompts with groups of answers of unequal length; NaN where there is no token."""
    keys = rng.sample_keys(jax.random.key(5), P)
    tokens = jax.vmap(lambda k: jax.random.randint(k, (G, T + 1), 0, V))(keys)
    length = jax.vmap(lambda k: jax.random.randint(k, (G, 1), 0, T + 1))(
        rng.fold(keys, 1)
    )
    mask = jnp.arange(T) < length
    old = log_prob(params_of(1), tokens)
    return {
        "tokens": tokens,
        "mask": mask,
        "old": jnp.where(mask, old, jnp.nan),
        "reward": rng.normal(rng.fold(keys, 2), (G,)),
    }


def params_of(seed):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "w": jax.random.normal(a, (V, V)),
        "b": 0.1 * jax.random.normal(b, (V,)),
    }


def grpo(params, batch, keys):
    logp = log_prob(params, batch["tokens"])
    return policy.grpo(logp, batch["old"], batch["reward"], batch["mask"])


def dapo(params, batch, keys):
    logp = log_prob(params, batch["tokens"])
    return policy.dapo(logp, batch["old"], batch["reward"], batch["mask"])


def rloo(params, batch, keys):
    logp = log_prob(params, batch["tokens"])
    return policy.rloo(logp, batch["old"], batch["reward"], batch["mask"])


def dpo(params, batch, keys):
    logp = policy.sequence_logp(log_prob(params, batch["tokens"]), batch["mask"])
    return policy.dpo(logp[:, 0], logp[:, 1], beta=0.5), {}


def peaked(params, batch, keys):
    logp = log_prob(params, batch["tokens"])
    return aggregate(-logp, batch["mask"], aux={"worst": Peak(-logp)})


def taken(loss, *, mesh=None, **options):
    tx = optax.sgd(0.5)
    step = make_train_step(loss, tx, mesh=mesh, **options)
    state, batch = init_state(params_of(0), tx, jax.random.key(2)), batch_of()
    if mesh is not None:
        state, batch = replicate(mesh, state), shard_batch(mesh, batch)
    return step(state, batch)


@pytest.mark.parametrize("loss", [grpo, dapo, rloo, dpo, peaked])
def test_whole_in_micro_batches_and_on_eight_devices(loss):
    state, metrics = taken(loss)
    # By hand, from the whole batch at once.
    params, keys = params_of(0), rng.sample_keys(jax.random.key(2), P)

    def objective(params):
        out = loss(params, batch_of(), keys)
        return finalize(out) if isinstance(out, LossOut) else (jnp.mean(out[0]), {})

    (value, report), grads = jax.value_and_grad(objective, has_aux=True)(params)
    want = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    assert float(jnp.abs(grads["w"]).max()) > 1e-3
    jax.tree.map(close, state.params, want)
    close(metrics["loss"], value)
    for name, number in report.items():
        close(metrics[name], number)
    for options in (
        {"accumulate": 4},
        {"mesh": data_mesh()},
        {"mesh": data_mesh(), "accumulate": 2},
    ):
        other, found = taken(loss, **options)
        jax.tree.map(close, other.params, want)
        assert found.keys() == metrics.keys()
        for name, number in metrics.items():
            close(found[name], number)


def test_nothing_to_learn_changes_nothing():
    batch = batch_of()
    batch["mask"] = jnp.zeros_like(batch["mask"])
    tx = optax.sgd(0.5)
    for accumulate in (1, 4):
        step = make_train_step(grpo, tx, accumulate=accumulate)
        state, metrics = step(init_state(params_of(0), tx, jax.random.key(2)), batch)
        np.testing.assert_array_equal(state.params["w"], params_of(0)["w"])
        assert metrics["loss"] == metrics["grad_norm"] == 0


def test_what_is_no_loss_is_refused():
    tx = optax.sgd(0.5)
    state = init_state(params_of(0), tx, jax.random.key(2))
    step = make_train_step(grpo, tx, donate=False)
    with pytest.raises(ValueError, match="weights have no effect .* LossOut"):
        step(state, batch_of(), jnp.ones(P))
    step = make_train_step(lambda *_: jnp.float32(0), tx, donate=False)
    with pytest.raises(ValueError, match=r"an array of shape \(\); expected \(loss"):
        step(state, batch_of())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("padding", [0.0, jnp.nan, jnp.inf])
@pytest.mark.parametrize("kind", ["quotient", "logarithm", "norm"])
def test_padding_rows_change_nothing_whatever_they_hold(kind, padding, accumulate):
    """Their loss or its derivative is not finite; the step is that of the others."""

    def loss(params, batch, keys):
        n, x = batch["n"], batch["x"]
        if kind == "norm":
            each = jnp.sqrt(jnp.sum((x * params["w"]) ** 2, -1))
        else:
            each = (x @ params["w"]) / n
        return each, {"log": jnp.log(n) if kind == "logarithm" else 1 / n}

    tx = optax.sgd(0.1)
    hole = jnp.array([1.0, 1.0, 0, 0])[:, None]
    batch = {
        "x": jnp.where(hole > 0, 1.0, padding) * jnp.ones((4, 3)),
        "n": jnp.where(hole[:, 0] > 0, 1.0, padding),
    }
    state = init_state({"w": jnp.ones(3)}, tx, jax.random.key(0))
    step = make_train_step(loss, tx, accumulate=accumulate)
    # Row 1 is in another micro-batch than row 0, each with a row of padding.
    new, metrics = step(state, batch, jnp.array([1.0, 1.0, 0, 0]))
    slope = 1 / np.sqrt(3) if kind == "norm" else 1.0
    np.testing.assert_allclose(new.params["w"], 1 - 0.1 * slope, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 3 * slope, rtol=1e-6)
    np.testing.assert_allclose(metrics["log"], float(kind != "logarithm"))


def test_a_batch_of_padding_alone_teaches_nothing():
    def loss(params, batch, keys):
        return (batch["x"] @ params["w"]) / batch["n"], {}

    tx = optax.sgd(0.1)
    batch = {"x": jnp.ones((4, 3)), "n": jnp.zeros(4)}
    state = init_state({"w": jnp.ones(3)}, tx, jax.random.key(0))
    new, metrics = make_train_step(loss, tx)(state, batch, jnp.zeros(4))
    np.testing.assert_array_equal(new.params["w"], 1)
    assert metrics["loss"] == metrics["grad_norm"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_negative_weights_are_weights(accumulate):
    def loss(params, batch, keys):
        return (batch @ params["w"]) ** 2, {}

    tx, weights = optax.sgd(0.1), np.array([1.0, -0.5, 0.0, 2.0], np.float32)
    batch = jnp.arange(12.0).reshape(4, 3) / 6
    state = init_state({"w": jnp.ones(3)}, tx, jax.random.key(0))
    new, _ = make_train_step(loss, tx, accumulate=accumulate)(state, batch, weights)
    slope = weights @ (2 * batch.sum(1, keepdims=True) * batch) / weights.sum()
    np.testing.assert_allclose(new.params["w"], 1 - 0.1 * slope, rtol=1e-5)
