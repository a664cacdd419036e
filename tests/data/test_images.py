"""One interface to three sources, and batches that are functions of the step."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.data import batch_indices, load_images, open_images
from jaxlib_guidance.data.images import _files


def test_digits_come_through_the_interface_and_scale_up():
    plain = load_images("digits", "test")
    assert plain.images.shape == (360, 8, 8, 1)
    assert plain.classes == tuple("0123456789")
    big = load_images("digits", "test", size=16, channels=3)
    assert big.images.shape == (360, 16, 16, 3)
    small = big.images.reshape(360, 8, 2, 8, 2, 3).mean((2, 4, 5))
    assert np.abs(small - plain.images[..., 0]).mean() < 0.15


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6 + i, 4), colour).save(place / f"{i}.png")
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_has_a_class_in_each_sub_folder(folder):
    data = load_images(str(folder), "train", size=4)
    assert data.images.shape == (6, 4, 4, 3)
    assert data.classes == ("blue", "red")
    np.testing.assert_array_equal(data.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.images[0, 0, 0], [-1, -1, 1])
    np.testing.assert_array_equal(data.images[-1, 0, 0], [1, -1, -1])
    assert len(load_images(str(folder), "test").labels) == 2


def test_classes_of_a_test_are_those_of_training(folder):
    (folder / "train" / "empty").mkdir()
    hidden = folder / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    picture.save(hidden / "0.png")
    picture.save(folder / "train" / "red" / "._0.png")
    shutil.rmtree(folder / "test" / "blue")
    for find in (load_images, lambda *a: open_images(*a).take(9)):
        train, test = (find(str(folder), split, 4) for split in ("train", "test"))
        assert train.classes == test.classes == ("blue", "red")
        np.testing.assert_array_equal(train.labels, [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(test.labels, [1])
    (folder / "test" / "green").mkdir()
    assert len(load_images(str(folder), "test", 4).labels) == 1
    picture.save(folder / "test" / "green" / "0.png")
    with pytest.raises(ValueError, match=r"test has images of \['green'\], which"):
        load_images(str(folder), "test", 4)


def test_a_set_in_memory_knows_its_pixels_and_labels():
    data = load_images("digits", "test")
    assert data.identity == load_images("digits", "test").identity
    other = data._replace(labels=np.roll(data.labels, 1))
    brighter = data.images.copy()
    brighter[7, 3, 3] += 0.1
    found = {data.identity, other.identity, data._replace(images=brighter).identity}
    assert len(found) == 3
    assert data.identity.startswith("360 images")
    assert repr(data) == "Images(360 of (8, 8, 1), 10 classes)"


def test_cropping_keeps_the_middle(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "0.png")
    data = load_images(str(tmp_path), size=4)
    np.testing.assert_array_equal(data.images, np.ones((1, 4, 4, 1)))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    (tmp_path / "a").mkdir()
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a" / "0.png")
    bytes_ = (load_images(str(tmp_path)).images + 1) * 127.5
    np.testing.assert_allclose(bytes_[0, 0, :, 0], [0, 0, 1, 128, 255], atol=1e-4)


def test_pictures_of_unknown_white_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    share = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    Image.fromarray(share).save(tmp_path / "a" / "0.tif")
    with pytest.raises(ValueError, match=r"0.tif cannot .*floating-point .*8 or 16"):
        load_images(str(tmp_path))


FINDERS = [load_images, lambda *a: open_images(*a).take(9)]
# How each EXIF orientation turns the picture as it is stored into the one shown.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_pictures_are_turned_as_a_viewer_turns_them(find, suffix, tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (8, 4, 3)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    for orientation, turn in TURNS.items():
        tag = Image.Exif()
        tag[0x0112] = orientation
        how = {"lossless": True} if suffix == "webp" else {}
        path = tmp_path / "a" / f"x.{suffix}"
        Image.fromarray(stored).save(path, exif=tag, **how)
        shown = (find(tmp_path).images[0] + 1) * 127.5
        np.testing.assert_allclose(shown, turn(stored), atol=1e-3)


def test_a_portrait_that_lies_is_as_tall_as_one_that_stands(tmp_path):
    up = np.zeros((8, 4, 3), np.uint8)
    up[:4] = 255
    (tmp_path / "a").mkdir()
    tag = Image.Exif()
    tag[0x0112] = 6
    lying = Image.fromarray(np.rot90(up).copy())
    lying.save(tmp_path / "a" / "lying.jpg", exif=tag, quality=100)
    Image.fromarray(up).save(tmp_path / "a" / "standing.png")
    got = load_images(tmp_path).images
    assert got.shape == (2, 8, 4, 3)
    np.testing.assert_allclose(got[0], got[1], atol=0.05)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3)])
def test_what_is_transparent_is_white_and_not_what_lies_under_it(
    mode, channels, tmp_path
):
    (tmp_path / "a").mkdir()
    # A black picture of which the left half is not to be seen.
    alpha = Image.fromarray(np.array([[0, 255]], np.uint8))
    picture = Image.new("LA" if mode == "LA" else "RGBA", (2, 1))
    picture.putalpha(alpha)
    if mode == "P":
        picture = picture.convert("P")
        picture.info["transparency"] = picture.getpixel((0, 0))
        if picture.getpixel((0, 0)) == picture.getpixel((1, 0)):
            picture = Image.new("P", (2, 1))
            picture.putpalette([9, 9, 9, 0, 0, 0])
            picture.putpixel((1, 0), 1)
            picture.info["transparency"] = 0
    picture.save(tmp_path / "a" / "0.png")
    got = load_images(tmp_path).images
    assert got.shape == (1, 1, 2, channels)
    np.testing.assert_array_equal(got[0, 0, :, 0], [1, -1])


@pytest.mark.parametrize("find", FINDERS)
def test_no_file_of_a_class_is_passed_over(find, tmp_path):
    picture = Image.new("L", (8, 8))
    for file in ("cat/a.png", "cat/more/b.TIF", "dog/c.jfif", "owl/d.ppm"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="JPEG" if file.endswith("jfif") else None)
    data = find(tmp_path)
    assert data.classes == ("cat", "dog", "owl")
    np.testing.assert_array_equal(data.labels, [0, 0, 1, 2])
    # Labels would move if a class whose files are not read went missing.
    (tmp_path / "dog" / "c.jfif").rename(tmp_path / "dog" / "c.heic")
    with pytest.raises(ValueError, match=r"dog has 1 files .*\['c\.heic'\]"):
        find(tmp_path)
    (tmp_path / "dog" / "c.heic").unlink()
    picture.save(tmp_path / "lost.png")
    with pytest.raises(ValueError, match=r"beside its classes, such as \['lost"):
        find(tmp_path)


def test_train_may_be_a_class_of_vehicles(tmp_path):
    picture = Image.new("L", (8, 8))
    for name in ("car", "test", "train"):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "0.png")
    assert load_images(tmp_path).classes == ("car", "test", "train")
    # Not to be told from a split that lies beside images of no split.
    (tmp_path / "train" / "steam").mkdir()
    picture.save(tmp_path / "train" / "steam" / "0.png")
    with pytest.raises(ValueError, match=r"beside it images of \['car'\]"):
        load_images(tmp_path)


@pytest.mark.parametrize("size", [0, -1, 7.5, True, "8"])
def test_sizes_that_are_none(size):
    for find in (load_images, open_images):
        with pytest.raises(ValueError, match="size is .*; expected a whole number"):
            find("digits", size=size)
    with pytest.raises(ValueError, match="n is 0"):
        open_images("digits").take(0)


def test_an_open_set_reads_what_is_asked_for(folder, monkeypatch):
    read, files = _files.read_file, []
    monkeypatch.setattr(
        _files, "read_file", lambda path: files.append(path.name) or read(path)
    )
    source = open_images(str(folder), "train", size=4)
    source[2]
    assert files == ["0.png", "2.png"]
    whole = load_images(str(folder), "train", size=4)
    assert (len(source), source.shape, source.classes) == (6, (4, 4, 3), whole.classes)
    for i in range(6):
        np.testing.assert_array_equal(source[i]["image"], whole.images[i])
        assert source[i]["label"] == whole.labels[i]
        assert source[i]["label"].dtype == np.int32
    some = source.take(3)
    np.testing.assert_array_equal(some.images, whole.images[::2])
    np.testing.assert_array_equal(some.labels, whole.labels[::2])
    assert len(source.take(100).labels) == 6
    digits = open_images("digits")
    np.testing.assert_allclose(
        digits[7]["image"], load_images("digits").images[7], atol=0.01
    )
    # The first image says what the others must be.
    uneven = open_images(str(folder), "train")
    assert uneven.shape == (4, 6, 3)
    with pytest.raises(ValueError, match=r"blue.1\.png has shape \(4, 7, 3\)"):
        uneven[1]
    Image.new("L", (6, 4), 9).save(folder / "train" / "blue" / "0.png")
    with pytest.raises(
        ValueError, match=r"red.0\.png has 3 channels and others have 1"
    ):
        open_images(str(folder), "train")[3]
    Image.new("L", (6, 4), 9).save(folder / "train" / "red" / "0.png")
    assert open_images(str(folder), "train", channels=3)[3]["image"].shape == (4, 6, 3)
    assert open_images(str(folder), "train", channels=1)[3]["image"].shape == (4, 6, 1)


def test_folders_that_do_not_work(folder, tmp_path):
    with pytest.raises(ValueError, match=r"of 3 shapes.*pass size"):
        load_images(str(folder), "train")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no images"):
        load_images(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="has no folder 'test'"):
        load_images(str(tmp_path / "empty"), "test")
    with pytest.raises(ValueError, match="is not a folder"):
        load_images("no/such/place")
    with pytest.raises(ValueError, match="split is 'valid'"):
        load_images("digits", "valid")
    with pytest.raises(ValueError, match="channels is 2"):
        open_images("digits", channels=2)
    (folder / "train" / "blue" / "0.png").write_text("not an image")
    for find in (load_images, open_images):
        with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
            find(str(folder), "train", size=4)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"jaxlib-guidance\[data\]"):
        load_images("mnist")
    with pytest.raises(ModuleNotFoundError, match=r"no folder /.*/my_images\."):
        load_images("my_images")


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_datasets_without_tensorflow(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=5):
        data = load_images("mnist", "test", size=14)
    assert data.images.shape == (5, 14, 14, 1)
    assert data.classes == tuple("0123456789")
    assert ((data.labels >= 0) & (data.labels < 10)).all()
    assert "tensorflow" not in sys.modules


def test_every_row_once_an_epoch():
    total, batch = 10, 4
    rows = np.concatenate([batch_indices(0, s, batch, total) for s in range(5)])
    for epoch in (rows[:10], rows[10:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(total))
    assert (rows[:10] != rows[10:]).any()


def test_batches_are_functions_of_seed_and_step():
    later = batch_indices(3, 1000, 8, 50)
    batch_indices(4, 7, 8, 50)
    np.testing.assert_array_equal(later, batch_indices(3, 1000, 8, 50))
    assert (later != batch_indices(4, 1000, 8, 50)).any()


def test_a_batch_larger_than_the_data():
    rows = batch_indices(0, 0, 25, 10)
    assert (np.bincount(rows) >= 2).all()
    with pytest.raises(ValueError, match="batch 0"):
        batch_indices(0, 0, 0, 10)


@pytest.fixture
def found(tmp_path):
    """A folder as people have them: no classes, odd sizes and modes, bad files."""
    rng = np.random.default_rng(0)
    for i, mode in enumerate(("RGB", "RGBA", "P", "L", "LA", "CMYK", "1", "I;16")):
        bytes_ = rng.integers(0, 256, (5 + i, 9 - i, 3)).astype(np.uint8)
        image = Image.fromarray(bytes_)
        image = image.convert("I" if mode == "I;16" else mode)
        image.save(tmp_path / f"{i}.{'tif' if mode in ('CMYK', 'I;16') else 'png'}")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "raw.dng2").write_bytes(b"x")
    (tmp_path / "empty_folder").mkdir()
    return tmp_path


def test_a_folder_of_pictures_alone_has_no_classes(found):
    with pytest.raises(ValueError, match=r"has 1 files that are not.*raw.dng2"):
        load_images(found, size=4)
    bad = []
    whole = load_images(found, size=4, on_bad=bad.append)
    assert whole.images.shape == (8, 4, 4, 3)
    assert whole.classes == ()
    assert not whole.labels.any()
    said = ("cut.png cannot be", "empty.jpg cannot be", "raw.dng2 is no image")
    for name, told in zip(said, sorted(bad), strict=True):
        assert f"{found / name}" in told
    again = []
    source = open_images(found, size=4, channels=3, on_bad=again.append)
    assert sorted(again) == sorted(bad)
    np.testing.assert_array_equal(source.take(99).images, whole.images)
    assert source.classes == ()
    (found / "raw.dng2").unlink()
    with pytest.raises(ValueError, match=r"cut.png cannot be read as an image"):
        load_images(found, size=4)


def test_bad_files_among_classes_are_left_out(folder):
    (folder / "train" / "red" / "1.png").write_text("no picture")
    (folder / "train" / "red" / "drawing.psd2").write_text("no picture")
    bad = []
    data = load_images(folder, size=4, on_bad=bad.append)
    np.testing.assert_array_equal(data.labels, [0, 0, 0, 1, 1])
    assert len(bad) == 2
    assert len(set(bad)) == 2
    for path in (folder / "train").rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(ValueError, match="has 6 files and no image"):
        load_images(folder, size=4, on_bad=bad.append)
    with pytest.raises(ValueError, match="has 6 files and no image"):
        open_images(folder, size=4, on_bad=bad.append)
