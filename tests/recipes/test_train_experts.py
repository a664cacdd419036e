"""train/experts.py: experts are written as they are read, and what it refuses."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlib_guidance.models import load_pretrained, lora_merge, read_pretrained

RECIPE = Path(__file__).parents[2] / "train" / "experts.py"
JUDGE = "jaxlib_guidance/models/assets/digits_judge.safetensors"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_experts", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_teaches_and_is_read(recipe, tmp_path):
    config = recipe.Config(
        RECIPE.parents[1] / JUDGE,
        out=tmp_path / "two.safetensors",
        **{"experts": 2, "rank": 2, "steps": 60, "batch": 32},
        **{"samples": 64, "solver_steps": 3},
    )
    with jax.numpy_dtype_promotion("standard"):
        ends = recipe.train(config)
    assert len(ends) == 2
    assert ends[0] < ends[1]  # Less noise is easier.
    tree, about = read_pretrained(config.out)
    assert about["experts"]["experts"] == "2"
    _, base = load_pretrained("digits_judge")
    one = jax.tree.map(lambda leaf: leaf[0], tree["own"])
    merged = lora_merge(tree["shared"], one)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), merged, base)
    assert max(jax.tree.leaves(moved)) > 0


def test_a_classifier_of_noisy_samples_is_refused(recipe):
    path = RECIPE.parents[1] / JUDGE.replace("judge", "classifier")
    with pytest.raises(ValueError, match="expected one of clean samples"):
        recipe.train(recipe.Config(path))
