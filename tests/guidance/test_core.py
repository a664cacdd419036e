"""What a term may ask of the planner and know of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import step_grid, step_kernel
from jaxlib_guidance.types import Branch

PROCESS = jg.VPCosine()
KEYS = jg.sample_keys(jax.random.key(0), 3)
X = jnp.linspace(-1, 1, 12).reshape(3, 4)
EARLY, LATE = (jnp.asarray(share) for share in ([0.0, 0.2], [0.2, 0.6]))
GRID = jg.uniform_grid(PROCESS, 4)


def normal(x, t, cond, *, control, capture):
    """The exact denoiser of N(cond, 1 / 2) of each number."""
    alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
    gain = alpha * 0.5 / (alpha**2 * 0.5 + sigma**2)
    mean = cond[:, None]
    return jg.types.Denoised(mean + gain * (x - alpha * mean))


class Elsewhere:
    """Away from the same network at another state, time and condition."""

    def __init__(self, x=None, t=None, cond=None, name="elsewhere"):
        self.x, self.t, self.cond, self.name = x, t, cond, name

    def branches(self, ctx):
        cond = ctx.cond if self.cond is None else self.cond
        return {self.name: Branch(cond, x=self.x, t=self.t)}

    def update(self, delta, evals, state, ctx):
        return delta + evals.x0["cond"] - evals.x0[self.name], state


@pytest.mark.parametrize(
    "change",
    [
        {"t": jnp.asarray([0.3, 0.5, 0.6])},
        {"x": 2 * X},
        {"cond": jnp.asarray([1.0, 0.0, 3.0])},
        {"x": X - 1, "t": jnp.full(3, 0.9), "cond": jnp.zeros(3)},
    ],
    ids=lambda change: "+".join(change),
)
def test_a_branch_may_be_elsewhere(change, context, guided):
    """Another state, time or condition of one network, folded in one call."""
    calls = []

    def counted(x, t, cond, **options):
        calls.append(x.shape[0])
        return normal(x, t, cond, **options)

    ctx = context(PROCESS, X, 0.4, jnp.arange(3.0))
    got, _ = guided(Elsewhere(**change), jg.Denoiser(counted), ctx)
    assert calls == [6]
    at = {"x": X, "t": ctx.t, "cond": ctx.cond}
    here, there = (normal(**a, control={}, capture=()).x0 for a in (at, at | change))
    np.testing.assert_allclose(got, 2 * here - there, rtol=1e-6, atol=1e-6)


def test_times_of_branches_are_checked(context, guided):
    ctx = context(PROCESS, X, 0.4, jnp.arange(3.0))
    with pytest.raises(ValueError, match=r"'elsewhere' has a time of shape \(\)"):
        guided(Elsewhere(t=jnp.float32(0.5)), jg.Denoiser(normal), ctx)
    two = jg.chain(Elsewhere(), Elsewhere(t=jnp.full(3, 0.5)))
    with pytest.raises(ValueError, match="different evaluations under the name"):
        guided(two, jg.Denoiser(normal), ctx)


def test_further_branches_may_depend_on_the_first(context, guided):
    """An evaluation at a state that is made of another evaluation."""

    class Again:
        def branches(self, ctx):
            return {}

        def update(self, delta, evals, state, ctx):
            again = Branch(ctx.cond, x=evals.x0["cond"])
            x0 = evals.evaluate({"again": again, "other": Branch(jnp.zeros(3))}).x0
            return delta + x0["again"] - x0["other"], state

    ctx = context(PROCESS, X, 0.4, jnp.arange(3.0))
    got, _ = guided(Again(), jg.Denoiser(normal), ctx)

    def at(x, cond):
        return normal(x, ctx.t, cond, control={}, capture=()).x0

    here = at(X, ctx.cond)
    expected = here + at(here, ctx.cond) - at(X, jnp.zeros(3))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@jg.types.pytree_dataclass
class Louder:
    """The condition, multiplied by ``1 + weight``."""

    weight: float

    def branches(self, ctx):
        return {}

    def condition(self, ctx):
        return ctx.cond * (1 + jg.types.per_sample(self.weight, ctx.cond))

    def update(self, delta, evals, state, ctx):
        return delta, state


def test_a_term_may_change_the_condition_of_all_branches(context, guided):
    """Of the base and of other terms' branches, in order, inside windows only."""
    ctx = context(PROCESS, X, 0.4, jnp.arange(3.0), step=3, steps=10)
    net = jg.Denoiser(normal)

    def at(cond, weight=0.0):
        given = ctx._replace(cond=cond)
        return guided(jg.cfg(weight, -1.0), net, given)[0]

    for terms, want in (
        ([Louder(1.0)], at(2 * ctx.cond)),
        ([Louder(1.0), Louder(0.5), jg.cfg(2.0, -1.0)], at(3 * ctx.cond, 2.0)),
        ([jg.cfg(2.0, -1.0), jg.during(Louder(1.0), *EARLY)], at(ctx.cond, 2.0)),
        ([jg.cfg(2.0, -1.0), jg.during(Louder(1.0), *LATE)], at(2 * ctx.cond, 2.0)),
        ([Louder(0.0), Louder(np.zeros(3))], at(ctx.cond)),
    ):
        np.testing.assert_array_equal(guided(jg.chain(*terms), net, ctx)[0], want)
    for wrap in (
        lambda term: jg.scheduled(term, [1.0]),
        lambda term: jg.scheduled(jg.chain(jg.cfg(1.0, 0.0), term), [1.0]),
        lambda term: jg.rescale_norm(term, 0.0, 1.0),
        lambda term: jg.rescale_norm(jg.cfg(1.0, 0.0), 0.0, 1.0, relative_to=term),
    ):
        with pytest.raises(TypeError, match="got a term that changes the condition"):
            wrap(Louder(1.0))


