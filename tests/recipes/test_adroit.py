"""train/adroit_data.py and benchmarks/adroit.py: experts that are read, not run."""

import importlib.util
import itertools
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SIZES = (39, 4, 28)


def load(kind, name):
    path = ROOT / kind / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{kind}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


recipe = load("train", "adroit_data")


class Named:
    """Something that a pickle names, with arguments and a state, as torch writes it."""

    def __init__(self, kind, args=(), state=None):
        self.parts = kind, args, state

    def __reduce__(self):
        return self.parts


@pytest.fixture
def kinds(monkeypatch):
    """Classes under the names that a file of mjrl has, of modules that are not here."""
    made = {}
    for path in (
        "mjrl.policies.gaussian_mlp.MLP",
        "mjrl.utils.fc_network.FCNetwork",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.linear.Linear",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.storage._load_from_bytes",
    ):
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for i in range(len(parts)):
            here = ".".join(parts[: i + 1])
            if here not in made:
                made[here] = types.ModuleType(here)
                monkeypatch.setitem(sys.modules, here, made[here])
        made[name] = type(name, (), {"__module__": module})
        setattr(made[module], name, made[name])
    return made


def tensor(kinds, x):
    """As PyTorch wrote tensors before 1.6: a storage with its numbers at the end."""
    x = np.asarray(x, "<f4")
    data = b"header" + x.size.to_bytes(8, "little") + x.tobytes()
    storage = Named(kinds["_load_from_bytes"], (data,))
    strides = tuple(n // 4 for n in x.strides)
    inside = Named(kinds["_rebuild_tensor_v2"], (storage, 0, x.shape, strides))
    return Named(kinds["_rebuild_parameter"], (inside, True))


def made_up(kinds, **changes):
    """A policy's file as bytes, and its numbers."""
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=(b, a)).astype("f4"), rng.normal(size=b).astype("f4"))
        for a, b in itertools.pairwise(SIZES)
    ]
    moved = {
        "in_shift": rng.normal(size=39),
        "in_scale": rng.uniform(1, 2, size=39),
        "out_shift": rng.normal(size=28),
        "out_scale": rng.uniform(1, 2, size=28),
    } | changes
    linear = {
        str(i): Named(
            kinds["Linear"],
            (),
            {"_parameters": {"weight": tensor(kinds, w), "bias": tensor(kinds, b)}},
        )
        for i, (w, b) in enumerate(layers)
    }
    several = Named(kinds["ModuleList"], (), {"_modules": linear})
    network = {"_modules": {"fc_layers": several}, "transformations": moved}
    state = {
        "model": Named(kinds["FCNetwork"], (), network),
        "log_std": tensor(kinds, np.full(28, -1.0)),
    }
    return pickle.dumps(Named(kinds["MLP"], (), state), 3), layers, moved


def test_an_expert_is_read_to_the_bit(kinds, tmp_path):
    data, layers, moved = made_up(kinds)
    (tmp_path / "door.pickle").write_bytes(data)
    policy = recipe.read_policy(tmp_path / "door.pickle")
    seen = np.linspace(-1, 1, 39)
    x = (seen - moved["in_shift"]) / (moved["in_scale"] + 1e-8)
    hidden = np.tanh(layers[0][0].astype(float) @ x + layers[0][1])
    out = layers[1][0].astype(float) @ hidden + layers[1][1]
    expected = out * moved["out_scale"] + moved["out_shift"]
    np.testing.assert_allclose(policy.act(seen), expected, rtol=1e-12)
    np.testing.assert_allclose(policy.std, np.exp(-1), rtol=1e-6)


