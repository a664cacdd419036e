"""DiT gives what diffusers' gives, and is guided by its sites."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published


@pytest.fixture(scope="module")
def part(golden):
    return published.open_part(golden("dit_xl").folder)


@pytest.fixture(scope="module")
def loaded(part, golden):
    module, params = published.load_dit_xl(part, as_trained=False)
    return module, params, golden("dit_xl").arrays


@pytest.mark.parametrize("size", ["own", "wide"])
def test_values_and_maps_are_those_of_diffusers(loaded, size):
    module, params, want = loaded
    full, site = module.clone(variance=True), "block1/attn"
    run = jax.jit(
        lambda x: full.apply(
            {"params": params}, x, want["t"], want["labels"], capture=(site,)
        )
    )
    value, maps = run(jnp.asarray(want[f"{size}.x"]))
    np.testing.assert_allclose(value, want[f"{size}.value"], atol=1e-5)
    np.testing.assert_allclose(maps[site], want[f"{size}.map"], atol=1e-6)


def test_sites_and_taps_obey_the_laws(loaded, laws):
    module, params, want = loaded
    laws(module, params, want["wide.x"], want["t"], want["labels"], "block1")


@pytest.mark.slow
def test_half_precision_is_near(part, loaded, half):
    own = {"dtype": jnp.bfloat16, "as_trained": False}
    module, params = published.load_dit_xl(part, **own)
    want = loaded[2]
    inputs = want["own.x"], want["t"], want["labels"]
    half(module, params, inputs, want["own.value"][..., :4])


def test_as_trained_differs_by_frequencies_and_eps_alone(part, loaded):
    module, _ = published.load_dit_xl(part)
    own = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
    assert (own["freq_shift"], own["norm_eps"]) == (0, 1e-6)
    assert module.clone(freq_shift=1.0, norm_eps=1e-5) == loaded[0]


def test_the_authors_file_gives_what_their_code_gives(golden, tmp_path, torch_state):
    folder, want = golden("dit_authors")
    tensors = load_file(folder / "model.safetensors")
    path = tmp_path / "DiT.pt"
    torch_state(path, tensors)
    module, params = published.load_dit_authors(path, heads=3)
    full = module.clone(variance=True)
    run = jax.jit(lambda x: full.apply({"params": params}, x, *given)[0])
    given = want["t"].astype(np.float32), want["labels"]
    value = run(jnp.asarray(want["x"]))
    np.testing.assert_allclose(value, want["value"], atol=1e-5)
    assert (module.classes, module.sample_size, module.patch_size) == (10, 8, 2)
    with pytest.raises(ValueError, match="heads is 5, which does not divide"):
        published.load_dit_authors(path, heads=5)
    tensors["blocks.1.mlp.fc3.bias"] = tensors.pop("blocks.1.mlp.fc2.bias")
    torch_state(path, tensors)
    told = "missing .*blocks.1.ff.net.2.bias.* not used .*blocks.1.mlp.fc3.bias"
    with pytest.raises(CorruptFileError, match=told):
        published.load_dit_authors(path, heads=3)
    torch_state(path, {"pos_embed": tensors["pos_embed"]})
    with pytest.raises(CorruptFileError, match="DiT.pt is no DiT of its authors"):
        published.load_dit_authors(path)


def test_no_label_is_the_null_class_and_others_are_refused(loaded):
    module, params, want = loaded
    x, t = jnp.asarray(want["own.x"]), jnp.asarray(want["t"])

    def value(cond):
        return module.apply({"params": params}, x, t, cond)[0]

    run = jax.jit(value)
    np.testing.assert_allclose(run(None), run(jnp.full(3, 10)), atol=1e-6)
    for cond, told in (
        (jnp.array([0, 11, 0]), r"labels 0 to 11; expected 0 to 10"),
        (jnp.zeros(3), r"float32\(3,\)"),
        ({"text": jnp.zeros((3, 2, 4))}, "expected integer labels"),
    ):
        with pytest.raises(ValueError, match=told):
            value(cond)
    unknown = np.isnan(run(jnp.array([0, -1, 3]))).all((1, 2, 3))
    np.testing.assert_array_equal(unknown, [False, True, False])


def test_what_is_not_computed_is_refused_by_key(part):
    for key, value in (
        ("norm_type", "ada_norm"),
        ("attention_bias", False),
        ("norm_elementwise_affine", True),
        ("new_key", 3),
    ):
        with pytest.raises(ValueError, match=f"config.json: '{key}' is"):
            published.load_dit_xl(
                dataclasses.replace(part, config={**part.config, key: value})
            )
