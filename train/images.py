"""Trains a diffusion model of images, of classes or of none, and shows what it learned.

    python train/images.py                      # bundled digits, minutes on a CPU
    python train/images.py --data.source cifar10 --model.kind unet --model.width 128
    python train/images.py --source my_pictures          # any sizes, classes or none
    python train/images.py --source my_pictures --init runs/others/ema.safetensors
    python train/images.py --help

A run lives in one folder: config.json, metrics.jsonl, checkpoints/, samples/*.png and
at the end ema.safetensors, which `load_pretrained` and sample/images.py read. Stop it
as you like (Ctrl-C, SIGTERM, kill -9) and start it again with the same arguments, on
the same devices or others: it goes on with the same next batch. With more --steps a
finished run goes on to these, as if its rate had been meant to fall later. Files that
are no images are left out and listed in left_out.txt. docs/launch.md says how
to start it on a TPU pod, on several GPUs and on several hosts.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from images_data import carried_over, find, settled, some, started, tell_left_out
from images_options import (
    Config,
    completed,
    folder_of,
    patch_of,
    require_use,
    time_scale_of,
)

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, rng
from jaxlib_guidance.data import (
    Images,
    Loader,
    save_grid,
)
from jaxlib_guidance.models import (
    ClassifierModel,
    DiffusionModel,
    drop_condition,
    from_config,
    load_pretrained,
)
from jaxlib_guidance.testing import judge_samples
from jaxlib_guidance.training import (
    OtherRunError,
    data_mesh,
    fit,
    init_state,
    open_run,
    pmapped,
    replicate,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)


def describe(
    config: Config, shape: tuple[int, ...], classes: int, scale: float, init: Any = None
) -> Any:
    """The model's configuration, as it is stored with the weights.

    Args:
      config: Options of the run.
      shape: Shape of an image.
      classes: Number of classes; 0 makes a model without a condition.
      scale: Standard deviation of the pixels.
      init: Configuration of the weights to start from, if any.
    """
    model, objective, scaling = config.model, config.objective, config.scale
    ours = {"shape": list(shape), "classes": classes or None}
    if init is not None:
        computed = {"dtype": scaling.precision, "remat": scaling.remat}
        network = {**init["network"], "classes": classes or None, **computed}
        kept = {k: init[k] for k in ("process", "parametrize")}
        return {"network": network, **kept, **ours}
    network: dict[str, Any] = {
        "kind": model.kind,
        "width": model.width,
        "heads": model.heads,
        "time_scale": time_scale_of(config),
        "classes": classes or None,
        "dtype": scaling.precision,
        "remat": scaling.remat,
    }
    if model.kind == "dit":
        network |= {
            "depth": model.depth,
            "patch": model.patch or patch_of(shape),
            "scan": model.scan,
        }
    else:
        network |= {"blocks": model.depth}
    options: dict[str, Any] = {"predicts": objective.predicts}
    if objective.predicts == "edm":
        options = {"predicts": "x0", "precondition": True, "sigma_data": scale}
    return {
        "network": network,
        "process": {"kind": objective.process},
        "parametrize": options,
        **ours,
    }


def make_loss(model: DiffusionModel, config: Config, scale: float) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``."""
    objective, process = config.objective, model.process
    weightings: dict[str, Any] = {
        "edm": partial(diffusion.edm_weight, sigma_data=scale),
        "min_snr": partial(diffusion.min_snr_weight, gamma=objective.min_snr_gamma),
        "sigmoid": partial(diffusion.sigmoid_weight, bias=objective.sigmoid_bias),
    }
    weighting = weightings.get(objective.weighting, objective.weighting)
    shape = {"mean": objective.level_mean, "std": objective.level_std}
    levels = {
        "uniform": diffusion.uniform_t,
        "log_normal": partial(diffusion.log_normal_t, **shape),
        "logit_normal": partial(diffusion.logit_normal_t, **shape),
    }[objective.levels]

    def loss(params, batch, keys):
        images = batch["image"]
        if config.data.flip:
            mirrored = rng.uniform(rng.fold(keys, 2)) < 0.5
            images = jnp.where(
                mirrored[:, None, None, None], images[:, :, ::-1], images
            )
        eps = rng.normal(rng.fold(keys, 0), images.shape[1:])
        label = None
        if model.classes:
            rate = objective.label_dropout
            given = batch["label"]
            label = drop_condition(rng.fold(keys, 1), given, model.classes, rate)
        each = diffusion.denoising_loss(
            model.denoiser(params),
            images,
            eps,
            levels(process, batch["u"]),
            label,
            weighting=weighting,
        )
        return each, {}

    return loss


def make_sampler(model: DiffusionModel, steps: int, mesh: jax.sharding.Mesh) -> Any:
    """``(params, key, labels, weight) -> images``: guided samples, on all devices.

    A model without classes has neither labels nor guidance.
    """
    solver, grid = jg.recommended(model.process, steps, scale=model.data_scale)

    def run(params, keys, labels, weight):
        net, how = model.denoiser(params), (solver, grid, model.shape)
        if not model.classes:
            return jg.sample(keys, net, *how)[0]
        guidance = jg.chain(jg.cfg(weight, null=model.classes))
        return jg.sample(keys, net, *how, labels, guidance=guidance)[0]

    mapped = pmapped(run, mesh, (None, 0, 0, None), pad=True)

    def sampler(params, key, labels, weight):
        keys = jg.sample_keys(key, len(labels))
        inputs = replicate(mesh, (params, keys, labels, jnp.float32(weight)))
        return np.asarray(replicate(mesh, mapped(*inputs)))

    return sampler


