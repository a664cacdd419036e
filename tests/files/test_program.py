"""Samplers in files: equal to the direct ones, callable without this package."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.files import (
    CorruptFileError,
    export_sampler,
    export_weights,
    load_exported,
    load_weights,
)
from jaxlib_guidance.files import _program as export

PROCESS = jg.VPCosine()
GRID = jg.logsnr_grid(PROCESS, 4)
# Keys whose order is another one once they are joined by "/", and a type that numpy's
# format does not have.
PARAMS = {
    "net": {"scale": jnp.linspace(0.2, 0.9, 3)},
    "net-2": {"shift": jnp.array([0.5, -1.5, 2.25], jnp.bfloat16)},
}
ARGUMENTS = {
    "seed": "int32[]",
    "ids": "int32[b]",
    "labels": "int32[b]",
    "cfg": "float32[]",
}


def direct(params, seed, ids, labels, cfg):
    def network(x, t, cond):
        shift = params["net-2"]["shift"].astype(jnp.float32)[cond % 3]
        return params["net"]["scale"] * x + shift[:, None]

    return jg.sample(
        jg.sample_keys(jax.random.key(seed), ids),
        jg.parametrize(network, PROCESS, "x0"),
        jg.ddim(1.0),
        GRID,
        (3,),
        labels,
        guidance=jg.chain(jg.cfg(cfg, null=1)),
    )[0]


def options(batch, seed=3, cfg=2.0):
    ids = np.arange(batch, dtype=np.int32)
    return {
        "seed": np.int32(seed),
        "ids": ids + np.int32(10),
        "labels": ids,
        "cfg": np.float32(cfg),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "sampler.safetensors"
    export_sampler(path, direct, PARAMS, ARGUMENTS, config={"of": "a toy"})
    return path


def test_equal_to_the_direct_sampler_for_any_batch(file):
    draw, _ = load_exported(file)
    for batch in (1, 7):
        want = jax.jit(direct)(PARAMS, **options(batch))
        got = draw(**options(batch))
        assert got.shape == (batch, 3)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=2e-6)
    other = draw(**options(7, cfg=0.0))
    assert not np.allclose(other, got)
    np.testing.assert_allclose(
        other, jax.jit(direct)(PARAMS, **options(7, cfg=0.0)), atol=2e-6
    )


def test_bit_for_bit_when_compiled_for_one_platform_and_size(tmp_path):
    sizes = {name: text.replace("b", "7") for name, text in ARGUMENTS.items()}
    path = tmp_path / "one.safetensors"
    export_sampler(path, direct, PARAMS, sizes, platforms=("cpu",))
    draw, _ = load_exported(path)
    want = jax.jit(direct)(PARAMS, **options(7))
    np.testing.assert_array_equal(draw(**options(7)), want)
    with pytest.raises(ValueError, match=r"(?s)shape.*7"):
        draw(**options(6))


def test_a_file_says_what_it_is(file):
    _, about = load_exported(file)
    assert about == {
        "format": export.FORMAT,
        "jax": jax.__version__,
        "calling_convention": about["calling_convention"],
        "platforms": ["cpu", "cuda", "tpu"],
        "devices": 1,
        "arguments": ARGUMENTS,
        "result": "float32[b,3]",
        "config": {"of": "a toy"},
    }


WITHOUT_US = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jaxlib_guidance", "flax", "optax", "orbax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
try:
    import jaxlib_guidance
    sys.exit("the package is there, so this test shows nothing")
except ModuleNotFoundError:
    pass
"""


def test_the_ten_lines_work_without_this_package(file):
    (snippet,) = re.findall(r"```python\n(.*?)```", export.__doc__, re.S)
    saved = file.with_name("images.npy")
    script = WITHOUT_US + snippet + f"np.save({str(saved)!r}, images)\n"
    run = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=file.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    ids = np.arange(7, dtype=np.int32)
    want = load_exported(file)[0](seed=0, ids=ids, labels=ids, cfg=2.0)
    np.testing.assert_array_equal(np.load(saved), want)


def test_numbers_and_lists_will_do_if_they_fit(file):
    draw, _ = load_exported(file)
    want = draw(**options(2))
    got = draw(seed=3, ids=[10, 11], labels=jnp.arange(2), cfg=2)
    np.testing.assert_array_equal(got, want)
    good = {"seed": 3, "ids": [10, 11], "labels": [0, 1], "cfg": 2}
    for name, value in (
        ("labels", [0.5, 1.0]),
        ("seed", 2**40),
        ("seed", jax.random.key(0)),
        ("cfg", "high"),
    ):
        expected = f"(?s){name} is .*expected {ARGUMENTS[name][:5]}"
        with pytest.raises(TypeError, match=expected):
            draw(**good | {name: value})
    with pytest.raises(TypeError, match=r"expected \['cfg', 'ids'"):
        draw(seed=3)
    with pytest.raises(ValueError, match="b"):
        draw(**good | {"labels": [0, 1, 2]})


def test_parameters_can_be_baked_in(tmp_path):
    def baked(params, scale):
        assert params == {}
        return {"x": scale * PARAMS["net"]["scale"]}

    about = export_sampler(
        tmp_path / "baked.safetensors",
        baked,
        {},
        {"scale": "float32[]"},
        platforms=("cpu",),
    )
    assert about["result"] == {"x": "float32[3]"}
    draw, _ = load_exported(tmp_path / "baked.safetensors")
    np.testing.assert_allclose(draw(scale=2.0)["x"], 2 * PARAMS["net"]["scale"])


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    path = tmp_path / "none.safetensors"

    def talks(params, x):
        jax.debug.callback(lambda x: None, x)
        return x

    with pytest.raises(ValueError, match="calls back to the host"):
        export_sampler(path, talks, {}, {"x": "float32[]"}, platforms=("cpu",))
    for text in ("int32", "int[b", "key<fry>[]", "whole[b]", "int32[b c]"):
        with pytest.raises(ValueError, match=r"arguments\['x'\] is .*such as 'int32"):
            export_sampler(path, lambda p, x: x, {}, {"x": text})
    with pytest.raises(ValueError, match="expected nested dicts of arrays"):
        export_sampler(path, lambda p, x: x, {"w": [1.0]}, {"x": "int32[]"})
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ModuleNotFoundError, match=r"jaxlib-guidance\[export\]"):
        export_sampler(path, lambda p, x: x, {}, {"x": "int32[]"})
    with pytest.raises(ModuleNotFoundError, match=r"jaxlib-guidance\[export\]"):
        load_exported(path)
    assert not path.exists()


def test_what_cannot_be_loaded_is_named(file, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="none"):
        load_exported(tmp_path / "none.safetensors")
    data = bytearray(file.read_bytes())
    for name, damaged in (
        ("short", data[: len(data) // 2]),
        ("flipped", data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=name):
            load_exported(path)
    export_weights(tmp_path / "weights.safetensors", PARAMS, {"shape": [3]})
    with pytest.raises(CorruptFileError, match="is not a sampler"):
        load_exported(tmp_path / "weights.safetensors")
    held, about = load_weights(file)
    export_weights(tmp_path / "newer.safetensors", held, about | {"devices": 2})
    with pytest.raises(ValueError, match="newer.* exported by jax .*again from the"):
        load_exported(tmp_path / "newer.safetensors")
    monkeypatch.setattr(
        export.export, "minimum_supported_calling_convention_version", 1000
    )
    with pytest.raises(ValueError, match="exported by jax .*again from the weights"):
        load_exported(file)
