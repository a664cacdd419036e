"""Chunked token log-probabilities against the dense ones, and what they allocate."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlib_guidance.policy import token_logp, token_logp_and_entropy

B, T, D, V = 8, 5, 16, 37


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (B, T, D)).astype(dtype)
    unembedding = jax.random.normal(keys[1], (V, D)).astype(dtype)
    return hidden, unembedding, jax.random.randint(keys[2], (B, T), 0, V)


WEIGHTS = np.random.default_rng(1).standard_normal((2, B, T)).astype(np.float32)


def dense(hidden, unembedding, tokens, temperature=1.0):
    hidden, unembedding = (jnp.asarray(x, jnp.float32) for x in (hidden, unembedding))
    logits = jnp.einsum("...d,vd->...v", hidden, unembedding) / temperature
    logp = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    return own, -jnp.sum(jnp.exp(logp) * logp, -1)


def scored(f, *arrays):
    """Values, and gradients of a weighted sum of log-probability and entropy."""

    def loss(hidden, unembedding, tokens):
        logp, entropy = f(hidden, unembedding, tokens)
        return jnp.sum(WEIGHTS[0] * logp + WEIGHTS[1] * entropy), (logp, entropy)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*arrays)


def assert_close(got, want, rtol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("chunk", [1, 10, 36, 4096])
def test_values_and_gradients_are_the_dense_ones(chunk):
    f = functools.partial(token_logp_and_entropy, chunk=chunk, temperature=0.7)
    want = scored(functools.partial(dense, temperature=0.7), *inputs())
    got = scored(f, *inputs())
    assert_close(got, want, 1e-5)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))
    alone = token_logp(*inputs(), chunk=chunk, temperature=0.7)
    np.testing.assert_allclose(alone, got[1][0], rtol=1e-6)


def test_values_against_float64():
    hidden, unembedding, tokens = (np.asarray(x) for x in inputs())
    logits = hidden.astype(np.float64) @ unembedding.T.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    got = token_logp_and_entropy(*inputs(), chunk=10)
    own = np.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(got[0], own, atol=1e-5)
    np.testing.assert_allclose(got[1], -(np.exp(logp) * logp).sum(-1), atol=1e-5)


def test_half_precision_is_accumulated_in_float32():
    arrays = inputs(jnp.bfloat16)
    (to_hidden, to_unembedding), values = scored(
        functools.partial(token_logp_and_entropy, chunk=10), *arrays
    )
    want_gradients, want = scored(dense, *arrays)
    assert to_hidden.dtype == to_unembedding.dtype == jnp.bfloat16
    assert_close(values, want, 1e-5)
    assert_close((to_hidden, to_unembedding), want_gradients, 2**-7)


def test_the_products_are_of_the_type_of_hidden():
    hidden, unembedding, tokens = inputs()
    got = token_logp(hidden.astype(jnp.bfloat16), unembedding, tokens, chunk=10)
    rounded = unembedding.astype(jnp.bfloat16)
    want = token_logp(hidden.astype(jnp.bfloat16), rounded, tokens, chunk=10)
    np.testing.assert_array_equal(got, want)
    grad = jax.grad(lambda w: jnp.sum(token_logp(hidden, w, tokens, chunk=10)))
    assert grad(rounded).dtype == jnp.bfloat16


def test_extreme_logits_neither_overflow_nor_vanish():
    hidden, unembedding, tokens = inputs()
    hidden = 1e4 * hidden
    got = scored(
        functools.partial(token_logp_and_entropy, chunk=10), hidden, unembedding, tokens
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(got[1][0], dense(hidden, unembedding, tokens)[0], 1e-5)


def test_vmap_and_other_ranks_agree_with_the_batch():
    hidden, unembedding, tokens = inputs()
    f = functools.partial(token_logp, chunk=10)
    stack = jnp.stack([unembedding, -unembedding])
    mapped = jax.jit(jax.vmap(jax.vmap(f, (0, None, 0)), (None, 0, None)))
    got = mapped(hidden, stack, tokens)
    np.testing.assert_allclose(got[0], f(hidden, unembedding, tokens), atol=1e-5)
    np.testing.assert_allclose(got[1], f(-hidden, unembedding, tokens), atol=1e-5)
    one = f(hidden[0, 0], unembedding, tokens[0, 0])
    assert one.shape == ()
    np.testing.assert_allclose(one, got[0, 0, 0], atol=1e-5)
    assert f(hidden[:0], unembedding, tokens[:0]).shape == (0, T)


def mesh():
    return Mesh(np.array(jax.devices()), ("data",))


@pytest.mark.parametrize("check_vma", [False, True])
def test_shard_map_agrees_and_sums_the_gradient_of_what_is_shared(check_vma):
    arrays = inputs()
    split, shared = PartitionSpec("data"), PartitionSpec()

    def mapped(*arrays):
        return jax.shard_map(
            functools.partial(token_logp_and_entropy, chunk=10),
            mesh=mesh(),
            in_specs=(split, shared, split),
            out_specs=split,
            check_vma=check_vma,
        )(*arrays)

    assert_close(scored(mapped, *arrays), scored(dense, *arrays), 1e-5)


def test_hidden_states_shared_by_devices_with_their_own_unembeddings():
    hidden, unembedding, tokens = inputs()
    stack = jnp.stack([unembedding * i for i in range(1, 9)])
    split, shared = PartitionSpec("data"), PartitionSpec()
    f = functools.partial(token_logp, chunk=10)

    def mapped(hidden, stack):
        return jax.shard_map(
            lambda hidden, part, tokens: f(hidden, part[0], tokens)[None],
            mesh=mesh(),
            in_specs=(shared, split, shared),
            out_specs=split,
        )(hidden, stack, tokens)

    def looped(hidden, stack):
        return jax.vmap(f, (None, 0, None))(hidden, stack, tokens)

    def gradients(g):
        return jax.jit(jax.grad(lambda *x: jnp.sum(g(*x)), (0, 1)))(hidden, stack)

    assert_close(gradients(mapped), gradients(looped), 1e-5)


def test_a_sharded_batch_needs_no_collective_but_the_gradients_sum():
    arrays = inputs()
    rows = NamedSharding(mesh(), PartitionSpec("data"))
    everywhere = NamedSharding(mesh(), PartitionSpec())

    def loss(hidden, unembedding, tokens):
        return jnp.sum(token_logp(hidden, unembedding, tokens, chunk=10))

    step = jax.jit(
        jax.value_and_grad(loss, (0, 1)),
        in_shardings=(rows, everywhere, rows),
        out_shardings=(everywhere, (rows, everywhere)),
    )
    compiled = step.lower(*arrays).compile()
    ops = "all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(ops, compiled.as_text())
    want = jax.value_and_grad(loss, (0, 1))(*arrays)
    placed = jax.device_put(arrays, (rows, everywhere, rows))
    assert_close(compiled(*placed), want, 1e-5)


def test_no_array_of_tokens_by_vocabulary_is_made():
    rows, width, vocabulary, chunk = (4, 64), 8, 4099, 256
    shapes = (
        jax.ShapeDtypeStruct((*rows, width), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        jax.ShapeDtypeStruct(rows, jnp.int32),
    )

    def compiled(f):
        def loss(*arrays):
            return jnp.sum(f(*arrays)[0])

        return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()

    lean = compiled(functools.partial(token_logp_and_entropy, chunk=chunk))
    full = compiled(dense)
    logits = 4 * rows[0] * rows[1] * vocabulary
    assert full.memory_analysis().temp_size_in_bytes >= logits
    # Slices of logits and their gradient, and sums as large as the arguments.
    arguments = 4 * (rows[0] * rows[1] + vocabulary) * width
    bound = 3 * logits * chunk / vocabulary + 2 * arguments
    assert lean.memory_analysis().temp_size_in_bytes < bound < logits / 3
    assert not re.search(rf"\[(4,64|256),{vocabulary}\]", lean.as_text())


def test_tokens_outside_the_vocabulary_are_nan_and_what_is_masked_has_no_gradient():
    hidden, unembedding, tokens = inputs()
    tokens = tokens.at[0, 0].set(-100).at[0, 1].set(V)
    dirty = hidden.at[0, 2].set(jnp.nan).at[0, 3].set(jnp.inf)
    mask = jnp.ones((B, T), bool).at[0, :4].set(False)

    def loss(hidden, unembedding):
        logp = token_logp(hidden, unembedding, tokens, chunk=10)
        return jnp.sum(jnp.where(mask, logp, 0)), logp

    both = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (to_hidden, to_unembedding), logp = both(dirty, unembedding)
    assert np.isnan(logp[0, :4]).all()
    assert np.isfinite(logp[0, 4:]).all()
    np.testing.assert_array_equal(to_hidden[0, :4], 0)
    # The same as if all there were clean.
    want, clean = both(hidden, unembedding)
    assert np.isfinite(clean[0, 2:]).all()
    assert_close((to_hidden, to_unembedding), want, 1e-6)
    # What is not masked is not hidden.
    spoiled = jax.grad(lambda w: jnp.sum(token_logp(dirty, w, tokens, chunk=10)))
    assert np.isnan(spoiled(unembedding)).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": jnp.ones((B, T, D), jnp.int32)}, TypeError, "hidden is int32"),
        ({"tokens": jnp.ones((B, T))}, TypeError, "tokens is float32"),
        ({"unembedding": jnp.ones((D, V))}, ValueError, r"unembedding \(16, 37\)"),
        ({"tokens": jnp.ones((B, T + 1), int)}, ValueError, r"tokens \(8, 6\)"),
        ({"chunk": 0}, ValueError, "chunk is 0"),
        ({"chunk": 2.0}, ValueError, "chunk is 2.0"),
        ({"temperature": 0}, ValueError, "temperature is 0"),
        ({"temperature": float("nan")}, ValueError, "temperature is nan"),
        ({"temperature": jnp.ones(())}, TypeError, "expected a plain number"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    names = ("hidden", "unembedding", "tokens")
    arguments = dict(zip(names, inputs(), strict=True)) | change
    arrays = [arguments.pop(name) for name in names]
    with pytest.raises(error, match=message):
        token_logp(*arrays, **arguments)
