"""The sampling loop's promises to its caller: traces, progress, shapes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid, parametrize, uniform_grid
from jaxlib_guidance.guidance import cfg, chain
from jaxlib_guidance.sampling import (
    ddim,
    ddpm,
    sa_solver,
    sample,
    unipc,
    with_corrector,
    with_recurrence,
)
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture, plane_mixture
from jaxlib_guidance.transition import draw, log_prob
from jaxlib_guidance.types import Denoised, Denoiser

PROCESS = VPCosine()
PLANE = plane_mixture()
NET = exact_denoiser(PLANE, PROCESS)
GRID = logsnr_grid(PROCESS, 6)
KEYS = rng.sample_keys(jax.random.key(0), 4)
CHAIN = chain(cfg(1.0, jnp.int32(-1)))
COND = jnp.zeros(4, jnp.int32)


def shrink(x, t, cond, **_):
    """A denoiser for samples of any shape: the exact one of standard normal data."""
    alpha = PROCESS.alpha(t).reshape(-1, *(1,) * (x.ndim - 1))
    return Denoised(alpha * x)


SHRINK = Denoiser(shrink)


@pytest.mark.parametrize(
    "sampler", [ddpm(), ddim(0.4), sa_solver(0.8), with_corrector(ddpm())]
)
def test_trace_agrees_with_the_transitions(sampler):
    out, info = jax.jit(
        lambda: sample(
            KEYS, NET, sampler, GRID, (2,), trace=lambda i: i, process=PROCESS
        )
    )()
    assert info.x.shape == info.x_next.shape == info.x0.shape == (6, 4, 2)
    np.testing.assert_array_equal(info.index, np.arange(6))
    np.testing.assert_array_equal(info.t, GRID[:-1])
    np.testing.assert_array_equal(info.t_next, GRID[1:])
    np.testing.assert_array_equal(info.x_next[:-1], info.x[1:])
    np.testing.assert_array_equal(info.x_next[-1], out)
    for i in range(5):
        law = jax.tree.map(lambda leaf, i=i: leaf[i], info.transition)
        again = draw(law, rng.fold(KEYS, i))
        np.testing.assert_allclose(again, info.x_next[i], atol=1e-6)
        z = rng.normal(rng.fold(KEYS, i), (2,))
        std = jnp.broadcast_to(law.std, 4)
        closed = -0.5 * jnp.sum(z**2, axis=1) - 2 * jnp.log(std) - np.log(2 * np.pi)
        np.testing.assert_allclose(log_prob(law, info.x_next[i]), closed, atol=1e-3)
    assert bool(
        jnp.isnan(log_prob(law._replace(std=info.transition.std[-1]), out)).all()
    )


@pytest.mark.parametrize("sampler", [ddpm(), sa_solver(0.8)])
def test_on_policy_ratio_is_one(sampler):
    # A policy gradient replays the step from what was stored: same network, same law.
    def replay(scale):
        def apply(x, t, cond, **options):
            out = NET.apply(x, t, cond, **options)
            return out._replace(x0=scale * out.x0)

        keep = lambda i: (i.x_next, i.transition)  # noqa: E731
        _, (x_next, law) = sample(
            KEYS, Denoiser(apply), sampler, GRID, (2,), trace=keep, process=PROCESS
        )
        return x_next, law

    x_next, behind = jax.jit(replay)(jnp.float32(1))
    _, now = jax.jit(replay)(jnp.float32(1))
    each = jax.vmap(log_prob)
    ratio = jnp.exp(each(now, x_next) - each(behind, x_next))[:-1]
    np.testing.assert_array_equal(ratio, 1)


@pytest.mark.parametrize(("steps", "calls"), [(1, 1), (7, 7), (39, 20), (200, 20)])
def test_progress(steps, calls):
    seen = []
    grid = uniform_grid(PROCESS, steps)

    def run(progress):
        return sample(
            KEYS, SHRINK, ddim(), grid, (2,), progress=progress, process=PROCESS
        )[0]

    told = jax.jit(lambda: run(lambda done, total: seen.append((done, total))))()
    jax.effects_barrier()
    np.testing.assert_allclose(told, jax.jit(lambda: run(None))(), rtol=1e-5)
    assert len(seen) == calls
    assert sorted(seen)[-1] == (steps, steps)


@pytest.mark.parametrize("shape", [(), (3,), (4, 5, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize(
    "sampler", [ddpm(), sa_solver(1.0, 3), with_recurrence(ddpm(), 1)]
)
def test_samples_of_any_shape(shape, sampler):
    x, kept = sample(
        KEYS[:1], SHRINK, sampler, GRID, shape, trace=lambda i: i.x0, process=PROCESS
    )
    assert x.shape == (1, *shape)
    assert kept.shape == (6, 1, *shape)
    assert x.dtype == jnp.float32
    assert bool(jnp.isfinite(x).all())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_starts_are_taken_to_float32(dtype):
    start = jnp.array([[1.0, -2.0], [0.0, 3.0]], dtype)
    x, _ = sample(KEYS[:2], SHRINK, ddim(), GRID, start, process=PROCESS)
    exact, _ = sample(
        KEYS[:2], SHRINK, ddim(), GRID, start.astype(jnp.float32), process=PROCESS
    )
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, exact)


def test_half_precision_network_keeps_a_float32_state():
    def network(x, t, cond):
        return (0.5 * x.astype(jnp.bfloat16)).astype(jnp.bfloat16)

    net = parametrize(network, PROCESS, "eps")
    x, _ = sample(KEYS, net, ddpm(), GRID, (3,), process=PROCESS)
    assert x.dtype == jnp.float32
    assert bool(jnp.isfinite(x).all())


def test_start_from_noise_is_the_process_at_the_first_time():
    keys = rng.sample_keys(jax.random.key(3), 4000)
    grid = jnp.array([0.5, 0.0])
    _, x = sample(
        keys, SHRINK, ddim(), grid, (1,), trace=lambda i: i.x, process=PROCESS
    )
    assert abs(float(x.std()) - float(PROCESS.sigma(grid[0]))) < 0.02


def test_unroll_and_plan_change_nothing():
    def run(**options):
        return sample(
            KEYS,
            NET,
            ddpm(),
            GRID,
            (2,),
            COND,
            guidance=CHAIN,
            **options,
            process=PROCESS,
        )[0]

    base = run()
    for options in ({"unroll": 4}, {"plan": "fused"}, {"remat": True}):
        np.testing.assert_allclose(run(**options), base, atol=1e-5)


def test_reference_goes_by_step():
    class Pull:
        def branches(self, ctx):
            return {}

        def update(self, delta, evals, state, ctx):
            return ctx.ref["z"] - evals.x0["cond"], state

    ref = {"z": jnp.arange(6 * 4 * 2, dtype=jnp.float32).reshape(6, 4, 2)}

    def run(ref):
        return sample(
            KEYS,
            SHRINK,
            ddim(),
            GRID,
            (2,),
            guidance=chain(Pull()),
            ref=ref,
            trace=lambda i: i.x0,
            process=PROCESS,
        )

    x, x0 = run(ref)
    np.testing.assert_allclose(x0, ref["z"], rtol=1e-5)
    np.testing.assert_allclose(x, ref["z"][-1], rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"ref has a leaf \(5, 4, 2\); expected leading 6"
    ):
        run({"z": ref["z"][:5]})


def wrong(change, error, message):
    return pytest.param(change, error, message, id=message[:30])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        wrong({"keys": jax.random.PRNGKey(0)}, TypeError, "keys has dtype uint32"),
        wrong({"keys": jax.random.key(0)}, ValueError, r"keys has shape \(\)"),
        wrong({"keys": KEYS.reshape(2, 2)}, ValueError, r"keys has shape \(2, 2\)"),
        wrong({"x": jnp.zeros((3, 2))}, ValueError, "x has shape"),
        wrong({"cond": jnp.zeros(3)}, ValueError, "cond has shape"),
        wrong({"cond": {"a": jnp.zeros(())}}, ValueError, r"cond\['a'\] has shape"),
        wrong({"grid": []}, ValueError, "grid has shape"),
        wrong({"grid": [1.0]}, ValueError, "grid has shape"),
        wrong({"grid": jnp.zeros((2, 2))}, ValueError, "grid has shape"),
        wrong({"grid": [0.9, 0.5, 0.5]}, ValueError, "grid must be strictly monotonic"),
        wrong({"grid": [0.9, 0.2, 0.5]}, ValueError, "grid must be strictly monotonic"),
        wrong({"grid": [0.9, np.nan, 0.0]}, ValueError, "grid has times that are not"),
        wrong({"grid": [0.1, 0.5]}, ValueError, "grid increases"),
        wrong({"denoiser": (NET, NET)}, ValueError, "2 denoisers were given but no"),
        wrong({"denoiser": shrink}, TypeError, "denoiser is function; expected"),
        wrong({"denoiser": ()}, TypeError, "denoiser is tuple; expected"),
        wrong({"denoiser": (NET, shrink)}, TypeError, "denoiser holds function"),
        wrong({"sampler": ddim}, TypeError, "sampler is ddim; expected a Sampler"),
        wrong(
            {"guidance": 3.0}, TypeError, "guidance is float; expected a guidance term"
        ),
        wrong({"plan": "best", "guidance": CHAIN, "cond": COND}, ValueError, "plan is"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "keys": KEYS,
        "denoiser": NET,
        "process": PROCESS,
        "sampler": ddpm(),
        "grid": GRID,
        "x": (2,),
    }
    with pytest.raises(error, match=message):
        sample(**(arguments | change))


def test_one_gaussian_is_sampled_exactly():
    # For one Gaussian DDIM's map is affine, and known in closed form step by step.
    gaussian = gaussian_mixture([1.0], [[0.7]], [[[0.09]]])
    _, (x, x_next) = sample(
        KEYS,
        exact_denoiser(gaussian, PROCESS),
        ddim(),
        GRID,
        (1,),
        trace=lambda i: (i.x, i.x_next),
        process=PROCESS,
    )
    alpha, sigma = (np.asarray(f(GRID)) for f in (PROCESS.alpha, PROCESS.sigma))
    for i in range(6):
        spread = alpha[i] ** 2 * 0.09 + sigma[i] ** 2
        off = np.asarray(x[i]) - alpha[i] * 0.7
        x0 = 0.7 + alpha[i] * 0.09 / spread * off
        eps = (np.asarray(x[i]) - alpha[i] * x0) / sigma[i]
        exact = alpha[i + 1] * x0 + sigma[i + 1] * eps
        np.testing.assert_allclose(x_next[i], exact, atol=1e-5)


def test_a_solver_says_which_it_is():
    assert repr(ddim(1.0)).startswith("Sampler(ddim, stochastic=True, evaluations=1")
    assert "0x" not in repr(unipc())
