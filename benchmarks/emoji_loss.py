"""The loss of the emoji models, on training pictures and on held-out ones.

    python benchmarks/emoji_loss.py

The loss of train/emoji.py (EDM's weight, its noise levels) with fresh noise, by what is
told of a picture. That a text lowers it more on training pictures than on held-out ones
is what the model has learned by heart.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, rng
from jaxlib_guidance.data import embed_words, load_emoji
from jaxlib_guidance.models import DiffusionModel, load_pretrained

LEVELS = {"mean": -0.4, "std": 1.4}  # Those of train/emoji_options.py.
TOLD = ("category and caption", "category", "caption", "nothing")


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure."""

    models: tuple[str, ...] = ("emoji", "emoji_weak")
    count: int = 186
    """Pictures of each split; all that are held out by default."""
    levels: int = 4
    """Noise levels of each picture."""


def losses(name: str, split: str, told: str, config: Config) -> np.ndarray:
    """The loss ``[count]`` of each picture, a mean over its noise levels.

    Args:
      name: Name of a bundled model.
      split: "train" or "test".
      told: One of ``TOLD``.
      config: How much to measure.
    """
    model, params = load_pretrained(name)
    assert isinstance(model, DiffusionModel)
    data = load_emoji(split)
    scale = float(np.std(load_emoji("train").images))
    rows = np.random.RandomState(0).permutation(len(data.labels))[: config.count]
    captions = [data.captions[i] if "caption" in told else "" for i in rows]
    text, mask = embed_words(captions)
    known = (
        data.labels[rows] if "category" in told else np.full(len(rows), model.classes)
    )
    cond = {"label": known.astype(np.int32), "text": text, "text_mask": mask}

    @jax.jit
    def loss(params, images, cond, keys, u):
        return diffusion.denoising_loss(
            model.denoiser(params),
            images,
            rng.normal(keys, images.shape[1:]),
            diffusion.log_normal_t(model.process, u, **LEVELS),
            cond,
            weighting=partial(diffusion.edm_weight, sigma_data=scale),
        )

    total = np.zeros(len(rows))
    for level in range(config.levels):
        # The same noise for each of what is told, so that differences are paired.
        key = jax.random.fold_in(jax.random.key(0), level)
        u = diffusion.stratified(key, jnp.arange(len(rows)), len(rows))
        keys = jg.sample_keys(key, len(rows))
        total += np.asarray(loss(params, jnp.asarray(data.images[rows]), cond, keys, u))
    return total / config.levels


def main(config: Config) -> None:
    """Prints a table."""
    print("| model | " + " | ".join(f"{t}, train / held out" for t in TOLD) + " |")
    print("|---|" + "---:|" * len(TOLD))
    for name in config.models:
        cells = []
        for told in TOLD:
            each = [losses(name, split, told, config) for split in ("train", "test")]
            cells.append(" / ".join(f"{np.mean(x):.3f}" for x in each))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
