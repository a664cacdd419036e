"""A state is checked when it is saved, and not only when it is read."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlib_guidance.training import (
    Checkpoints,
    Log,
    SaveError,
    TrainState,
    claim,
    fit,
    restore_weights,
)

X = jnp.arange(3.0)


def saved_and_read(folder, state):
    with Checkpoints(folder) as saved:
        saved.save(1, state)
        saved.wait()
        return saved.restore(1, state).state


@pytest.mark.parametrize(
    ("state", "first", "second"),
    [
        ({"a.b": X, "a": {"b": 10 * X}}, r"\['a'\]\['b'\]", r"\['a\.b'\]"),
        ({"l": [X], "l.0": 10 * X}, r"\['l'\]\[0\]", r"\['l\.0'\]"),
        (
            {"h.0.w": X, "h": {"0": {"w": X}}},
            r"\['h'\]\['0'\]\['w'\]",
            r"\['h\.0\.w'\]",
        ),
        ({"a.": X, "a": {"": X}}, r"\['a'\]\[''\]", r"\['a\.'\]"),
        (
            {"a.b": {"c": X}, "a": {"b.c": X}},
            r"\['a'\]\['b\.c'\]",
            r"\['a\.b'\]\['c'\]",
        ),
        ({"c": X, "c/": 10 * X}, r"\['c'\]", r"\['c/'\]"),
        ({"c": X, "c/": jnp.ones(4)}, r"\['c'\]", r"\['c/'\]"),
    ],
)
def test_leaves_that_would_share_a_place_are_refused_by_name(
    tmp_path, state, first, second
):
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(SaveError, match=f"state{first} and state{second} would be"),
    ):
        saved.save(1, state)


@pytest.mark.parametrize(
    "state",
    [
        {"a.b": X},
        {"a/b": X, "a": {"b": 10 * X}},
        {"a//b": X, "a/b": 10 * X},
        {"a": X, "a.b": 10 * X, "a/0": 3 * X, "a/.zarray": 4 * X},
        {"A": X, "a": 10 * X, "é": 2 * X, "e\u0301": 3 * X, " ": 4 * X},
        {"a": {1: X}, "b": {"1": 10 * X}, "": 2 * X, "..": 3 * X},
        {"none": None, "empty": {}, "tuple": (), "scalar": jnp.float32(3)},
    ],
)
def test_names_that_only_look_alike_come_back(tmp_path, state):
    jax.tree.map(np.testing.assert_array_equal, saved_and_read(tmp_path, state), state)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 0), "float32"), ((0, 4), "float32"), ((0,), "bool"), ((0,), "int32")],
)
def test_arrays_of_no_elements_are_refused_by_name(tmp_path, shape, dtype):
    state = {"w": X, "lora": {"a": jnp.zeros(shape, dtype)}}
    message = rf"state\['lora'\]\['a'\] has shape \({shape[0]},.*without elements"
    with Checkpoints(tmp_path) as saved, pytest.raises(SaveError, match=message):
        saved.save(1, state)


def test_no_keys_are_refused_by_name(tmp_path):
    state = {"keys": jax.random.split(jax.random.key(0), 3)[:0]}
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(SaveError, match=r"state\['keys'\] has shape \(0,\)"),
    ):
        saved.save(1, state)


KINDS = [
    "bool_", "int4", "uint4", "int8", "uint32", "float16", "bfloat16", "complex64",
    "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3fn", "float8_e5m2",
    "float8_e8m0fnu",
]  # fmt: skip


@pytest.mark.parametrize("name", [k for k in KINDS if hasattr(jnp, k)])
def test_a_type_comes_back_or_is_refused_at_once(tmp_path, name):
    value = jnp.asarray([1, 2, 2, 1]).astype(getattr(jnp, name))
    refused = name in ("uint4", "float8_e4m3")
    if refused:
        message = (
            rf"state\['a'\]\['w'\] is {name}, a type that a checkpoint cannot hold"
        )
        with Checkpoints(tmp_path) as saved, pytest.raises(SaveError, match=message):
            saved.save(1, {"a": {"w": value}})
    else:
        got = saved_and_read(tmp_path, {"w": value})["w"]
        assert got.dtype == value.dtype
        want = [1, 1, 1, 1] if name == "bool_" else [1, 2, 2, 1]
        np.testing.assert_array_equal(got.astype(jnp.complex64), want)


@pytest.mark.parametrize("state", [{}, (), X, {"a": None}])
def test_a_state_without_a_tree_of_arrays_is_refused(tmp_path, state):
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(SaveError, match="expected a tree of arrays"),
    ):
        saved.save(1, state)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w.b": X, "w": {"b": X}}, "would be written to one place"),
        ({"w": jnp.zeros((4, 0))}, r"state\.params\['w'\] has shape \(4, 0\)"),
        ({"w": X.astype(ml_dtypes.float8_e4m3)}, "is float8_e4m3"),
    ],
)
def test_the_loop_says_so_before_its_first_step(tmp_path, params, message):
    state = TrainState(jnp.int32(0), params, params, (), jax.random.key(0))

    def step(state, batch):
        pytest.fail("a step was taken")

    with pytest.raises(SaveError, match=message):
        fit(step, state, lambda i: None, steps=3, folder=tmp_path, log=Log())


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Checkpoints("~/run/checkpoints") as saved:
        assert saved.directory == tmp_path / "home" / "run" / "checkpoints"
        saved.save(1, {"ema": {"w": X}})
    np.testing.assert_array_equal(restore_weights("~/run").state["w"], X)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_link_to_nothing_is_explained(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for make in (Checkpoints, lambda place: claim(place, {})):
        with pytest.raises(
            FileExistsError, match=r"link is a link to .*gone, which is"
        ):
            make(tmp_path / "link")
