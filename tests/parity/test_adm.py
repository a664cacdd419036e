"""ADM gives what guided-diffusion's gives, from a `.pt` file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published

TINY = dict(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_ds=(2,))
FLAGS = {
    "adm_film": TINY | dict(num_classes=5, num_head_channels=16),
    "adm_plain": TINY
    | dict(
        out_channels=3,
        num_classes=None,
        num_heads=2,
        num_head_channels=None,
        use_scale_shift_norm=False,
        resblock_updown=False,
        use_new_attention_order=True,
    ),
}
ENDS = ("middle_block.1/attn", "output_blocks.1.1/attn")


@pytest.fixture(scope="module")
def loaded(golden, tmp_path_factory, torch_state):
    def get(name):
        folder, want = golden(name)
        path = tmp_path_factory.mktemp(name) / "model.pt"
        torch_state(path, load_file(folder / "model.safetensors"))
        module, params = published.load_adm(path, published.ADM(**FLAGS[name]))
        return module, params, want, want["labels"] if module.num_classes else None

    return get


@pytest.mark.parametrize(
    "name", ["adm_film", pytest.param("adm_plain", marks=pytest.mark.slow)]
)
def test_values_and_maps_are_those_of_the_authors(loaded, name):
    module, params, want, cond = loaded(name)
    full = module.clone(variance=True)
    run = jax.jit(
        lambda x: full.apply({"params": params}, x, want["t"], cond, capture=ENDS)
    )
    value, maps = run(jnp.asarray(want["x"]))
    np.testing.assert_allclose(value, want["value"], atol=1e-5)
    # The authors' scale queries and keys before their product, which rounds more.
    np.testing.assert_allclose(maps[ENDS[0]], want["middle"], atol=2e-6)
    np.testing.assert_allclose(maps[ENDS[1]], want["last"], atol=2e-6)


@pytest.mark.slow
def test_sites_and_taps_obey_the_laws(loaded, laws):
    module, params, want, cond = loaded("adm_film")
    # The norm of the head has groups of one channel.
    last = ("output_blocks.3",)
    inputs = want["x"], want["t"], cond
    laws(module, params, *inputs, "middle_block*", unfelt=last)


@pytest.mark.slow
def test_half_precision_is_near(loaded, half):
    module, params, want, cond = loaded("adm_film")
    module = module.clone(dtype=jnp.bfloat16)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    half(module, params, (want["x"], want["t"], cond), want["value"][..., :3])


# Numbers of parameters that the authors' create_model gives with the README's flags.
COUNTS = {
    "64x64_diffusion": 295_904_454,
    "128x128_diffusion": 421_529_606,
    "256x256_diffusion": 553_838_086,
    "256x256_diffusion_uncond": 552_814_086,
    "512x512_diffusion": 558_997_638,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_published_size(name):
    module = published.adm_preset(name)
    x, t = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), jnp.zeros(1)
    cond = None if module.num_classes is None else jnp.zeros(1, jnp.int32)
    shapes = published.parameter_shapes(module.init, x, t, cond)
    assert published.count_parameters(shapes) == COUNTS[name]


def test_sites_have_the_names_that_pag_uses():
    """arXiv 2403.17377's released code perturbs these four of the 256 pixel model."""
    sites = published.adm_preset("256x256_diffusion_uncond").sites
    inputs = [f"input_blocks.{n}.1/attn" for n in (14, 16, 17)]
    assert {*inputs, "middle_block.1/attn", "output_blocks.3.1/attn"} <= {*sites}


def test_what_does_not_fit_is_refused(loaded, golden, tmp_path, torch_state):
    module, params, want, cond = loaded("adm_film")
    x, t = jnp.asarray(want["x"]), jnp.asarray(want["t"])
    for given, told in (
        ((x, t, None), r"cond is None; expected integer labels \(2,\)"),
        ((x, t, jnp.array([0, 5])), "expected 0 to 4"),
        ((x[:, :7], t, cond), "multiples of 2"),
    ):
        with pytest.raises(ValueError, match=told):
            module.apply({"params": params}, *given)
    with pytest.raises(ValueError, match="name is 'cifar'; expected one of"):
        published.load_adm("model.pt", "cifar")
    tensors = load_file(golden("adm_film").folder / "model.safetensors")
    del tensors["out.0.bias"]
    torch_state(tmp_path / "x.pt", tensors | {"more": np.zeros(2, "f4")})
    with pytest.raises(CorruptFileError, match=r"missing \(out.0.bias\) and .*\(more"):
        published.load_adm(tmp_path / "x.pt", module)
