"""Diffusion-DPO against DPO and by its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.finetuning import diffusion_dpo

E_W, E_L, REF_W, REF_L = jax.random.uniform(jax.random.key(0), (4, 5))


def test_is_dpo_of_minus_half_the_errors():
    got = diffusion_dpo(E_W, E_L, REF_W, REF_L, beta=7.0)
    e_w, e_l, ref_w, ref_l = (
        np.float64(each) / -2 for each in (E_W, E_L, REF_W, REF_L)
    )
    want = np.log1p(np.exp(-7 * ((e_w - ref_w) - (e_l - ref_l))))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_where_networks_agree_it_is_log_2_with_slopes_of_half_beta_over_2():
    value, slopes = jax.value_and_grad(
        lambda *e: diffusion_dpo(*e, beta=100.0).sum(), argnums=(0, 1, 2, 3)
    )(E_W, E_L, E_W, E_L)
    np.testing.assert_allclose(value, 5 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slopes[0], 25.0, rtol=1e-6)
    np.testing.assert_allclose(slopes[1], -25.0, rtol=1e-6)
    assert not slopes[2].any()
    assert not slopes[3].any()


def test_far_from_the_preference_it_stays_finite():
    far = jax.value_and_grad(lambda e: diffusion_dpo(e, 0.0, 0.0, 0.0, beta=1e4))
    value, slope = far(jnp.float32(1.0))
    np.testing.assert_allclose([value, slope], [5000, 5000], rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="ref_l has shape"):
        diffusion_dpo(E_W, E_L, REF_W, REF_L[:2])
    with pytest.raises(ValueError, match=r"error_w has shape \(1, .*; expected \(1,\)"):
        diffusion_dpo(E_W[None], E_L[None], REF_W[None], REF_L[None])
