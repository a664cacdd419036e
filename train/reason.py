"""Teaches a small language model to add, first by examples, then by reward alone.

    python train/reason.py                         # GRPO, minutes on a CPU
    python train/reason.py --method score          # two attempts, SCoRe
    python train/reason.py --reward vote           # without the truth
    python train/reason.py --compare 3             # all methods, 3 seeds each
    python train/reason.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf --sums 20
    python train/reason.py --help

The model answers "12+34=" with "64.", last digit first. Examples come first, so few
that it is often wrong; then it samples answers to the training sums, each is checked
against the true sum, or against what most answers to it say, and a policy gradient
follows what was right. Accuracy is that of greedy answers to sums that were never
trained on. After "?" the model may try again: SCoRe trains that second attempt, and
the accuracy of both is reported. docs/policy.md has the table.

A run lives in one folder and goes on where it was stopped; see train/images.py.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from reason_methods import CLIPPED, Method, Name, make_loss, make_method
from reason_options import Config
from reason_task import (
    Task,
    attempt_twice,
    fingerprint,
    in_majority,
    load_smollm2_sums,
    make_examples,
    make_task,
    score,
)

from jaxlib_guidance import rng
from jaxlib_guidance.models import LM
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.training import (
    FREE,
    Run,
    TrainState,
    claim,
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

Array = jax.Array


class State(NamedTuple):
    """A run between two updates."""

    step: Array
    train: TrainState


def load(config: Config) -> tuple[LM, Any, Task]:
    """The network, its parameters (or None, if it begins at random) and the task."""
    if config.smollm2 is not None:
        return load_smollm2_sums(config.smollm2, config.sums, config.scale)
    dtype = jnp.dtype(config.scale.precision)
    letters = "0123456789+=?."
    model = config.model
    lm = LM(
        len(letters),
        model.width,
        model.depth,
        model.heads,
        kv_heads=model.heads // 2,
        hidden=model.hidden,
        tied=False,
        dtype=dtype,
        remat=config.scale.remat,
    )
    encode = lambda text: [letters.index(letter) for letter in text]  # noqa: E731
    digits = len(str(config.sums - 1))
    ask = f"{{a:0{digits}}}+{{b:0{digits}}}="
    # Last digit first, which is the order of carrying.
    tell = lambda total: str(total)[::-1]  # noqa: E731
    task = make_task(encode, ask, tell, "?", letters.index("."), config.sums)
    return lm, None, task


def make_round(
    config: Config, lm: LM, task: Task, method: Method, update: Any, ref: Any
) -> Any:
    """``(state, {"id", "stage"}) -> (state, metrics)``: answer, check, learn."""
    root, group = jax.random.key(config.seed + 1), config.group

    @jax.jit
    def collect(params, ref, batch):
        ids, stage = batch["id"], batch["stage"]
        # Answers to one sum are neighbours.
        asked = rng.fold(rng.sample_keys(root, ids // group), 2)
        at = jax.vmap(lambda key: jax.random.choice(key, task.train))(asked)
        turns = attempt_twice(lm, task, params, rng.sample_keys(root, ids), at, 1.0)
        turns = turns[: method.turns]
        report = {
            f"right{i + 1}": jnp.mean(row["right"]) for i, row in enumerate(turns)
        }
        if config.reward == "vote":
            for row in turns:
                row["right"] = agrees(row, group, task.eos)
        for row in turns:
            row |= {"stage": stage, "ref": score(lm, ref, row)}
        by_sum = lambda x: x.reshape(-1, group, *x.shape[1:])  # noqa: E731
        return jax.tree.map(by_sum, turns), report

    def take(state, batch):
        rows, report = collect(state.train.params, ref, batch)
        trained, metrics = update(state.train, rows)
        return State(state.step + 1, trained), {**metrics, **report}

    return take


def agrees(row: dict[str, Array], group: int, eos: int) -> Array:
    """Whether an answer, with its end, is that of most in its group, ``[B]``."""
    ended = jnp.any((row["tokens"] == eos) & row["mask"], 1).reshape(-1, group)
    said = fingerprint(row["tokens"], row["mask"]).reshape(-1, group)
    return in_majority(said, ended).reshape(-1).astype(jnp.float32)


def score_groups(lm: LM, params: Any, row: dict[str, Array]) -> Array:
    """Log-probabilities of the answers of whole groups, ``[P, G, S]``."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), row)
    return score(lm, params, flat).reshape(row["tokens"].shape)


def make_evaluation(lm: LM, task: Task, mesh: jax.sharding.Mesh) -> Any:
    """``params -> figures``: greedy answers to the sums that were held out."""

    def run(params, at):
        keys = rng.sample_keys(jax.random.key(0), at)
        return [row["right"] for row in attempt_twice(lm, task, params, keys, at, 0.0)]

    mapped = pmapped(run, mesh, (None, 0), pad=True)

    def evaluate(params):
        right = replicate(mesh, mapped(*replicate(mesh, (params, task.test))))
        first, second = (float(jnp.mean(one)) for one in right)
        return {"accuracy": first, "second": second}

    return evaluate


