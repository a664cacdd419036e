"""Guidance by a perturbed time, against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import tsg

VE = jg.VE(t_min=0.002, t_max=80.0)


def test_tsg_is_its_formula(context, guided):
    """The network's time is ``t + s t^a n``, n a normal number of each sample."""

    def clock(x, t, cond, *, control, capture):
        return jg.types.Denoised(jnp.broadcast_to(t[:, None], x.shape))

    def noise(scale, power, t):
        ctx = context(VE, jnp.zeros((2000, 1)), t)
        x0, _ = guided(tsg(jnp.float32(1), scale, power), jg.Denoiser(clock), ctx)
        return np.asarray(t - x0[:, 0]) / (scale * t**power)

    n = noise(0.1, 1.0, 4.0)
    assert abs(n.mean()) < 3.5 / 2000**0.5
    assert abs(n.var() - 1) < 3.5 * (2 / 2000) ** 0.5
    np.testing.assert_allclose(noise(0.05, 2.0, 3.0), n, rtol=1e-3, atol=1e-4)
    ctx = context(VE, jnp.zeros((2000, 1)), 0.01)
    x0, _ = guided(tsg(1.0, 10.0), jg.Denoiser(clock), ctx)
    assert (0.02 - x0).min() >= VE.t_min - 1e-6  # Never below clean data.


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="tsg's power is 'a'"):
        tsg(1.0, 0.1, "a")
    with pytest.raises(ValueError, match=r"scale is -0\.1; expected at least 0"):
        tsg(1.0, -0.1)
