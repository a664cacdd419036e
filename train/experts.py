"""Trains experts by noise range for classifier guidance, without data or labels.

    python train/classifier.py --activation relu --directory runs/clean
    python train/experts.py --classifier runs/clean/ema.safetensors
    python train/experts.py --classifier runs/clean/ema.safetensors --experts 1 \
        --out runs/one.safetensors

A clean classifier is the teacher. The students are that classifier with low-rank
changes, one for each slice of the noise levels, and see noisy samples that a diffusion
model drew without a condition (PPAP, arXiv 2212.05973). ``steps`` counts the updates of
all experts together. benchmarks/classifiers.py measures what comes out.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.data import embed_words
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.models import (
    ClassifierModel,
    DiffusionModel,
    load_pretrained,
    lora_init,
    lora_merge,
    read_pretrained,
    transfer_kl,
)
from jaxlib_guidance.training import require_ranges, usage_errors


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    classifier: Path = Path("runs/clean/ema.safetensors")
    """Weights of the teacher, a classifier of clean samples."""
    model: str = "digits"
    """Diffusion model whose samples the students learn on."""
    out: Path = Path("runs/experts.safetensors")
    """File of the experts."""
    experts: int = 5
    """Number of noise ranges, each with its expert."""
    rank: int = 16
    """Rank of an expert's change of the classifier."""
    steps: int = 2000
    """Updates of all experts together."""
    batch: int = 64
    """Samples of a step."""
    samples: int = 1024
    """Samples of the model to learn from."""
    solver_steps: int = 12
    """Steps of the sampler."""
    learning_rate: float = 1e-3
    """Largest rate."""
    weight_decay: float = 0.05
    """AdamW's decay."""
    temperature: float = 0.25
    """Temperature of the teacher."""
    seed: int = 0
    """Of the weights and the samples."""


def nothing_told(model: Any, count: int) -> Any:
    """The condition of ``count`` samples that says nothing."""
    label = jnp.full(count, model.classes)
    if getattr(model.module, "text", None) is None:
        return label
    text, mask = embed_words([""] * count)
    return {"label": label, "text": text, "text_mask": mask}


def draw(model: DiffusionModel, params: Any, config: Config) -> jax.Array:
    """Samples without a condition ``[samples, *S]``."""
    part = min(config.samples, 128)
    solver = jg.recommended(model.process, config.solver_steps, scale=model.data_scale)

    cond = nothing_told(model, part)

    @jax.jit
    def some(params, keys, cond):  # As a constant it would be folded, at length.
        return jg.sample(keys, model.denoiser(params), *solver, model.shape, cond)[0]

    keys = jg.sample_keys(jax.random.key(config.seed), config.samples // part * part)
    keys = keys.reshape(-1, part)
    return jnp.concatenate([some(params, k, cond) for k in keys]).clip(-1, 1)


def train(config: Config) -> list[float]:
    """Trains, and writes the shared parameters and the stacked experts.

    Returns:
      The mean loss of each expert's last tenth of updates.
    """
    require_ranges(config)
    teacher, base = load_pretrained(config.classifier)
    model, params = load_pretrained(config.model)
    assert isinstance(teacher, ClassifierModel)
    assert isinstance(model, DiffusionModel)
    if teacher.process is not None or teacher.shape != model.shape:
        raise ValueError(
            f"classifier is of shape {teacher.shape} and process {teacher.process}; "
            f"expected one of clean samples {model.shape}"
        )
    images = draw(model, params, config)
    answers = jax.jit(teacher.logits)(base, images)
    each = config.steps // config.experts
    rate = optax.linear_schedule(config.learning_rate, 0.0, each)
    tx = optax.adamw(rate, weight_decay=config.weight_decay)

    def loss(factors, key, n):
        pick, level, noise = jax.random.split(key, 3)
        rows = jax.random.randint(pick, (config.batch,), 0, len(images))
        t = (n + jax.random.uniform(level, (config.batch,))) / config.experts
        eps = jax.random.normal(noise, (config.batch, *model.shape))
        x = perturb(model.process, images[rows], eps, t)
        logits = teacher.logits(lora_merge(base, factors), x)
        return transfer_kl(logits, answers[rows], config.temperature).mean()

    # One step at a time: inside a scan a CPU takes far longer for convolutions.
    @jax.jit
    def step(factors, state, key, n):
        value, slope = jax.value_and_grad(loss)(factors, key, n)
        updates, state = tx.update(slope, state, factors)
        return optax.apply_updates(factors, updates), state, value

    def learn(factors, key, n):
        state, losses = tx.init(factors), []
        for own in jax.random.split(key, each):
            factors, state, value = step(factors, state, own, n)
            losses.append(value)
        return factors, np.asarray(losses)

    found, ends = [], []
    for n in range(config.experts):
        key = jax.random.fold_in(jax.random.key(config.seed), n)
        # Each from the pretrained classifier, and not from the expert before it.
        factors, losses = learn(lora_init(key, base, config.rank), key, n)
        found.append(factors)
        ends.append(float(np.mean(losses[-max(each // 10, 1) :])))
        print(f"expert {n}: loss {ends[-1]:.4f}, at first {losses[0]:.4f}", flush=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    about = read_pretrained(config.classifier)[1]
    settings = {k: str(v) for k, v in dataclasses.asdict(config).items()}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    tree = {"shared": base, "own": stacked}
    export_weights(config.out, tree, about | {"experts": settings})
    return ends


if __name__ == "__main__":
    with usage_errors():
        train(tyro.cli(Config, description=__doc__))
