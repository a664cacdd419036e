"""SD3 and Flux give what diffusers' give, edited as its perturbed attention does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import combine, identity, match_sites, skip
from jaxlib_guidance.models import published

LOADERS = {
    "sd3": published.load_sd3,
    "sd35": published.load_sd3,
    "flux": published.load_flux,
    "flux_guided": published.load_flux,
}


# The networks with more parts; those with fewer are slow tests.
FULL = ("sd35", "flux_guided")
NAMES = [
    name if name in FULL else pytest.param(name, marks=pytest.mark.slow)
    for name in LOADERS
]


@pytest.fixture(scope="module", params=["sd3", *NAMES[1:]])
def loaded(request, golden):
    folder, want = golden(request.param)
    module, params = LOADERS[request.param](published.open_part(folder))
    names = "text", "pooled", "guidance"
    cond = {name: jnp.asarray(want[name]) for name in names if name in want}
    return module, params, want, cond


def test_values_maps_and_perturbations_are_those_of_diffusers(loaded):
    module, params, want, cond = loaded
    site = "block0/joint"

    @jax.jit
    def run(params, alone, left_out):
        x, t = jnp.asarray(want["x"]), jnp.asarray(want["t"])
        edit = combine(identity(alone), skip(left_out))
        control = dict.fromkeys(match_sites("block0", module.sites), edit)
        return module.apply(
            {"params": params}, x, t, cond, control=control, capture=(site,)
        )

    value, maps = run(params, 0.0, 0.0)
    np.testing.assert_allclose(value, want["value"], atol=1e-5)
    np.testing.assert_allclose(maps[site], want["map"], atol=1e-6)
    if "perturbed" in want:
        found, _ = run(params, 1.0, 0.0)
        np.testing.assert_allclose(found, want["perturbed"], atol=1e-5)
        assert np.abs(found - value).max() > 0.1
    if "skipped" in want:
        found, _ = run(params, 0.0, 1.0)
        np.testing.assert_allclose(found, want["skipped"], atol=1e-5)
        assert np.abs(found - value).max() > 0.1


@pytest.mark.share(2)
@pytest.mark.parametrize("loaded", NAMES, indirect=True)
def test_sites_and_taps_obey_the_laws(loaded, laws):
    module, params, want, cond = loaded
    laws(module, params, want["x"], want["t"], cond, "block0")


def test_conditions_and_shapes_that_do_not_fit_are_told(loaded):
    module, params, want, cond = loaded
    x, t, text = jnp.asarray(want["x"]), jnp.asarray(want["t"]), cond["text"]
    flux = isinstance(module, published.Flux)
    cases = [
        ((x, t, None), "cond is NoneType; expected a dict with text, pooled"),
        ((x, t, {"text": text}), r"cond has \['text'\]"),
        (
            (x, t, cond | {"text": text[0]}),
            r"text has shape \(5, 20\); expected \[2, t",
        ),
        ((x, t, cond | {"pooled": text}), r"pooled has shape .*; expected \[2, 12\]"),
        ((x[:, 1:], t, cond), "even sides" if flux else "multiples of 2"),
    ]
    if flux:
        other = dict(cond)
        other.pop("guidance", None) is None and other.update(guidance=t)
        cases.append(((x, t, other), "guidance"))
    else:
        big = jnp.zeros((2, 16, 2, x.shape[-1]))
        cases.append(((big, t, cond), r"\(8, 1\) tokens; positions are for at most 7"))
    for given, told in cases:
        with pytest.raises(ValueError, match=told):
            module.apply({"params": params}, *given)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("sd3", "qk_norm", "layer_norm"),
        ("sd3", "caption_projection_dim", 25),
        ("sd3", "new_key", 1),
        ("flux", "patch_size", 2),
        ("flux", "axes_dims_rope", [4, 4, 6]),
    ],
)
def test_what_is_not_computed_is_refused_by_key(golden, name, key, value):
    part = published.open_part(golden(name).folder)
    part = dataclasses.replace(part, config={**part.config, key: value})
    with pytest.raises(ValueError, match=f"config.json: '{key}' is"):
        LOADERS[name](part)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_half_precision_is_near(golden, half, name):
    folder, want = golden(name)
    module, params = LOADERS[name](published.open_part(folder), dtype=jnp.bfloat16)
    names = "text", "pooled", "guidance"
    cond = {name: want[name] for name in names if name in want}
    half(module, params, (want["x"], want["t"], cond), want["value"])
