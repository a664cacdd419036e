"""One vocabulary: the same words for the same things in all recipes, all described."""

import ast
import importlib
from operator import attrgetter
from pathlib import Path

import pytest
import tyro

from jaxlib_guidance.models import from_config

ROOT = Path(__file__).parents[2]
# In which module a recipe's options are, and what the common words set there; steps are
# those of training, and the sampler's are called solver_steps.
WORDS = {
    "images_options": {
        "source": "data.source",
        "size": "data.size",
        "steps": "optimiser.steps",
        "batch": "optimiser.batch",
        "learning-rate": "optimiser.learning_rate",
    },
    "emoji_options": {
        "steps": "optimiser.steps",
        "batch": "optimiser.batch",
        "learning-rate": "optimiser.learning_rate",
    },
    "motion": {
        "steps": "optimiser.steps",
        "batch": "optimiser.batch",
        "learning-rate": "optimiser.learning_rate",
    },
    "timeseries_options": {
        "source": "data.source",
        "steps": "optimiser.steps",
        "batch": "optimiser.batch",
        "learning-rate": "optimiser.learning_rate",
    },
    "classifier": {
        "source": "source",
        "size": "size",
        "steps": "steps",
        "batch": "batch",
        "learning-rate": "learning_rate",
    },
    "ddpo_options": {
        "steps": "rounds",
        "batch": "batch",
        "learning-rate": "learning_rate",
    },
    "reason_options": {"steps": "updates", "learning-rate": "learning_rate"},
    "selfplay": {
        "steps": "updates",
        "batch": "games",
        "learning-rate": "learning_rate",
    },
    "experts": {"steps": "steps", "batch": "batch", "learning-rate": "learning_rate"},
    "schedule": {"steps": "updates", "batch": "batch"},
}
VALUES = {"source": "there", "size": 24, "steps": 7, "batch": 24, "learning-rate": 0.5}


@pytest.mark.parametrize("module", WORDS)
def test_a_word_means_the_same_everywhere(module):
    options = importlib.import_module(module).Config
    words = WORDS[module]
    flags = [text for word in words for text in (f"--{word}", str(VALUES[word]))]
    made = tyro.cli(options, args=flags)
    for word, place in words.items():
        assert attrgetter(place)(made) == VALUES[word], word
    nested = [f"--{words['steps'].replace('_', '-')}", "7"]
    assert tyro.cli(options, args=nested) == tyro.cli(options, args=["--steps", "7"])


@pytest.mark.parametrize(
    ("recipe", "options"), [("emoji", "emoji_options"), ("motion", "motion")]
)
def test_networks_of_the_same_level_are_told_it_alike(recipe, options):
    """Sines that turn a few times over the level's range; more learn it by heart."""
    config = importlib.import_module(options).Config()
    about = importlib.import_module(recipe).describe(config, 1.0)
    assert from_config(about).module.time_scale == config.model.time_scale == 10


# Groups of options, which their own text describes.
GROUPS = {"log", "scale", "hosts"}


@pytest.mark.parametrize("kind", ["train", "sample"])
def test_every_option_is_described(kind):
    bare = []
    for path in sorted((ROOT / kind).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or path.stem == "emoji_data":
                continue
            makers = {
                ast.unparse(each).partition("(")[0] for each in node.decorator_list
            }
            nested = {"Config", "Data", "Model", "Objective", "Optimiser", "Search"}
            nested |= {"Start", "Evaluation"}
            if "dataclasses.dataclass" not in makers or node.name not in nested:
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(field, ast.AnnAssign):
                    continue
                group = isinstance(field.value, ast.Call)
                text = isinstance(after, ast.Expr) and ast.unparse(after).strip()
                if not group and not text and field.target.id not in GROUPS:
                    bare.append(f"{path.name}: {node.name}.{field.target.id}")
    assert not bare
