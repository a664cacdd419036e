"""Trains a text-to-image diffusion model of the bundled emoji, and shows what it draws.

    python train/emoji.py                       # hours on one core of a CPU
    python train/emoji.py --model.kind unet --model.width 32
    python train/emoji.py --help

The condition is a category, and the words of a caption or keywords, which the network
attends to. Each is left out of some samples, so that the model draws with both, with
either and with none.

A run lives in one folder: config.json, metrics.jsonl, checkpoints/, and, renewed at
every evaluation, samples/*.png and ema.safetensors, which `load_pretrained` and
sample/images.py read. Stop it as you like and start it again with the same arguments:
it goes on with the same next batch. docs/launch.md tells of many devices.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from emoji_options import Config, Objective, Optimiser

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, rng
from jaxlib_guidance.data import (
    EMOJI_CATEGORIES,
    Loader,
    embed_words,
    emoji_vocabulary,
    load_emoji,
    save_grid,
)
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.models import DiffusionModel, from_config
from jaxlib_guidance.training import (
    fit,
    init_state,
    open_run,
    pmapped,
    replicate,
    require_effect,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)

# Mirrored, these are as good; a flag, a clock or a hand may become another.
MIRRORED = ("Animals & Nature", "Food & Drink")
PROMPTS = (
    *("red apple", "green apple", "yellow heart", "blue circle", "smiling face"),
    *("cat face", "dog", "pizza", "rocket", "house"),
    *("tree", "red car", "sun", "woman singer", "flag japan"),
    *("guitar", "soccer ball", "umbrella", "fish", "clock"),
)


def describe(config: Config, scale: float) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    model = config.model
    network: dict[str, Any] = {
        "kind": model.kind,
        "width": model.width,
        "heads": model.heads,
        "time_scale": model.time_scale,
        "classes": len(EMOJI_CATEGORIES),
        "text": emoji_vocabulary().vectors.shape[1],
        "dtype": config.scale.precision,
        "remat": config.scale.remat,
    }
    if model.kind == "dit":
        network |= {"depth": model.depth, "patch": model.patch}
    else:
        last = len(model.multipliers) - 1
        network |= {"blocks": model.depth, "multipliers": list(model.multipliers)}
        network |= {"attention": [last]}
    return {
        "network": network,
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": scale},
        "shape": [32, 32, 3],
        "classes": len(EMOJI_CATEGORIES),
    }


def condition(
    keys: jax.Array, batch: dict[str, jax.Array], objective: Objective
) -> dict[str, jax.Array]:
    """A random part of what is known of each picture: category, caption, keywords."""
    vectors = jnp.asarray(emoji_vocabulary().vectors)
    words = jnp.concatenate([batch["words"], batch["keywords"]], -1)
    caption = jnp.arange(words.shape[1]) < batch["words"].shape[1]
    # Half of the texts are captions, the others keywords with or without it.
    kind = rng.uniform(rng.fold(keys, 0))[:, None]
    chosen = rng.uniform(rng.fold(keys, 1), words.shape[1:]) < 0.4
    used = jnp.where(caption, kind < 0.8, (kind > 0.5) & chosen)
    left_out = rng.uniform(rng.fold(keys, 2))
    both = objective.drop_both
    text = left_out >= both + objective.drop_text
    label = (left_out >= both) & (left_out < 1 - objective.drop_label)
    return {
        "label": jnp.where(label, batch["label"], len(EMOJI_CATEGORIES)),
        "text": vectors[words],
        "text_mask": (words >= 0) & used & text[:, None],
    }


def make_loss(model: DiffusionModel, config: Config, scale: float) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``."""
    objective, process = config.objective, model.process
    symmetric = jnp.array([name in MIRRORED for name in EMOJI_CATEGORIES])
    levels = {"mean": objective.level_mean, "std": objective.level_std}

    def loss(params, batch, keys):
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        mirrored = symmetric[batch["label"]] & (rng.uniform(rng.fold(keys, 0)) < 0.5)
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        each = diffusion.denoising_loss(
            model.denoiser(params),
            images,
            rng.normal(rng.fold(keys, 1), images.shape[1:]),
            diffusion.log_normal_t(process, batch["u"], **levels),
            condition(rng.fold(keys, 2), batch, objective),
            weighting=partial(diffusion.edm_weight, sigma_data=scale),
        )
        return each, {}

    return loss


