"""`pmapped`, sharding and replication on eight virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine, uniform_grid
from jaxlib_guidance.sampling import ddim, sample
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture
from jaxlib_guidance.training import (
    data_mesh,
    local_rows,
    pmapped,
    replicate,
    shard_batch,
    state_sharding,
)

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute")


@pytest.fixture(scope="module")
def mesh():
    mesh = data_mesh()
    assert mesh.size == 8
    assert mesh.axis_types == (AxisType.Auto,)
    return mesh


def test_a_device_sees_its_rows_with_their_rank(mesh):
    seen = []

    def fn(x, w):
        seen.append((x.shape, w.shape))
        return x * w

    x, w = jnp.arange(48.0).reshape(16, 3), jnp.full(3, 2.0)
    np.testing.assert_array_equal(pmapped(fn, mesh, (0, None))(x, w), x * w)
    assert seen == [((2, 3), (3,))]


def test_axes_may_be_trees_and_other_than_zero(mesh):
    def fn(batch, scale):
        return {"a": batch["a"] * scale, "b": batch["b"]}

    batch = {"a": jnp.ones((3, 8)), "b": jnp.arange(8)}
    axes = ({"a": 1, "b": 0}, None)
    out = pmapped(fn, mesh, axes, {"a": 1, "b": 0})(batch, jnp.float32(3))
    np.testing.assert_array_equal(out["a"], 3 * batch["a"])
    np.testing.assert_array_equal(out["b"], batch["b"])


def test_rows_that_do_not_fit_are_padded_on_request_only(mesh):
    x = jnp.arange(10.0)
    with pytest.raises(ValueError, match="10 rows, which 8 devices"):
        pmapped(jnp.sin, mesh)(x)
    np.testing.assert_allclose(pmapped(jnp.sin, mesh, pad=True)(x), jnp.sin(x))
    with pytest.raises(ValueError, match="pad needs axis 0"):
        pmapped(jnp.sin, mesh, 1, 1, pad=True)
    with pytest.raises(ValueError, match="expected one"):
        pmapped(jnp.add, mesh)(jnp.ones(8), jnp.ones(16))
    with pytest.raises(ValueError, match="1 entries for 2 arguments"):
        pmapped(jnp.add, mesh, (0,))(jnp.ones(8), jnp.ones(8))


def test_negative_axes_are_refused(mesh):
    x = jnp.ones((8, 16))
    for axes in ((-1, 0), (0, -1), (((0, -2),), 0)):
        with pytest.raises(ValueError, match="expected axes from 0 on"):
            pmapped(lambda x: x, mesh, *axes)(x)


def test_equal_copies_are_compiled_once(mesh, caplog):
    tree = {"w": jnp.ones((3, 7)), "b": jnp.zeros(5)}
    replicate(mesh, tree)
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        for _ in range(3):
            replicate(data_mesh(), tree)
    assert "Compiling" not in caplog.text


def test_a_device_may_reduce_over_the_axis_by_name(mesh):
    out = pmapped(lambda x: jax.lax.psum(x, "data"), mesh, 0, None)(jnp.ones(8))
    np.testing.assert_array_equal(out, [8.0])


def test_a_sharded_sampler_is_the_single_one_and_never_communicates(mesh):
    process = VPCosine()
    mixture = gaussian_mixture(
        [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [np.eye(2) * 0.1] * 2
    )
    denoiser = exact_denoiser(mixture, process)
    grid = uniform_grid(process, 5)

    def run(keys, eta):
        return sample(keys, denoiser, ddim(eta), grid, (2,))[0]

    keys, eta = rng.sample_keys(jax.random.key(0), 16), jnp.float32(0.5)
    mapped = pmapped(run, mesh, (0, None))
    np.testing.assert_allclose(
        mapped(keys, eta), jax.jit(run)(keys, eta), rtol=1e-5, atol=1e-6
    )
    text = mapped.lower(keys, eta).compile().as_text()
    assert not [name for name in COLLECTIVES if name in text]


def test_shard_batch_splits_and_replicate_copies(mesh):
    batch = shard_batch(mesh, {"x": np.arange(16.0)})
    assert batch["x"].addressable_shards[3].data.shape == (2,)
    with pytest.raises(ValueError, match="multiple of 8"):
        shard_batch(mesh, np.ones(12))
    tree = {"w": jnp.ones(4), "key": jax.random.key(0)}
    copies = replicate(mesh, tree)
    assert copies["w"].is_fully_replicated
    jax.tree.map(lambda leaf: leaf.delete(), copies)
    np.testing.assert_array_equal(tree["w"], 1)


def test_a_mesh_of_some_devices():
    assert data_mesh(jax.devices()[:2]).size == 2


def test_the_largest_axis_that_fits_is_split_and_small_leaves_are_not(mesh):
    shapes = {
        "tall": (64, 16),
        "wide": (24, 80),
        "odd": (12, 16),
        "none": (12, 12),
        "small": (8,),
        "scalar": (),
    }

    def make():
        return {k: jnp.zeros(s) for k, s in shapes.items()}

    found = state_sharding(mesh, make, "fsdp", min_size=100)
    specs = {name: sharding.spec for name, sharding in found.items()}
    assert specs == {
        "tall": PartitionSpec("data"),
        "wide": PartitionSpec(None, "data"),
        "odd": PartitionSpec(None, "data"),
        "none": PartitionSpec(),
        "small": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    whole = state_sharding(mesh, make)
    assert all(sharding.is_fully_replicated for sharding in whole.values())
    with pytest.raises(ValueError, match="kind is 'tensor'"):
        state_sharding(mesh, make, "tensor")


def test_split_parameters_are_gathered_for_an_evaluation(mesh):
    params = {"w": jnp.arange(64.0).reshape(16, 4), "key": jax.random.key(3)}
    split = jax.device_put(
        params, state_sharding(mesh, lambda: params, "fsdp", min_size=1)
    )
    assert split["w"].addressable_shards[0].data.shape == (2, 4)
    whole = replicate(mesh, split)
    assert whole["w"].is_fully_replicated
    x = jnp.arange(20.0)
    out = pmapped(lambda p, x: x * jnp.sum(p["w"]), mesh, (None, 0), pad=True)(whole, x)
    np.testing.assert_array_equal(out, x * jnp.sum(params["w"]))


class Device:
    """As much of a device as a mesh looks at; two processes whose devices alternate."""

    platform = device_kind = "cpu"

    def __init__(self, number):
        self.id, self.process_index = number, number % 2


def test_each_process_feeds_its_rows_of_the_global_batch(mesh, monkeypatch):
    assert local_rows(mesh, 32) == slice(0, 32)
    with pytest.raises(ValueError, match="batch has 12 rows, which 8 devices"):
        local_rows(mesh, 12)
    pod = data_mesh([Device(i) for i in range(4)])
    assert [d.id for d in pod.devices] == [0, 2, 1, 3]
    assert local_rows(pod, 32) == slice(0, 16)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert local_rows(pod, 32) == slice(16, 32)
