"""Flow-GRPO's step against its printed form, its limits and exact variances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import VE, RectifiedFlow, VPCosine, uniform_grid
from jaxlib_guidance.finetuning import step_kl
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import flow_sde, flow_step, posterior, sample
from jaxlib_guidance.sampling._prepare import make_interval
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Denoised, Denoiser

FLOW = RectifiedFlow()
KEYS = sample_keys(jax.random.key(0), 4)
X, X0, OTHER = jax.random.normal(jax.random.key(1), (3, 4, 3))


def interval(t, t_next, process=FLOW, index=1):
    times = (jnp.float32(t), jnp.float32(t_next))
    return make_interval(process, jnp.int32(index), *times, KEYS)


def printed(x, v, t, t_next, s):
    """Flow-GRPO, arXiv 2505.05470, eq. 9, and the authors' code, in float64."""
    x, v, d = np.asarray(x, float), np.asarray(v, float), t_next - t
    mean = x * (1 + s**2 * d / (2 * t)) + v * (1 + s**2 * (1 - t) / (2 * t)) * d
    return mean, s * np.sqrt(-d)


@pytest.mark.parametrize(
    ("noise", "level"), [("odds", np.sqrt(0.6 / 0.4)), ("constant", 1.0)]
)
def test_is_the_printed_step(noise, level):
    v = (X - X0) / 0.6
    mean, std = printed(X, v, 0.6, 0.5, 0.7 * level)
    got = flow_step(X, X0, interval(0.6, 0.5), 0.7, noise)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.std, std, rtol=1e-5)


def test_at_pure_noise_it_looks_at_the_next_time():
    """``t = 1`` would have infinite noise: the code takes 1 - t at the second time."""
    got = flow_step(X, X0, interval(1.0, 0.9, index=0), 0.7)
    mean, std = printed(X, X - X0, 1.0, 0.9, 0.7 * np.sqrt(1 / 0.1))
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.std, std, rtol=1e-5)


def test_a_grid_that_starts_inside_has_the_formula_in_its_first_step():
    """The authors' code replaces 1 - t at t = 1 only: 0.2711; 1 - t' has 0.2425."""
    got = flow_step(X, X0, interval(0.6, 0.5, index=0), 0.7)
    mean, std = printed(X, (X - X0) / 0.6, 0.6, 0.5, 0.7 * np.sqrt(0.6 / 0.4))
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.std, std, rtol=1e-5)
    np.testing.assert_allclose(got.std, 0.2711, atol=5e-5)


@pytest.mark.parametrize("process", [VPCosine(), VE()], ids=type)
def test_no_process_drowns_in_its_first_step(process):
    """Where 1 - t is small but not 0: the noise of a step is at most ``a`` wide."""
    step = interval(process.t_max, 0.9 * process.t_max, process, index=0)
    got = flow_step(X, X0, step, 0.7)
    assert float(got.std / (step.end.alpha + step.end.sigma)) < 0.7


def test_the_two_kinds_of_noise_have_one_drift():
    """DanceGRPO with its constant at Flow-GRPO's level of this time."""
    step = interval(0.8, 0.7)
    here = flow_step(X, X0, step, 0.7, "odds")
    same = flow_step(X, X0, step, 0.7 * jnp.sqrt(step.t / (1 - step.t)), "constant")
    np.testing.assert_allclose(here.mean, same.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(here.std, same.std, rtol=1e-6)


@pytest.mark.parametrize("process", [FLOW, VPCosine(), VE()], ids=type)
def test_without_noise_it_is_the_ode(process):
    step = interval(0.7 * process.t_max, 0.5 * process.t_max, process)
    got, want = flow_step(X, X0, step, 0.0), posterior(X, X0, step, 0.0)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-5, atol=1e-5)
    assert got.std == 0
    assert not flow_sde(0).stochastic
    assert flow_sde(jnp.float32(0)).stochastic


@pytest.mark.parametrize("process", [VPCosine(), VE()], ids=type)
def test_other_processes_take_the_flow_s_step(process):
    """The same noise ratios, the state divided by ``alpha + sigma``: the same step."""
    step = interval(0.7 * process.t_max, 0.5 * process.t_max, process)
    ratio, ratio_next = (
        step.start.sigma / step.start.alpha,
        step.end.sigma / step.end.alpha,
    )
    twin = interval(ratio / (1 + ratio), ratio_next / (1 + ratio_next))
    got = flow_step((step.start.alpha + step.start.sigma) * X, X0, step, 0.7)
    want = flow_step(X, X0, twin, 0.7)
    scale = step.end.alpha + step.end.sigma
    np.testing.assert_allclose(got.mean, scale * want.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.std, scale * want.std, rtol=1e-4)


