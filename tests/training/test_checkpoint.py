"""Checkpoints: bitwise resume, other topologies, and every damage seen or survived."""

import gc
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.training import (
    Checkpoints,
    CorruptCheckpointError,
    FolderInUseError,
    SaveError,
    data_mesh,
    init_state,
    make_train_step,
    replicate,
    restore_weights,
)
from jaxlib_guidance.training.saving import _restore as reading
from jaxlib_guidance.training.saving._restore import require_shared

# Orbax leaves coroutines behind when the files that it reads are damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def collect():
    yield
    # So that they are found here and not in a later file.
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
        saved.save(2, state._replace(step=jnp.int32(2)), extra={"seen": 7})
    return place


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def data_files(place):
    # Some are left over from merging those of the processes; one cannot tell which.
    return [path for path in place.glob("state/**/d/*") if path.is_file()]


def truncate(place):
    for file in data_files(place):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(place):
    for file in data_files(place):
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
    (place / "about" / "metadata").write_text(json.dumps({"step": 2}))


def another_position(place):
    """Valid JSON of which one digit has changed."""
    path = place / "about" / "metadata"
    path.write_text(path.read_text().replace('"seen": 7', '"seen": 5'))


def nothing_to_read(place):
    (place / "state" / "_METADATA").unlink()


def another_format(place):
    path = place / "about" / "metadata"
    path.write_text(path.read_text().replace("checkpoint.1", "checkpoint.3"))


def another_name(place):
    """Valid JSON of which one letter has changed."""
    path = place / "state" / "_METADATA"
    text = path.read_text()
    assert text.count("params") > 1
    path.write_text(text.replace("params", "parans"))


def no_manifest(place):
    (place / "state" / "manifest.ocdbt").unlink()


def all_files_empty(place):
    for path in place.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def gone(place):
    # While it is being restored: the folder has been listed already.
    shutil.rmtree(place)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        empty,
        half_a_header,
        forged,
        another_position,
        another_format,
        nothing_to_read,
        another_name,
        no_manifest,
        all_files_empty,
        gone,
    ],
)
def test_damage_is_noticed_and_the_older_step_restored(copy, damage):
    with Checkpoints(copy) as saved:
        damage(copy / "2")
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
    assert (copy / "damaged" / "2").is_dir() == (damage is not gone)


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


def test_a_format_of_the_future_is_not_damage(copy, monkeypatch):
    with Checkpoints(copy) as saved:
        monkeypatch.setattr(reading, "FORMAT", "jaxlib_guidance.checkpoint.9")
        with pytest.raises(ValueError, match=r"format .*\.1'; this version reads .*9'"):
            saved.restore_latest(start())
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
        # A bit of an array that was sharded, read unsharded.
        flip(copy / "9")
        with pytest.raises(CorruptCheckpointError, match="9"):
            saved.restore(9, start())


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


def test_a_folder_that_could_not_be_opened_is_not_held(tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("no")

    monkeypatch.setattr(Checkpoints, "_require_metrics", fail)
    with pytest.raises(RuntimeError, match="no") as caught:
        Checkpoints(tmp_path, metric="loss")
    # The error, and with it the half-made object, is still around.
    Checkpoints(tmp_path).close()
    assert caught.value is not None


def test_an_unfinished_write_is_not_a_checkpoint(copy):
    shutil.copytree(copy / "2", copy / "3.orbax-checkpoint-tmp")
    with Checkpoints(copy) as saved:
        assert saved.steps() == [1, 2]
        assert saved.restore_latest(start()).step == 2


def test_a_step_whose_metrics_are_damaged_does_not_rank(tmp_path):
    state = {"w": jnp.ones(4)}
    with Checkpoints(tmp_path, keep=3, metric="loss") as saved:
        for at, value in enumerate([2.0, 3.0, 4.0]):
            saved.save(at, state, metrics={"loss": value})
    (tmp_path / "2" / "metrics" / "metrics").write_text('{"loss": 1.0}')
    with pytest.warns(UserWarning, match=r"metrics of the steps \[2\] .* damaged"):
        saved = Checkpoints(tmp_path, keep=3, metric="loss")
    with saved:
        assert saved.steps() == [0, 1]
        assert saved.best() == 0


def test_weights_alone(copy):
    state, mesh = start(), data_mesh()
    # The optimiser's files may be gone, and a run may have the folder open.
    with Checkpoints(copy) as saved:
        got, step, extra = restore_weights(copy, "params")
        assert (step, extra) == (2, {"seen": 7})
        assert isinstance(got["w"], np.ndarray)
        assert_bitwise(got, state.params)
        split = NamedSharding(mesh, PartitionSpec("data"))
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split),
            state.ema,
        )
        got = restore_weights(copy, like=like, step=1).state
        assert got["w"].sharding == split
        assert_bitwise(got, state.ema)
        assert saved.steps() == [1, 2]
    with pytest.raises(ValueError, match="has no part 'em'"):
        restore_weights(copy, "em")
    with pytest.raises(ValueError, match="'opt_state' is not nested dicts.*pass like"):
        restore_weights(copy, "opt_state")
    got = restore_weights(copy, "opt_state", like=state.opt_state).state
    assert_bitwise(got, state.opt_state)
    with pytest.raises(ValueError, match=r"step 7 is not in .* one of \[1, 2\]"):
        restore_weights(copy, step=7)
    flip(copy / "2")
    with pytest.warns(UserWarning, match="last good step is 1"):
        assert restore_weights(copy).step == 1
    assert (copy / "2").is_dir()
    with pytest.raises(FileNotFoundError, match="no checkpoints in"):
        restore_weights(copy / "other")


