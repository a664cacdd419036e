"""Roll-out and re-scoring: one law, whatever guides and whatever remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxlib_guidance.diffusion import VPCosine, uniform_grid
from jaxlib_guidance.finetuning import rescore, rollout, step_kl, step_log_prob
from jaxlib_guidance.guidance import apg, cfg, chain, during, energy
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, dpmpp_2m, flow_sde, sample
from jaxlib_guidance.transition import Transition, log_prob
from jaxlib_guidance.types import Denoised, Denoiser

PROCESS = VPCosine()
GRID = uniform_grid(PROCESS, 5)
KEYS = sample_keys(jax.random.key(0), 4)
LABELS = jnp.arange(4) % 3
SHAPE = (2, 3)
PARAMS = {"gain": jnp.float32(0.6), "shift": jnp.array([0.1, -0.4, 0.3, 0.0])}


def denoiser(params):
    """Linear in the state, with a shift for each label (3 is the null one)."""

    def apply(x, t, cond, **_):
        alpha = jnp.broadcast_to(PROCESS.alpha(t), x.shape[:1])[:, None, None]
        shift = 0.0 if cond is None else params["shift"][cond][:, None, None]
        return Denoised(params["gain"] * alpha * x + shift)

    return Denoiser(apply, process=PROCESS)


def brightness(x0, ctx):
    return jnp.sum(x0, axis=(1, 2))


POLICIES = {
    "ddim": (ddim(1.0), None),
    "flow": (flow_sde(0.7), None),
    "window": (ddim(1.0), chain(during(cfg(2.0, null=3), 0.2, 0.8))),
    "solver with state": (dpmpp_2m(1.0), chain(cfg(2.0, null=3))),
    "guidance with state": (
        ddim(1.0),
        chain(apg(2.0, null=3, momentum=-0.5), energy(brightness, 0.1)),
    ),
}


def arguments(name):
    sampler, guidance = POLICIES[name]
    return (sampler, GRID), {"guidance": guidance, "reduce": "sum"}


@pytest.fixture(scope="module", params=POLICIES)
def rolled(request):
    """A roll-out, and the program that scores it again and differentiates."""
    args, options = arguments(request.param)
    first = jax.jit(
        lambda p: rollout(KEYS, denoiser(p), *args, SHAPE, LABELS, **options)
    )(PARAMS)

    @jax.jit
    def score(p):
        def total(p):
            got = rescore(KEYS, denoiser(p), *args, first.states, LABELS, **options)
            return jnp.sum(got.logp), got

        return jax.value_and_grad(total, has_aux=True)(p)

    return request.param, first, score


def test_samples_are_those_of_sample(rolled):
    name, first, _ = rolled
    args, options = arguments(name)
    x, _ = jax.jit(
        lambda p: sample(
            KEYS, denoiser(p), *args, SHAPE, LABELS, guidance=options["guidance"]
        )
    )(PARAMS)
    # Two programs, so to rounding.
    np.testing.assert_allclose(first.states[:, -1], x, atol=1e-6)
    assert first.states.shape == (4, 6, *SHAPE)


def roundings(rolled):
    """Change of each log-probability when mean and std move by a relative 2^-23."""
    mean, std = (np.asarray(each, np.float64) for each in rolled.transition)
    std = np.where(rolled.mask, std, 1)[..., None, None]
    z = (np.asarray(rolled.states[:, 1:], np.float64) - mean) / std
    slope = np.abs(z * mean / std) + np.abs(z**2 - 1)
    return slope.sum((2, 3)) * rolled.mask * np.finfo(np.float32).eps


def test_an_unchanged_policy_has_ratios_of_one(rolled):
    """To rounding from one program to another, and exactly within one."""
    _, first, score = rolled
    (_, again), _ = score(PARAMS)
    # Ten roundings were seen, of cosines that two programs compute by other code.
    assert (np.abs(again.logp - first.logp) <= 32 * roundings(first) + 1e-7).all()
    np.testing.assert_array_equal(again.states, first.states)
    np.testing.assert_array_equal(again.mask, first.mask)
    (_, same), _ = score(PARAMS)
    np.testing.assert_array_equal(same.logp, again.logp)
    moved = {**PARAMS, "gain": jnp.float32(0.7)}
    (_, other), _ = score(moved)
    assert float(jnp.abs(other.logp - first.logp).max()) > 0.1


def test_log_prob_is_the_density_of_the_next_state(rolled):
    name, first, _ = rolled
    mean, std = (np.asarray(each, np.float64) for each in first.transition)
    last = name == "flow"
    np.testing.assert_array_equal(first.mask, [[1, 1, 1, 1, last]] * 4)
    with np.errstate(all="ignore"):
        exact = stats.norm.logpdf(first.states[:, 1:], mean, std[..., None, None])
    exact = np.where(first.mask, exact.sum((2, 3)), 0)
    np.testing.assert_allclose(first.logp, exact, rtol=2e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_score(rolled):
    """The mean is linear in the gain, so a difference of squares is exact."""
    _, _, score = rolled
    _, slope = score(PARAMS)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))
    more, less = (
        score({**PARAMS, "gain": PARAMS["gain"] + by})[0][0] for by in (0.05, -0.05)
    )
    np.testing.assert_allclose((more - less) / 0.1, slope["gain"], rtol=1e-3)


def test_recomputing_changes_no_gradient():
    args, options = arguments("ddim")

    @jax.jit
    def slopes(p):
        states = rollout(KEYS, denoiser(p), *args, SHAPE, LABELS).states

        def score(p, remat):
            net = denoiser(p)
            got = rescore(KEYS, net, *args, states, LABELS, **options, remat=remat)
            return jnp.sum(got.logp)

        return jax.grad(score)(p, False), jax.grad(score)(p, True)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *slopes(PARAMS)
    )


def test_states_may_be_stored_in_half():
    args, _ = arguments("ddim")

    @jax.jit
    def run():
        path = rollout(KEYS, denoiser(PARAMS), *args, SHAPE, LABELS)
        half = path.states.astype(jnp.bfloat16)
        return path, rescore(KEYS, denoiser(PARAMS), *args, half, LABELS)

    path, again = run()
    assert again.logp.dtype == jnp.float32
    np.testing.assert_allclose(again.logp, path.logp, atol=0.3)


def test_states_are_constants():
    """Those that a roll-out gives, and those that are scored."""
    args, options = arguments("ddim")

    def total(p):
        net = denoiser(p)
        first = rollout(KEYS, net, *args, SHAPE, LABELS, **options).states
        moving = first * p["gain"] / PARAMS["gain"]
        again, same = (
            rescore(KEYS, net, *args, states, LABELS, **options).logp.sum()
            for states in (first, moving)
        )
        return jnp.sum(first), again, same

    quiet, loud, same = jax.jit(jax.jacrev(total))(PARAMS)
    assert quiet["gain"] == 0
    assert abs(loud["gain"]) > 1e-3
    np.testing.assert_allclose(same["gain"], loud["gain"], rtol=1e-5)


def test_reductions_and_divergences():
    args, _ = arguments("ddim")
    moved = {**PARAMS, "gain": jnp.float32(0.9)}

    @jax.jit
    def run():
        def roll(how):
            return rollout(KEYS, denoiser(PARAMS), *args, SHAPE, LABELS, reduce=how)

        total = roll("sum")
        other = rescore(KEYS, denoiser(moved), *args, total.states, LABELS)
        p, q = total.transition, other.transition
        slope = jax.grad(lambda m: step_kl(p._replace(mean=m), q, "sum").sum())(p.mean)
        kls = step_kl(p, q, "sum"), step_kl(p, q, "mean"), step_kl(p, p)
        return roll("mean"), total, other, kls, slope

    mean, total, other, (kl, kl_mean, same), slope = run()
    np.testing.assert_allclose(6 * mean.logp, total.logp, rtol=1e-6)
    np.testing.assert_allclose(6 * kl_mean, kl, rtol=1e-6)
    np.testing.assert_array_equal(same, np.zeros((4, 5)))
    m, std = (np.asarray(each, np.float64) for each in total.transition)
    gap = np.sum((m - np.asarray(other.transition.mean)) ** 2, axis=(2, 3))
    exact = gap[:, :-1] / (2 * std[:, :-1] ** 2)
    assert exact.min() < 1e-6  # which float32 loses beside 1/2
    np.testing.assert_allclose(kl[:, :-1], exact, rtol=1e-3)
    np.testing.assert_array_equal(kl[:, -1], 0)
    assert bool(jnp.isfinite(slope).all())
    assert not slope[:, -1].any()


def test_a_step_without_noise_counts_nothing():
    x, mean = jax.random.normal(jax.random.key(1), (2, 4, 3))
    std = jnp.array([0.5, 0.0, 2.0, 0.0])

    def score(m):
        return step_log_prob(Transition(m, std), x, "sum")

    got, slope = score(mean), jax.grad(lambda m: score(m).sum())(mean)
    np.testing.assert_array_equal(got[1::2], 0)
    np.testing.assert_array_equal(slope[1::2], 0)
    want = log_prob(Transition(mean, std), x)
    np.testing.assert_array_equal(got[::2], want[::2])
    assert bool(slope[::2].all())


def test_half_precision_has_float32_densities():
    mean = jax.random.normal(jax.random.key(2), (2, 4096), jnp.bfloat16)
    x, std = mean + jnp.bfloat16(0.25), jnp.full(2, 0.25, jnp.bfloat16)
    exact = stats.norm.logpdf(*(np.asarray(a, float) for a in (x, mean)), 0.25).sum(1)
    got = step_log_prob(Transition(mean, std), x, "sum")
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_bad_input_is_named():
    args, _ = arguments("ddim")
    with pytest.raises(ValueError, match="draws no noise"):
        rollout(KEYS, denoiser(PARAMS), ddim(), GRID, SHAPE, process=PROCESS)
    with pytest.raises(ValueError, match="reduce is 'max'"):
        rollout(KEYS, denoiser(PARAMS), *args, SHAPE, reduce="max")
    with pytest.raises(ValueError, match=r"expected \[B, 6, \*S\]"):
        rescore(KEYS, denoiser(PARAMS), *args, jnp.zeros((4, 5, *SHAPE)))
    law = Transition(jnp.zeros((4, 5, *SHAPE)), jnp.ones((4, 5)))
    with pytest.raises(ValueError, match="q.mean has shape"):
        step_kl(law, jax.tree.map(lambda leaf: leaf[:1], law))
    with pytest.raises(TypeError, match="expected a Sampler"):
        rollout(KEYS, denoiser(PARAMS), ddim, GRID, SHAPE, process=PROCESS)
