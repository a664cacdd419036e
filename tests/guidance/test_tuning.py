"""Effective scales, the Pareto set, and 64 settings in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import effective_scale, measure_scale, pareto_set

PROCESS = jg.VPCosine()
TRACED = []


def apply(x, t, cond, *, control, capture):
    TRACED.append(1)
    return jg.types.Denoised(0.1 * x + jnp.where(cond == 1, 1.0, 0.25)[:, None])


def run(guidance, steps=None):
    keys, grid = jg.sample_keys(jax.random.key(0), 3), jg.logsnr_grid(PROCESS, 4)
    network, cond = jg.Denoiser(apply), jnp.asarray([1, 1, 0])
    return jg.sample(
        *(keys, network, jg.ddim(), grid, (2,), cond),
        **{"guidance": guidance, "process": PROCESS, "steps": steps},
    )[0]


def test_effective_scale_golden():
    """CFG of weight w is 1 + w; what is orthogonal to the contrast does not count."""
    c, u = jnp.asarray([[2.0, 0.0], [1.0, 1.0]]), jnp.asarray([[1.0, 1.0], [1.0, 1.0]])
    got = effective_scale(c + 2.5 * (c - u) + jnp.asarray([[3.0, 3.0]]), c, u)
    np.testing.assert_allclose(got, [3.5, np.nan], rtol=1e-6)
    with pytest.raises(ValueError, match="guided, c and u have shapes"):
        effective_scale(c, c, u[:1])


def test_a_run_tells_its_mean_scale():
    """1 + w under CFG, and the whole run's mean where CFG acts in half of the steps;
    NaN for the sample whose condition is the null."""
    term = measure_scale(0)
    for guidance, want in (
        (jg.cfg(1.5, 0), 2.5),
        (jg.during(jg.cfg(1.5, 0), 0, 0.5), 1.75),
        (jg.cfg(-3.0, 0), 2.0),
    ):
        end = run(jg.chain(guidance, term), steps=4)
        got = term.mean(end.guidance_state[-1])
        np.testing.assert_allclose(got, [want, want, np.nan], rtol=1e-4)


def test_64_settings_of_a_chain_are_one_program():
    """The network is traced as often for 64 settings as for one, and each setting's
    samples are those of its own run."""

    @jax.jit
    def all_of(settings):
        def one(w, stop):
            return run(jg.chain(jg.during(jg.cfg(w, 0), 0.0, stop), jg.apg(w, 0)))

        return jax.vmap(one)(*settings)

    settings = jnp.linspace(0, 3, 64), jnp.tile(jnp.asarray([0.5, 1.0]), 32)
    TRACED.clear()
    x = all_of(settings)
    count = len(TRACED)
    TRACED.clear()
    all_of(jax.tree.map(lambda a: a[::-1], settings))
    assert (x.shape, TRACED) == ((64, 3, 2), [])
    w, stop = settings[0][62], jnp.float32(0.5)
    alone = jax.jit(
        lambda w, s: run(jg.chain(jg.during(jg.cfg(w, 0), 0.0, s), jg.apg(w, 0)))
    )
    np.testing.assert_allclose(x[62], alone(w, stop), rtol=1e-5, atol=1e-5)
    assert len(TRACED) == count


def test_pareto_set():
    """By hand: (1, 3), (2, 2), (3, 1) stand; (1, 2) is beaten; equals stay; NaN out."""
    quality = jnp.asarray([1.0, 2.0, 3.0, 1.0, 2.0, np.nan, 9.0])
    diversity = jnp.asarray([3.0, 2.0, 1.0, 2.0, 2.0, 9.0, np.nan])
    want = [True, True, True, False, True, False, False]
    np.testing.assert_array_equal(pareto_set(quality, diversity), want)
    with pytest.raises(ValueError, match=r"expected \[N\] for both"):
        pareto_set(quality, diversity[:2])
