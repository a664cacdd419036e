"""The train step: the same numbers however the batch is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.training import (
    TrainState,
    data_mesh,
    ema_decay_at,
    init_state,
    make_train_step,
    replicate,
    shard_batch,
    state_sharding,
)


def loss(params, batch, keys):
    noise = rng.normal(keys, (3,))
    hidden = jnp.tanh((batch["x"] + 0.3 * noise) @ params["w"])
    error = jnp.mean((hidden @ params["v"] - batch["y"]) ** 2, axis=-1)
    return error, {"size": jnp.abs(hidden).mean(-1)}


def start(tx, seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    params = {"w": jax.random.normal(a, (3, 5)), "v": jax.random.normal(b, (5, 2))}
    return init_state(params, tx, jax.random.key(7))


def batch_of(n):
    keys = rng.sample_keys(jax.random.key(3), n)
    return {"x": rng.normal(keys, (3,)), "y": rng.normal(rng.fold(keys, 1), (2,))}


def run(step, state, batch, n=3, weights=None):
    for _ in range(n):
        state, metrics = step(state, batch, weights)
    return state, metrics


def assert_same(a, b, tol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol),
        (a[0].params, a[0].ema, a[1]),
        (b[0].params, b[0].ema, b[1]),
    )


@pytest.fixture(scope="module")
def single():
    # SGD, because Adam forgives a gradient that is too large by a factor.
    tx = optax.sgd(0.3)
    return run(make_train_step(loss, tx, ema_decay=0.9), start(tx), batch_of(16))


def test_eight_devices_equal_one(single):
    tx, mesh = optax.sgd(0.3), data_mesh()
    step = make_train_step(loss, tx, ema_decay=0.9, mesh=mesh)
    state = replicate(mesh, start(tx))
    assert_same(run(step, state, shard_batch(mesh, batch_of(16))), single)


@pytest.mark.parametrize(
    ("tx", "accumulate"),
    [(optax.sgd(0.3), 1), (optax.adamw(1e-2), 1), (optax.sgd(0.3), 2)],
)
def test_a_split_state_takes_the_same_steps(tx, accumulate):
    mesh, batch = data_mesh(), shard_batch(data_mesh(), batch_of(16))

    def wide():
        key = jax.random.key(0)
        params = {"w": jax.random.normal(key, (3, 16)), "v": jnp.ones((16, 2)) / 4}
        return init_state(params, tx, jax.random.key(7))

    ends = []
    for kind in ("data", "fsdp"):
        sharding = state_sharding(mesh, wide, kind, min_size=1)
        state = jax.jit(wide, out_shardings=sharding)()
        step = make_train_step(
            loss, tx, clip=0.5, mesh=mesh, sharding=sharding, accumulate=accumulate
        )
        text = step.lower(state, batch).compile().as_text()
        assert ("all-gather" in text) == (kind == "fsdp")
        assert "all-to-all" not in text
        state, metrics = run(step, state, batch)
        got = jax.tree.map(lambda leaf: leaf.sharding, state)
        assert got == sharding
        ends.append((replicate(mesh, (state.params, state.ema)), metrics))
    assert state.params["w"].addressable_shards[0].data.shape == (3, 2)
    assert state.ema["v"].addressable_shards[0].data.shape == (2, 2)
    # To the last bit, but for versions of XLA that fuse the two differently.
    same = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(same, *ends)


def test_micro_batches_equal_the_whole(single):
    tx = optax.sgd(0.3)
    step = make_train_step(loss, tx, ema_decay=0.9, accumulate=4)
    assert_same(run(step, start(tx), batch_of(16)), single)


def test_micro_batches_on_eight_devices_stay_where_they_are(single):
    tx, mesh = optax.sgd(0.3), data_mesh()
    step = make_train_step(loss, tx, ema_decay=0.9, accumulate=2, mesh=mesh)
    state, batch = replicate(mesh, start(tx)), shard_batch(mesh, batch_of(16))
    assert_same(run(step, state, batch), single)
    text = step.lower(replicate(mesh, start(tx)), batch).compile().as_text()
    for name in ("all-gather", "all-to-all", "collective-permute"):
        assert name not in text
    # One sum of the gradient, after the loop and not within it.
    # Newer versions of XLA call the loop from a computation of its own.
    others, entry = text.split("\nENTRY ")
    assert "while(" in text
    assert " all-reduce(" not in others
    assert entry.count(" all-reduce(") == 1
    with pytest.raises(ValueError, match="8 devices times 2 micro"):
        step(replicate(mesh, start(tx)), batch_of(8))


def frozen_loss(params, batch, keys, frozen):
    return loss({**frozen, **params}, batch, keys)


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 1), (8, 2)])
def test_what_is_frozen_is_an_argument_and_stays(devices, accumulate):
    tx, mesh = optax.sgd(0.3), data_mesh() if devices > 1 else None
    options = {"ema_decay": 0.9, "accumulate": accumulate, "mesh": mesh}
    params = start(tx).params
    held, trained = {"w": params["w"]}, {"v": params["v"]}
    want = init_state(trained, tx, jax.random.key(7))
    closed = make_train_step(partial(frozen_loss, frozen=held), tx, ema_decay=0.9)
    state, batch, frozen = init_state(trained, tx, want.key), batch_of(16), held
    if mesh is not None:
        state, frozen = replicate(mesh, (state, held))
        batch = shard_batch(mesh, batch)
    step = make_train_step(frozen_loss, tx, **options)
    for _ in range(2):
        want, values = closed(want, batch_of(16))
        state, metrics = step(state, batch, None, frozen)
    assert_same((state, metrics), (want, values))
    np.testing.assert_array_equal(frozen["w"], params["w"])


def test_rows_of_weight_zero_do_not_count(single):
    tx = optax.sgd(0.3)
    rows = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, 100 + leaf[:8]]), batch_of(16)
    )
    weights = jnp.arange(24) < 16
    for accumulate in (1, 3):
        step = make_train_step(loss, tx, ema_decay=0.9, accumulate=accumulate)
        assert_same(run(step, start(tx), rows, weights=weights), single)


def test_the_objective_is_the_weighted_mean():
    tx = optax.sgd(1.0)
    batch, weights = batch_of(4), jnp.array([1.0, 0.0, 2.0, 5.0])
    state = start(tx)
    keys = rng.fold(rng.sample_keys(state.key, 4), 0)

    def objective(params):
        each = loss(params, batch, keys)[0]
        return jnp.sum(weights * each) / jnp.sum(weights)

    want, grads = jax.value_and_grad(objective)(state.params)
    after = jax.tree.map(lambda p, g: p - g, state.params, grads)
    norm = optax.tree.norm(grads)
    step = make_train_step(loss, tx)
    state, metrics = step(state, batch, weights)
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.params,
        after,
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_without_weight_alone_teach_nothing(accumulate):
    tx = optax.sgd(0.3)
    step = make_train_step(loss, tx, accumulate=accumulate, donate=False)
    before = start(tx)
    after, metrics = step(before, batch_of(4), jnp.zeros(4))
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)


@pytest.mark.parametrize("kind", ["data", "fsdp"])
def test_weights_count_alike_on_a_mesh_in_micro_batches(kind):
    tx, mesh, weights = optax.sgd(0.3), data_mesh(), jnp.arange(16) % 5
    want = run(make_train_step(loss, tx), start(tx), batch_of(16), weights=weights)
    sharding = state_sharding(mesh, lambda: start(tx), kind, min_size=1)
    step = make_train_step(loss, tx, accumulate=2, mesh=mesh, sharding=sharding)
    rows = shard_batch(mesh, batch_of(16))
    got = run(step, jax.device_put(start(tx), sharding), rows, weights=weights)
    assert_same(replicate(mesh, got), want)


def linear(dtype, **options):
    """A step on ``mean(w x)``, and its state at ``w = 0``, in a type."""
    tx = optax.sgd(options.pop("rate", 0.0))
    each = lambda params, batch, keys: (params["w"] * batch["x"], {})  # noqa: E731
    state = init_state({"w": jnp.zeros((), dtype)}, tx, jax.random.key(0))
    return make_train_step(each, tx, **options), state


def test_many_rows_do_not_overflow_half_precision():
    step, state = linear(jnp.float16)
    _, metrics = step(state, {"x": jnp.full(1024, 100, jnp.float16)})
    np.testing.assert_allclose(metrics["grad_norm"], 100, rtol=2e-3)


def test_micro_batches_of_half_precision_are_summed_in_float32():
    step, state = linear(jnp.bfloat16, accumulate=512)
    # Summed in bfloat16, whose last bit is 1/256, this stops at a half.
    _, metrics = step(state, {"x": jnp.ones(512, jnp.bfloat16)})
    np.testing.assert_allclose(metrics["grad_norm"], 1, rtol=4e-3)


def test_the_average_of_half_precision_parameters_does_not_stall():
    step, state = linear(
        jnp.bfloat16, rate=1.0, clip=1.0, ema_decay=0.999, ema_warmup=False
    )
    assert state.ema["w"].dtype == jnp.float32
    state, _ = step(state, {"x": -jnp.ones(1, jnp.bfloat16)})
    assert state.params["w"] == 1
    assert state.params["w"].dtype == jnp.bfloat16
    for _ in range(2000):
        state, _ = step(state, {"x": jnp.zeros(1, jnp.bfloat16)})
    np.testing.assert_allclose(state.ema["w"], 1 - 0.999**2001, rtol=1e-4)


def test_noise_changes_from_step_to_step_and_row_to_row():
    tx = optax.sgd(0.0)
    step = make_train_step(
        lambda p, b, k: (0 * jnp.sum(p["w"]) + rng.uniform(k), {}), tx, donate=False
    )
    state = start(tx)
    after, first = step(state, batch_of(4))
    _, second = step(after, batch_of(4))
    assert first["loss"] != second["loss"]
    _, again = step(state, batch_of(4))
    assert first["loss"] == again["loss"]


def test_clip_bounds_the_step_and_not_the_reported_norm():
    tx = optax.sgd(1.0)
    state = start(tx)
    before = jax.tree.map(jnp.array, state.params)
    free = make_train_step(loss, tx, donate=False)(state, batch_of(8))[1]["grad_norm"]
    after, metrics = make_train_step(loss, tx, clip=0.01)(state, batch_of(8))
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before))
    assert free > 0.02
    np.testing.assert_allclose(metrics["grad_norm"], free, rtol=1e-6)
    np.testing.assert_allclose(moved, 0.01, rtol=1e-3)


def test_the_average_follows_its_formula():
    tx, decay = optax.sgd(0.3), 0.7
    step = make_train_step(loss, tx, ema_decay=decay, ema_warmup=False, donate=False)
    state = start(tx)
    ema = state.params["w"]
    for _ in range(3):
        state, _ = step(state, batch_of(4))
        ema = decay * ema + (1 - decay) * state.params["w"]
    np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-5)


def test_the_average_warms_up():
    np.testing.assert_allclose(ema_decay_at(0, 0.999, True), 0.1)
    np.testing.assert_allclose(ema_decay_at(90, 0.999, True), 0.91)
    np.testing.assert_allclose(ema_decay_at(10**6, 0.999, True), 0.999)
    np.testing.assert_allclose(ema_decay_at(0, 0.999, False), 0.999)


def test_the_old_state_is_donated_and_the_initial_parameters_are_not():
    tx = optax.adam(1e-3)
    params = {"w": jnp.ones((3, 5)), "v": jnp.ones((5, 2))}
    state = init_state(params, tx, jax.random.key(0))
    make_train_step(loss, tx)(state, batch_of(4))
    assert state.params["w"].is_deleted()
    assert state.ema["w"].is_deleted()
    assert not params["w"].is_deleted()


def test_one_compilation_serves_all_steps():
    tx, traces = optax.sgd(0.1), []

    def counted(params, batch, keys):
        traces.append(1)
        return loss(params, batch, keys)

    run(make_train_step(counted, tx), start(tx), batch_of(4), n=4)
    assert len(traces) == 1


def test_refusals():
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match="accumulate is 0"):
        make_train_step(loss, tx, accumulate=0)
    with pytest.raises(ValueError, match="clip is -1"):
        make_train_step(loss, tx, clip=-1.0)
    with pytest.raises(ValueError, match="sharding needs a mesh"):
        make_train_step(loss, tx, sharding=jax.sharding.SingleDeviceSharding)
    with pytest.raises(ValueError, match="times 3 micro-batches"):
        make_train_step(loss, tx, accumulate=3)(start(tx), batch_of(4))
    with pytest.raises(ValueError, match="weights has shape"):
        make_train_step(loss, tx)(start(tx), batch_of(4), jnp.ones(3))
    with pytest.raises(ValueError, match=r"loss has shape \(\)"):
        make_train_step(lambda p, b, k: (jnp.sum(p["w"]), {}), tx)(
            start(tx), batch_of(4)
        )
    with pytest.raises(ValueError, match="expected one leading batch"):
        make_train_step(loss, tx)(start(tx), {"x": jnp.ones((4, 3)), "y": jnp.ones(3)})
    with pytest.raises(TypeError, match="expected a key"):
        init_state({}, tx, jnp.zeros(2, jnp.uint32))
    assert TrainState._fields == ("step", "params", "ema", "opt_state", "key")
