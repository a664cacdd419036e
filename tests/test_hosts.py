"""Adapters of docs/hosts.md with the real packages, where these are installed."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.testing import exact_denoiser, exact_flow, plane_mixture

PAGE = (Path(__file__).parents[1] / "docs/hosts.md").read_text()


def blocks(host):
    """What the page shows of a host, in order."""
    return re.findall(rf"^```py {host}\n(.*?)^```$", PAGE, re.M | re.S)


def shown(host, part=0, **names):
    """The page's names after a block, which begins with these."""
    space = {"jax": jax, "jnp": jnp, "jg": jg, "process": jg.VPCosine(), **names}
    exec(compile(blocks(host)[part], f"docs/hosts.md, {host}", "exec"), space)
    return space


@pytest.mark.parametrize(
    "host",
    [
        *("equinox", "diffrax", "gensbi", "hackable_diffusion"),
        *("flowjax", "tunix", "gymnax"),
    ],
)
def test_an_adapter_has_at_most_three_lines_of_its_own(host):
    """Imports, a model to adapt, blank lines and the `def` itself apart."""
    for block in blocks(host):
        lines = [line for line in block.splitlines() if line.strip()]
        own = ("import", "from ", "def ", "model = ", "env, ", "trainer = ")
        own = [line for line in lines if not line.startswith(own)]
        assert 1 <= len(own) <= 3 * block.count("def "), block


def test_equinox():
    pytest.importorskip("equinox")
    made = shown("equinox")
    x = jax.random.normal(jax.random.key(1), (3, 2))
    t, cond = jnp.full(3, 0.4), jnp.arange(3.0)
    value = jnp.stack(
        [made["model"](jnp.append(x[i], jnp.array([0.4, i]))) for i in range(3)]
    )
    want = jg.convert(made["process"], "v", "x0", value, x, t)
    np.testing.assert_allclose(made["denoiser"](x, t, cond).x0, want, atol=1e-5)


def fields():
    """The exact velocity of a mixture, from noise at 0 to data at 1."""
    mixture, process = plane_mixture(), jg.RectifiedFlow()
    exact = exact_denoiser(mixture, process)

    def velocity(t, x):
        x0 = exact(x, 1 - t, None).x0
        return -jg.convert(process, "x0", "velocity", x0, x, 1 - t)

    return mixture, exact, velocity


