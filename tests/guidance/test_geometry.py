import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance import cosine, project, sample_dot, sample_mean

U = jnp.asarray([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
V = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 2.0, 2.0]])


def test_lengths_and_angles_by_hand():
    np.testing.assert_allclose(sample_dot(U, V), [[2.0], [0.0]])
    np.testing.assert_allclose(sample_mean(V), [[2 / 3], [5 / 3]], rtol=1e-6)
    np.testing.assert_allclose(project(U, V), [[1.0, 1.0, 0.0], [0, 0, 0]])
    np.testing.assert_allclose(project(V, U)[1], 0)
    np.testing.assert_allclose(cosine(U, V), [[2 / 10**0.5], [0.0]], rtol=1e-6)


def test_they_are_smooth_at_nothing():
    for function in (sample_dot, project, cosine):
        slopes = jax.grad(lambda u, v, f=function: jnp.sum(f(u, v)), (0, 1))(U, 0 * V)
        assert all(np.isfinite(slope).all() for slope in slopes)
