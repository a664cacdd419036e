"""Models from their configuration, and the weights in the package."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
import jaxlib_guidance.models
from jaxlib_guidance import rng
from jaxlib_guidance.data import embed_words, load_digits, load_emoji
from jaxlib_guidance.diffusion import VPCosine, linear_betas, perturb, vp_discrete
from jaxlib_guidance.models import (
    LM,
    ClassifierModel,
    DiffusionModel,
    completion_logp,
    from_config,
    load_pretrained,
    pretrained_names,
)

NAMES = (
    "digits",
    "digits_classifier",
    "digits_judge",
    "digits_weak",
    "emoji",
    "emoji_judge",
    "emoji_weak",
    "motion",
    "pedestrians",
    "sums_checker",
    "sums_plain",
    "sums_young",
)
CONFIG = {
    "network": {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "classes": 3},
    "process": {"kind": "cosine", "shift": 0.5},
    "parametrize": {"predicts": "v"},
    "shape": [4, 4, 1],
    "classes": 3,
}


def test_the_package_has_what_it_says_and_is_small():
    assert pretrained_names() == NAMES
    folder = Path(jaxlib_guidance.models.__file__).parent / "assets"
    assert max(f.stat().st_size for f in folder.iterdir()) <= 5_000_000
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 15_500_000


def test_a_model_is_built_from_plain_json():
    model = from_config(CONFIG)
    assert isinstance(model, DiffusionModel)
    assert model.process == VPCosine(shift=0.5)
    params = model.init(jax.random.key(0))
    x = jnp.ones((2, 4, 4, 1))
    out = jax.jit(lambda p: model.denoiser(p)(x, 0.5, jnp.array([0, 3])).x0)(params)
    assert out.shape == x.shape


def test_a_model_knows_the_scale_of_its_data():
    assert from_config(CONFIG).data_scale == 1
    assert from_config(CONFIG | {"data_scale": 2.5}).data_scale == 2.5
    measured = jg.data_scale(load_emoji("train").images)
    for name in ("emoji", "emoji_weak"):
        model = load_pretrained(name)[0]
        assert model.data_scale == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"kind": "mlp"}}, "network kind is 'mlp'"),
        ({"network": {"kind": "dit", "size": 3}}, "network 'dit' has no such option"),
        ({"process": {"kind": "vp"}}, "process kind is 'vp'"),
        ({"process": None}, "no 'process'"),
        ({"data_scale": 0}, "data_scale is 0; expected a number above 0"),
        ({"data_scale": "5"}, "data_scale is '5'; expected a number above 0"),
        ({"data_scale": True}, "data_scale is True; expected a number above 0"),
    ],
)
def test_configurations_that_do_not_work(change, message):
    with pytest.raises(ValueError, match=message):
        from_config(CONFIG | change)
    with pytest.raises(ValueError, match="config has no 'shape'"):
        from_config({"network": {"kind": "dit"}})


def test_unknown_names_list_the_known():
    with pytest.raises(FileNotFoundError, match="digits_judge"):
        load_pretrained("imagenet")


def test_the_judge_knows_real_digits():
    judge, params = load_pretrained("digits_judge")
    assert isinstance(judge, ClassifierModel)
    images, labels = load_digits("test")
    logits = jax.jit(judge.logits)(params, images)
    assert np.mean(np.argmax(logits, -1) == labels) > 0.98


def test_the_language_model_adds():
    """A right sum of one digit is likelier than each other sum, mostly."""
    lm, params = load_pretrained("sums_plain")
    assert isinstance(lm, LM)
    prompts = np.array([[a, 10, b, 11, 13] for a in range(10) for b in range(10)])
    sums = np.arange(19)
    answers = np.stack([sums // 10, sums % 10, np.full(19, 14)], 1)
    logp = jax.jit(lambda p, t: completion_logp(lm, params, p, t))(
        np.repeat(prompts, 19, 0), np.tile(answers, (100, 1))
    )
    best = np.argmax(np.sum(logp, -1).reshape(100, 19), 1)
    assert np.mean(best == prompts[:, 0] + prompts[:, 2]) > 0.9


def test_the_noisy_classifier_is_better_the_less_the_noise():
    model, params = load_pretrained("digits_classifier")
    images, labels = load_digits("test")
    eps = rng.normal(rng.sample_keys(jax.random.key(0), len(labels)), (8, 8, 1))
    run = jax.jit(
        lambda t: model.logits(params, perturb(model.process, images, eps, t), t)
    )
    clean, mid, noise = (
        np.mean(np.argmax(run(jnp.float32(t)), -1) == labels) for t in (0.02, 0.4, 0.99)
    )
    assert clean > 0.95
    with pytest.raises(ValueError, match="t is None; a classifier of noisy samples"):
        model.logits(params, images)
    assert clean > mid > noise + 0.2


@pytest.mark.parametrize(("name", "most"), [("digits", 0.05), ("digits_weak", 0.075)])
def test_the_diffusion_models_denoise_digits_they_have_not_seen(name, most):
    # At sigma / alpha = 0.5; the variance of a pixel is 0.57.
    model, params = load_pretrained(name)
    images, labels = load_digits("test")
    eps = rng.normal(rng.sample_keys(jax.random.key(0), len(labels)), (8, 8, 1))
    t = model.process.t_of_logsnr(jnp.float32(2 * np.log(2)))
    x = perturb(model.process, images, eps, t)
    x0 = jax.jit(lambda x: model.denoiser(params)(x, t, labels).x0)(x)
    assert np.mean((x0 - images) ** 2) < most


def test_a_smoothed_model_denoises_as_well_and_says_the_same_at_the_next_level():
    model, params = load_pretrained("digits")
    digits, labels = (a[:64] for a in load_digits("test"))
    noise = jax.random.normal(jax.random.key(0), digits.shape)
    levels = jnp.linspace(0.5, 0.52, 9)

    def errors(model):
        def at(t):
            x = perturb(model.process, digits, noise, levels[4])
            return model.denoiser(params)(x, t, labels).x0

        x0 = jax.jit(lambda: jax.lax.map(at, levels))()
        wave = x0 - jnp.linspace(x0[0], x0[-1], len(levels))
        return jnp.mean((x0[4] - digits) ** 2), jnp.abs(wave).mean()

    (rough, waved), (smooth, still) = errors(model), errors(model.smoothed(0.1))
    assert smooth < 1.005 * rough
    assert still < waved / 10
    assert errors(model.smoothed(0.0)) == (rough, waved)
    for wrong in ("0.1", [0.1], None, True, jnp.ones(1)):
        with pytest.raises(TypeError, match="time_window is .*; expected a Python num"):
            model.smoothed(wrong)
    with pytest.raises(ValueError, match="the network is Plain, which has no time_win"):
        dataclasses.replace(model, module=type("Plain", (), {})()).smoothed(0.1)


def test_the_emoji_model_reads_texts_and_denoises_what_it_has_not_seen():
    # At sigma / alpha = 2; the variance of a pixel is 0.38.
    model, params = load_pretrained("emoji")
    weak, weak_params = load_pretrained("emoji_weak")
    assert weak.module == model.module
    assert model.module.sites[:2] == ("block0/attn", "block0/cross")
    found = load_emoji("test")
    rows = slice(None, None, 6)
    images, count = found.images[rows], len(found.labels[rows])
    text, mask = embed_words(found.captions[rows])
    cond = {"label": found.labels[rows], "text": text, "text_mask": mask}
    t = model.process.t_of_logsnr(jnp.float32(-2 * np.log(2)))
    eps = rng.normal(rng.sample_keys(jax.random.key(0), count), model.shape)
    x = perturb(model.process, images, eps, t)
    run = jax.jit(lambda params, cond: model.denoiser(params)(x, t, cond).x0)

    def error(params, cond):
        return float(np.mean((run(params, cond) - images) ** 2))

    null = {
        "label": np.full_like(cond["label"], 9),
        "text": text,
        "text_mask": np.zeros_like(mask),
    }
    other = {name: value[::-1] for name, value in cond.items()}
    right = error(params, cond)
    assert right < 0.12
    assert right < error(weak_params, cond)
    assert right < error(params, null)
    assert right < error(params, other)


def test_the_judge_of_emoji_is_better_than_a_guess():
    judge, params = load_pretrained("emoji_judge")
    found = load_emoji("test")
    logits = jax.jit(judge.logits)(params, found.images)
    # A third would be all of the largest two categories.
    assert np.mean(np.argmax(logits, -1) == found.labels) > 0.5


def test_the_null_condition_has_the_form_of_the_condition():
    null = {"label": 3, "text": 0.0, "text_mask": False}
    assert from_config(CONFIG).null == 3
    network = CONFIG["network"] | {"text": 5}
    assert from_config(CONFIG | {"network": network}).null == null
    network = {"kind": "dit", "text": 5}
    made = from_config(CONFIG | {"network": network, "classes": None})
    assert made.null == {"text": 0.0, "text_mask": False}
    bare = {"network": {"kind": "dit"}, "classes": None}
    assert from_config(CONFIG | bare).null is None


def draw(labels, guidance=None, shape=(8, 8, 1)):
    model, params = load_pretrained("digits")
    keys = jg.sample_keys(jax.random.key(0), 2)
    return jg.sample(
        keys, model.denoiser(params), jg.ddim(), model.grid(2), shape, labels,
        guidance=guidance,
    )[0]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "null", "message"),
    [
        ([1, 11], 10, "label 11; expected 0, ..., 9, or 10 for no class"),
        ([1, -1], 10, "label -1; expected 0"),
        ([1, 2], 11, "condition of 'uncond' has label 11; expected 0"),
        ([1, 2], -1, "condition of 'uncond' has label -1"),
    ],
)
def test_labels_and_nulls_that_are_no_class_are_refused(labels, null, message):
    with pytest.raises(ValueError, match=message):
        draw(jnp.array(labels), jg.chain(jg.cfg(2.0, null=null)))


def test_a_null_is_refused_where_the_labels_are_traced():
    with pytest.raises(ValueError, match="condition of 'uncond' has label 11"):
        jax.eval_shape(lambda y: draw(y, jg.cfg(2.0, null=11)), jnp.array([1, 2]))


def test_traced_labels_that_are_no_class_are_nan_and_no_other_class():
    x = jax.jit(draw)(jnp.array([1, -2]))
    np.testing.assert_array_equal(np.isnan(x).all((1, 2, 3)), [False, True])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), r"x has shape \(2, 8, 8\); expected \[B, 8, 8, 1\]"),
        ((8, 8, 3), r"x has shape \(2, 8, 8, 3\); expected \[B, 8, 8, 1\]"),
        ((4, 8, 8, 1), "is that of one sample, without the batch"),
    ],
)
def test_a_model_says_what_its_samples_are(shape, message):
    with pytest.raises(ValueError, match=message):
        draw(jnp.array([1, 2]), shape=shape)


TABLE = CONFIG | {"parametrize": {"predicts": "eps"}}


def test_stored_tables_load_under_their_old_names():
    made = [
        from_config(TABLE | {"process": {"kind": "ddpm", "steps": 20, **ends}}).process
        for ends in (
            {"first": 1e-3, "last": 0.1},
            {"beta_start": 1e-3, "beta_end": 0.1},
        )
    ]
    want = vp_discrete(linear_betas(20, 1e-3, 0.1))
    for process in made:
        np.testing.assert_array_equal(process.log_alpha_bar, want.log_alpha_bar)


def test_a_stored_network_on_a_table_still_receives_the_time_it_was_trained_with():
    """`parametrize` alone would give it the table's index."""
    model = from_config(TABLE | {"process": {"kind": "ddpm"}})
    params = model.init(jax.random.key(0))
    params = jg.testing.randomise(jax.random.key(1), params)
    x, labels = jnp.ones((2, 4, 4, 1)), jnp.array([0, 2])
    got = jax.jit(lambda p: model.denoiser(p)(x, 0.5, labels).x0)(params)
    network = jg.models.from_linen(model.module, params)
    eps, _ = network(x, jnp.full(2, 0.5), labels)
    want = jg.convert(model.process, "eps", "x0", eps, x, 0.5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    index = jg.parametrize(network, model.process, "eps")(x, 0.5, labels).x0
    assert np.abs(index - want).max() > 1e-3
