"""A single file under the authors' names gives what diffusers makes of it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published


@pytest.mark.slow
def test_all_parts_of_a_file(golden):
    folder, want = golden("single")
    model, params = published.load_stable_diffusion(
        folder, single_file=folder / "single.safetensors"
    )
    x, images = jnp.asarray(want["x"]), jnp.asarray(want["images"])

    @jax.jit
    def run(params, tokens, x, images):
        cond = model.condition(params, tokens)
        value, _ = model.unet.apply(
            {"params": params["unet"]}, x, jnp.array([321.0]), cond
        )
        found = {"unet": value, "mean": model.encode(params, images)}
        return found | {"decoded": model.decode(params, x), **cond}

    found = run(params, model.tokens(["a cat"]), x, images)
    for name in ("text", "pooled", "unet", "mean", "decoded"):
        np.testing.assert_allclose(found[name], want[name], atol=2e-5, err_msg=name)


def test_files_that_lack_something_are_told(golden, tmp_path):
    folder, _ = golden("single")
    held = load_file(folder / "single.safetensors")
    configs = {
        part: json.loads((folder / part / "config.json").read_text())
        for part in ("unet", "vae")
    }
    path = tmp_path / "a.safetensors"
    without = {n: a for n, a in held.items() if not n.startswith("first_stage")}
    save_file(without, path)
    with pytest.raises(
        CorruptFileError, match="no 'vae': no tensor begins with 'first"
    ):
        published.open_single_file(path, configs)
    name = "model.diffusion_model.output_blocks.3.2.conv.bias"
    save_file(
        {n: a for n, a in held.items() if n != name}
        | {"model.diffusion_model.input_blocks.9.0.op.bias": held[name]},
        path,
    )
    part = published.open_single_file(path, configs)["unet"]
    with pytest.raises(CorruptFileError) as error:
        published.load_unet(part)
    assert "missing (up_blocks.1.upsamplers.0.conv.bias)" in str(error.value)
    assert "not used by the network (input_blocks.9.0.op.bias)" in str(error.value)
    with pytest.raises(ValueError, match="part 'lungs'; expected some of"):
        published.open_single_file(path, {"lungs": {}})


def test_stable_diffusion_2_leaves_the_last_layer_out(golden, tmp_path):
    """OpenCLIP's encoder of 24 layers is published with 23, without its projection."""
    folder, _ = golden("single")
    config = json.loads((folder / "text_encoder_2/config.json").read_text())
    own = {"architectures": ["CLIPTextModel"], "num_hidden_layers": 1}
    held = load_file(folder / "single.safetensors")
    second = {
        n.replace("conditioner.embedders.1", "cond_stage_model"): a
        for n, a in held.items()
        if n.startswith("conditioner.embedders.1.")
    }
    save_file(second, tmp_path / "a.safetensors")
    parts = {"text_encoder": config | own}
    part = published.open_single_file(tmp_path / "a.safetensors", parts)["text_encoder"]
    module, params = published.load_clip_text(part)
    assert (module.num_hidden_layers, module.projected) == (1, False)
    assert "encoder.layers.1" not in params
    shutil.rmtree(tmp_path)
