"""Folders of tiny published models, written once for all tests of a process."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.attention import (
    Edit,
    FeatureEdit,
    blur,
    combine,
    identity,
    match_sites,
)
from jaxlib_guidance.diffusion import VPCosine, parametrize
from jaxlib_guidance.guidance import chain, guided, nag, pag, redirect, seg
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.types import Context

PATH = Path(__file__).parent / "published_files.py"
SPEC = importlib.util.spec_from_file_location("published_files", PATH)
files = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(files)


class Golden(NamedTuple):
    """A folder as published, and what the reference gave: arrays by name."""

    folder: Path
    arrays: dict


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """``golden(name)``: the folder and the arrays that make.py stored."""
    made = {}

    def get(name):
        if name not in made:
            record, arrays = files.read_golden(name)
            folder = tmp_path_factory.mktemp(name)
            files.write_folder(record, folder)
            made[name] = Golden(folder, arrays)
        return made[name]

    return get


@pytest.fixture(scope="session")
def torch_state(write_torch):
    """``torch_state(path, tensors)`` writes float32 tensors as torch.save does."""
    write, tensor = write_torch

    def save(path, tensors):
        tree, storages = {}, {}
        for i, (name, a) in enumerate(tensors.items()):
            strides = tuple(s // a.itemsize for s in a.strides)
            tree[name] = tensor("Float", str(i), a.size, 0, a.shape, strides)
            storages[str(i)] = a.tobytes()
        write(path, tree, storages)

    return save


def check_network(module, params, x, t, cond, place, *, unfelt=()):
    """The laws of a network with sites; ``place`` is where `pag` and `seg` work.

    No control and an empty one are the same program; every tap is captured; every site
    and every feature takes an edit, which the value feels; guidance is by the edits
    that it names, and also by `redirect` and `nag`. ``unfelt`` are features whose next
    norm removes what is added.
    """
    x, t = jnp.asarray(x), jnp.asarray(t)

    def call(params, **options):
        return module.apply({"params": params}, x, t, cond, **options)

    plain, empty = (
        str(jax.make_jaxpr(lambda p, o=o: call(p, **o))(params))
        for o in ({}, {"control": {}, "capture": ()})
    )
    assert plain == empty
    value, maps = jax.eval_shape(lambda p: call(p, capture=module.taps), params)
    assert (value.dtype, value.shape) == (jnp.float32, x.shape)
    assert set(maps) == set(module.taps)
    assert all(a.shape[0] == x.shape[0] for a in maps.values())
    process, places = VPCosine(), (*module.sites, *module.feature_sites)
    count = len(places)

    def same(a, times):
        """The first sample as many times, so that each may have its own gates."""
        return jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[:1], times, 0), a)

    def guide(params, *terms):
        """The guided x0 of the first sample."""
        term = guided(
            parametrize(from_linen(module, params), process, "eps"), chain(*terms)
        )
        one, time = same(x, 1), jnp.full(1, 0.4)
        levels = (f(time)[:, None, None, None] for f in (process.alpha, process.sigma))
        keys = rng.sample_keys(jax.random.key(0), 1)
        context = Context(
            *(one, time, *levels, same(cond, 1), keys, process),
            *(jnp.int32(0), 1, time, 0 * time),
        )
        return term(context, term.init(one))[0]

    @jax.jit
    def run(params):
        """The value as each site is edited alone, and x0 guided and by hand."""
        edits = {
            place: Edit(query_blur=0.7 * gate)
            if place in module.sites
            else FeatureEdit(skip=1 + gate)
            if place.endswith("/join")
            else FeatureEdit(
                add=gate[:, None] * jnp.linspace(0, 1, maps[place].shape[-1])
            )
            for place, gate in zip(places, jnp.eye(count, count + 1), strict=True)
        }
        many = (same(a, count + 1) for a in (x, t, cond))
        each = module.apply({"params": params}, *many, control=edits)[0]
        denoiser = parametrize(from_linen(module, params), process, "eps")
        edit = combine(identity(jnp.eye(3)[1]), blur(0.7 * jnp.eye(3)[2]))
        time = jnp.full(3, 0.4)
        here = dict.fromkeys(match_sites(place, module.sites), edit)
        base, alone, blurred = jnp.split(
            denoiser(same(x, 3), time, same(cond, 3), control=here).x0, 3
        )
        want = base + 2.0 * (base - alone) + 0.5 * (base - blurred)
        moved = jnp.stack([alone - base, blurred - base])
        terms = pag(2.0, place), seg(0.5, place, 0.7)
        return each, moved, guide(params, *terms), want

    each, moved, found, want = run(params)
    changed = np.abs(each[:-1] - each[-1]).max((1, 2, 3))
    felt = {name: a for name, a in zip(places, changed, strict=True) if a > 1e-5}
    assert {*felt, *unfelt} == {*places}, felt
    assert (np.abs(moved).max((1, 2, 3, 4)) > 1e-5).all()
    np.testing.assert_allclose(found, want, atol=1e-4, rtol=1e-4)
    (site, *_) = match_sites(place, module.sites)
    terms = [redirect(1.0, site, jnp.arange(maps[site].shape[-1]) % 2)]
    if any(site.endswith("/cross") for site in module.sites):
        terms.append(nag(2.0, same(cond, 1)))
    assert jax.eval_shape(guide, params, *terms).shape == (1, *x.shape[1:])


def check_half(module, params, inputs, want):
    """bfloat16 parameters and computation are within 3 % of the reference, by rms."""
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(params))
    run = jax.jit(lambda *inputs: module.apply({"params": params}, *inputs)[0])
    value = run(*(jax.tree.map(jnp.asarray, each) for each in inputs))
    rms = np.sqrt(np.mean((value - want) ** 2) / np.mean(np.asarray(want) ** 2))
    assert value.dtype == jnp.float32
    assert rms < 0.03, rms


@pytest.fixture(scope="session")
def half():
    return check_half


@pytest.fixture(scope="session")
def laws():
    return check_network


@pytest.fixture(autouse=True)
def _all_digits():
    """The acceptance is that of float32 products: accelerators round more."""
    with jax.default_matmul_precision("highest"):
        yield
