"""Folders, tensors and configurations as published: what is read, what is refused."""

import contextlib
import json
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published
from jaxlib_guidance.models.published._configuration import ANY, configured, for_each


class Net(nn.Module):
    width: int = 4
    sizes: tuple = (1, 2)
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(self.width, (3, 3), name="conv_in")(x)
        h = nn.GroupNorm(2, name="blocks.0.norm")(h)
        h = nn.Conv(6, (1, 1), name="blocks.0.proj_in")(h)
        h = nn.Dense(8, name="blocks.0.to_out.0")(h)
        return nn.Embed(5, 8, name="table")(jnp.arange(1)) + h


def shapes():
    return published.parameter_shapes(Net().init, jnp.zeros((1, 4, 4, 3)))


def tensors():
    rng = np.random.default_rng(0)
    shape = {
        "conv_in.weight": (4, 3, 3, 3),
        "conv_in.bias": (4,),
        "blocks.0.norm.weight": (4,),
        "blocks.0.norm.bias": (4,),
        "blocks.0.proj_in.weight": (6, 4, 1, 1),
        "blocks.0.proj_in.bias": (6,),
        "blocks.0.to_out.0.weight": (8, 6),
        "blocks.0.to_out.0.bias": (8,),
        "table.weight": (5, 8),
    }
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shape.items()}


