"""train/rewards.py: functions of jax or numpy, with or without labels."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

rewards = importlib.import_module("rewards")

FILE = """
import numpy as np
import beside

def red(images):
    return images[..., 0].mean((1, 2)) + beside.ZERO

def labelled(images, labels):
    return red(images) + labels.astype('float32')

def of_numpy(images):
    return np.sort(np.asarray(images).reshape(len(images), -1))[:, -1]

def with_if(images, scale=1.0):
    return images.mean((1, 2, 3)) if images.sum() > 0 else images.mean((1, 2, 3))

def whole(images):
    return images.mean()

def wide(images, labels, more):
    return images.mean((1, 2, 3))
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("ZERO = 0.0")
    (tmp_path / "score.py").write_text(FILE)
    return str(tmp_path / "score.py")


def test_a_reward_of_a_file_is_its_function(file):
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    labels = jnp.arange(4)
    red, host = images[..., 0].mean((1, 2)), images.reshape(4, -1).max(1)
    mean = images.mean((1, 2, 3))
    wanted = {
        "red": red,
        "labelled": red + labels.astype(red.dtype),
        "of_numpy": host,
        "with_if": mean,
    }
    for name, want in wanted.items():
        reward = rewards.load_reward(f"{file}:{name}", (2, 2, 3))
        for called in (reward, jax.jit(reward)):
            np.testing.assert_allclose(called(images, labels), want, rtol=1e-6)
    assert jax.grad(
        lambda x: rewards.load_reward(f"{file}:red", (2, 2, 3))(x, labels).sum()
    )(images)[0, 0, 0].tolist() == [0.25, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (":none", "has no function 'none'"),
        (":whole", r"gives \(\) of three images"),
        (":wide", r"takes 3 arguments; expected \(images\) or"),
        ("x:red", "there is no file"),
        ("", "expected file.py:function"),
    ],
)
def test_what_is_no_reward_is_refused(file, name, message):
    text = f"{file}{name}".replace(".pyx", "x.py")
    with pytest.raises(ValueError, match=message):
        rewards.load_reward(text, (2, 2, 3))


def test_an_edited_file_is_another_reward(file):
    before = rewards.identity(f"{file}:red")
    with open(file, "a") as more:
        more.write("# other\n")
    assert rewards.identity(f"{file}:red") != before
