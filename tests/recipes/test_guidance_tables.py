"""benchmarks/classifiers.py and posteriors.py: at small sizes their tables hold."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]
ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "jaxlib_guidance" / "models" / "assets"


@pytest.mark.parametrize("asked", ["even", "held-out"])
def test_a_classifier_makes_classes_of_a_model_without_labels(asked, tmp_path, capsys):
    import classifiers

    sizes = {"count": 30, "tuning": 30, "steps": 4, "weights": (0.5, 2.0)}
    config = classifiers.Config(
        ASSETS / "digits_judge.safetensors",
        cache=tmp_path / "rows.json",
        asked=asked,
        **sizes,
    )
    found = classifiers.main(config)
    accuracy = {name: np.mean(row["accuracy"]) for name, row in found.items()}
    whole = "EluCD: softened, joint logit, sine"
    assert accuracy["no guidance"] < 0.3 < 0.6 < accuracy[whole]
    capsys.readouterr()
    # What is kept is not measured again.
    assert classifiers.main(config) == found
    assert " s  " not in capsys.readouterr().out


def test_a_posterior_method_is_nearer_to_the_posterior(tmp_path):
    import posteriors

    names = ("no guidance", "MMPS, 3 iterations")
    config = posteriors.Config(
        models=("mixture",), only=names, steps=8, cache=tmp_path / "rows.json"
    )
    rows = posteriors.main(config)["mixture"]
    alone, guided = (np.mean(rows[name]["distance"]) for name in names)
    assert guided < 0.6 * alone