def test_diffrax_there_and_back():
    diffrax = pytest.importorskip("diffrax")
    mixture, exact, velocity = fields()

    def field(t, y, args):
        return velocity(t[None], y[None])[0]

    denoiser = shown("diffrax", field=field)["denoiser"]
    x, t = jax.random.normal(jax.random.key(0), (5, 2)), jnp.full(5, 0.7)
    np.testing.assert_allclose(denoiser(x, t, None).x0, exact(x, t, None).x0, atol=1e-5)
    # Back, through their solver, to where the exact flow arrives.
    flow = shown("diffrax", 1, denoiser=denoiser)["flow"]

    @jax.jit
    def solve(x):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(flow),
            diffrax.Tsit5(),
            t0=1.0,
            t1=1e-3,
            dt0=-0.02,
            y0=x,
            stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-6),
        ).ys[-1]

    want = exact_flow(mixture, x, (0.0, 1.0), (1 - 1e-3, 1e-3))
    np.testing.assert_allclose(solve(x), want, atol=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_gensbi():
    """Its path's velocity of one data point, to which the denoiser must point."""
    path = pytest.importorskip("gensbi.flow_matching.path")
    from gensbi.flow_matching.path.scheduler import CondOTScheduler

    data = jnp.tile(jnp.array([1.0, -2.0]), (6, 1))
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    s = jnp.linspace(0.1, 0.9, 6)
    drawn = path.AffineProbPath(CondOTScheduler()).sample(noise, data, s)

    def velocity(t, x):
        return (data - x) / (1 - t[:, None])

    np.testing.assert_allclose(velocity(s, drawn.x_t), drawn.dx_t, atol=1e-5)
    denoiser = shown("gensbi", velocity=velocity)["denoiser"]
    got = denoiser(drawn.x_t, 1 - s, None).x0
    np.testing.assert_allclose(got, data, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_hackable_diffusion_there_and_back():
    """Its sampler on our denoiser takes the steps of ours; ours reads its networks."""
    pytest.importorskip("hackable_diffusion")
    from hackable_diffusion.lib.corruption.gaussian import GaussianProcess
    from hackable_diffusion.lib.corruption.schedules import CosineSchedule, RFSchedule
    from hackable_diffusion.lib.sampling import (
        gaussian_step_sampler,
        sampling,
        time_scheduling,
    )

    keys = jg.sample_keys(jax.random.key(0), 3)
    for schedule, process in (
        (CosineSchedule(), jg.VPCosine()),
        (RFSchedule(), jg.RectifiedFlow()),
    ):
        corruption = GaussianProcess(schedule=schedule)
        exact = exact_denoiser(plane_mixture(), process)
        infer = shown("hackable_diffusion", 1, denoiser=exact)["infer"]
        x, t = jax.random.normal(jax.random.key(1), (3, 2)), jnp.full(3, 0.4)
        np.testing.assert_allclose(schedule.alpha(t), process.alpha(t), atol=1e-6)
        np.testing.assert_allclose(schedule.sigma(t), process.sigma(t), atol=1e-6)
        back = shown("hackable_diffusion", infer=infer)["network"]
        np.testing.assert_allclose(back(x, t, None), exact(x, t, None).x0, atol=1e-6)

        span = time_scheduling.jax_helpers.SafeSpan(
            _minval=0.0, _maxval=1.0, safety_epsilon=1e-2
        )
        sampler = sampling.DiffusionSampler(
            time_schedule=time_scheduling.UniformTimeSchedule(span=span),
            stepper=gaussian_step_sampler.DDIMStep(
                corruption_process=corruption, stoch_coeff=0.0
            ),
            num_steps=9,
        )
        # Both over the times of their schedule, from one state.
        grid = jnp.linspace(0.99, 0.01, 9)
        ours, _ = jg.sample(keys, exact, jg.ddim(), grid, x)
        last, steps = sampler(infer, jax.random.key(2), x)
        np.testing.assert_allclose(steps.step_info.time[:, 0, 0], grid, atol=1e-6)
        np.testing.assert_allclose(last.xt, ours, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tunix():
    """Its trainer, with our loss: what was rewarded becomes likelier."""
    peft_trainer = pytest.importorskip("tunix.sft.peft_trainer")
    import optax
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            self.table = nnx.Param(jnp.zeros((5, 5)))

        def __call__(self, tokens):
            return self.table.value[tokens]

    model = Model()
    how = peft_trainer.TrainingConfig(eval_every_n_steps=100, max_steps=20)
    trainer = peft_trainer.PeftTrainer(model, optax.adam(0.1), how)
    tokens = jax.random.randint(jax.random.key(1), (2, 8, 4), 0, 5)
    batch = {
        "tokens": tokens,
        "logp_old": jnp.full((2, 8, 3), -jnp.log(5.0)),
        "rewards": jnp.mean(tokens[..., 1:] == 2, axis=-1),
    }
    trainer = shown("tunix", trainer=trainer)["trainer"]
    # Adam of its optimiser adds integers to floats.
    with jax.numpy_dtype_promotion("standard"):
        trainer.train([batch] * 20)
    assert (jnp.argmax(model.table.value, axis=-1) == 2).all()


@pytest.mark.filterwarnings("ignore")
def test_flowjax():
    pytest.importorskip("flowjax")
    from flowjax.distributions import Normal

    density = Normal(jnp.array([3.0, -3.0]), jnp.ones(2))
    guidance = shown("flowjax", density=density)["guidance"]
    process = jg.RectifiedFlow()
    exact = exact_denoiser(plane_mixture(), process)
    keys = jg.sample_keys(jax.random.key(0), 64)

    @jax.jit
    def mean(term):
        how = jg.recommended(process, 12)
        x, _ = jg.sample(keys, exact, *how, (2,), guidance=term)
        return x.mean(0)

    pulled = mean(guidance) - mean(jg.energy(lambda x0, ctx: 0 * x0[:, 0], 1.0))
    assert pulled[0] > 0.3
    assert pulled[1] < -0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gymnax():
    """The page's PPO, with the environment's own reset and step."""
    gymnax = pytest.importorskip("gymnax")
    whole = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    space = {}
    code = "\n".join([whole[0], whole[-1].replace("falls = ppo(12)", "falls = [4, 0]")])
    exec(compile(code, "docs/hosts.md", "exec"), space)
    theirs = shown("gymnax", gymnax=gymnax)
    space |= {name: theirs[name] for name in ("reset", "step")}
    # Their code adds integers to floats.
    with jax.numpy_dtype_promotion("standard"):
        falls = space["ppo"](20)
    assert np.mean(falls[-5:]) < np.mean(falls[:2]) / 3
