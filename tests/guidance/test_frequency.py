import numpy as np
import pytest

from jaxlib_guidance.guidance import fdg, fresca, samg

RNG = np.random.default_rng(0)
U, C = RNG.normal(size=(2, 8, 6, 2)).astype(np.float32)
FLAT = np.ones((8, 6, 2), np.float32)
SIGNS = (-1.0) ** np.add.outer(np.arange(8), np.arange(6))
CHECKS = np.broadcast_to(SIGNS[..., None], FLAT.shape).astype(np.float32)


def test_fdg_bands(golden):
    """A constant contrast is low, a chequered one high, and equal weights are cfg."""
    flat = golden(fdg(2.0, 0, low=0.25), rows=(C - FLAT, C))
    np.testing.assert_allclose(flat - C, 0.5 * FLAT, rtol=1e-4, atol=1e-5)
    checks = golden(fdg(2.0, 0, low=0.25), rows=(C - CHECKS, C))
    np.testing.assert_allclose(checks - C, 2 * CHECKS, rtol=1e-4, atol=1e-5)
    same = golden(fdg(2.0, 0, low=1.0), rows=(U, C))
    np.testing.assert_allclose(same, C + 2 * (C - U), rtol=1e-4, atol=1e-5)


def test_fresca_scales_frequencies(golden):
    """Waves below and above the cutoff, and cfg where both gains are 1."""
    wave = np.cos(2 * np.pi * np.arange(8) / 8)[:, None, None] * FLAT
    for shape, gain in ((FLAT, 0.5), (wave, 0.5), (CHECKS, 2.0), (wave * CHECKS, 2.0)):
        term = fresca(3.0, 0, low=0.5, high=2.0, cutoff=0.25)
        got = golden(term, rows=(C - shape, C))
        want = C - shape + 3 * gain * shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    same = golden(fresca(3.0, 0, high=1.0), rows=(U, C))
    np.testing.assert_allclose(same, C + 2 * (C - U), rtol=1e-4, atol=1e-4)


def test_samg_golden(golden):
    """The scale goes from 1.6 s at the least energy to 2/3 s at the greatest."""
    energy = ((C - U) ** 2).mean(-1, keepdims=True)
    share = (energy - energy.min()) / (energy.max() - energy.min())
    scale = 3 * (1.6 - share * (1.6 - 2 / 3))
    got = golden(samg(3.0, 0), rows=(U, C))
    np.testing.assert_allclose(got, U + scale * (C - U), rtol=1e-4, atol=1e-5)
    same = golden(samg(3.0, 0, low=1.0, high=1.0), rows=(U, C))
    np.testing.assert_allclose(same, C + 2 * (C - U), rtol=1e-4, atol=1e-5)


def test_arguments_that_make_no_sense(golden):
    for make in (fdg, fresca):
        with pytest.raises(ValueError, match=r"got samples of shape \(3,\)"):
            golden(make(1.0, 0))
    with pytest.raises(ValueError, match="cutoff is 2.0"):
        fresca(1.0, 0, cutoff=2.0)
    with pytest.raises(TypeError, match="samg's low is None"):
        samg(1.0, 0, low=None)
