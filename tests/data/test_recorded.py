"""Recorded motions, of files that are made here: angles, words, and what is told."""

import json

import numpy as np
import pytest

from jaxlib_guidance.data import MOTION_CHANNELS, RECORDED_ACTIONS, load_motions
from jaxlib_guidance.data.motions import _recorded as module

ROOT, RIGHT_HIP, RIGHT_SHOULDER, LEFT_HIP, LEFT_SHOULDER = 4, 16, 25, 30, 39
CHEST, RIGHT_KNEE, RIGHT_ELBOW, LEFT_KNEE, LEFT_ELBOW = 8, 20, 29, 34, 43
AXES = {"x": 1, "y": 2, "z": 3}


def turn(axis, angle):
    """A quaternion ``(w, x, y, z)``."""
    found = np.zeros(4)
    found[0], found[AXES[axis]] = np.cos(angle / 2), np.sin(angle / 2)
    return found


def frames(**angles):
    """Frames of 44 numbers at rest but for turns "PLACE_AXIS", a tenth of a second."""
    count = len(next(iter(angles.values())))
    table = np.zeros((count, 44))
    table[:, 0], table[:, 2] = 0.1, 0.9
    for place in (ROOT, CHEST, 12, RIGHT_HIP, 21, RIGHT_SHOULDER, LEFT_HIP, 35):
        table[:, place] = 1
    table[:, LEFT_SHOULDER] = 1
    for name, values in angles.items():
        place, axis = name.rsplit("_", 1)
        at = globals()[place]
        if axis == "bend":
            table[:, at] = values
        else:
            table[:, at : at + 4] = [turn(axis, value) for value in values]
    return table


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a file for each action, by a function of the action."""
    folder = tmp_path / "pybullet_data" / "data" / "motions"
    folder.mkdir(parents=True)
    (tmp_path / "pybullet_data" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    module._recording.cache_clear()

    def write(make):
        for action in RECORDED_ACTIONS:
            given = {"Loop": "wrap", "Frames": make(action).tolist()}
            (folder / f"humanoid3d_{action}.txt").write_text(json.dumps(given))

    yield write
    module._recording.cache_clear()


def channel(poses, name):
    return poses[:, MOTION_CHANNELS.index(name)]


def test_the_numbers_are_angles_of_the_body(installed):
    """Wherever it goes and faces."""
    swing = np.linspace(-1.0, 1.2, 9)
    bend, raised = np.linspace(0, 1.5, 9), np.linspace(0, 1.0, 9)
    table = frames(
        ROOT_y=np.linspace(0, 3.0, 9),
        RIGHT_HIP_z=swing,
        LEFT_HIP_z=-0.5 * swing,
        RIGHT_KNEE_bend=-bend,
        LEFT_ELBOW_bend=bend,
        RIGHT_SHOULDER_x=-raised,
        LEFT_SHOULDER_z=swing,
    )
    table[:, 1], table[:, 2] = np.arange(9), 0.9 * (1 + 0.1 * np.arange(9))
    installed(lambda action: table)
    poses, seconds = module._recording("walk")
    assert seconds == pytest.approx(0.8)
    want = {
        "height": 0.1 * np.arange(9),
        "right hip": swing,
        "left hip": -0.5 * swing,
        "right knee": bend,
        "left elbow": bend,
        "right raise": raised,
        "left shoulder": swing,
    }
    for name in MOTION_CHANNELS:
        got = channel(poses, name)
        np.testing.assert_allclose(got, want.get(name, 0 * swing), atol=1e-9)
    # A body that bends forward takes its arms and legs with it.
    installed(lambda action: frames(ROOT_z=-raised, CHEST_z=-bend))
    module._recording.cache_clear()
    poses, _ = module._recording("walk")
    np.testing.assert_allclose(channel(poses, "lean"), raised + bend, atol=1e-9)
    np.testing.assert_allclose(channel(poses, "left hip"), -raised, atol=1e-9)
    arm = -(raised + bend)
    np.testing.assert_allclose(channel(poses, "left shoulder"), arm, atol=1e-9)


def test_what_is_said_of_a_clip_is_true(installed):
    """Number, place and side, of files whose right hip rises once."""
    rise = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(11) / 10)
    installed(lambda action: frames(RIGHT_HIP_z=rise))
    found = load_motions(3, 120)
    assert found.poses.shape == (120, 48, 12)
    assert set(found.labels) == set(range(len(RECORDED_ACTIONS)))
    for i, (first, stop) in enumerate(found.spans):
        poses, action = found.poses[i], RECORDED_ACTIONS[found.labels[i]]
        assert (poses[:first] == 0).all()
        assert (poses[stop:] == 0).all()
        words = found.texts[i].split()
        assert action in words
        side = "left" if np.abs(channel(poses, "left hip")).max() > 0.1 else "right"
        hip = channel(poses, f"{side} hip")
        assert np.abs(poses).sum() == pytest.approx(np.abs(hip).sum(), abs=1e-3)
        if action in ("kick", "punch"):
            assert side in words
        high = np.concatenate([[0], hip > 0.5 * hip.max(), [0]])
        assert (np.diff(high.astype(int)) == 1).sum() == found.counts[i]
        told = [n for n in words if n in ("one", "two", "three", "four", "five")]
        numbers = ("one", "two", "three", "four", "five")
        assert not told or numbers[found.counts[i] - 1] == told[0]
    again = load_motions(3, 5)
    np.testing.assert_array_equal(again.poses, found.poses[:5])
    for count, size in ((-1, 48), (1, 31)):
        with pytest.raises(ValueError, match="expected at least 32 frames"):
            load_motions(0, count, size)


def test_without_the_package_it_is_told_what_to_install(monkeypatch):
    module._recording.cache_clear()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps pybullet"):
        load_motions(0, 1)