def test_two_runs_do_not_write_to_one_folder(copy):
    with Checkpoints(copy) as first:
        with pytest.raises(FolderInUseError, match="is in use by process"):
            Checkpoints(copy)
        first.save(3, start())
        first.wait()
        assert first.steps() == [2, 3]
    with Checkpoints(copy) as again:
        assert again.restore_latest(start()).step == 3


def test_a_run_without_its_lock_saves_no_more(copy):
    with Checkpoints(copy) as first:
        (copy / "lock").unlink()
        with pytest.raises(FolderInUseError, match="was deleted"):
            first.save(3, start())
        assert first.steps() == [1, 2]


def test_hosts_that_do_not_share_the_folder_are_told_at_once(tmp_path, monkeypatch):
    path, others = tmp_path / "lock", []
    path.write_text("process 1 on a")
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    gather = lambda mine: np.array([mine, mine, *(others or [mine])])  # noqa: E731
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    require_shared(path)
    others.append(0)
    with pytest.raises(FileNotFoundError, match=r"share.*processes \[2\] do not find"):
        require_shared(path)


def test_parts_of_parts_are_read_and_all_are_named(tmp_path):
    class Round(NamedTuple):
        step: Any
        train: Any

    state = Round(jnp.zeros((), jnp.int32), start())
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
    got = restore_weights(tmp_path, "train.ema").state
    assert_bitwise(got, state.train.ema)
    got = restore_weights(tmp_path, "train.params", like=state.train.params).state
    assert_bitwise(got, state.train.params)
    for part in ("ema", "trai.", "train.em.", "train.em"):
        with pytest.raises(ValueError, match=r"expected one of .*'train\.ema', 'train"):
            restore_weights(tmp_path, part)


@pytest.fixture
def small_files():
    """The nearest to a full disk that needs no file system of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_until_raised(saved):
    for _ in range(600):
        saved.check()
        time.sleep(0.1)


def test_what_cannot_be_written_is_an_error_and_the_last_step_stays(copy, small_files):
    state = start()
    with Checkpoints(copy) as saved:
        small_files(2000)
        saved.save(3, state)
        with pytest.raises(SaveError, match=r"last good step is 2; .* start again"):
            check_until_raised(saved)
        small_files(resource.RLIM_INFINITY)
        assert saved.steps() == [1, 2]
    with Checkpoints(copy) as saved:
        assert saved.restore_latest(state).step == 2
        saved.save(3, state)
    assert restore_weights(copy).step == 3
    assert not list(copy.glob("*tmp*"))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="gs://bucket/run.*mount"):
        Checkpoints("gs://bucket/run")
    with Checkpoints(tmp_path / "run") as saved:
        with pytest.raises(TypeError, match=r"state\['n'\] is int; expected a jax"):
            saved.save(1, {"w": jnp.ones(3), "n": 3})
        with pytest.raises(TypeError, match="not JSON serializable"):
            saved.save(1, {"w": jnp.ones(3)}, extra={"a": {1, 2}})
        with pytest.raises(ValueError, match=r"step 1 is not in .* one of \[\]"):
            saved.restore(1, {"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="mode is 'low'"):
        Checkpoints(tmp_path, mode="low")


ONE_OF_TWO = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
address, rank, directory = sys.argv[1:]
jax.distributed.initialize(address, 2, int(rank), heartbeat_timeout_seconds=20)
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxlib_guidance.training import Checkpoints, data_mesh

place = {
    name: NamedSharding(data_mesh(), PartitionSpec(*spec))
    for name, spec in [("split", ["data"]), ("whole", [])]
}
x = jnp.arange(8 * 500.0).reshape(8, 500)
make = jax.jit(lambda: {"split": jnp.sin(x), "whole": jnp.cos(x)}, out_shardings=place)
state = make()
try:
    with Checkpoints(directory) as saved:
        restored = saved.restore_latest(state)
        print("said: restored", restored and restored.step, flush=True)
        if restored is None:
            saved.save(1, state)
            saved.save(2, state)
except Exception as error:
    print("said:", type(error).__name__, flush=True)
"""


def by_two_processes(directory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, address, str(rank), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    # gloo prints, too.
    lines = [re.search("said: (.*)", out)[1] for out, _ in said]
    return lines, [err for _, err in said]


@pytest.mark.slow
def test_two_processes_agree_on_what_is_whole(tmp_path):
    place = tmp_path / "run"
    assert by_two_processes(place)[0] == ["restored None"] * 2
    x = jnp.arange(8 * 500.0).reshape(8, 500)
    like = {"split": jnp.sin(x), "whole": jnp.cos(x)}
    with Checkpoints(place) as saved:
        np.testing.assert_allclose(
            saved.restore(2, like).state["split"], like["split"], atol=1e-6
        )
        # Both processes are refused while this one holds the folder.
        assert by_two_processes(place)[0] == ["FolderInUseError"] * 2
    # Damage in files of the second process alone, seen on another topology as well.
    (theirs,) = (place / "2" / "state" / "ocdbt.process_1" / "d").iterdir()
    data = bytearray(theirs.read_bytes())
    data[len(data) // 2] ^= 0x01
    theirs.write_bytes(data)
    copy = shutil.copytree(place, tmp_path / "copy")
    with Checkpoints(copy) as saved, pytest.warns(UserWarning, match="good step is 1"):
        assert saved.restore_latest(like).step == 1
    lines, warned = by_two_processes(place)
    assert lines == ["restored 1"] * 2
    assert all("last good step is 1" in text for text in warned)
