"""Batches by number: one order for all hosts and all interruptions, read ahead."""

import gc
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.data import Loader, batch_indices, load_images, open_images

TOTAL, BATCH, STEPS = 20, 8, 5  # two epochs; the third batch straddles them
ARRAYS = {
    "x": np.arange(TOTAL, dtype=np.float32)[:, None] * [1, -1],
    "row": np.arange(TOTAL),
}


class Rows:
    """The arrays one row at a time, noting which were asked for and by whom."""

    def __init__(self, delay=0.0):
        self.asked, self.threads, self.delay = [], set(), delay

    def __len__(self):
        return TOTAL

    def __getitem__(self, row):
        assert isinstance(row, int)
        self.asked.append(row)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay)
        return {name: array[row] for name, array in ARRAYS.items()}


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("read-")]


def same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
        assert got[name].dtype == want[name].dtype


@pytest.fixture(scope="module")
def uninterrupted():
    loader = Loader(ARRAYS, BATCH, seed=7)
    return [loader(step) for step in range(STEPS)]


def test_each_epoch_holds_every_row_once_in_another_order(uninterrupted):
    rows = np.concatenate([batch["row"] for batch in uninterrupted])
    first, second = rows[:TOTAL], rows[TOTAL:]
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(TOTAL))
        assert (epoch != np.arange(TOTAL)).any()
    assert (first != second).any()
    assert (Loader(ARRAYS, BATCH, seed=8)(0)["row"] != rows[:BATCH]).any()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_streamed_and_interrupted_anywhere_it_is_the_same_run(uninterrupted, ahead):
    for stop in range(STEPS + 1):
        with Loader(Rows(), BATCH, 7, ahead=ahead) as loader:
            for step in range(stop):
                same(loader(step), uninterrupted[step])
            saved = json.dumps(loader.state(stop))
        with Loader(Rows(), BATCH, 7, ahead=ahead, workers=2) as loader:
            for step in range(loader.resume(json.loads(saved)), STEPS):
                same(loader(step), uninterrupted[step])


def test_any_order_of_calls(uninterrupted):
    with Loader(Rows(), BATCH, 7) as loader:
        for step in (4, 0, 0, 3, 1, 2, 4, 2):
            same(loader(step), uninterrupted[step])


@pytest.mark.parametrize("source", [ARRAYS, Rows()], ids=["memory", "stream"])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_same_global_batches(uninterrupted, hosts, source):
    each = BATCH // hosts
    parts = [slice(h * each, (h + 1) * each) for h in range(hosts)]
    loaders = [Loader(source, BATCH, 7, part=part) for part in parts]
    for step in range(STEPS):
        got = [loader(step) for loader in loaders]
        assert [len(part["row"]) for part in got] == [each] * hosts
        whole = {name: np.concatenate([p[name] for p in got]) for name in ARRAYS}
        same(whole, uninterrupted[step])
    for loader in loaders:
        loader.close()


def test_it_reads_ahead_that_far_and_no_further():
    source = Rows()
    order = np.concatenate([batch_indices(7, s, BATCH, TOTAL) for s in range(9)])
    with Loader(source, BATCH, 7, ahead=2) as loader:
        for step in (0, 1):
            loader(step)
            until = time.monotonic() + 10
            while len(source.asked) < (step + 3) * BATCH and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(source.asked) == (step + 3) * BATCH
            np.testing.assert_array_equal(
                np.sort(source.asked), np.sort(order[: (step + 3) * BATCH])
            )
    assert threading.current_thread().name not in source.threads


def test_rows_are_read_by_several_threads_at_once():
    together = threading.Barrier(4)

    class Meeting(Rows):
        def __getitem__(self, row):
            together.wait(timeout=20)
            return super().__getitem__(row)

    with Loader(Meeting(), BATCH, workers=4, ahead=0) as loader:
        assert loader(0)["row"].shape == (BATCH,)


def test_threads_end():
    before = len(readers())
    with Loader(Rows(), BATCH) as loader:
        loader(0)
        assert len(readers()) > before
    assert len(readers()) == before
    with pytest.raises(RuntimeError, match="shutdown"):
        loader(1)
    # Nor does one that was never closed leave any.
    loader = Loader(Rows(), BATCH)
    loader(0)
    del loader
    until = time.monotonic() + 10
    while len(readers()) > before and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert len(readers()) == before


def test_closing_does_not_wait_for_what_nobody_will_see():
    source = Rows(delay=0.02)
    loader = Loader(source, BATCH, workers=1, ahead=4)
    loader(0)
    while len(source.asked) == BATCH:
        time.sleep(0.001)
    asked = len(source.asked)
    loader.close()
    assert len(source.asked) <= asked + 2


