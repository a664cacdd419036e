"""Linear operators: the adjoint law, and what each of them observes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import guidance as g

RNG = np.random.default_rng(0)
SHAPE = (8, 6, 2)
KERNEL = jnp.asarray([0.1, 0.3, 0.4, 0.15, 0.05])


def mixed(scale, x):
    return scale * jnp.fft.rfft(x, axis=1).real


OPERATORS = {
    "mask": g.masking(RNG.uniform(size=SHAPE)),
    "mask of each": g.masking(RNG.integers(0, 2, (3, *SHAPE))),
    "mirror": g.blurring(KERNEL, SHAPE),
    "periodic": g.blurring(KERNEL, SHAPE, boundary="periodic"),
    "zero": g.blurring(KERNEL, SHAPE, axes=(1,), boundary="zero"),
    "pool": g.pooling((4, 2, 1), SHAPE),
    "smaller": g.resizing((4, 3, 2), SHAPE),
    "larger": g.resizing((16, 6, 2), SHAPE, "linear"),
    "matrix": g.projection(RNG.normal(size=(5, 96)), SHAPE),
    "function": g.linear_map(mixed, SHAPE, jnp.float32(2.0)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_law(name):
    """``<A x, y> = <x, A^T y>`` for each sample, under jit, with the operator an
    argument."""
    operator = OPERATORS[name]
    x = jnp.asarray(RNG.normal(size=(3, *SHAPE)), jnp.float32)

    @jax.jit
    def both(operator, x, y):
        return operator(x), operator.transpose(y)

    shape = jax.eval_shape(operator, x).shape
    y = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    forward, back = both(operator, x, y)
    assert back.shape == x.shape
    left = np.sum(np.asarray(forward * y, np.float64).reshape(3, -1), axis=1)
    right = np.sum(np.asarray(x * back, np.float64).reshape(3, -1), axis=1)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
    assert np.abs(left).min() > 1e-3


def test_what_is_observed():
    x = np.asarray(RNG.normal(size=(2, *SHAPE)), np.float32)
    for boundary, mode in (("mirror", "symmetric"), ("periodic", "wrap")):
        got = g.blurring(KERNEL, SHAPE, (0,), boundary)(jnp.asarray(x))
        wide = np.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0)), mode=mode)
        want = sum(float(k) * wide[:, i : i + 8] for i, k in enumerate(KERNEL))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    flat = np.ones((1, *SHAPE), np.float32)
    for name in ("mirror", "periodic", "pool", "smaller"):
        np.testing.assert_allclose(OPERATORS[name](flat), 1, rtol=1e-5)
    assert OPERATORS["zero"](flat).min() < 0.9
    blocks = x.reshape(2, 2, 4, 3, 2, 2).mean((2, 4))
    np.testing.assert_allclose(OPERATORS["pool"](x), blocks, rtol=1e-5, atol=1e-6)
    kernel = g.gaussian_kernel(1.5)
    assert kernel.shape == (11,)
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(kernel[6] / kernel[5], np.exp(-0.5 / 2.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: g.blurring(jnp.ones(4), SHAPE), r"kernel has shape \(4,\)"),
        (lambda: g.blurring(jnp.ones(3), SHAPE, axes=(3,)), r"axes has \[3\]"),
        (lambda: g.blurring(jnp.ones(19), SHAPE), "kernel reaches 9 pixels"),
        (lambda: g.blurring(KERNEL, SHAPE, boundary="edge"), "boundary is 'edge'"),
        (lambda: g.gaussian_kernel(0.0), "sigma is 0.0; expected a positive width"),
        (lambda: g.gaussian_kernel(1.0, -1), "radius is -1; expected at least 0"),
        (lambda: g.pooling((3, 2, 1), SHAPE), r"factors are \(3, 2, 1\)"),
        (lambda: g.pooling((2, 2), SHAPE), r"factors are \(2, 2\)"),
        (lambda: g.resizing((4, 4), SHAPE), r"size is \(4, 4\); expected 3 axes"),
        (lambda: g.resizing((4, 4, 2), SHAPE, "bicubic"), "method is 'bicubic'"),
        (lambda: g.projection(jnp.ones(3)), r"matrix has shape \(3,\)"),
        (lambda: g.projection(jnp.ones((2, 5)), SHAPE), "matrix has 5 columns"),
        (lambda: g.linear_map(lambda x: x + 1, SHAPE), "is not linear: it is 1 at 0"),
        (lambda: OPERATORS["pool"](jnp.ones((1, 4, 4, 2))), "samples have shape"),
        (lambda: OPERATORS["mask"](jnp.ones((1, 4, 4, 2))), "the mask has shape"),
    ],
)
def test_operators_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_function_that_is_not_linear_is_refused():
    with pytest.raises(TypeError, match="is not linear"):
        g.linear_map(jnp.sin, SHAPE)
