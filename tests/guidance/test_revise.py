import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import epsilon_scaling, momentum_guidance, tsr

PROCESS = jg.VPCosine()
C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])


def test_tsr_golden(golden):
    """alpha = 0.6, sigma = 0.8, k = 0.93, s = 3: r = 0.940863579."""
    t = jnp.float32(2 / np.pi * np.arccos(0.6))
    x = jnp.array([[1.0, 2.0, -1.0]])
    got = golden(tsr(0.93, 3.0), x=x, t=t)
    np.testing.assert_allclose(got, (1.980288, 0.197121, 0.842303), rtol=1e-4)
    np.testing.assert_array_equal(golden(tsr(1.0, 3.0), x=x, t=t), C)
    # It rescales what stands before it.
    y = np.asarray(golden(jg.cfg(2.0, 0), tsr(0.93, 3.0), x=x, t=t))
    plain = C + 2 * (C - U)
    want = x[0] / 0.6 + 0.940863579 * (plain - x[0] / 0.6)
    np.testing.assert_allclose(y, want, rtol=1e-4)


def test_epsilon_scaling_divides_the_noise(golden):
    x, t = jnp.array([[0.3, -1.2, 0.8]]), jnp.float32(0.4)
    got = golden(epsilon_scaling(1.25), x=x, t=t)
    before, after = (
        jg.diffusion.from_x0(PROCESS, "eps", jnp.asarray([a], jnp.float32), x, t)
        for a in (C, got)
    )
    np.testing.assert_allclose(after, before / 1.25, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(golden(epsilon_scaling(1.0), x=x, t=t), C)
    flow = golden(epsilon_scaling(1.25), x=x, t=1.0, process=jg.RectifiedFlow())
    np.testing.assert_array_equal(flow, C)


def test_momentum_guidance_golden(lookup, context, guided):
    """m = y at first; then y + w (y - m) and m <- beta m + (1 - beta) y."""
    term, rows = momentum_guidance(0.5, beta=0.6, space="x0"), [C, U, C + U]
    state, m = None, None
    for label, y in enumerate(rows):
        ctx = context(PROCESS, jnp.zeros((1, 3)), 0.5, jnp.array([label]))
        got, state = guided(term, lookup(rows), ctx, state)
        m = y if m is None else m
        np.testing.assert_allclose(got[0], y + 0.5 * (y - m), rtol=1e-6)
        m = 0.6 * m + 0.4 * y


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tsr(0.0), "tsr's k is 0.0"),
        (lambda: tsr(1.0, -1.0), "tsr's scale is -1.0"),
        (lambda: epsilon_scaling(0.0), "factor is 0.0"),
        (lambda: momentum_guidance(1.0, beta=1.0), "beta is 1.0"),
        (lambda: momentum_guidance(1.0, space="noise"), "space is 'noise'"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