def test_nothing_that_a_file_names_is_run(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("still here")
    path = tmp_path / "door.pickle"
    path.write_bytes(pickle.dumps(Named(os.remove, (str(victim),))))
    with pytest.raises(ValueError, match="is no door policy of mjrl"):
        recipe.read_policy(path)
    assert victim.exists()


def test_files_that_are_no_expert(kinds, tmp_path):
    path = tmp_path / "door.pickle"
    with pytest.raises(FileNotFoundError):
        recipe.read_policy(path)
    whole, _, _ = made_up(kinds)
    for data in (
        b"",
        b"no pickle",
        whole[: len(whole) // 2],
        pickle.dumps({"model": 1}),
        made_up(kinds, in_shift=np.zeros(45))[0],
        made_up(kinds, in_shift=np.zeros(39, "f4"))[0],
        whole.replace((112).to_bytes(8, "little"), (113).to_bytes(8, "little")),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="expected dapg/policies/door-v0.pickle"):
            recipe.read_policy(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0; expected at least 1"),
        ({"length": 0}, "length is 0; expected at least 1"),
        ({"persistence": 1.0}, "persistence is 1.0; expected 0 to below 1"),
        ({"halts": -0.1}, "halts is -0.1; expected 0 to below 1"),
        ({"noise": float("nan")}, "noise is nan; expected 0 to below inf"),
        ({"haste": 0.0}, "haste is 0.0; expected above 0, at most 1"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"out": Path("x.npy")}, "out is x.npy; expected a file that ends with .npz"),
    ],
)
def test_mistakes_of_the_data(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe.make(recipe.Config(Path("none"), **changes))


def test_the_extra_is_named(kinds, monkeypatch, tmp_path):
    path = tmp_path / "door.pickle"
    path.write_bytes(made_up(kinds)[0])
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(SystemExit, match=r"train/adroit_data.py: .*\[adroit\]"):
        recipe.main(recipe.Config(path, out=tmp_path / "x.npz"))


def test_data_that_are_there_outlive_a_full_disk(monkeypatch, tmp_path):
    made = {"actions": np.zeros((1, 2, 3)), "states": np.zeros((1, 2, 4))}
    monkeypatch.setattr(recipe, "make", lambda config: made)
    config = recipe.Config(tmp_path / "door.pickle", out=tmp_path / "x.npz")
    recipe.main(config)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        recipe.main(config)
    with np.load(config.out) as kept:
        assert kept["states"].shape == (1, 2, 4)


@pytest.mark.slow
def test_a_hand_in_mujoco_is_planned_for(tmp_path):
    pytest.importorskip("gymnasium_robotics", reason="the extra adroit")
    door = recipe.Door()
    assert door.reset(3).shape == (recipe.STATES,)
    np.testing.assert_array_equal(door.reset(3), door.reset(3))
    # Held, joints stay where they are; an open door stays open, but for its stop.
    seen = door.reset(3, angle=1.0)
    for _ in range(10):
        seen = door.step(door.hold())
    np.testing.assert_allclose(seen[recipe.HINGE], 1.0, atol=0.01)
    assert abs(seen[-1]) < 0.01

    rng, parts = np.random.default_rng(0), {"actions": [], "states": []}
    for seed in range(8):
        seen = [door.reset(seed)]
        actions = rng.uniform(-1, 1, (20, recipe.ACTIONS))
        seen += [door.step(action) for action in actions]
        parts["actions"].append(actions)
        parts["states"].append(seen[:-1])
    np.savez(tmp_path / "mine.npz", **parts)
    train, bench = load("train", "planner"), load("benchmarks", "adroit")
    train.train(
        train.Config(
            tmp_path / "run",
            episodes=tmp_path / "mine.npz",
            model=train.Model(width=8, blocks=1, horizon=12),
            optimiser=train.Optimiser(steps=4, batch=8),
        )
    )
    file, few = tmp_path / "run/ema.safetensors", {"hands": 2, "length": 4, "steps": 2}
    rows = "goal", "phases, dynamics, rate, best of 16"
    text = bench.main(bench.Config(file, judged=2, rows=rows, **few))
    assert len(text.splitlines()) == 2 + len(rows)
    with pytest.raises(SystemExit, match="no .*train/planner.py writes it"):
        bench.main(bench.Config(tmp_path / "none"))