def test_names_and_axes_are_those_of_the_file_and_saving_is_the_inverse():
    held = tensors()
    params = published.fill(shapes(), held, dtype=jnp.float32)
    back = published.named_tensors(params)
    assert set(back) == set(held)
    for name, tensor in held.items():
        np.testing.assert_array_equal(back[name], tensor)
    kernel = params["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 0], held["conv_in.weight"][:, 0, 1, 2])
    assert published.count_parameters(params) == sum(a.size for a in held.values())


def test_a_layer_of_one_pixel_is_read_from_either_form():
    held = tensors()
    other = held | {
        "blocks.0.proj_in.weight": held["blocks.0.proj_in.weight"][:, :, 0, 0],
        "blocks.0.to_out.0.weight": held["blocks.0.to_out.0.weight"][..., None, None],
    }
    one, two = (
        published.fill(shapes(), each, dtype=jnp.float32) for each in (held, other)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv_in.bias": None}, "1 that the network needs are missing (conv_in.bias)"),
        ({"extra.weight": np.zeros(3)}, "1 are not used by the network (extra.weight)"),
        ({"conv_in.bias": np.zeros(5)}, "'conv_in.bias' has shape [5]; the network "),
        ({"conv_in.weight": np.zeros((3, 4, 3, 3))}, "needs [4, 3, 3, 3]"),
        ({"blocks.0.to_out.0.weight": np.zeros((6, 8))}, "needs [8, 6]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, told):
    held = {n: a for n, a in (tensors() | change).items() if a is not None}
    with pytest.raises(CorruptFileError) as error:
        published.fill(shapes(), held, dtype=jnp.float32, where="unet")
    assert told in str(error.value)
    assert str(error.value).startswith("unet: ")


def test_what_is_ignored_need_not_be_used():
    held = tensors() | {"encoder.bias": np.zeros(3)}
    published.fill(shapes(), held, dtype=jnp.float32, ignored=["encoder."])


def test_sharded_parameters_are_the_plain_ones():
    mesh = jax.make_mesh((8,), ("x",))
    plain = published.fill(shapes(), tensors(), dtype=jnp.bfloat16)

    def last_axis(name, shape):
        split = name.endswith("to_out.0.weight")
        spec = PartitionSpec(*[None] * (len(shape) - 1), "x") if split else ()
        return NamedSharding(mesh, PartitionSpec(*spec))

    split = published.fill(shapes(), tensors(), dtype=jnp.bfloat16, sharding=last_axis)
    jax.tree.map(np.testing.assert_array_equal, plain, split)
    kernel = split["blocks.0.to_out.0"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert kernel.addressable_shards[0].data.shape == (6, 1)


def test_a_change_sees_each_slice_in_flax_order():
    seen = {}

    def change(name, index, value):
        seen[name] = value.shape
        return value + 1 if name == "conv_in.weight" else value

    params = published.fill(shapes(), tensors(), dtype=jnp.float32, change=change)
    assert seen["conv_in.weight"] == (3, 3, 3, 4)
    back = published.named_tensors(params)
    np.testing.assert_allclose(
        back["conv_in.weight"], tensors()["conv_in.weight"] + 1, rtol=1e-6
    )


def test_configurations_are_taken_whole_or_refused_by_key():
    neutral = {"act_fn": ("silu", "swish"), "dropout": ANY}
    config = {"_class_name": "X", "width": 8, "sizes": [3, 4], "dropout": 0.3}
    net = configured(Net, config | {"act_fn": "swish"}, neutral, "c")
    assert (net.width, net.sizes) == (8, (3, 4))
    configured(Net, config | {"new_key": None, "other": False}, neutral, "c")
    with pytest.raises(ValueError, match=r"c: 'act_fn' is 'gelu', .* 'silu' or"):
        configured(Net, config | {"act_fn": "gelu"}, neutral, "c")
    with pytest.raises(ValueError, match=r"'new_key' is 3, .* expected None or False"):
        configured(Net, config | {"new_key": 3}, neutral, "c")
    for change, told in (
        ({"width": "8"}, r"c: 'width' is '8'; expected <class 'int'>"),
        ({"width": True}, "'width' is True"),
        ({"sizes": 3}, "'sizes' is 3; expected"),
    ):
        with pytest.raises(ValueError, match=told):
            configured(Net, config | change, neutral, "c")
    assert for_each(8, 2, "heads") == (8, 8)
    with pytest.raises(ValueError, match=r"heads is \(1, 2, 3\); expected one"):
        for_each((1, 2, 3), 2, "heads")


def part(folder, files, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"width": 3}))
    for name, held in files.items():
        if isinstance(held, str):
            (folder / name).write_text(held)
        else:
            save_file(held, folder / name)
    return folder


A, B = {"a": np.ones(2, np.float16)}, {"b": np.zeros(3, np.float32)}
WEIGHTS = "diffusion_pytorch_model"
MAP = json.dumps({"weight_map": {"a": f"{WEIGHTS}-1.safetensors", "b": "two"}})


def test_a_part_is_one_file_shards_or_a_variant(tmp_path):
    one = part(tmp_path / "one", {f"{WEIGHTS}.safetensors": A | B})
    assert set(published.open_part(one).tensors) == {"a", "b"}
    assert published.open_part(one).config == {"width": 3}
    files = {
        f"{WEIGHTS}.safetensors.index.json": MAP,
        f"{WEIGHTS}-1.safetensors": A,
        "two": B,
    }
    assert set(published.open_part(part(tmp_path / "two", files)).tensors) == {"a", "b"}
    half = part(tmp_path / "half", {"model.fp16.safetensors": A})
    assert set(published.open_part(half).tensors) == {"a"}
    both = part(half, {"model.safetensors": B})
    assert set(published.open_part(both).tensors) == {"b"}
    assert set(published.open_part(both, variant="fp16").tensors) == {"a"}
    old = {"model.safetensors": {"t.position_ids": np.arange(3), "a": A["a"]}}
    assert set(published.open_part(part(tmp_path / "old", old)).tensors) == {"a"}


def test_old_folders_hold_zips_of_pytorch(tmp_path, write_torch):
    write, tensor = write_torch
    one = {"a": tensor("Half", "0", 2, 0, (2,), (1,))}
    old = part(tmp_path / "old", {})
    write(old / "pytorch_model.fp16.bin", one, {"0": A["a"].tobytes()})
    np.testing.assert_array_equal(published.open_part(old).tensors["a"], A["a"])
    newer = part(old, {"model.safetensors": B})
    assert set(published.open_part(newer).tensors) == {"b"}


def test_names_change_by_rule_and_never_collide(tmp_path):
    files = {"model.safetensors": {"t.a": A["a"], "t.b": B["b"]}}
    found = published.open_part(part(tmp_path / "p", files))
    assert set(found.without_prefix("t.").tensors) == {"a", "b"}
    assert set(found.without_prefix("t.a").tensors) == {"t.a", "t.b"}
    with pytest.raises(CorruptFileError, match="two tensors are 'c'"):
        found.renamed(lambda name: "c")


@pytest.mark.parametrize(
    ("files", "kind", "told"),
    [
        ({}, FileNotFoundError, "has no weights"),
        ({"model.ckpt": "x"}, FileNotFoundError, "it holds .*model.ckpt"),
        ({"pytorch_model.bin": "x"}, CorruptFileError, "since 1.6"),
        ({"model.safetensors": "not it"}, CorruptFileError, "not a safetensors file"),
        ({f"{WEIGHTS}.safetensors.index.json": "{"}, CorruptFileError, "is not JSON"),
        ({f"{WEIGHTS}.safetensors.index.json": "{}"}, CorruptFileError, "weight_map"),
        (
            {
                f"{WEIGHTS}.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "../../etc/passwd"}}
                )
            },
            CorruptFileError,
            "'a' is in '../../etc/passwd'",
        ),
        (
            {
                f"{WEIGHTS}.safetensors.index.json": MAP,
                f"{WEIGHTS}-1.safetensors": B,
                "two": B,
            },
            CorruptFileError,
            "lacks 'a', which the index lists",
        ),
    ],
)
def test_parts_that_cannot_be_read_say_what_is_wrong(tmp_path, files, kind, told):
    with pytest.raises(kind, match=told):
        published.open_part(part(tmp_path / "p", files))


def test_the_index_names_parts_and_its_absence_is_told(tmp_path):
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
        "force_zeros_for_empty_prompt": True,
    }
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps(index))
    assert published.read_index(tmp_path) == {
        "_class_name": "StableDiffusionPipeline",
        "unet": "UNet2DConditionModel",
    }
    path.write_text("[]")
    with pytest.raises(CorruptFileError, match="JSON list, no object"):
        published.read_index(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model_index.json.* it holds \[\]"):
        published.read_index(tmp_path)
    with pytest.raises(ValueError, match="folder is None; expected the path"):
        published.read_index(None)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        published.read_index(tmp_path / "absent")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**7) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["model", "vocab", "merges", "type", "pad_token", "content", "model_max_length"]
)
FILE = st.dictionaries(KEYS, JSON, max_size=4).map(json.dumps) | JSON.map(json.dumps)
FILES = {
    "vocab.json": FILE,
    "merges.txt": st.text(max_size=20),
    "tokenizer.json": FILE,
    "tokenizer_config.json": FILE,
    "special_tokens_map.json": FILE,
    "model_index.json": FILE,
    "config.json": FILE,
    "diffusion_pytorch_model.safetensors.index.json": FILE,
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=FILES), st.binary(max_size=4))
def test_files_of_anything_give_a_tokenizer_or_an_error_that_names_them(files, tail):
    """JSON of any form, cut bytes: never an error of another kind."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_bytes(text.encode() + tail)
        for read in (
            published.load_clip_tokenizer,
            published.read_index,
            published.open_part,
        ):
            with contextlib.suppress(FileNotFoundError, CorruptFileError):
                read(folder)


SHAPE = st.lists(st.integers(0, 2), min_size=2, max_size=4) | st.lists(
    st.integers(0, 3), max_size=5
)
ENDS = (".lora_A.weight", ".lora_B.weight", ".alpha")
CHANGES = st.fixed_dictionaries(
    {f"unet.a{end}": SHAPE for end in ENDS[:2]},
    optional={f"unet.a{ENDS[2]}": SHAPE, "lora_te_b.dora_scale": SHAPE, "x": SHAPE},
)
ABOUT = st.dictionaries(
    st.sampled_from(["unet.alpha_pattern", "unet.lora_alpha"]), JSON
).map(json.dumps)


@settings(max_examples=100, deadline=None)
@given(CHANGES, ABOUT | FILE)
def test_any_tensors_are_changes_or_an_error_that_names_the_file(shapes, about):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        held = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        save_file(held, path, metadata={"lora_adapter_metadata": about})
        with contextlib.suppress(CorruptFileError):
            published.read_lora(path)
