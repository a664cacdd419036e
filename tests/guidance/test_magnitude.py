import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import beta_cfg, mambo_g, power_law

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
D = C - U


def test_power_law_golden(golden):
    """c + w |d|^0.9 d; a power of 0 is cfg (arXiv 2502.07849)."""
    got = golden(power_law(2.0, 0, space="x0"))
    np.testing.assert_allclose(got, (5.278948, -3.278948, 4.278948), rtol=1e-6)
    got = golden(power_law(2.0, 0, alpha=0.0, space="score"))
    np.testing.assert_allclose(got, C + 2 * D, rtol=1e-5)


def test_power_law_measures_in_its_space(golden):
    """A contrast of scores is alpha / sigma^2 as large as one of estimates."""
    process, t = jg.VPCosine(), jnp.float32(0.5)
    size = float(process.alpha(t) / process.sigma(t) ** 2) * 3**0.5
    got = golden(power_law(2.0, 0))
    np.testing.assert_allclose(got, C + 2 * size**0.9 * D, rtol=1e-5)


def test_mambo_g_golden(golden):
    """Ratio 1.2247449, scale 10, rate 8: an effective scale of 1.0005001."""
    got = golden(mambo_g(9.0, 0, space="x0"))
    np.testing.assert_allclose(got - C, 0.0005001 * D, rtol=1e-3)
    np.testing.assert_allclose(golden(mambo_g(9.0, 0, alpha=0.0)), C + 9 * D, rtol=1e-5)
    beside_zero = golden(mambo_g(9.0, 0, space="x0"), rows=(0 * U, C))
    np.testing.assert_array_equal(beside_zero, C.astype(np.float32))


def test_beta_cfg_golden(golden):
    """p = 0.25 of Beta(2, 2) is 1.125, |d| = sqrt 3; other densities by scipy."""
    at = {"step": 2, "steps": 9}
    got = golden(beta_cfg(3.0, 0, space="x0"), **at)
    np.testing.assert_allclose(got, (2.948557, -0.948557, 1.948557), rtol=1e-5)
    got = golden(beta_cfg(3.0, 0, a=3.0, b=2.5, gamma=0.5, space="x0"), **at)
    scale = 3 * stats.beta.pdf(0.25, 3, 2.5) / 3**0.25
    np.testing.assert_allclose(got, U + scale * D, rtol=1e-5)
    for step in (0, 8):
        flat = golden(beta_cfg(3.0, 0, a=1.0, b=1.0, gamma=0.0), step=step, steps=9)
        np.testing.assert_allclose(flat, C + 2 * D, rtol=1e-5)
    with pytest.raises(ValueError, match="beta_cfg needs a number of steps"):
        golden(beta_cfg(3.0, 0), steps=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: power_law(1.0, 0, alpha=-0.1), "power_law's alpha is -0.1"),
        (lambda: power_law(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: mambo_g(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: beta_cfg(1.0, 0, a=0.5), "beta_cfg's a is 0.5"),
        (lambda: beta_cfg(1.0, 0, b=0.5), "beta_cfg's b is 0.5"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_that_are_none():
    with pytest.raises(TypeError, match="beta_cfg's scale is '3'"):
        beta_cfg("3", 0)