def make_optimiser(config: Optimiser) -> optax.GradientTransformation:
    """Adam with its schedule."""
    fall = max(1, round(config.decay * config.steps))
    peak = config.learning_rate
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, config.warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, fall),
        ],
        [config.warmup, config.steps - fall],
    )
    return optax.adam(rate, b2=0.99)


def make_sampler(model: DiffusionModel, steps: int, mesh: jax.sharding.Mesh) -> Any:
    """``(params, key, prompts, weight) -> images``: guided samples, on all devices."""
    solver, grid = jg.recommended(model.process, steps, scale=model.data_scale)

    def run(params, keys, cond, weight):
        return jg.sample(
            keys,
            model.denoiser(params),
            solver,
            grid,
            model.shape,
            cond,
            guidance=jg.chain(jg.cfg(weight, null=model.null)),
        )[0]

    mapped = pmapped(run, mesh, (None, 0, 0, None), pad=True)

    def sampler(params, key, prompts, weight):
        text, mask = embed_words(prompts)
        label = np.full(len(prompts), model.classes, np.int32)
        cond = {"label": label, "text": text, "text_mask": mask}
        keys = jg.sample_keys(key, len(prompts))
        inputs = replicate(mesh, (params, keys, cond, jnp.float32(weight)))
        return np.asarray(replicate(mesh, mapped(*inputs)))

    return sampler


def train(config: Config) -> bool:
    """Runs, or goes on with, a training run.

    Returns:
      Whether it is at its end.
    """
    require_ranges(config)
    dit = config.model.kind == "dit"
    require_effect(
        config,
        {
            "model.patch": (dit, "a U-Net"),
            "model.multipliers": (not dit, "a DiT"),
        },
    )
    free = (
        "directory",
        "log",
        "weight",
        "solver_steps",
        "weak",
        "store",
        "optimiser.steps",
    )
    run = open_run(config, settings_of(config), free=free)
    data = load_emoji("train")
    scale = round(float(np.std(data.images)), 3)
    about = describe(config, scale)
    about["data_scale"] = float(f"{jg.data_scale(data.images):.3g}")
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    optim = config.optimiser
    tx = make_optimiser(optim)
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)

    def make_state():
        return init_state(model.init(init_key), tx, train_key)

    state, sharding = run.place(make_state)
    loss = make_loss(model, config, scale)
    step = run.step(loss, tx, sharding, ema_decay=optim.ema, clip=optim.clip)
    mine = run.rows(optim.batch)
    rows = {
        "image": np.round((data.images + 1) * 127.5).astype(np.uint8),
        "label": data.labels,
        "words": data.words,
        "keywords": data.keywords,
    }
    batches = Loader(rows, optim.batch, config.seed, part=mine)
    spread = jax.jit(
        lambda i: diffusion.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        return run.shard({**batches(i), "u": np.asarray(spread(i))[mine]})

    sampler = make_sampler(model, config.solver_steps, run.mesh)

    def write(name, params):
        if run.chief:
            stored = about | {"training": run.settings}
            kind = jnp.dtype(config.store)
            export_weights(run.folder / name, params, stored, dtype=kind)

    def eval_fn(done, state):
        ema = run.gather(state.ema)
        write("ema.safetensors", ema)
        if done == config.weak:
            write("weak.safetensors", ema)
        key = jax.random.key(config.seed + 1)
        images = sampler(state.ema, key, PROMPTS, config.weight)
        if run.chief:
            pictures = run.folder / "samples" / f"{done:07d}.png"
            note = {"prompts": "; ".join(PROMPTS)}
            save_grid(pictures, images, 5, 2, note=note)

    if run.chief:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(f"{count:,} parameters, {batches.total:,} images")
    _, finished = fit(
        step,
        state,
        batch_at,
        steps=optim.steps,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
    )
    if finished and run.chief:
        print(f"weights in {run.folder / 'ema.safetensors'}")
    return finished


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
