import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import cfg_norm, cfg_renorm, energy_preserving, pmc

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
D = C - U
PROCESS = jg.VPCosine()


@pytest.mark.exact("The norm is that of c")
def test_energy_preserving_keeps_the_norm(golden):
    """(4, -2, 3) at the norm of (2, 0, 1), in its space (arXiv 2412.09966)."""
    got = golden(energy_preserving(2.0, 0, space="x0"))
    np.testing.assert_allclose(got, (1.66091, -0.830455, 1.245682), rtol=1e-5)
    x, t = jnp.array([[0.3, -1.2, 0.8]]), jnp.float32(0.5)
    there, conditional = (
        np.asarray(jg.diffusion.from_x0(PROCESS, "eps", jnp.asarray([a]), x, t))
        for a in (golden(energy_preserving(2.0, 0), x=x), C.astype(np.float32))
    )
    norms = np.linalg.norm(there), np.linalg.norm(conditional)
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.exact("The norm is at most rho that of c, and idempotent there")
def test_renorm_caps_the_norm(golden):
    """The cap is idempotent and does nothing to a shorter guided prediction."""
    capped = golden(cfg_renorm(2.0, 0, space="x0"))
    np.testing.assert_allclose(capped, (1.66091, -0.830455, 1.245682), rtol=1e-5)
    loose = golden(cfg_renorm(2.0, 0, rho=1.2, space="x0"))
    np.testing.assert_allclose(loose, 1.2 * capped, rtol=1e-5)
    np.testing.assert_allclose(
        golden(cfg_renorm(2.0, 0, rho=9.0, space="x0")), C + 2 * D, rtol=1e-6
    )
    shorter = golden(cfg_renorm(-0.5, 0, space="x0"))
    np.testing.assert_allclose(shorter, C - D / 2, rtol=1e-6)


def test_pmc_golden(golden):
    """beta = 0.0820505, where |c + beta d| = 1.05 |c|; below it, cfg."""
    got = golden(pmc(2.0, 0))
    np.testing.assert_allclose(got, (2.082051, -0.082051, 1.082051), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got), 1.05 * 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(golden(pmc(0.05, 0)), C + 0.05 * D, rtol=1e-6)
    # The contrast against c: the other form of the root.
    back = golden(pmc(9.0, 0), rows=(2 * C + np.eye(3)[1], C))
    np.testing.assert_allclose(np.linalg.norm(back), 1.05 * 5**0.5, rtol=1e-5)
    assert back @ C < 0
    np.testing.assert_array_equal(golden(pmc(9.0, 0), rows=(C, C)), C)


@pytest.mark.exact("The norm of each place is that of c")
def test_cfg_norm_keeps_the_norm_of_each_place(golden):
    """Of every pixel's channels; with one channel only the sign is guidance's."""
    rng = np.random.default_rng(0)
    u, c = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    got = golden(cfg_norm(2.0, 0, space="x0"), rows=(u, c))
    kept = np.linalg.norm(c, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), kept, rtol=1e-5)
    y = c + 2 * (c - u)
    want = 0.3 * y * (kept / np.linalg.norm(y, axis=-1))[..., None] + 0.7 * y
    half = golden(cfg_norm(2.0, 0, strength=0.3, space="x0"), rows=(u, c))
    np.testing.assert_allclose(half, want, rtol=1e-4, atol=1e-6)
    one = golden(cfg_norm(2.0, 0, space="x0"), rows=(u[..., :1], c[..., :1]))
    np.testing.assert_allclose(one, np.sign(y)[..., :1] * abs(c[..., :1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cfg_renorm(1.0, 0, rho=0.9), "cfg_renorm's rho is 0.9"),
        (lambda: pmc(1.0, 0, limit=0.9), "pmc's limit is 0.9"),
        (lambda: energy_preserving(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: cfg_norm(1.0, 0, space="noise"), "space is 'noise'"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
