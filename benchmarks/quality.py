"""What guidance does to samples: the digits model under each kind, measured.

    python benchmarks/quality.py                        # the table of the README
    python benchmarks/quality.py --count 360 --out out/quality.md

Each row draws as many digits as the training split has and compares them with the
held-out split, in the eyes of a judge: a classifier of clean digits that no guidance
uses. The first row is the training split itself, the best that a sampler could do.

accuracy    the judge agrees with the label that was asked for
confidence  the judge's mean largest probability, for rows without labels too
coverage    exp(entropy) of the classes that the judge sees; 10 when they are even
frechet     between Gaussian fits to the judge's features (lower is better)
kernel      unbiased squared maximum mean discrepancy of the features, times 100
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_digits
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.testing import judge_samples


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure."""

    count: int = 0
    """Samples a row; 0 takes as many as the training split has."""
    steps: int = 20
    seed: int = 0
    out: Path | None = None
    """Markdown file to write the table to."""


def rows(labels: Any, guide: Any) -> Iterator[tuple[str, Any, bool, bool]]:
    """``(name, guidance, network is told the label, label is asked for)``."""
    classifier, params = guide

    def classified(w):
        return jg.classifier_guidance(classifier.logits, w, labels, params)

    for w in (0.0, 1.0, 2.0, 4.0):
        yield f"CFG {w:g}", jg.cfg(w, null=10), True, True
    for w in (0.0, 1.0, 2.0, 4.0):
        yield f"no labels, PAG {w:g}", jg.pag(w, "block2"), False, False
    for w in (0.5, 1.0, 2.0):
        yield f"no labels, PAG {w:g} in block0", jg.pag(w, "block0"), False, False
    for w in (0.5, 1.0, 2.0):
        yield f"autoguidance {w:g}", jg.autoguidance(w), True, True
    for w in (1.0, 2.0, 4.0):
        yield f"no labels, classifier {w:g}", classified(w), False, True
    for w in (1.0, 2.0):
        both = jg.chain(jg.cfg(1.0, 10), jg.pag(w, "block2"))
        yield f"CFG 1, PAG {w:g}", both, True, True
    for w in (2.0, 4.0):
        yield f"APG {w:g}", jg.apg(w, null=10), True, True
    for w in (2.0, 4.0):
        window = jg.during(jg.cfg(w, null=10), 0.2, 0.8)
        yield f"CFG {w:g}, steps 20-80 %", window, True, True


def measure(judged: Any, held_out: Any, labels: Any) -> dict[str, float]:
    """The columns of a row."""
    scores = judge_samples(judged, held_out, labels)
    return scores | {"kernel": 100 * scores["kernel"]}


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    columns = list(next(iter(results.values())))
    lines = [
        "| samples | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, row in results.items():
        cells = ("–" if np.isnan(v) else f"{v:.3f}" for v in row.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(config: Config) -> dict[str, dict[str, float]]:
    """Measures every row."""
    model, params = load_pretrained("digits")
    weak, weak_params = load_pretrained("digits_weak")
    judge, judge_params = load_pretrained("digits_judge")
    score = jax.jit(partial(judge, judge_params))
    (real, real_labels), (kept, _) = load_digits("train"), load_digits("test")
    count = config.count or len(real)
    held_out = score(kept)
    labels = jnp.arange(count) % model.classes
    blank = jnp.full(count, model.classes)
    grid = model.grid(config.steps)
    keys = jg.sample_keys(jax.random.key(config.seed), count)

    @jax.jit
    def draw(params, guidance, cond):
        denoisers = (model.denoiser(params[0]), weak.denoiser(params[1]))
        images, _ = jg.sample(
            keys,
            denoisers,
            jg.dpmpp_2m(),
            grid,
            model.shape,
            cond,
            guidance=jg.chain(guidance),
        )
        return images

    real, real_labels = real[:count], real_labels[:count]
    results = {"real digits": measure(score(real), held_out, real_labels)}
    guide = load_pretrained("digits_classifier")
    for name, guidance, told, asked in rows(labels, guide):
        images = draw((params, weak_params), guidance, labels if told else blank)
        results[name] = measure(score(images), held_out, labels if asked else None)
        print(f"{name}: {results[name]['frechet']:.3f}", flush=True)
    print(table(results))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(table(results) + "\n")
    return results


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
