import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import cfg_ec

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
PAST_C, PAST_U = np.array([1.5, 0.5, 0.5]), np.array([1.0, 0.8, 0.2])


def test_cfg_ec_golden(lookup, context, guided):
    """A cosine of -0.816497 corrects u; the first evaluation and -1 are cfg."""

    def run(threshold):
        term, state, got = cfg_ec(2.0, 0, threshold=threshold, space="x0"), None, []
        for rows in ((PAST_U, PAST_C), (U, C)):
            ctx = context(jg.VPCosine(), jnp.zeros((1, 3)), 0.5, jnp.array([1]))
            x0, state = guided(term, lookup(rows), ctx, state)
            got.append(np.asarray(x0)[0])
        return got

    first, second = run(0.5)
    np.testing.assert_allclose(first, 3 * PAST_C - 2 * PAST_U, rtol=1e-6)
    np.testing.assert_allclose(second, (4.484399, -2.484399, 3.484399), rtol=1e-5)
    np.testing.assert_allclose(run(-1.0)[1], 3 * C - 2 * U, rtol=1e-6)


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match="threshold is 2.0"):
        cfg_ec(1.0, 0, threshold=2.0)
    with pytest.raises(ValueError, match="space is 'noise'"):
        cfg_ec(1.0, 0, space="noise")
    with pytest.raises(TypeError, match="cfg_ec's weight is None"):
        cfg_ec(None, 0)
