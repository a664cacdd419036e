"""The small classifier on images, sequences and vectors, clean and noisy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import Classifier


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((7, 9, 1), jnp.float32), ((11, 2), jnp.bfloat16), ((5,), jnp.float32)],
)
def test_shapes_and_types(shape, dtype):
    net = Classifier(4, widths=(8, 16), timed=True, dtype=dtype)
    x, t = jax.random.normal(jax.random.key(0), (3, *shape)), jnp.full(3, 0.5)
    found, variables = jax.jit(net.init_with_output)(jax.random.key(1), x, t)
    assert found.logits.shape == (3, 4)
    assert found.features.shape == (3, 16)
    assert found.logits.dtype == found.features.dtype == jnp.float32
    apply = jax.jit(net.apply)
    later = apply(variables, x, 0.1 * t)
    assert np.abs(later.logits - found.logits).max() > 1e-4
    one = apply(variables, x[1:2], t[1:2])
    tol = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(one.logits[0], found.logits[1], atol=tol)


def test_logits_are_affine_in_the_features():
    net = Classifier(4, widths=(8,))
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    found, variables = jax.jit(net.init_with_output)(jax.random.key(1), x)
    head = variables["params"]["head"]
    want = found.features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found.logits, want, atol=1e-5)


def test_time_must_be_given_exactly_when_it_is_used():
    x, t = jnp.ones((2, 8, 8, 1)), jnp.ones(2)
    for net, args in ((Classifier(3), (x, t)), (Classifier(3, timed=True), (x,))):
        with pytest.raises(ValueError, match="timed="):
            jax.eval_shape(net.init, jax.random.key(0), *args)


@pytest.mark.slow
def test_recomputing_layers_changes_memory_and_not_the_gradient():
    x, t = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.full(3, 0.5)
    grads, recomputed = [], []
    for remat in (False, True):
        net = Classifier(4, widths=(8, 16), timed=True, remat=remat)
        variables = Classifier(4, widths=(8, 16), timed=True).init(
            jax.random.key(1), x, t
        )
        objective = lambda v, net=net: jnp.sum(net.apply(v, x, t).logits ** 2)  # noqa: E731
        recomputed.append(
            "remat" in str(jax.make_jaxpr(jax.grad(objective))(variables))
        )
        grads.append(jax.jit(jax.grad(objective))(variables))
    assert recomputed == [False, True]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)
