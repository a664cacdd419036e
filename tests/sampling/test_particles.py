"""Particles around a chain: the plain sampler inside, groups, reports, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid, parametrize
from jaxlib_guidance.guidance import cfg
from jaxlib_guidance.sampling import (
    Resampling,
    best_of_n,
    best_particle,
    cfg_corrector,
    ddim,
    ddpm,
    draw_particle,
    heun,
    lineage,
    particle_keys,
    per_particle,
    sa_solver,
    sample,
    sample_particles,
    steering,
    svdd,
    twisted,
)
from jaxlib_guidance.sampling._population import Population
from jaxlib_guidance.testing import exact_denoiser, plane_mixture
from jaxlib_guidance.types import Denoiser

PROCESS = VPCosine()
NET = exact_denoiser(plane_mixture(), PROCESS)
GRID = np.asarray(logsnr_grid(PROCESS, 6))
KEYS = rng.sample_keys(jax.random.key(0), 8)
LABELS = jnp.arange(8) % 3


def reward(x0, ctx):
    return -jnp.sum((x0 - 0.5) ** 2, axis=1)


STEER = steering(reward, 20.0)


@functools.partial(jax.jit, static_argnames=("particles", "sampler", "resampling"))
def draw(keys, potential, cond=LABELS, particles=4, sampler=None, x=(2,), **options):
    return sample_particles(
        *(keys, NET, sampler or ddpm(), GRID, x, cond),
        potential=potential,
        particles=particles,
        **options,
    )


@pytest.mark.parametrize(
    ("potential", "guidance"),
    [
        (STEER, None),
        (cfg_corrector(1.5, jnp.int32(-1)), cfg(1.5, jnp.int32(-1))),
    ],
)
def test_one_particle_is_plain_sampling_bit_for_bit(potential, guidance):
    own = guidance if not hasattr(potential, "term") else None
    found = draw(KEYS, potential, particles=1, guidance=own)
    plain = jax.jit(
        lambda: sample(KEYS, NET, ddpm(), GRID, (2,), LABELS, guidance=guidance)[0]
    )()
    np.testing.assert_array_equal(found.x[:, 0], plain)
    np.testing.assert_array_equal(found.log_weights, np.zeros((8, 1)))
    assert np.abs(found.log_z).min() > 0


def test_particles_that_never_meet_are_samples():
    out = draw(KEYS, STEER, resampling=Resampling(threshold=0))
    keys = particle_keys(KEYS, 4)
    plain = jax.jit(
        lambda: sample(keys, NET, ddpm(), GRID, (2,), per_particle(LABELS, 4))[0]
    )()
    np.testing.assert_allclose(out.x.reshape(-1, 2), plain, atol=1e-6)
    assert (keys[::4] == KEYS).all()
    # Then weights are importance weights, whatever the way.
    logs = 20 * reward(plain, None).reshape(8, 4)
    want = jax.nn.log_softmax(logs)
    np.testing.assert_allclose(out.log_weights, want, atol=1e-5)
    mean = jax.nn.logsumexp(logs, axis=1) - np.log(4)
    np.testing.assert_allclose(out.log_z, mean, atol=1e-5)
    assert not out.resamplings.any()
    np.testing.assert_array_equal(
        out.ancestors, np.broadcast_to(np.arange(4), (6, 8, 4))
    )


def test_reports():
    out = draw(KEYS, STEER)
    assert out.x.shape == (8, 4, 2)
    assert out.ess.shape == (7, 8)
    assert out.ancestors.shape == (6, 8, 4)
    assert ((out.ess > 0.999) & (out.ess < 4.001)).all()
    assert out.resamplings.max() > 1
    np.testing.assert_array_equal(out.resamplings, (out.ess[:-1] < 2).sum(0))
    moved = (out.ancestors != np.arange(4)).any(2)
    assert not moved[out.ess[:-1] >= 2].any()
    np.testing.assert_allclose(np.exp(out.log_weights).sum(1), 1, rtol=1e-5)
    roots = np.asarray(lineage(out.ancestors))
    for b in range(8):
        at = np.arange(4)
        for step in range(5, -1, -1):
            at = np.asarray(out.ancestors)[step, b, at]
        np.testing.assert_array_equal(roots[-1, b], at)


def test_permuted_particles_are_permuted():
    """A deterministic solver has no noise by which particles differ but their start."""
    x = PROCESS.sigma(GRID[0]) * jax.random.normal(jax.random.key(2), (8, 4, 2))
    order = jnp.array([2, 0, 3, 1])
    never = Resampling(threshold=0)
    one = draw(KEYS, STEER, sampler=ddim(), x=x, resampling=never)
    two = draw(KEYS, STEER, sampler=ddim(), x=x[:, order], resampling=never)
    np.testing.assert_array_equal(one.x[:, order], two.x)
    np.testing.assert_allclose(one.log_weights[:, order], two.log_weights, atol=1e-6)
    np.testing.assert_allclose(one.log_z, two.log_z, atol=1e-6)
    # A choice of the best does not know where it stands either.
    np.testing.assert_array_equal(best_particle(one), best_particle(two))


def test_groups_do_not_see_each_other():
    """Released code takes the whole batch for one prompt."""
    out = draw(KEYS, STEER)
    keys = rng.sample_keys(jax.random.key(9), 8)
    keys = jnp.where(jnp.arange(8) == 3, keys, KEYS)
    changed = draw(keys, STEER)
    others = np.arange(8) != 3
    for name, axis in {
        "x": 0,
        "log_weights": 0,
        "log_z": 0,
        "ess": 1,
        "ancestors": 1,
    }.items():
        one, two = (np.moveaxis(getattr(a, name), axis, 0) for a in (out, changed))
        np.testing.assert_array_equal(one[others], two[others])
    assert np.abs(out.x[3] - changed.x[3]).max() > 0.01
    backwards = draw(KEYS[::-1], STEER, LABELS[::-1])
    np.testing.assert_allclose(backwards.x[::-1], out.x, atol=1e-5)


def test_state_follows_its_particle():
    """History of a multistep solver and of guidance, where it leads with the rows."""
    population = Population(ddpm(), STEER, Resampling(), 4, False)
    ancestors = jnp.array([[1, 1, 0, 3], [2, 2, 2, 0]])
    tree = {"x": jnp.arange(16.0).reshape(8, 2), "seen": jnp.int32(3), "e": jnp.ones(2)}
    got = population.moved(tree, ancestors)
    np.testing.assert_array_equal(
        got["x"][:, 0], 2.0 * np.array([1, 1, 0, 3, 6, 6, 6, 4])
    )
    assert got["seen"] == 3
    np.testing.assert_array_equal(got["e"], tree["e"])
    out = draw(KEYS, steering(reward, 4.0), sampler=sa_solver(1.0))
    assert np.isfinite(out.x).all()


def test_a_choice_by_weights():
    out = draw(KEYS, best_of_n(reward))
    every = reward(out.x.reshape(-1, 2), None).reshape(8, 4)
    best = np.asarray(out.x)[np.arange(8), np.asarray(every).argmax(1)]
    np.testing.assert_array_equal(best_particle(out), best)
    sure = jnp.where(jnp.arange(4) == 2, 0.0, -jnp.inf)
    out = out._replace(log_weights=jnp.broadcast_to(sure, (8, 4)))
    np.testing.assert_array_equal(draw_particle(KEYS, out), out.x[:, 2])


def test_svdd_goes_on_from_one_candidate():
    out = draw(KEYS, svdd(reward))
    assert (np.asarray(out.ancestors) == np.asarray(out.ancestors)[..., :1]).all()
    np.testing.assert_array_equal(out.resamplings, np.full(8, 6))
    # The last step draws nothing: all candidates are the one that was chosen.
    np.testing.assert_array_equal(out.x, np.broadcast_to(out.x[:, :1], out.x.shape))
    blocks = draw(KEYS, svdd(reward, every=3))
    np.testing.assert_array_equal(blocks.resamplings, np.full(8, 2))
    soft = draw(KEYS, svdd(reward, 0.1))
    assert np.abs(soft.x - out.x).max() > 0.01
    assert (
        reward(out.x[:, 0], None).mean()
        > reward(draw(KEYS, STEER).x[:, 0], None).mean()
    )


def test_what_is_known_to_do_nothing_costs_nothing():
    """A weight of 0 asks for no branch, and a threshold of 0 draws no ancestors."""
    rows = []

    def apply(x, t, cond, **options):
        rows.append(x.shape[0])
        return NET.apply(x, t, cond, **options)

    def primitives(potential):
        made = jax.make_jaxpr(
            lambda: sample_particles(
                *(KEYS, Denoiser(apply, process=PROCESS), ddpm(), GRID, (2,), LABELS),
                potential=potential,
                particles=4,
            )
        )()
        return str(made)

    primitives(cfg_corrector(0.0, jnp.int32(-1)))
    assert rows == [32]
    assert "cumsum" in primitives(STEER)
    assert "cumsum" not in primitives(best_of_n(reward))


@pytest.fixture
def wide():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    "potential", [STEER, cfg_corrector(1.0, jnp.int32(-1)), twisted(reward)]
)
def test_states_in_double_precision_stay_so(wide, potential):
    x = jnp.zeros((8, 4, 2), jnp.float64)
    net = parametrize(lambda x, t, cond: 0.5 * x, PROCESS)
    shapes = jax.eval_shape(
        lambda: sample_particles(
            *(KEYS, net, ddpm(), np.float64(GRID), x, LABELS),
            potential=potential,
            particles=4,
        )
    )
    assert shapes.x.dtype == jnp.float64
    assert shapes.log_weights.dtype == shapes.log_z.dtype == jnp.float32


def test_one_program_serves_all_scales():
    traces = []

    def counted(x0, ctx):
        traces.append(x0)
        return reward(x0, ctx)

    def run(scale):
        potential = steering(counted, scale)
        out = sample_particles(
            *(KEYS, NET, ddpm(), GRID, (2,), LABELS), potential=potential, particles=4
        )
        return out.x, out.log_z

    swept = jax.jit(jax.vmap(run))(jnp.array([0.0, 20.0]))
    assert len(traces) == 2  # A step's and the last.
    np.testing.assert_allclose(swept[0][1], draw(KEYS, STEER).x, atol=1e-5)
    np.testing.assert_allclose(swept[1][0], np.zeros(8), atol=1e-5)


@pytest.mark.parametrize(
    "potential", [cfg_corrector(1.0, jnp.int32(-1)), twisted(reward)]
)
def test_sharded_samples_are_silent_and_lower_everywhere(potential):
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    keys, labels = jax.device_put(
        (KEYS, LABELS), NamedSharding(mesh, PartitionSpec("data"))
    )

    def run(keys, labels):
        return draw(keys, potential, labels)

    lowered = jax.jit(run).lower(keys, labels)
    text = lowered.compile().as_text()
    for word in ("all-gather", "all-reduce", "all-to-all", "permute", "reduce-scatter"):
        assert word not in text
    jax.export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(keys, labels)


def wrong(change, error, message):
    return pytest.param(change, error, message, id=message[:30])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        wrong({"particles": 0}, ValueError, "particles is 0; expected a whole number"),
        wrong({"potential": reward}, TypeError, "potential is function, without init"),
        wrong({"sampler": ddim()}, ValueError, "sampler draws no noise"),
        wrong({"sampler": ddpm}, TypeError, "sampler is ddpm; expected a Sampler"),
        wrong({"x": jnp.zeros((8, 2))}, ValueError, r"x has shape \(8, 2\); expected"),
        wrong({"keys": jax.random.key(0)}, ValueError, "keys has shape"),
        wrong({"cond": LABELS[:3]}, ValueError, "cond has shape"),
        wrong({"resampling": 0.5}, TypeError, "resampling is 0.5; expected a Resampl"),
        wrong(
            {"potential": steering(lambda x0, ctx: x0)},
            ValueError,
            "a potential's function returned shape",
        ),
        wrong(
            {"potential": cfg_corrector(1.0, -1), "guidance": cfg(1.0, -1)},
            ValueError,
            "cfg_corrector guides by itself",
        ),
        wrong(
            {"potential": cfg_corrector(1.0, -1), "sampler": ddim(0.5)},
            ValueError,
            "hold for the reverse SDE alone",
        ),
        wrong(
            {"potential": twisted(reward), "sampler": heun()},
            ValueError,
            "sampler draws no noise",
        ),
        wrong(
            {
                "potential": twisted(reward),
                "sampler": heun(),
                "resampling": Resampling(threshold=0),
            },
            ValueError,
            "twisted needs the transition of the sampler's step",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "keys": KEYS,
        "denoiser": NET,
        "sampler": ddpm(),
        "grid": GRID,
        "x": (2,),
        "cond": LABELS,
        "potential": STEER,
        "particles": 4,
    }
    with pytest.raises(error, match=message):
        sample_particles(**(arguments | change))


def test_bad_potentials():
    with pytest.raises(ValueError, match="kind is 'sum'"):
        steering(reward, kind="sum")
    with pytest.raises(TypeError, match="steering's function is 3"):
        steering(3)
    with pytest.raises(TypeError, match="twisted's function is 3"):
        twisted(3)
    with pytest.raises(ValueError, match="through is 'x'"):
        twisted(reward, through="x")
    with pytest.raises(ValueError, match="temperature is -1"):
        svdd(reward, -1)
    with pytest.raises(ValueError, match="every is 0"):
        svdd(reward, every=0)
