"""Trains a classifier of images: of clean ones, to judge samples by, or of noisy ones,
to guide samplers with.

    python train/classifier.py                          # a judge of the bundled digits
    python train/classifier.py --noise cosine --directory runs/noisy

A run lives in one folder, as that of train/images.py; its weights are ema.safetensors.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from images_data import is_folder, tell_left_out
from tyro.conf import OmitArgPrefixes

from jaxlib_guidance import rng
from jaxlib_guidance.data import Loader, load_images
from jaxlib_guidance.diffusion import log_normal_t, perturb
from jaxlib_guidance.models import ClassifierModel, from_config
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    fit,
    init_state,
    open_run,
    require_effect,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path | None = None
    """Folder of the run; None is runs/judge, of other sources runs/NAME_judge."""
    source: str = "digits"
    """"digits", "emoji", a folder with a sub-folder for each class, or a name of TFDS;
    split in "train" and "test"."""
    size: int | None = None
    """Side to crop and resize to; None keeps the images' own."""
    bad: Literal["skip", "stop"] = "skip"
    """What to do about files of a folder that are no images: leave them out, and list
    them in left_out.txt, or stop."""
    noise: Literal["cosine", "linear", "edm", "flow"] | None = None
    """Noise process whose states to classify; None classifies clean images."""
    level_mean: float = -0.6
    """Mean of the logarithm of the noise level."""
    level_std: float = 1.4
    """Standard deviation of the logarithm of the noise level."""
    time_scale: float = 10.0
    """Factor of the level that the network is told, log(sigma / alpha) / 4, before its
    sinusoids; of large ones it learns single levels by heart."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of the levels."""
    activation: Literal["silu", "relu"] = "silu"
    """Activation of the layers; a "relu" can be softened after training."""
    shift: int = 1
    """Pixels by which images are moved at random."""
    smoothing: float = 0.05
    """Share of the label that is spread over all classes."""
    steps: int = 600
    """Steps of training; a finished run given more goes on with them."""
    batch: int = 128
    """Images of a step."""
    learning_rate: float = 2e-3
    """Largest rate."""
    weight_decay: float = 1e-2
    """AdamW's decay."""
    seed: int = 0
    """Of the weights, the order of images and the noise."""
    store: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which ema.safetensors stores weights."""
    log: Log = Log()
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()


def train(config: Config) -> float | None:
    """Runs, or goes on with, a training run.

    Returns:
      The accuracy on the test split; None if it was stopped before the end.
    """
    require_ranges(config)
    noisy = config.noise is not None, "clean images"
    levels = "level_mean", "level_std", "time_scale"
    require_effect(config, dict.fromkeys(levels, noisy))
    if config.directory is None:
        name = Path(config.source).expanduser().absolute().name
        place = "judge" if config.source == "digits" else f"{name}_judge"
        config = dataclasses.replace(config, directory=Path("runs") / place)
    settings = settings_of(config)
    bad: list[str] = []
    skip = config.bad == "skip" and is_folder(config.source)
    on_bad = bad.append if skip else None
    data, test = (
        load_images(config.source, split, config.size, on_bad=on_bad)
        for split in ("train", "test")
    )
    # Files that come or go make other batches, and so another run; not their place.
    settings["identity"] = data.identity
    free = ("directory", "log", "store", "steps", "bad", "source")
    run = open_run(config, settings, free=free)
    if run.chief:
        tell_left_out(bad, run.folder)
    classes, shape = len(data.classes), data.images.shape[1:]
    scale = round(float(np.std(data.images)), 3)
    about: dict[str, Any] = {
        "network": {
            "kind": "classifier",
            "classes": classes,
            "widths": list(config.widths),
            "activation": config.activation,
            "timed": config.noise is not None,
            "time_scale": config.time_scale,
            "dtype": config.scale.precision,
            "remat": config.scale.remat,
        },
        "process": None if config.noise is None else {"kind": config.noise},
        "sigma_data": scale,
        "shape": list(shape),
        "classes": classes,
    }
    model = from_config(about)
    assert isinstance(model, ClassifierModel)
    process, reach = model.process, config.shift

    def noised(keys, images):
        if process is None:
            return images, None
        u = rng.uniform(rng.fold(keys, 1))
        t = log_normal_t(process, u, config.level_mean, config.level_std)
        return perturb(process, images, rng.normal(keys, shape), t), t

    def moved(key, image):
        by = jax.random.randint(key, (2,), 0, 2 * reach + 1)
        edge = ((reach, reach), (reach, reach), (0, 0))
        padded = jnp.pad(image, edge, mode="edge")
        return jax.lax.dynamic_slice(padded, (*by, 0), image.shape)

    def loss(params, batch, keys):
        images = jax.vmap(moved)(rng.fold(keys, 2), batch["image"])
        x, t = noised(keys, images)
        logits = model.logits(params, x, t)
        target = jax.nn.one_hot(batch["label"], classes)
        target = optax.smooth_labels(target, config.smoothing)
        right = jnp.argmax(logits, -1) == batch["label"]
        each = optax.softmax_cross_entropy(logits, target)
        return each, {"accuracy": right.astype(jnp.float32)}

    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    tx = optax.adamw(rate, weight_decay=config.weight_decay)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))

    def make_state():
        return init_state(model.init(init_key), tx, train_key)

    state, sharding = run.place(make_state)
    batches = Loader(data, config.batch, config.seed, part=run.rows(config.batch))
    state, finished = fit(
        run.step(loss, tx, sharding, ema_decay=0.99),
        state,
        lambda i: run.shard(batches(i)),
        steps=config.steps,
        folder=run.folder,
        log=config.log,
    )
    if not finished:
        return None
    params = run.gather(state.ema)
    keys = rng.sample_keys(jax.random.key(config.seed + 1), len(test.labels))
    logits = jax.jit(lambda p, x: model.logits(p, *noised(keys, x)))(
        params, test.images
    )
    accuracy = float(np.mean(np.argmax(logits, -1) == test.labels))
    about["training"] = run.settings | {"test_accuracy": accuracy}
    run.export(params, about, store=config.store)
    if run.chief:
        print(f"accuracy on the test split {accuracy:.4f}; weights in {run.folder}")
    return accuracy


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