def test_kl_of_two_networks_in_closed_form():
    t, t_next, s = 0.5, 0.4, 0.7
    step = interval(t, t_next)
    laws = [flow_step(X, x0, step, 0.7) for x0 in (X0, OTHER)]
    p, q = (Transition(m[:, None], jnp.full((4, 1), std)) for m, std in laws)
    gap = np.asarray((OTHER - X0) / t, float)
    factor = (t - t_next) / 2 * (s * (1 - t) / (2 * t) + 1 / s) ** 2
    want = factor * np.sum(gap**2, -1)
    np.testing.assert_allclose(step_kl(p, q, "sum")[:, 0], want, rtol=1e-4)
    np.testing.assert_allclose(step_kl(p, q, "mean")[:, 0], want / 3, rtol=1e-4)
    # Velocities 0.3 apart. The code of github.com/yifan123/flow_grpo, which
    # leaves dt out, has 0.00142.
    laws = [flow_step(x, x0, step, 0.7) for x, x0 in ((X, X0), (X, X0 + 0.3 * t))]
    p, q = (Transition(m[:, None], jnp.full((4, 1), std)) for m, std in laws)
    np.testing.assert_allclose(step_kl(p, q), 0.01423, atol=5e-6)


def variance_of_gaussian_data(n, a, data=4.0):
    """Of the last state, by the recursion of the printed step in float64."""
    t, var = np.linspace(1, 0, n + 1), 1.0
    for i in range(n):
        gain = (1 - t[i]) * data / ((1 - t[i]) ** 2 * data + t[i] ** 2)
        s = a * np.sqrt(t[i] / (1 - (t[1] if i == 0 else t[i])))
        slope, std = printed(1.0, (1 - gain) / t[i], t[i], t[i + 1], s)
        var = slope**2 * var + std**2
    return var


@jax.jit
def variance_by_steps(grid, a, data=4.0):
    """The same by `flow_step`: what it makes of the state 1 is the step's gain."""

    def step(var, at):
        index, t, t_next = at
        here = make_interval(FLOW, index, t, t_next, KEYS[:1])
        gain = (
            data * here.start.alpha / (data * here.start.alpha**2 + here.start.sigma**2)
        )
        one = jnp.ones((1, 1))
        mean, std = flow_step(one, gain * one, here, a)
        return mean[0, 0] ** 2 * var + std**2, None

    steps = jnp.arange(grid.size - 1), grid[:-1], grid[1:]
    return jax.lax.scan(step, jnp.float32(1), steps)[0]


@pytest.mark.parametrize(
    ("n", "a", "want"),
    # Computed apart from this code, when the method was specified.
    [(10, 0.7, 3.5444), (50, 0.7, 4.0052), (5000, 0.7, 4.0165), (10, 0.0, 2.9692)],
)
def test_golden_variances(n, a, want):
    np.testing.assert_allclose(variance_of_gaussian_data(n, a), want, atol=5e-5)
    # 5000 steps add up their roundings in float32.
    got = variance_by_steps(uniform_grid(FLOW, n), jnp.float32(a))
    np.testing.assert_allclose(got, want, atol=1e-3 if n > 50 else 1e-4)


def test_samples_have_that_variance():
    def apply(x, t, cond, **_):
        alpha, sigma = FLOW.alpha(t)[:, None], FLOW.sigma(t)[:, None]
        return Denoised(4 * alpha * x / (4 * alpha**2 + sigma**2))

    run = jax.jit(
        lambda a, keys: sample(
            keys,
            Denoiser(apply),
            flow_sde(a),
            uniform_grid(FLOW, 10),
            (64,),
            process=FLOW,
        )[0]
    )
    keys = sample_keys(jax.random.key(3), 1000)
    for a in (0.0, 0.7):
        want = variance_of_gaussian_data(10, a)
        assert abs(run(a, keys).var() / want - 1) < 4 * np.sqrt(2 / 64_000)


def test_an_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="noise is 'linear'"):
        flow_sde(noise="linear")