def paint(place, name, i, size=(6, 5)):
    (place / name).mkdir(parents=True, exist_ok=True)
    colour = (10 * i, 255 - i, 7)
    Image.new("RGB", size, colour).save(place / name / f"{i:02d}.png")


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        paint(tmp_path / "train", "ab"[i % 2], i, (6 + i % 3, 5))
    return tmp_path


def test_a_folder_streams_what_it_would_load(folder):
    whole = Loader(load_images(str(folder), size=4), 3, seed=1)
    with Loader(open_images(str(folder), size=4), 3, seed=1) as stream:
        for step in range(7):
            same(stream(step), whole(step))


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_datasets_stream_what_they_would_load():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=5):
        whole = Loader(load_images("cifar10"), 3, seed=1)
        with Loader(open_images("cifar10"), 3, seed=1) as stream:
            assert stream.state(0)["identity"].startswith("5 images")
            for step in range(4):
                same(stream(step), whole(step))
        source = tfds.builder("mnist", file_format="array_record")
        with Loader(source.as_data_source("train"), 3) as plain:
            assert plain(0)["image"].shape == (3, 28, 28, 1)
            assert plain(0)["image"].dtype == np.uint8


def damage_text(path):
    path.write_text("not an image")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:45])


def damage_gone(path):
    path.unlink()


@pytest.mark.parametrize("damage", [damage_text, damage_cut, damage_gone])
def test_a_bad_file_is_named_when_its_batch_is_asked_for(folder, damage):
    source = open_images(str(folder), size=4)
    path = folder / "train" / "b" / "03.png"  # row 6: rows 5 to 9 are 01, 03, ...
    whole = path.read_bytes()
    damage(path)
    (spoiled,) = (s for s in range(5) if 6 in batch_indices(0, s, 2, 10))
    with Loader(source, 2) as loader:
        for step in range(5):
            if step == spoiled:
                with pytest.raises(ValueError, match=r"b.03\.png cannot be") as caught:
                    loader(step)
                assert "row 6 of 10" in caught.value.__notes__[0]
            else:
                assert loader(step)["image"].shape == (2, 4, 4, 3)
        with pytest.raises(ValueError, match="cannot be read"):
            loader(spoiled)
        path.write_bytes(whole)
        assert loader(spoiled)["image"].shape == (2, 4, 4, 3)


def test_rows_that_do_not_fit_are_named(folder):
    with (
        Loader(open_images(str(folder)), 10) as loader,
        pytest.raises(ValueError, match=r"0\d\.png has shape .*pass size"),
    ):
        loader(0)
    with (
        Loader([1, 2], 2) as loader,
        pytest.raises(TypeError, match=r"row \d is int; expected a dict"),
    ):
        loader(0)
    ragged = [{"x": np.zeros(2)}, {"x": np.zeros(3)}]
    with (
        Loader(ragged, 2) as loader,
        pytest.raises(ValueError, match=r"row \d has .*\(3,\)|row \d has .*\(2,\)"),
    ):
        loader(0)


def test_a_state_of_other_batches_is_refused(folder):
    source = open_images(str(folder), size=4)
    with Loader(source, 3, 1) as loader:
        state = loader.state(4)
        assert loader.resume(state) == 4
    for other, message in (
        (Loader(source, 3, 2), "seed was 1 and is 2"),
        (Loader(source, 5, 1), "batch was 3 and is 5"),
        (Loader(ARRAYS, 3, 1), "rows was 10 and is 20"),
    ):
        with pytest.raises(ValueError, match=message):
            other.resume(state)
    (folder / "train" / "a" / "00.png").rename(folder / "train" / "a" / "11.png")
    with pytest.raises(ValueError, match="identity was '10 images, crc32"):
        Loader(open_images(str(folder), size=4), 3, 1).resume(state)


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        Loader({"x": np.zeros(2), "y": np.zeros(3)}, 2)
    with pytest.raises(ValueError, match="total 0"):
        Loader([], 2)
    with pytest.raises(ValueError, match=r"lengths \[\]"):
        Loader({}, 2)
    with pytest.raises(ValueError, match="batch 0"):
        Loader(ARRAYS, 0)
    with pytest.raises(ValueError, match="workers"):
        Loader(Rows(), 2, workers=0)
    with pytest.raises(ValueError, match="ahead is -1"):
        Loader(Rows(), 2, ahead=-1)
    with pytest.raises(ValueError, match="of a batch of 2 is empty"):
        Loader(ARRAYS, 2, part=slice(2, 4))