def train(config: Config) -> dict[str, dict[str, float]]:
    """Runs, or goes on with, a run: examples, then reward.

    Returns:
      The figures before and after the rewards; empty if it was stopped.
    """
    require_ranges(config)
    own = config.smollm2 is None, "SmolLM2, which comes as it is"
    clipped = config.method in CLIPPED, f'method "{config.method}"'
    require_effect(config, {"clip": clipped, "model": own, "start": own})
    run = open_run(config)
    size = config.prompts * config.group
    # All answers to a sum stay together.
    mine = run.rows(config.prompts)
    mine = slice(mine.start * config.group, mine.stop * config.group)
    lm, params, task = load(config)
    evaluate = make_evaluation(lm, task, run.mesh)
    if params is None:
        params = learn_examples(config, lm, task, run, evaluate)
        if params is None:
            return {}
    key = jax.random.key(config.seed)
    tx = optax.adam(config.learning_rate, b2=0.99)

    def make_state():
        return State(jnp.zeros((), jnp.int32), init_state(params, tx, key))

    state, sharding = run.place(make_state)
    method = make_method(config.method, config.clip, config.kl)
    loss = make_loss(partial(score_groups, lm), method)
    update = run.step(loss, tx, sharding.train, ema_decay=0.95, clip=1.0)

    def batch_at(i):
        ids = np.arange(i * size, (i + 1) * size, dtype=np.uint32)
        stage = np.full(size, 1 if 2 * i < config.updates else 2, np.int32)
        return run.shard({"id": ids[mine], "stage": stage[mine]})

    ref = replicate(run.mesh, params)
    before = evaluate(ref)
    state, finished = fit(
        make_round(config, lm, task, method, update, ref),
        state,
        batch_at,
        steps=config.updates,
        folder=run.folder,
        log=config.log,
        eval_fn=lambda done, state: evaluate(state.train.ema),
        best_metric="accuracy",
        mode="max",
    )
    if not finished:
        return {}
    ema = run.gather(state.train.ema)
    after = evaluate(ema)
    run.export(ema, {"reason": run.settings})
    if run.chief:
        for name, figures in (("before", before), ("after", after)):
            print(name, *(f"{k} {v:.3f}" for k, v in figures.items()), sep="  ")
    return {"before": before, "after": after}


def learn_examples(config: Config, lm: LM, task: Task, run: Run, evaluate: Any) -> Any:
    """Parameters after the examples; None if it was stopped."""
    wanted = config.start
    folder = wanted.directory or config.directory / "start"
    # Runs may share it that agree in what is learnt there.
    settings = settings_of(config)
    shared = ("sums", "model", "start", "seed", "scale", "hosts")
    claim(folder, {k: settings[k] for k in shared}, free=("start.directory", *FREE))
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    rate = optax.cosine_decay_schedule(wanted.learning_rate, wanted.steps)
    tx = optax.adam(rate, b2=0.99)

    def make_state():
        made: Any = lm.init(init_key, task.prompts[:1], task.prompt_mask[:1])
        params = made["params"]
        # Of the size of what blocks add, or single samples' gradients are all noise.
        params["embed"] *= 50.0
        return init_state(params, tx, train_key)

    def loss(params, rows, keys):
        return -masked_mean(score(lm, params, rows), rows["mask"], 1), {}

    state, sharding = run.place(make_state)
    examples = jax.jit(make_examples(task, jax.random.key(config.seed + 2)))
    state, finished = fit(
        run.step(loss, tx, sharding, ema_decay=0.98, clip=1.0),
        state,
        lambda i: examples(run.ids(i, wanted.batch)),
        steps=wanted.steps,
        folder=folder,
        log=dataclasses.replace(config.log, every=50, save_every=250, eval_every=0),
        eval_fn=lambda done, state: evaluate(state.ema),
    )
    return run.gather(state.ema) if finished else None


def compare(config: Config) -> None:
    """Each method with ``config.compare`` seeds, at equal samples; prints a table.

    Stopped, it leaves without the rest of the table.

    Raises:
      ValueError: Less than two seeds, which have no spread.
    """
    if config.compare < 2:
        raise ValueError(f"compare is {config.compare}; expected 2 seeds or more, or 0")
    print("| method | attempt | before | after | gains |\n|---|---|---|---|---|")
    for method in get_args(Name):
        runs = []
        for seed in range(config.seed, config.seed + config.compare):
            run = dataclasses.replace(
                config,
                method=method,
                seed=seed,
                clip=config.clip if method in CLIPPED else Config.clip,
                directory=config.directory / f"{method}{seed}",
                compare=0,
            )
            if config.smollm2 is None:
                place = config.directory / f"start{seed}"
                begun = dataclasses.replace(config.start, directory=place)
                run = dataclasses.replace(run, start=begun)
            runs.append(train(run))
            if not runs[-1]:
                return
        for name in ("accuracy", "second"):
            before, after = (
                np.array([run[when][name] for run in runs])
                for when in ("before", "after")
            )
            cells = [f"{x.mean():.3f} ± {x.std(ddof=1):.3f}" for x in (before, after)]
            gains = " ".join(f"{gain:+.3f}" for gain in after - before)
            print(f"| {method} | {name} | {' | '.join(cells)} | {gains} |", flush=True)


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        (compare if config.compare else train)(config)
