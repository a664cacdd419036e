"""A trajectory in pieces is the whole: looked at, edited, and gone on with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import Observed, square_energy
from jaxlib_guidance.sampling import SampleState, flow_sde, guided_after, multistep
from jaxlib_guidance.types import Denoised, expand

PROCESS = jg.VPCosine()
N = 8
GRID = jg.logsnr_grid(PROCESS, N)
KEYS = jg.sample_keys(jax.random.key(0), 3)
COND = jnp.arange(3)


def smooth(x, t, cond, **_):
    push = expand(jnp.sin(1.0 + cond.astype(jnp.float32)), x)
    return Denoised(jnp.tanh(0.7 * x + 0.3 * jnp.roll(x, 1, -1) + push - expand(t, x)))


NET = jg.Denoiser(smooth, process=PROCESS)
SOURCE = jnp.linspace(-1, 1, 12).reshape(3, 4)
KNOWN = jnp.array([1.0, 0.0, 0.5, 0.0])
OBSERVED = Observed(SOURCE[..., None], jnp.ones((3, 4, 1)))


def far(x0, ctx):
    return jnp.sum((x0 - 1) ** 2, axis=1)


def near(x0, observed):
    return square_energy(x0[..., None], observed)


SOLVERS = {
    "ddim": jg.ddim(),
    "ddim 1": jg.ddim(1.0),
    "ddpm": jg.ddpm(),
    "euler": jg.euler(),
    "ancestral": jg.euler_ancestral(),
    "heun": jg.heun(),
    "edm": jg.edm(2.4),
    "2m": jg.dpmpp_2m(),
    "2m sde": jg.dpmpp_2m(1.0),
    "3m": jg.dpmpp_3m(),
    "2s sde": jg.dpmpp_2s(1.0),
    "adams": jg.adams(4, adaptive=True),
    "two draws": jg.sampling.dpmpp_sde(),
    "deis": jg.deis(3),
    "lms": jg.lms(3),
    "pndm": jg.pndm(),
    "unipc": jg.unipc(3),
    "sa": jg.sa_solver(0.8, 3),
    "consistency": jg.consistency(),
    "langevin": jg.annealed_langevin(2),
    "corrected": jg.with_corrector(jg.ddim(0.5), 2),
    "recurrent": jg.with_recurrence(jg.dpmpp_2m(1.0), 2, stop=0.7),
    "inpaint fresh": jg.inpaint(jg.ddpm(), SOURCE, KNOWN),
    "inpaint fixed": jg.inpaint(jg.ddim(), SOURCE, KNOWN, "fixed"),
    "flow sde": flow_sde(0.7),
    "guided after": guided_after(jg.ddpm(), OBSERVED, near, 0.1),
    "multistep": multistep("flow", 2, 2),
}
CHAINS = {
    "none": None,
    "momentum in a window": jg.chain(
        jg.during(jg.apg(1.5, null=2, momentum=-0.5), 0.2, 0.7), jg.cfg(0.3, null=2)
    ),
    "window of noise": jg.during(jg.energy(far, 0.2), 0.5, 3.0, "sigma"),
    "schedule": jg.scheduled(jg.cfg(1.0, null=2), jnp.linspace(0.0, 1.0, N)),
}


def program(sampler, guidance, steps):
    """A program of ``steps`` steps from wherever a trajectory is, and its traces."""
    traces = []

    @jax.jit
    def go(x):
        traces.append(x)
        return jg.sample(
            KEYS, NET, sampler, GRID, x, COND, guidance=guidance, steps=steps
        )[0]

    return go, traces


def whole(sampler, guidance):
    run = partial(jg.sample, KEYS, NET, sampler, GRID, (4,), COND, guidance=guidance)
    x, x0 = jax.jit(lambda: run(trace=lambda info: (info.x_next, info.x0)))()
    return x, x0


def begun(sampler, guidance, steps=1):
    return jg.sample(
        KEYS, NET, sampler, GRID, (4,), COND, guidance=guidance, steps=steps
    )[0]


@pytest.mark.share(6)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_loop_of_single_steps_is_the_whole(name):
    """One compilation serves all places; states agree after each step."""
    sampler, guidance = SOLVERS[name], CHAINS["momentum in a window"]
    x, (states, _) = whole(sampler, guidance)
    go, traces = program(sampler, guidance, 1)
    now = jax.jit(lambda: begun(sampler, guidance))()
    for i in range(N):
        if i:
            now = go(now)
        assert int(now.step) == i + 1
        # Two programs may fuse one sum differently; a wrong noise, history, window or
        # number of steps left is off by 1e-2 and more.
        np.testing.assert_allclose(now.x, states[i], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(now.x, x, rtol=2e-5, atol=2e-5)
    assert len(traces) == 1


@pytest.mark.share(5)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", ["2m sde", "inpaint fresh", "adams"])
def test_cuts_anywhere_with_any_guidance(name, chain):
    sampler, guidance = SOLVERS[name], CHAINS[chain]
    x, (states, x0) = whole(sampler, guidance)
    run = partial(jg.sample, KEYS, NET, sampler, GRID, cond=COND, guidance=guidance)

    @jax.jit
    def in_four():
        keep = lambda info: (info.x_next, info.x0)  # noqa: E731
        now, kept = (4,), []
        # Each place is known here, so windows are cut out as in the whole.
        for steps in (1, 2, 3, None):
            now, piece = run(x=now, steps=steps, trace=keep)
            kept.append(piece)
        return now, jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *kept)

    end, (found, estimates) = in_four()
    # This flow stretches what two programs round differently by up to 300.
    np.testing.assert_allclose(end, x, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found, states, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(estimates, x0, rtol=1e-3, atol=1e-3)


@pytest.mark.share(4)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_program_gives_the_same_bits(name):
    """Eager operations are one program each: nothing is fused, and bits agree."""
    sampler = SOLVERS[name]
    with jax.disable_jit():
        run = partial(jg.sample, KEYS, NET, sampler, GRID[:4], cond=COND)
        x, _ = run(x=(4,))
        half, _ = run(x=(4,), steps=1)
        more, _ = run(x=half, steps=1)
        rest, _ = run(x=more)
    np.testing.assert_array_equal(rest, x)


def test_the_defect_that_pieces_mend():
    """A loop of stochastic steps over data N(0, .25) has its deviation."""
    process, s, n = jg.VPCosine(), 0.5, 40

    def exact(x, t, cond):
        a, b = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return a * s**2 / (a**2 * s**2 + b**2) * x

    net = jg.parametrize(exact, process)
    keys, grid = jg.sample_keys(jax.random.key(0), 4096), jg.logsnr_grid(process, n)
    run = partial(jg.sample, keys, net, jg.dpmpp_2m(eta=1.0), grid)
    now, _ = run((4,), steps=1)
    go = jax.jit(lambda now: run(now, steps=1)[0])
    for _ in range(n - 1):
        now = go(now)
    assert abs(float(now.x.std()) - s) < 0.01


def test_an_edit_between_steps_goes_on_from_there():
    half = begun(jg.ddim(), None, 4)
    edited = half._replace(x=half.x.at[0].add(1.0))
    run = partial(jg.sample, KEYS, NET, jg.ddim(), GRID, cond=COND)
    plain, changed = run(x=half)[0], run(x=edited)[0]
    np.testing.assert_array_equal(plain[1:], changed[1:])
    assert float(jnp.abs(plain[0] - changed[0]).max()) > 1e-3


def test_ref_and_progress_know_their_place():
    seen = []
    ref = jnp.arange(float(N))
    pull = jg.energy(lambda x0, ctx: ctx.ref * jnp.sum(x0, 1), 0.01, through="denoised")
    run = partial(jg.sample, KEYS, NET, jg.ddim(), GRID, cond=COND, ref=ref)
    x, _ = run(x=(4,), guidance=pull)
    half, _ = run(x=(4,), guidance=pull, steps=3)
    end, _ = run(x=half, guidance=pull, progress=lambda n, total: seen.append(n))
    jax.effects_barrier()
    np.testing.assert_allclose(end, x, atol=1e-6)
    assert seen == [4, 5, 6, 7, 8]


def test_a_gradient_through_pieces_is_that_of_the_whole():
    def loss(weight, cut):
        run = partial(jg.sample, KEYS, NET, jg.dpmpp_2m(), GRID, cond=COND)
        guidance = jg.cfg(weight, null=2)
        if not cut:
            return jnp.sum(run(x=(4,), guidance=guidance)[0] ** 2)
        half, _ = run(x=(4,), guidance=guidance, steps=cut)
        return jnp.sum(run(x=half, guidance=guidance)[0] ** 2)

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    np.testing.assert_allclose(grad(0.5, 3), grad(0.5, 0), rtol=1e-5)


def test_what_is_refused():
    half = begun(jg.dpmpp_2m(), None, 4)
    run = partial(jg.sample, KEYS, NET, jg.dpmpp_2m(), GRID, cond=COND)
    for steps in (0, -1, 5, 2.0, True):
        with pytest.raises(ValueError, match=f"steps is {steps}; .* the 4 steps that"):
            run(x=half, steps=steps)
    with pytest.raises(ValueError, match="at the end of the grid's 8 steps"):
        run(x=run(x=half, steps=4)[0])
    with pytest.raises(ValueError, match="whose step is traced; expected steps"):
        jax.jit(lambda x: run(x=x))(half)
    with pytest.raises(TypeError, match="a SampleState of another solver"):
        run(x=begun(jg.ddim(), None))
    with pytest.raises(TypeError, match="a SampleState of another guidance"):
        run(x=half, guidance=jg.apg(1.0, null=2, momentum=-0.5))
    for step in (-1, 1.7, 9):
        with pytest.raises(ValueError, match="x is a SampleState at step"):
            run(x=half._replace(step=step))
    # Where it cannot raise, it is not a number.
    late = jax.jit(lambda x: run(x=x, steps=5)[0])(half)
    assert np.isnan(late.x).all()
    assert isinstance(late, SampleState)


def test_a_state_is_saved_and_gone_on_with(tmp_path):
    from jaxlib_guidance.training import Checkpoints

    half = begun(jg.dpmpp_2m(), None, 4)
    run = partial(jg.sample, KEYS, NET, jg.dpmpp_2m(), GRID, cond=COND)
    with Checkpoints(tmp_path) as saved:
        saved.save(4, half)  # As an eager call returns it.
        saved.wait()
        again = saved.restore_latest(half).state
    np.testing.assert_array_equal(run(x=again)[0], run(x=half)[0])
    # Halved numbers go on as well as their digits allow.
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), half)._replace(
        step=half.step, t=half.t
    )
    np.testing.assert_allclose(run(x=low)[0], run(x=half)[0], atol=0.3)
