"""Guidance by a changed condition, against formulas and by its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import cads

PROCESS = jg.VPCosine()
B = 4000
X = jnp.zeros((B, 3))
Y = jax.random.normal(jax.random.key(0), (B, 3)) * 2 + 1


def echo(x, t, cond, *, control, capture):
    """The estimate is the condition that the network got."""
    cond = cond["text"] if isinstance(cond, dict) else cond
    cond = cond if cond.ndim == 2 else cond[:, None] * jnp.ones(3)
    return jg.types.Denoised(cond.astype(jnp.float32))


NET = jg.Denoiser(echo)


@pytest.fixture
def got(context, guided):
    def got(term, cond=Y, step=0):
        ctx = context(PROCESS, X[: len(X)], 0.4, cond, step=step)
        return np.asarray(guided(term, NET, ctx)[0])

    return got


def test_cads_is_its_formula(got):
    """Annealed by the share of steps left; the noise is standard normal."""
    plain = {"start": 0.2, "end": 0.6, "mix": 0.0}
    noise = got(cads(scale=1.0, **plain), step=3)  # All of it: .7 is left.
    assert abs(noise.mean()) < 3.5 / noise.size**0.5
    assert abs(noise.var() - 1) < 3.5 * (2 / noise.size) ** 0.5
    assert abs(np.mean(noise * Y)) < 3.5 * np.sqrt(np.mean(Y**2) / noise.size)
    noisy = got(cads(scale=0.5, **plain), step=7)  # g = 3 / 4.
    want = 0.75**0.5 * Y + 0.5 * 0.25**0.5 * noise
    np.testing.assert_allclose(noisy, want, rtol=1e-4, atol=1e-4)
    half = got(cads(0.5, 0.5, **plain), step=3)  # 1 - .5 (1 - 0)
    want = 0.5**0.5 * (Y + 0.5 * noise)
    np.testing.assert_allclose(half, want, rtol=1e-4, atol=1e-4)
    for term, step in ((cads(**plain), 8), (cads(jnp.zeros(B)), 0)):
        np.testing.assert_array_equal(got(term, step=step), Y)


@pytest.mark.exact("Mean and deviation of the condition are kept")
def test_cads_keeps_mean_and_deviation_of_each_sample(got):
    new = got(cads(scale=2.0, start=0.2), step=4)
    assert np.abs(new - Y).mean() > 0.5
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(
            moment(new, axis=1), moment(np.asarray(Y), axis=1), rtol=1e-3, atol=2e-4
        )
    noise = got(cads(scale=2.0, start=0.2, mix=0.0), step=4)
    mixed = got(cads(scale=2.0, start=0.2, mix=0.3), step=4)
    np.testing.assert_allclose(mixed, 0.3 * new + 0.7 * noise, rtol=1e-4, atol=1e-4)


def test_cads_leaves_labels_and_masks_alone(got):
    term = cads(start=0.2, scale=1.0)
    both = {"text": Y, "mask": jnp.ones((B, 2), bool)}
    assert np.abs(got(term, both, 4) - Y).max() > 0.1
    with pytest.raises(ValueError, match="floating-point numbers.*has none"):
        got(term, jnp.arange(B), 4)


def test_what_does_not_fit_is_refused(got, context, guided):
    with pytest.raises(ValueError, match="expected start below end"):
        cads(start=0.9, end=0.9)
    with pytest.raises(ValueError, match=r"mix is 1\.5; expected a share"):
        cads(mix=1.5)
    with pytest.raises(ValueError, match="scale is -1"):
        cads(scale=-1)
    with pytest.raises(TypeError, match="cads's end is '1'"):
        cads(end="1")
    with pytest.raises(ValueError, match="cads needs the number of steps"):
        guided(cads(), NET, context(PROCESS, X, 0.4, Y)._replace(steps=None))