def evaluate(
    model: DiffusionModel,
    params: Any,
    config: Config,
    data: Images,
    test: Images,
    judge: str,
) -> dict[str, dict[str, float]]:
    """Scores samples without and with guidance, with training data as the floor.

    Distances are to held-out data, in the judge's features.
    """
    wanted = config.evaluation
    classify, judge_params = load_pretrained(judge)
    assert isinstance(classify, ClassifierModel)
    score = jax.jit(partial(classify, judge_params))
    held_out = score(test.images)
    labels = np.arange(wanted.count) % max(1, len(test.classes))
    sampler = make_sampler(model, wanted.solver_steps, data_mesh())
    real = (score(data.images[: wanted.count]), data.labels[: wanted.count])
    rows: dict[str, Any] = {"training data": real}
    for weight in (0.0, wanted.weight):
        images = sampler(params, jax.random.key(config.seed + 1), labels, weight)
        rows[f"samples, cfg {weight:g}"] = score(images), labels
    return {
        name: judge_samples(judged, held_out, truth if test.classes else None)
        for name, (judged, truth) in rows.items()
    }


def measured(images: np.ndarray) -> dict[str, float]:
    """The scale of the data for the configuration; nothing where they have none.

    Two pictures or copies of one are trained on all the same, to see a network learn.
    """
    try:
        scale = jg.data_scale(images[:: 1 + len(images) // 2000])
    except ValueError:
        return {}
    return {"data_scale": float(f"{scale:.3g}")}


def train(config: Config) -> dict[str, Any]:
    """Runs, or goes on with, a training run.

    Returns:
      The results of the evaluation, by row; empty if it was stopped before the end.
    """
    require_ranges(config)
    require_use(config)
    bad: list[str] = []
    config = replace(config, data=settled(config.data), directory=folder_of(config))
    found = find(config.data, "train", bad)
    data = some(found)
    shape = data.images.shape[1:]
    config = completed(config, shape)
    settings = settings_of(config)
    # Files that come or go make other batches, and so another run; not their place.
    settings["data"]["identity"] = found.identity
    judge = config.evaluation.judge
    # Now: what is not there at the end would be missed too late.
    test = None if judge is None else some(find(config.data, "test", bad))
    if judge is not None and load_pretrained(judge)[0].shape != shape:
        raise ValueError(
            f"evaluation.judge is {judge!r}, of other images than {shape}; expected a "
            "classifier of these (see train/classifier.py) or None"
        )
    scale = round(float(np.std(data.images)), 3)
    before = None if config.init is None else started(config.init, shape[-1])
    about = describe(config, shape, len(data.classes), scale, before and before[1])
    about |= measured(data.images)
    model, about["class_names"] = from_config(about), list(data.classes)
    assert isinstance(model, DiffusionModel)
    free = ("directory", "log", "evaluation", "store", "optimiser.steps", "data.source")
    try:
        run = open_run(config, settings, free=free)
    except OtherRunError as error:
        weights = folder_of(config) / "ema.safetensors"
        if "data.identity was" not in str(error) or not weights.expanduser().exists():
            raise
        raise OtherRunError(
            f"{error}. With other images, --init {weights} and another --directory "
            "start from its weights"
        ) from error
    if run.chief:
        tell_left_out(bad, run.folder)

    optim = config.optimiser
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, optim.learning_rate, optim.warmup),
            optax.linear_schedule(
                optim.learning_rate, 0.0, max(1, optim.steps - optim.warmup)
            ),
        ],
        [optim.warmup],
    )
    tx = optax.adamw(rate, b2=0.99, weight_decay=optim.weight_decay)
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)

    def make_state():
        params = model.init(init_key)
        params = params if before is None else carried_over(params, before[0])
        return init_state(params, tx, train_key)

    state, sharding = run.place(make_state)
    loss = make_loss(model, config, scale)
    step = run.step(loss, tx, sharding, ema_decay=optim.ema, clip=optim.clip)
    mine = run.rows(optim.batch)
    batches = Loader(found, optim.batch, config.seed, part=mine)
    spread = jax.jit(
        lambda i: diffusion.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        u = np.asarray(spread(i))[mine]
        return run.shard({**batches(i), "u": u})

    sampler = make_sampler(model, config.evaluation.solver_steps, run.mesh)

    def eval_fn(done, state):
        labels = np.repeat(np.arange(min(model.classes or 10, 10)), 10)
        key = jax.random.key(config.seed + 2)
        images = sampler(state.ema, key, labels, config.evaluation.weight)
        name = "final" if done == optim.steps else f"{done:07d}"
        if run.chief:
            pictures = run.folder / "samples" / f"{name}.png"
            save_grid(pictures, images, 10, max(1, 32 // shape[0]))

    if run.chief:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(f"{count:,} parameters, {batches.total:,} images")
    with batches:
        state, finished = fit(
            step,
            state,
            batch_at,
            steps=optim.steps,
            folder=run.folder,
            log=config.log,
            eval_fn=eval_fn,
        )
    if not finished:
        return {}
    ema = run.gather(state.ema)
    run.export(ema, about | {"training": run.settings}, store=config.store)
    if run.chief:
        print(f"weights in {run.folder / 'ema.safetensors'}")
    if judge is None or test is None:
        return {}
    results = evaluate(model, ema, config, data, test, judge)
    if run.chief:
        for name, row in results.items():
            print(name, *(f"{k} {v:.3f}" for k, v in row.items()), sep="  ")
    return results


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
