"""LoRA files merged while a model is read give what diffusers gives with them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published
from jaxlib_guidance.training import init_state, make_train_step

SCALE = 0.7


@pytest.mark.parametrize(
    "name",
    ["peft", *(pytest.param(n, marks=pytest.mark.slow) for n in ("kohya", "xl"))],
)
def test_networks_with_a_file_are_those_of_diffusers(golden, name):
    files, want = golden("lora")
    folder = golden("sdxl" if name == "xl" else "sd15").folder
    lora = [published.read_lora(files / f"{name}.safetensors", SCALE)]
    parts = ["unet", "vae"] if name == "xl" else ["unet", "vae", "text_encoder"]
    model, params = published.load_published(folder, parts=parts, lora=lora)
    cond = {"text": want[f"{name} text"]}
    if name == "xl":
        cond |= {"pooled": want["pooled"], "time_ids": want["time_ids"]}
    else:
        text = jax.jit(model.condition)(params, model.tokens(["a cat"]))
        np.testing.assert_allclose(text["text"], want[f"{name} cond"], atol=1e-5)
    run = jax.jit(lambda p, *args: model.unet.apply({"params": p}, *args)[0])
    value = run(params["unet"], jnp.asarray(want["x"]), jnp.array([321.0]), cond)
    np.testing.assert_allclose(value, want[f"{name} unet"], atol=1e-5)
    assert np.abs(want[f"{name} unet"] - want[f"{name} plain"]).max() > 0.1


@pytest.mark.parametrize("name", ["sd3", pytest.param("flux", marks=pytest.mark.slow)])
def test_transformers_with_a_file_are_those_of_diffusers(golden, name):
    files, want = golden("lora_transformers")
    folder, given = golden(f"{name}_pipeline")
    lora = [published.read_lora(files / f"{name}.safetensors", SCALE)]
    model, params = published.load_published(folder, lora=lora)
    cond = {key: jnp.asarray(given[key][:1]) for key in ("text", "pooled")}
    t = jnp.array([321.0])
    if name == "sd3":
        text = jax.jit(model.condition)(params, model.tokens(["a cat"]))
        np.testing.assert_allclose(text["text"][:, :77], want["sd3 text"], atol=1e-5)
        np.testing.assert_allclose(text["pooled"], want["sd3 pooled"], atol=1e-5)
    else:
        cond["guidance"], t = jnp.array([3.5]), t / 1000
    run = jax.jit(lambda p, *args: model.transformer.apply({"params": p}, *args)[0])
    value = run(params["transformer"], jnp.asarray(given["eps"]), t, cond)
    np.testing.assert_allclose(value, want[f"{name} value"], atol=1e-5)
    assert np.abs(want[f"{name} value"] - want[f"{name} plain"]).max() > 0.1


def test_scales_add_and_no_scale_is_no_change(golden):
    folder, path = golden("sd15").folder, golden("lora").folder / "peft.safetensors"

    def load(*scales):
        lora = [published.read_lora(path, scale) for scale in scales]
        parts = ["unet", "text_encoder"]
        return published.load_published(folder, parts=parts, lora=lora)[1]

    plain, off = load(), load(0.0)
    jax.tree.map(np.testing.assert_array_equal, plain, off)
    twice, once = load(0.2, 0.3), load(0.5)
    changed = []

    def compare(a, b, c):
        np.testing.assert_allclose(a, b, atol=1e-6)
        changed.append(bool(np.any(np.asarray(b) != np.asarray(c))))

    jax.tree.map(compare, twice, once, plain)
    assert sum(changed) == 8


def test_alpha_stands_in_the_metadata_of_peft(tmp_path):
    path = tmp_path / "a.safetensors"
    name = "unet.mid_block.attentions.0.proj_in"
    held = {
        f"{name}.lora_A.weight": np.ones((4, 3), np.float32),
        f"{name}.lora_B.weight": np.ones((5, 4), np.float32),
    }
    about = {"unet.lora_alpha": 8, "unet.alpha_pattern": {}}
    save_file(held, path, metadata={"lora_adapter_metadata": json.dumps(about)})
    found = published.read_lora(path).layers["unet"]
    assert found["mid_block.attentions.0.proj_in"][2] == 2.0


A, B = np.ones((2, 16), np.float32), np.ones((16, 2), np.float32)
Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({f"{Q}.lora_A.weight": A}, "lacks its up"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B.T}, "has matrices"),
        ({f"{Q}.dora_scale": A}, "is no layer of LoRA; DoRA, LoHa and LoKr"),
        ({"lora_unet_mid.hada_w1_a": A}, "is no layer of LoRA"),
        ({"unet.x.lora_A.weight": A, "unet.x.lora_B.weight": B}, "are not of the 'une"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}, "the change is (16, 16)"),
    ],
)
def test_files_that_do_not_fit_are_told(golden, tmp_path, held, told):
    path = tmp_path / "a.safetensors"
    save_file(held, path)
    with pytest.raises(CorruptFileError, match=re.escape(told)):
        published.load_published(
            golden("sd15").folder, parts=["unet"], lora=[published.read_lora(path)]
        )


def test_a_part_that_is_changed_must_be_loaded(golden):
    lora = [published.read_lora(golden("lora").folder / "peft.safetensors")]
    with pytest.raises(ValueError, match="changes the part 'text_encoder', which is"):
        published.load_published(golden("sd15").folder, parts=["unet"], lora=lora)


@pytest.fixture(scope="module")
def trained(golden, tmp_path_factory):
    """A change of rank 4 after 20 steps: losses, its file, and what it gives."""
    model, params = published.load_published(golden("sd15").folder, parts=["unet"])
    frozen, key = params["unet"], jax.random.key(1)
    targets = ("to_q", "to_v", "conv1")
    factors = published.init_lora(key, frozen, targets=targets)
    x = jax.random.normal(key, (4, 6, 8, 4))
    noise = jax.random.normal(jax.random.key(2), x.shape)
    t = jnp.array([100.0, 300.0, 500.0, 900.0])
    cond = {"text": jax.random.normal(key, (4, 5, 24))}

    def value(factors, frozen, x, t, cond):
        merged = published.merge_lora(frozen, factors, alpha=8.0)
        return model.unet.apply({"params": merged}, x, t, cond)[0]

    def loss(factors, rows, keys, frozen):
        *given, noise = rows
        error = value(factors, frozen, *given) - noise
        return jnp.mean(error**2, (1, 2, 3)), {}

    tx, losses = optax.adam(3e-3), []
    step, state = make_train_step(loss, tx), init_state(factors, tx, key)
    for _ in range(20):
        state, metrics = step(state, (x, t, cond, noise), None, frozen)
        losses.append(float(metrics["loss"]))
    path = tmp_path_factory.mktemp("lora") / "trained.safetensors"
    published.write_lora(path, frozen, state.params, alpha=8.0)
    return losses, path, value(state.params, frozen, x, t, cond), (x, t, cond)


@pytest.mark.slow
def test_a_trained_change_lowers_its_loss_and_is_read_back(golden, trained):
    losses, path, want, (x, t, cond) = trained
    assert losses[-1] < 0.8 * losses[0]
    lora = [published.read_lora(path)]
    folder = golden("sd15").folder
    model, params = published.load_published(folder, parts=["unet"], lora=lora)
    got, _ = model.unet.apply({"params": params["unet"]}, x, t, cond)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_diffusers_reads_a_trained_change(golden, trained):
    """Needs the references, which the parity extra brings."""
    torch, diffusers = map(pytest.importorskip, ("torch", "diffusers"))
    _, path, want, (x, t, cond) = trained
    folder = golden("sd15").folder
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    given = np.moveaxis(np.asarray(x), -1, 1), np.asarray(t), np.asarray(cond["text"])
    with torch.no_grad():
        got = pipe.unet(*map(torch.tensor, given)).sample
    np.testing.assert_allclose(np.moveaxis(got.numpy(), 1, -1), want, atol=1e-4)


def test_changes_of_other_layers_are_refused(tmp_path):
    params = {"mid_block": {"to_q": {"kernel": jnp.ones((3, 5))}}}
    factors = published.init_lora(jax.random.key(0), params)
    assert list(factors) == ["mid_block.to_q"]
    same = published.merge_lora(params, factors)
    np.testing.assert_array_equal(same["mid_block"]["to_q"]["kernel"], 1)
    with pytest.raises(ValueError, match="select no layer"):
        published.init_lora(jax.random.key(0), params, targets=["ff"])
    with pytest.raises(ValueError, match="rank is 0"):
        published.init_lora(jax.random.key(0), params, rank=0)
    other = {"up": factors["mid_block.to_q"]}
    with pytest.raises(ValueError, match="factors change .'up'., no layers"):
        published.merge_lora(params, other)
    with pytest.raises(ValueError, match="factors change .'up'., no layers"):
        published.write_lora(tmp_path / "a.safetensors", params, other)
    with pytest.raises(ValueError, match="path is .*a.bin' and part 'unet'"):
        published.write_lora(tmp_path / "a.bin", params, factors)


@pytest.mark.parametrize("split", [0, 1])
def test_matrices_that_are_too_large_are_told_of_a_slice_too(tmp_path, split):
    """On several devices a layer is read in slices, and a slice would fit."""
    held = {
        f"{Q}.lora_A.weight": np.ones((2, 16 + 8 * split), np.float32),
        f"{Q}.lora_B.weight": np.ones((24 - 8 * split, 2), np.float32),
    }
    save_file(held, tmp_path / "a.safetensors")
    lora = published.read_lora(tmp_path / "a.safetensors")
    name = f"{Q.removeprefix('unet.')}.weight"
    told = re.escape("has shape (16, 16); the change is (")
    with pytest.raises(CorruptFileError, match=told):
        lora.change("unet", {name: (16, 16)})


def test_factors_of_peft_that_are_not_alpha_over_rank(tmp_path):
    path = tmp_path / "a.safetensors"
    held = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}

    def factor(about):
        text = json.dumps({f"unet.{key}": value for key, value in about.items()})
        save_file(held, path, metadata={"lora_adapter_metadata": text})
        ((_, _, found),) = published.read_lora(path).layers["unet"].values()
        return found

    assert factor({"lora_alpha": 8}) == 4
    rooted = factor({"lora_alpha": 8, "use_rslora": True})
    assert rooted == pytest.approx(8 / 2**0.5)
    ends = {"attn1.to_q": 6, "to_q": 1}
    assert factor({"lora_alpha": 8, "alpha_pattern": ends}) == 3
    assert factor({"lora_alpha": 8, "alpha_pattern": {"q": 6}}) == 4
    with pytest.raises(ValueError, match="scale is nan; expected a finite number"):
        published.read_lora(path, float("nan"))
    save_file({}, path)
    with pytest.raises(CorruptFileError, match="has no layer of LoRA"):
        published.read_lora(path)


def test_changes_of_other_shapes_and_ranks_are_refused(tmp_path):
    layer = {"to_q": {"kernel": jnp.ones((3, 5))}, "to_k": {"kernel": jnp.ones((3, 5))}}
    params, path = {"mid": layer}, tmp_path / "a.safetensors"
    factors = published.init_lora(jax.random.key(0), params)
    wrong = factors | {"mid.to_q": {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 5))}}
    told = re.escape("'mid.to_q' have shapes a (4, 2) and b (2, 5); expected (3, rank)")
    with pytest.raises(ValueError, match=told):
        published.merge_lora(params, wrong)
    with pytest.raises(ValueError, match=told):
        published.write_lora(path, params, wrong)
    two = factors | {"mid.to_q": {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 5))}}
    with pytest.raises(ValueError, match="factors have ranks .2, 4.; expected"):
        published.write_lora(path, params, two)
    with pytest.raises(ValueError, match="factors have ranks ..; expected"):
        published.write_lora(path, params, {})
