import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import sega, sld

PROCESS = jg.VPCosine()
SHAPE = (4, 4, 2)


@pytest.fixture
def run(lookup, context, guided):
    """Three steps' estimates under c (row 1), u (row 0) and n (row 2)."""

    def run(term, rows, steps=3):
        x = jnp.zeros((1, *np.shape(rows)[1:]))
        state, got = None, []
        for step in range(steps):
            ctx = context(PROCESS, x, 0.5, jnp.array([1]), step=step)
            x0, state = guided(term, lookup(rows), ctx, state)
            got.append(np.asarray(x0)[0])
        return got

    return run


def test_sld_golden(run):
    """The loop of the paper's algorithm, element by element (arXiv 2211.05105)."""
    u, c = np.array([1.0, 1.0, 0.0, 0.0]), np.array([2.0, 0.0, 1.0, 0.0])
    n = np.array([1.9, 0.5, 0.995, 0.0004])
    term = sld(3.0, 0, 2, warmup=1, scale=10.0, space="x0")
    average = np.zeros(4)
    for step, got in enumerate(run(term, (u, c, n))):
        towards = c - n
        mu = np.where(towards < 0.01, np.minimum(1, 10 * abs(towards)), 0)
        gamma = mu * (n - u) + 0.3 * average
        average = 0.4 * average + 0.6 * gamma
        want = c - 3 * gamma if step >= 1 else c
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    # c - n is 0.1 in the first element, above the threshold, and -0.5 in the second.
    assert mu[0] == 0
    assert mu[1] == 1


def test_sega_golden(run):
    """The largest tenth of each channel, with momentum (arXiv 2301.12247)."""
    u, c, n = np.random.default_rng(0).normal(size=(3, *SHAPE))
    term = sega(5.0, 0, 2, share=0.25, warmup=1, space="x0")
    average = np.zeros(SHAPE)
    for step, got in enumerate(run(term, (u, c, n))):
        size = abs(n - u)
        limit = np.quantile(size, 0.75, axis=(0, 1), keepdims=True)
        assert (size >= limit).sum() == 2 * 4
        gamma = (size >= limit) * (n - u) + 0.1 * average
        average = 0.4 * average + 0.6 * gamma
        want = c + 5 * gamma if step >= 1 else c
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_concepts_are_felt_in_their_space(run):
    """A direction of eps: the change of x0 is -sigma / alpha times it."""
    u, c, n = np.random.default_rng(0).normal(size=(3, *SHAPE))
    here, there = (
        run(sega(1.0, 0, 2, share=1.0, warmup=0, space=s), (u, c, n), 1)[0]
        for s in ("x0", "eps")
    )
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(here, c + n - u, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sega(1.0, 0, 2, share=0.0), "share is 0.0"),
        (lambda: sega(1.0, 0, 2, warmup=-1), "sega's warmup is -1"),
        (lambda: sld(1.0, 0, 2, decay=1.0), "sld's decay is 1.0"),
        (lambda: sld(1.0, 0, 2, space="noise"), "space is 'noise'"),
        (lambda: sld(1.0, 0, 2, names=("a", "a")), "sld's names"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
