"""The energy of a reference's attention and features, against its formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import reference_energy, rescale_norm
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=4)
X, REF = (jax.random.normal(jax.random.key(i), (3, 8, 8, 1)) for i in (1, 2))
LABELS = jnp.arange(3)
T = 0.4
MAPS, FEATURES = {"*/attn": 30.0}, {"block0": 4.0}
SITES = ("block0/attn", "block1/attn")


def denoiser():
    return jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")


def mean(a):
    return jnp.mean(a, tuple(range(1, a.ndim)))


@functools.cache
def by_hand(norm, edited):
    """The gradient of the energy of the paper, for the noise."""
    net = denoiser()
    held = net(REF, T, jnp.full(3, 7), capture=(*SITES, "block0")).maps

    def energy(x):
        maps = net(x, T, jnp.full(3, 7), capture=(*SITES, "block0")).maps
        features = maps["block0"]
        if edited:
            features = net(x, T, LABELS, capture=("block0",)).maps["block0"]
        apart = sum(mean((maps[site] - held[site]) ** 2) for site in SITES)
        off = features - held["block0"]
        return jnp.sum(30 * apart + 4 * mean(abs(off) if norm == "l1" else off**2))

    return jax.jit(jax.grad(energy))(X)


@pytest.mark.share(2)
@pytest.mark.parametrize(("norm", "edited"), [("l1", False), ("l2", True)])
def test_reference_energy_is_guide_and_rescales(context, guided, norm, edited):
    """It adds ``w grad E`` to the noise; no map of the reference is differentiated."""
    term = reference_energy(0.7, 7, MAPS, FEATURES, norm=norm, edited=edited)
    ctx = context(PROCESS, X, T, LABELS, ref=REF)
    got, base = jax.jit(
        lambda: (guided(term, denoiser(), ctx)[0], denoiser()(X, T, LABELS).x0)
    )()
    noise = 0.7 * by_hand(norm, edited)
    assert np.abs(noise).max() > 1e-4
    expected = base - ctx.sigma / ctx.alpha * noise
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_rescaled_it_has_a_norm_of_the_contrast(context, guided):
    ctx = context(PROCESS, X, T, LABELS, ref=REF)
    reference = reference_energy(1.0, 7, MAPS)

    @jax.jit
    def run():
        two = guided(jg.cfg(2.0, null=10), denoiser(), ctx)[0]
        chain = jg.chain(jg.cfg(2.0, null=10), rescale_norm(reference, 1.5, 1.5))
        return guided(chain, denoiser(), ctx)[0], two, denoiser()(X, T, LABELS).x0

    both, two, base = run()
    norms = (np.linalg.norm((a - b).reshape(3, -1), axis=1) for a, b in
             ((both, two), (two, base)))  # fmt: skip
    np.testing.assert_allclose(next(norms) / next(norms), 1.5, rtol=1e-4)


@pytest.mark.slow
def test_the_reference_itself_is_not_moved(context, guided):
    """Where state and condition are the reference's, the energy and its slope are 0.

    With "l2": the sign of what two programs round otherwise is no slope of 0.
    """
    term = reference_energy(1.0, 7, MAPS, FEATURES, norm="l2")
    ctx = context(PROCESS, X, T, jnp.full(3, 7), ref=X)
    got = guided(term, denoiser(), ctx)[0]
    expected = denoiser()(X, T, jnp.full(3, 7)).x0
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_step_goes_down_the_energy():
    """The sign of the noise that is added: the next state's maps are nearer."""
    keys, grid = jg.sample_keys(jax.random.key(0), 3), jnp.asarray([0.4, 0.36])
    held = denoiser()(REF, 0.36, jnp.full(3, 7), capture=SITES).maps

    @jax.jit
    def energy(weight):
        term = reference_energy(weight, 7, MAPS)
        x, _ = jg.sample(
            *(keys, denoiser(), jg.ddim(), grid, X, LABELS),
            guidance=term,
            ref=REF[None],
        )
        maps = denoiser()(x, 0.36, jnp.full(3, 7), capture=SITES).maps
        return sum(mean((maps[site] - held[site]) ** 2) for site in SITES)

    before, after = energy(0.0), energy(1.0)
    assert (after < before - 1e-7).all()


def test_what_does_not_fit_is_refused(context, guided):
    with pytest.raises(ValueError, match="neither maps nor features"):
        reference_energy(1.0, 7)
    with pytest.raises(ValueError, match="norm is 'l3'"):
        reference_energy(1.0, 7, MAPS, norm="l3")
    with pytest.raises(ValueError, match="edited has no effect"):
        reference_energy(1.0, 7, MAPS, edited=True)
    with pytest.raises(TypeError, match=r"reference_energy's \*/attn is 'all'"):
        reference_energy(1.0, 7, {"*/attn": "all"})
    for ref in (None, REF[:2]):
        with pytest.raises(ValueError, match="pass ref="):
            guided(
                reference_energy(1.0, 7, MAPS),
                denoiser(),
                context(PROCESS, X, T, LABELS, ref=ref),
            )
    with pytest.raises(ValueError, match="'mid/attn' matches nothing"):
        guided(
            reference_energy(1.0, 7, {"mid/attn": 1.0}),
            denoiser(),
            context(PROCESS, X, T, LABELS, ref=REF),
        )
    with pytest.raises(ValueError, match="picture has shape"):
        guided(
            reference_energy(1.0, 7, MAPS, picture=REF[:2]),
            denoiser(),
            context(PROCESS, X, T, LABELS),
        )
