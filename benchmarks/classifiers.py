"""Classifiers that guide a model without labels: clean, softened, noisy, experts.

    python train/classifier.py --activation relu --widths 16 32 64 --steps 400 \
        --seed 5 --directory runs/clean
    R=runs/clean/ema.safetensors
    python train/experts.py --classifier $R --out runs/five.safetensors
    python train/experts.py --classifier $R --experts 1 --out runs/one.safetensors
    python benchmarks/classifiers.py --clean $R \
        --one runs/one.safetensors --five runs/five.safetensors

    E="--model emoji --noisy runs/noisy/ema.safetensors --judge emoji_judge"
    python benchmarks/classifiers.py --clean $R $E --asked held-out

The diffusion model is told nothing; a class is asked of the classifier alone. Each row
has the weight of the lowest Frechet distance among ``weights``, with a seed of its own,
and then three seeds; a star marks a weight at the end of what was tried. The judge
guides nothing. Rows are kept in ``cache`` as they come.
"""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.data import embed_words, load_images
from jaxlib_guidance.guidance import elucd
from jaxlib_guidance.models import experts, load_pretrained, lora_merge, read_pretrained
from jaxlib_guidance.testing import judge_samples

SEEDS = (0, 1, 2)
COLUMNS = ("accuracy", "frechet", "kernel", "coverage")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and how much of it."""

    clean: Path
    """Weights of a classifier of clean samples, with ReLUs."""
    noisy: str = "digits_classifier"
    """Name or weights of a classifier of noisy samples."""
    one: Path | None = None
    """Weights of one expert, from train/experts.py."""
    five: Path | None = None
    """Weights of five experts."""
    model: str = "digits"
    judge: str = "digits_judge"
    only: tuple[str, ...] = ()
    """Rows to measure, by name; all by default."""
    weights: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    beta: float = 3.0
    """Sharpness of the softened classifier."""
    asked: Literal["even", "held-out"] = "even"
    """Classes to ask for: all alike, or those of held-out pictures, in an order by
    chance, for a set whose classes are not alike."""
    count: int = 300
    tuning: int = 200
    steps: int = 12
    minutes: float = 4.5
    """Time after which no further row begins."""
    cache: Path = Path("out/classifiers.json")


def rows(config: Config) -> dict[str, Any]:
    """Terms by name, each a function of weight and labels with its parameters."""
    clean, clean_params = load_pretrained(config.clean)
    module = dataclasses.replace(clean.module, activation="softplus", beta=config.beta)
    soft = dataclasses.replace(clean, module=module)
    noisy, noisy_params = load_pretrained(config.noisy)
    joint = {"through": "denoised", "tau2": 0.5}

    def term(classifier, **options):
        return lambda p, w, y: jg.classifier_guidance(classifier, w, y, p, **options)

    found = {
        "clean, at the noisy state": (term(clean.logits), clean_params),
        "clean, at the estimate": (
            term(clean.logits, through="denoised"),
            clean_params,
        ),
        "the same, joint logit": (term(clean.logits, **joint), clean_params),
        "softened": (term(soft.logits, through="denoised"), clean_params),
        "softened, joint logit": (term(soft.logits, **joint), clean_params),
        "EluCD: softened, joint logit, sine": (
            lambda p, w, y: elucd(soft.logits, w, y, p),
            clean_params,
        ),
        "noise-trained": (term(noisy.logits), noisy_params),
    }
    for name, path in (("one student", config.one), ("five experts", config.five)):
        if path is not None:
            tree = jax.tree.map(jnp.asarray, read_pretrained(path)[0])
            params = tree["shared"], tree["own"]
            multi = experts(clean.logits, merge=lora_merge, shared=True)
            found[name] = term(multi), params
    return found


def main(config: Config) -> dict[str, Any]:
    """Measures every row that the time allows."""
    begin = time.monotonic()
    model, params = load_pretrained(config.model)
    judge, judge_params = load_pretrained(config.judge)
    score = jax.jit(partial(judge, judge_params))
    test = load_images(config.model, "test")
    held_out, shuffled = score(test.images), np.random.default_rng(0)
    order = shuffled.permutation(test.labels)

    def classes(count):
        if config.asked == "even":
            return np.arange(count) % model.classes
        return np.resize(order, count)

    solver = jg.recommended(model.process, config.steps, scale=model.data_scale)

    def nothing(count):
        cond = jnp.full(count, model.classes)
        if getattr(model.module, "text", None) is None:
            return cond
        text, mask = embed_words([""] * count)
        return {"label": cond, "text": text, "text_mask": mask}

    def measured(make, own):
        @jax.jit
        def draw(params, own, weight, seed, cond, labels):
            keys = jg.sample_keys(jax.random.key(seed), len(labels))
            guidance = None if make is None else make(own, weight, labels)
            network = model.denoiser(params)
            return jg.sample(
                *(keys, network, *solver, model.shape, cond), guidance=guidance
            )[0].clip(-1, 1)

        def scores(weight, seed, count):
            # Arguments: the compiler would fold a constant condition, at length.
            told = nothing(count), jnp.asarray(classes(count))
            images = draw(params, own, jnp.float32(weight), seed, *told)
            return judge_samples(score(images), held_out, classes(count))

        best, tuned = 0.0, {}
        if make is not None:
            tuned = {w: scores(w, 100, config.tuning) for w in config.weights}
            best = min(config.weights, key=lambda w: tuned[w]["frechet"])
        each = [scores(best, seed, config.count) for seed in SEEDS]
        found = {k: [row[k] for row in each] for k in COLUMNS}
        tried = {w: {k: row[k] for k in COLUMNS} for w, row in tuned.items()}
        return {"weight": best, "tried": tried} | found

    config.cache.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(config.cache.read_text()) if config.cache.exists() else {}
    found = {"no guidance": (None, None)} | rows(config)
    for name in config.only or found:
        if name in kept or time.monotonic() - begin > 60 * config.minutes:
            continue
        make, own = found[name]
        kept[name] = measured(make, own)
        config.cache.write_text(json.dumps(kept, indent=1))
        print(f"{time.monotonic() - begin:4.0f} s  {name}", flush=True)
    print("| guidance | weight | " + " | ".join(COLUMNS) + " |")
    print("|---|---:|" + "---:|" * len(COLUMNS))
    for name in filter(kept.get, found):
        row = kept[name]
        cells = (
            f"{np.mean(row[k]):.3f} ± {np.std(row[k], ddof=1):.3f}" for k in COLUMNS
        )
        ends = config.weights[0], config.weights[-1]
        star = " *" if row["weight"] in ends else ""
        print(f"| {name} | {row['weight']:g}{star} | " + " | ".join(cells) + " |")
    return kept


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