def test_a_term_that_changes_the_condition_obeys_the_laws():
    cond = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)
    jg.testing.check_term(Louder(1.0), cond=cond, evaluations=1)


@jg.types.pytree_dataclass
class Recorder:
    """Guides a little, and keeps what the step makes of the guided estimate."""

    stochastic: bool = jg.types.static(default=False)

    def branches(self, ctx):
        return {}

    def init(self, x):
        return jnp.zeros_like(x), jnp.zeros(x.shape[0])

    def update(self, delta, evals, state, ctx):
        kernel = step_kernel(ctx, "recorder", stochastic=self.stochastic)
        delta = delta + 0.1
        mean, std = kernel(evals.x0["cond"] + delta)
        return delta, (mean, jnp.broadcast_to(std, mean.shape[:1]))


def run(sampler, guidance, **options):
    return jg.sample(
        KEYS,
        jg.Denoiser(normal),
        sampler,
        GRID,
        (4,),
        jnp.arange(3.0),
        guidance=guidance,
        process=PROCESS,
        **options,
    )


@pytest.mark.parametrize(
    "sampler", [jg.ddpm(), jg.ddim(0.5), jg.dpmpp_2m(), jg.sa_solver()], ids=range(4)
)
def test_the_kernel_is_the_step(sampler):
    """Of any solver with one evaluation a step, its memory included."""
    end, seen = run(sampler, Recorder(), steps=3, trace=lambda info: info.transition)
    mean, std = end.guidance_state
    np.testing.assert_allclose(mean, seen.mean[-1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(std, jnp.broadcast_to(seen.std[-1], std.shape))
    assert (std.min() > 0) == sampler.stochastic


def test_a_missing_kernel_or_grid_names_the_term(context, guided):
    with pytest.raises(ValueError, match="recorder needs the transition of the"):
        run(jg.heun(), Recorder())
    with pytest.raises(ValueError, match="recorder needs a solver that draws noise"):
        run(jg.ddim(), Recorder(stochastic=True))
    ctx = context(PROCESS, X, 0.4, jnp.arange(3.0))
    with pytest.raises(ValueError, match="recorder needs the transition of the"):
        guided(Recorder(), jg.Denoiser(normal), ctx)
    with pytest.raises(ValueError, match="ramp needs the time grid"):
        step_grid(ctx, "ramp")
    ramp = jg.scheduled(jg.cfg(1.0, 0.0), lambda ctx: step_grid(ctx, "ramp")[0])
    with pytest.raises(ValueError, match="ramp needs the time grid"):
        jg.sampling.sample_adaptive(
            KEYS,
            jg.Denoiser(normal),
            (4,),
            jnp.arange(3.0),
            guidance=ramp,
            process=PROCESS,
        )


def _share_left(power, ctx):
    grid = step_grid(ctx, "share")
    return (grid[ctx.step] / grid[0]) ** power


def test_a_schedule_may_know_the_grid_and_have_parameters():
    """The same as its values written down; the parameter is a leaf."""
    term = jg.cfg(2.0, 0.0)
    values = (GRID[:-1] / GRID[0]) ** 2
    by_grid = run(jg.heun(), jg.scheduled(term, _share_left, jnp.float32(2.0)))[0]
    by_hand = run(jg.heun(), jg.scheduled(term, values))[0]
    np.testing.assert_allclose(by_grid, by_hand, rtol=1e-5, atol=1e-5)
    leaves = [jax.tree.leaves(jg.scheduled(term, _share_left, p)) for p in (2.0, 3.0)]
    assert leaves == [[2.0, 2.0], [2.0, 3.0]]
    with pytest.raises(TypeError, match="params have no effect"):
        jg.scheduled(term, [1.0, 2.0], 3.0)
