"""Checkpoints: bitwise resume, other topologies, and every damage seen or survived."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.training.checkpoint import Checkpoints, CorruptCheckpointError
from jaxlib_guidance.training.parallel import data_mesh, replicate
from jaxlib_guidance.training.state import init_state
from jaxlib_guidance.training.step import make_train_step

# Orbax leaves coroutines behind when the files that it reads are damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collect():
    yield
    # So that they are found here and not in a later test.
    gc.collect()


TX = optax.adamw(1e-2)


def loss(params, batch, keys):
    noise = rng.normal(keys, (64,))
    return jnp.mean((batch @ params["w"] - noise) ** 2, -1), {}


def start():
    w = jax.random.normal(jax.random.key(1), (16, 64))
    return init_state({"w": w, "half": w.astype(jnp.bfloat16)}, TX, jax.random.key(2))


BATCH = jax.random.normal(jax.random.key(5), (8, 16))


@pytest.fixture(scope="module")
def step():
    return make_train_step(loss, TX)


def assert_bitwise(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_resuming_gives_the_losses_of_an_uninterrupted_run(step, tmp_path):
    state, want = start(), []
    with Checkpoints(tmp_path) as saved:
        for i in range(6):
            if i == 3:
                # The state is donated right after; the copy must be made by then.
                saved.save(i, state, extra={"note": "half way"})
            state, metrics = step(state, BATCH)
            want.append(float(metrics["loss"]))
    with Checkpoints(tmp_path) as saved:
        again, at, extra = saved.restore_latest(start())
    assert at == 3
    assert int(again.step) == 3
    assert extra == {"note": "half way"}
    got = []
    for _ in range(3):
        again, metrics = step(again, BATCH)
        got.append(float(metrics["loss"]))
    assert got == want[3:]
    assert_bitwise(again, state)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1 and 2 of a run, to be copied and damaged."""
    place, state = tmp_path_factory.mktemp("run"), start()
    with Checkpoints(place) as saved:
        saved.save(1, state)
        saved.save(2, state._replace(step=jnp.int32(2)))
    return place


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def biggest(place):
    files = [p for p in place.rglob("*") if p.is_file() and "/d/" in p.as_posix()]
    return max(files, key=lambda p: p.stat().st_size)


def truncate(place):
    file = biggest(place)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(place):
    file = biggest(place)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


def empty(place):
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def half_a_header(place):
    for path in (place / "about").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:40])


def forged(place):
    path = next(p for p in (place / "about").rglob("*") if p.is_file())
    path.write_text(json.dumps({"format": "foreign"}))


@pytest.mark.parametrize("damage", [truncate, flip, empty, half_a_header, forged])
def test_damage_is_noticed_and_the_older_step_restored(copy, damage):
    damage(copy / "2")
    with Checkpoints(copy) as saved:
        with pytest.raises(CorruptCheckpointError, match="2"):
            saved.restore(2, start())
        with pytest.warns(UserWarning, match="last good step is 1"):
            state, at, _ = saved.restore_latest(start())
        assert at == 1
        assert_bitwise(state, start())
        # Training passes step 2 again and must be able to save it.
        assert saved.steps() == [1]
        saved.save(2, state)
        saved.wait()
        assert saved.steps() == [1, 2]
    assert (copy / "damaged" / "2").is_dir()


def test_when_nothing_is_left_it_says_so(copy, tmp_path):
    truncate(copy / "1")
    empty(copy / "2")
    with (
        Checkpoints(copy) as saved,
        pytest.raises(CorruptCheckpointError, match=r"none of the steps \[1, 2\]"),
    ):
        saved.restore_latest(start())
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.restore_latest(start()) is None


def test_another_model_is_an_error_and_not_damage(copy):
    state = start()
    wide = state._replace(params={**state.params, "w": jnp.ones((16, 32))})
    half = state._replace(
        params=jax.tree.map(lambda p: p.astype("bfloat16"), state.ema)
    )
    more = state._replace(params={**state.params, "b": jnp.ones(3)})
    with Checkpoints(copy) as saved:
        for like, message in [
            (wide, r"'w'.* has shape \[16, 64\]; expected \[16, 32\]"),
            (half, "'w'.* has dtype float32; expected bfloat16"),
            (more, "'b'.* is missing"),
            (state.params, "is not expected"),
        ]:
            with pytest.raises(ValueError, match=message) as caught:
                saved.restore_latest(like)
            assert not isinstance(caught.value, CorruptCheckpointError)
        assert saved.steps() == [1, 2]


def test_restores_onto_another_topology(copy):
    mesh = data_mesh()
    split = NamedSharding(mesh, PartitionSpec("data"))
    state = start()
    like = replicate(mesh, state)
    like = like._replace(
        params={
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split)
            for name, leaf in state.params.items()
        }
    )
    with Checkpoints(copy) as saved:
        got = saved.restore(1, like).state
        assert got.params["w"].sharding == split
        assert got.ema["w"].is_fully_replicated
        assert_bitwise(got, state)
        # And back: saved from eight devices, restored on one.
        saved.save(9, got)
        assert_bitwise(saved.restore(9, start()).state, state)


def test_the_newest_and_the_best_are_kept(tmp_path):
    state = {"w": jnp.ones(4)}
    with Checkpoints(tmp_path, keep=2, metric="loss") as saved:
        for at, value in enumerate([5.0, 1.0, 4.0, 3.0, 2.0, 6.0]):
            saved.save(at, state, metrics={"loss": value})
        saved.wait()
        assert saved.steps() == [1, 4, 5]
        assert saved.best() == 1
        with pytest.raises(ValueError, match="metrics has loss = nan"):
            saved.save(7, state, metrics={"loss": float("nan")})
        with pytest.raises(ValueError, match="metrics has loss = None"):
            saved.save(7, state)
        with pytest.raises(ValueError, match="already saved"):
            saved.save(5, state, metrics={"loss": 1.0})
    with Checkpoints(tmp_path, keep=2, metric="loss") as saved:
        assert saved.best() == 1


def test_an_unfinished_write_is_not_a_checkpoint(copy):
    shutil.copytree(copy / "2", copy / "3.orbax-checkpoint-tmp")
    with Checkpoints(copy) as saved:
        assert saved.steps() == [1, 2]
        assert saved.restore_latest(start()).step == 2


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="mode is 'low'"):
        Checkpoints(tmp_path, mode="low")
