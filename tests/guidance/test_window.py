"""Sliding windows, against the average of crops by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import sliding_window

PROCESS = jg.VPCosine()
X = jax.random.normal(jax.random.key(0), (3, 7, 6, 2))


def centre(x, t, cond, *, control, capture):
    """What is estimated depends on all that the network sees."""
    mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return jg.types.Denoised(jnp.tanh(x) + mean)


def pixelwise(x, t, cond, *, control, capture):
    return jg.types.Denoised(jnp.tanh(x))


def test_windows_are_averaged_where_they_overlap(context, guided):
    calls = []

    def counted(x, t, cond, *, control, capture):
        calls.append(x.shape)
        return centre(x, t, cond, control=control, capture=capture)

    ctx = context(PROCESS, X, 0.5)
    weight = jnp.array([0.0, 1.0, 2.0])
    got, _ = guided(sliding_window(weight, (4, 3), (2, 3)), jg.Denoiser(counted), ctx)
    # Rows 0-3, 2-5 and 3-6 (the last ends at the border), columns 0-2 and 3-5.
    assert calls == [X.shape, (18, 4, 3, 2)]
    total, count = np.zeros(X.shape), np.zeros((7, 6, 1))
    for i in (0, 2, 3):
        for j in (0, 3):
            crop = np.asarray(X[:, i : i + 4, j : j + 3], np.float64)
            x0 = np.tanh(crop) + crop.mean((1, 2), keepdims=True)
            total[:, i : i + 4, j : j + 3] += x0
            count[i : i + 4, j : j + 3] += 1
    base = centre(X, None, None, control={}, capture=()).x0
    want = base + weight[:, None, None, None] * (base - total / count)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[0], base[0])


@pytest.mark.exact("A denoiser that is local is not guided")
def test_what_is_local_is_not_guided(context, guided):
    """Nor is anything by one window of the whole size; sequences work alike."""
    ctx = context(PROCESS, X, 0.5)
    base = pixelwise(X, None, None, control={}, capture=()).x0
    got, _ = guided(sliding_window(3.0, 3, 2), jg.Denoiser(pixelwise), ctx)
    np.testing.assert_allclose(got, base, rtol=1e-5, atol=1e-5)
    base = centre(X, None, None, control={}, capture=()).x0
    got, _ = guided(sliding_window(3.0, (7, 6), 1), jg.Denoiser(centre), ctx)
    np.testing.assert_allclose(got, base, rtol=1e-5, atol=1e-5)
    line = X[:, :, 0]
    got, _ = guided(
        sliding_window(1.0, 4, 3), jg.Denoiser(centre), context(PROCESS, line, 0.5)
    )
    parts = [line[:, :4], line[:, 3:]]
    made = [centre(p, None, None, control={}, capture=()).x0 for p in parts]
    middle = (made[0][:, 3:] + made[1][:, :1]) / 2
    whole = jnp.concatenate([made[0][:, :3], middle, made[1][:, 1:]], 1)
    base = centre(line, None, None, control={}, capture=()).x0
    np.testing.assert_allclose(got, 2 * base - whole, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(context, guided):
    for window, stride in ((3, 4), ((4, 4), (2, 5)), ((4, 4), (1, 1, 1))):
        with pytest.raises(ValueError, match="crops leave no gap"):
            sliding_window(1.0, window, stride)
    with pytest.raises(ValueError, match="stride is 0; expected sizes of at least 1"):
        sliding_window(1.0, 3, 0)
    with pytest.raises(TypeError, match=r"window is \(3\.0, 2\); expected whole"):
        sliding_window(1.0, (3.0, 2), 1)
    for window in (8, (3, 3, 3)):
        with pytest.raises(ValueError, match=r"samples of shape \(7, 6, 2\) but"):
            guided(
                sliding_window(1.0, window, 1),
                jg.Denoiser(centre),
                context(PROCESS, X, 0.5),
            )
