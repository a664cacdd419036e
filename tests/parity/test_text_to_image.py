"""sample/text_to_image.py: what it draws, and the mistakes that it names."""

import importlib.util
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jaxlib_guidance.models import ADM, load_adm, load_published

ROOT = Path(__file__).parents[2]
# Before train, whose images.py is another.
sys.path.insert(0, str(ROOT / "sample"))
SPEC = importlib.util.spec_from_file_location(
    "text_to_image", ROOT / "sample/text_to_image.py"
)
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["text_to_image"] = recipe
SPEC.loader.exec_module(recipe)
sys.path.remove(str(ROOT / "sample"))
images = recipe.recipe

QUICK = {"prompt": ("a cat",), "steps": 3, "size": (16, 24), "dtype": "float32"}


def test_a_row_of_pictures_guided_and_written(golden, tmp_path):
    out = tmp_path / "new" / "cats.png"
    more = {"prompt": ("a cat", "hello"), "guide": ("cfg=6.5", "pag=2@mid")}
    config = recipe.Config(golden("sd15").folder, out=out, **QUICK | more)
    recipe.main(config)
    with Image.open(out) as image:
        assert image.width >= 24
        assert image.height >= 2 * 16
        assert image.text["guide"] == str(config.guide)


@pytest.mark.slow
def test_other_families_are_drawn_by_the_same_command(golden):
    folder = golden("sd3_pipeline").folder
    more = {"sampler": "euler", "guide": ("cfg=4", "pag=2@block0")}
    assert recipe.draw(recipe.Config(folder, **QUICK | more)).shape == (1, 16, 24, 3)


def test_classes_of_a_published_folder_are_drawn_by_name(golden, tmp_path):
    folder, out = golden("dit_pipeline").folder, tmp_path / "fish.npz"
    options = {"guide": ("cfg=2", "pag=1@block1"), "steps": 2, "columns": 1}
    options |= {"weights": str(folder), "labels": ("Tinca tinca", "-1")}
    images.main(images.Config(**options, out=out))
    with np.load(out) as held:
        assert held["images"].shape == (2, 12, 12, 3)
        assert held["labels"].tolist() == [0, 1000]
        assert np.abs(held["images"]).max() <= 1


@pytest.mark.slow
def test_a_file_of_adm_is_drawn_by_its_name(golden, tmp_path, torch_state, monkeypatch):
    flags = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
    flags |= {"attention_ds": (2,), "num_classes": 5, "num_head_channels": 16}
    monkeypatch.setattr(
        sys.modules["published_images"],
        "load_adm",
        lambda path, name, **own: load_adm(path, ADM(**flags), **own),
    )
    path = tmp_path / "8x8_tiny.pt"
    torch_state(path, load_file(golden("adm_film").folder / "model.safetensors"))
    options = {"weights": str(path), "steps": 2, "columns": 1}
    guide = ("pag=1@middle_block.1", "clip_x0=1")
    drawn, labels = images.draw(images.Config(guide=guide, **options))
    assert drawn.shape == (5, 8, 8, 3)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(drawn).all()
    for more, told in (
        ({"labels": ("-1",)}, "was trained with classes alone"),
        ({"guide": ("cfg=2",)}, "no classes to guide towards"),
    ):
        with pytest.raises(ValueError, match=told):
            images.draw(images.Config(**options | more))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("dit_pipeline", {}, "the model has 1000 classes; expected --labels"),
        ("dit_pipeline", {"labels": ("shark",)}, "labels has 'shark'; expected a numb"),
        ("sd15", {}, "take texts; expected a model of classes, or sample/text_to_im"),
        (None, {"dtype": "bfloat16"}, "dtype is bfloat16, for published models"),
        (None, {"weights": "9x9_diffusion.pt"}, "name is '9x9_diffusion'; expected"),
    ],
)
def test_published_weights_that_do_not_fit_are_told(golden, name, options, told):
    own = {} if name is None else {"weights": str(golden(name).folder)}
    with pytest.raises(ValueError, match=told):
        images.draw(images.Config(**own | options))


def test_a_model_without_texts_is_told(golden):
    folder = golden("dit_pipeline").folder
    with pytest.raises(ValueError, match="takes no texts"):
        recipe.draw(recipe.Config(folder, **QUICK))


@pytest.mark.slow
def test_where_the_mask_is_black_the_picture_stays(golden, tmp_path):
    rng = np.random.default_rng(0)
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(photo)
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(mask)
    folder = golden("sd15").folder
    config = recipe.Config(folder, init=photo, mask=mask, **QUICK)
    drawn = recipe.draw(config)
    model, params = load_published(folder, parts=["unet", "vae"])
    source = recipe.read_picture(photo, (16, 24), 3)
    z = model.encode(params, jnp.asarray(source)[None])
    np.testing.assert_allclose(drawn, model.decode(params, z), atol=1e-4)


@pytest.mark.slow
def test_a_network_of_nine_channels_is_given_mask_and_picture(golden, tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 24), np.uint8)
    mask[4:12, 6:18] = 255
    drawn = []
    for i in range(2):
        pixels = rng.integers(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    for i, hole in ((0, mask), (0, 255 - mask), (1, mask)):
        Image.fromarray(hole).save(tmp_path / "mask.png")
        paths = {"init": tmp_path / f"{i}.png", "mask": tmp_path / "mask.png"}
        more = {"strength": 1.0, "guide": ("cfg=2",)}
        folder = golden("inpaint").folder
        drawn.append(recipe.draw(recipe.Config(folder, **QUICK, **paths, **more)))
    assert all(np.isfinite(a).all() for a in drawn)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-2
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompt": ()}, "no prompt"),
        ({"size": (15,)}, "height and width are (15, 15); expected multiples of 2"),
        ({"size": (8, 8, 8)}, "size is (8, 8, 8)"),
        ({"mask": Path("m.png")}, "mask has no effect without init"),
        ({"strength": 0.0}, "strength is 0.0; expected above 0"),
        ({"sampler": "best"}, "sampler 'best'; expected one of ddim"),
        ({"sampler": "recommended,scale=0"}, "scale is 0; expected a finite number"),
        ({"guide": ("cfg",)}, "expected NAME=WEIGHT"),
        ({"guide": ("pag=2@down1/0/0/attn",)}, "matches nothing; there are: down0/0"),
        ({"model": Path("nowhere")}, "there is no such folder"),
        ({"init": Path("nothing.png")}, "nothing.png is no picture"),
        ({"lora": ("a.safetensors@b",)}, "lora 'a.safetensors@b': could not convert"),
        ({"lora": ("a.safetensors@0.8",)}, "no weights at a.safetensors"),
        ({"weights": Path("a.safetensors")}, "no weights at a.safetensors"),
        ({"batch": 0}, "batch is 0; expected at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(golden, tmp_path, options, told):
    folder = golden("sd15").folder
    given = {"model": folder, "out": tmp_path / "o.png"} | QUICK | options
    with pytest.raises(SystemExit) as error:
        recipe.main(recipe.Config(**given))
    assert told in str(error.value)
    assert str(error.value).startswith("sample/text_to_image.py: ")
