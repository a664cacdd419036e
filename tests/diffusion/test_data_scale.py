"""The scale of data: its laws, its estimate from few examples, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture

SHARE = 0.7


def examples(variances, count, seed=0):
    """Normal data with these variances, in rotated axes."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(len(variances), len(variances))))
    return (rng.normal(size=(count, len(variances))) * np.sqrt(variances)) @ axes.T


def test_of_independent_entries_it_is_a_share_of_their_deviation():
    x = 3 + 2 * np.random.default_rng(0).normal(size=(4000, 5, 2))
    assert jg.data_scale(x) == pytest.approx(SHARE * 2, rel=0.02)


def test_it_is_the_root_of_the_mean_variance_of_directions():
    variances = np.array([9.0, 1.0, 0.25])
    want = SHARE * np.sqrt(np.sum(variances**2) / np.sum(variances))
    assert jg.data_scale(examples(variances, 20_000)) == pytest.approx(want, rel=0.02)


def test_copies_of_entries_widen_it_and_constants_do_not():
    """Four entries that agree are one of twice the size; a constant says nothing."""
    x = examples(np.array([4.0, 1.0, 0.5]), 50)
    scale = jg.data_scale(x)
    assert jg.data_scale(np.repeat(x, 4, axis=1)) == pytest.approx(2 * scale)
    # More entries than examples: the other product, and the same number.
    wide = np.concatenate([x, np.full((50, 100), 7.0)], axis=1)
    assert jg.data_scale(wide) == pytest.approx(scale)
    assert jg.data_scale(jnp.asarray(-3 * x + 5)) == pytest.approx(3 * scale, rel=1e-4)


def test_few_examples_of_many_entries_are_not_thought_wide():
    """The square of the covariance of 8 examples is itself 7 times too large."""
    variances = np.linspace(0.5, 2.0, 64)
    squares = []
    for seed in range(300):
        x = examples(variances, 8, seed)
        squares.append(jg.data_scale(x) ** 2 / SHARE**2 * np.var(x, 0, ddof=1).sum())
    assert np.mean(squares) == pytest.approx(np.sum(variances**2), rel=0.1)


def test_with_it_the_recommended_sampler_is_nearer_the_end_of_the_flow():
    """Normal data, most of it along three of 32 directions; its flow is known."""
    variances = np.concatenate([[16.0, 9.0, 6.0], np.full(29, 0.03)])
    mixture = gaussian_mixture(np.ones(1), np.zeros((1, 32)), np.diag(variances)[None])
    process = jg.VPCosine()
    noise = np.random.default_rng(1).normal(size=(16, 32))
    alpha, sigma = (float(f(process.t_max)) for f in (process.alpha, process.sigma))
    start = sigma * noise
    want = start * np.sqrt(variances / (alpha**2 * variances + sigma**2))
    keys = jg.sample_keys(jax.random.key(0), 16)

    def error(scale):
        pair = jg.recommended(process, 8, scale=scale)
        x = jnp.asarray(start, jnp.float32)
        x, _ = jg.sample(keys, exact_denoiser(mixture, process), *pair, x)
        return np.linalg.norm(x - want, axis=1).mean()

    scale = jg.data_scale(examples(variances, 400))
    assert error(scale) < 0.5 * error(1.0)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (np.zeros((5, 2)), ValueError, "examples are all alike"),
        (
            np.ones((2, 4)),
            ValueError,
            r"shape \(2, 4\); expected \[N, \*S\] with N >= 3",
        ),
        (1.0, ValueError, "examples have shape none"),
        (np.array([[1.0], [np.nan], [2.0]]), ValueError, "not finite"),
        (np.array([["a"], ["b"], ["c"]]), TypeError, "expected real numbers"),
        (np.eye(3) * 1j, TypeError, "complex128; expected real numbers"),
        (np.eye(4), ValueError, "4 examples say nothing of their scale"),
    ],
)
def test_what_is_refused(given, kind, message):
    with pytest.raises(kind, match=message):
        jg.data_scale(given)
