"""A language model that learns from its own answers: draw, keep, fine-tune, and again.

    python train/selftrain.py                        # rounds on sums, minutes on a CPU
    python train/selftrain.py --keep vote            # without the truth
    python train/selftrain.py --temperatures 0.5 0.8 1.1 1.4     # B-STaR
    python train/selftrain.py --compare 3            # every filter, three seeds
    python train/selftrain.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf
    python sample/curves.py runs/selftrain --metric accuracy

A round's author is the model as it was when the round began. Each step the author
answers a few questions, a filter keeps some of the answers, different ones, and the
model fine-tunes on them; nothing that it learns within a round changes who writes.
``keep`` names the filter: what is right, the shortest right answer to each question,
what agrees with the majority, or everything that is an answer. With several
temperatures each round draws at the one where a first few answers are best balanced
between many different right ones and little else (B-STaR, arXiv 2412.17256).

The questions are those of selftrain_task.py, whose `Task` is the place for your own.
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
from reason_task import in_majority
from selftrain_options import Config, Keep
from selftrain_task import Found, Task, load

from jaxlib_guidance import policy, rng
from jaxlib_guidance.models import LM, completion_logp, generate
from jaxlib_guidance.reduce import aggregate
from jaxlib_guidance.training import (
    TrainState,
    fit,
    init_state,
    open_run,
    pmapped,
    replicate,
    require_effect,
    require_ranges,
    start,
    usage_errors,
)

Array = jax.Array


class State(NamedTuple):
    """A run between two steps; ``author`` and ``temperature`` are of the round."""

    step: Array
    train: TrainState
    author: Any
    temperature: Array


def first_of_kind(tokens: Array, mask: Array, kept: Array) -> Array:
    """Which kept answers ``[P, G]`` no answer before them in the group equals."""
    tokens = jnp.where(mask, tokens, -1)
    same = jnp.all(tokens[:, :, None] == tokens[:, None], -1) & kept[:, None]
    return kept & (jnp.argmax(same, -1) == jnp.arange(kept.shape[1]))


def choose(keep: Keep, found: Found) -> Array:
    """Which answers of groups ``[P, G]`` a filter keeps."""
    if keep == "right":
        return found.right
    if keep == "all":
        return found.ended
    if keep == "shortest":
        most = jnp.iinfo(found.length.dtype).max
        length = jnp.where(found.right, found.length, most)
        return found.right & (length == jnp.min(length, 1, keepdims=True))
    return in_majority(found.said, found.ended)


def answer(
    lm: LM, task: Task, params: Any, keys: Array, asked: Any, temperature: Any
) -> tuple[dict[str, Array], Found]:
    """One answer to each of ``asked [N]``, and what the check says of it."""
    prompt, seen = task.ask(asked)
    ends = {"eos": task.eos, "pad": task.eos, "temperature": temperature}
    out = generate(keys, lm, params, prompt, seen, steps=task.places, **ends)
    row = {"prompt": prompt, "prompt_mask": seen, "tokens": out.tokens}
    return row | {"mask": out.mask}, task.check(asked, out.tokens, out.mask)


def make_collect(config: Config, lm: LM, task: Task) -> Any:
    """``(author, temperature, ids) -> (rows [P, G, ...], figures)``."""
    root, group = jax.random.key(config.seed + 1), config.group
    groups = partial(jax.tree.map, lambda x: x.reshape(-1, group, *x.shape[1:]))

    def collect(author, temperature, ids):
        # Answers to one question are neighbours.
        asked = jax.vmap(task.draw)(rng.fold(rng.sample_keys(root, ids // group), 2))
        keys = rng.sample_keys(root, ids)
        rows, found = groups(answer(lm, task, author, keys, asked, temperature))
        kept = choose(config.keep, found)
        rows["keep"] = first_of_kind(rows["tokens"], rows["mask"], kept)
        right, ended = found.right, found.ended
        figures = {
            "right": jnp.mean(right),
            "ended": jnp.mean(ended),
            "kept": jnp.mean(rows["keep"]),
            "kept_right": jnp.sum(right & kept) / jnp.maximum(jnp.sum(kept), 1),
        }
        return rows, figures

    return collect


def make_begin(config: Config, lm: LM, task: Task) -> Any:
    """``state -> state``: at the first step of a round, another author."""
    root = jax.random.key(config.seed + 2)
    heats, group = jnp.array(config.temperatures), config.group
    count = len(config.temperatures)

    def balance(author, step):
        """The temperature whose answers are best balanced."""
        # Two keys: the children of one are the same by split and by sample_keys.
        ask, say = jax.random.split(jax.random.fold_in(root, step))
        asked = jax.vmap(task.draw)(jax.random.split(ask, config.tries))
        size = count * config.tries * group
        asked = jax.tree.map(lambda x: jnp.repeat(x, group, 0), asked)
        asked = jax.tree.map(
            lambda x: jnp.tile(x, (count, *(1,) * (x.ndim - 1))), asked
        )
        keys = rng.sample_keys(say, jnp.arange(size))
        each = jnp.repeat(heats, config.tries * group)
        rows, found = answer(lm, task, author, keys, asked, each)
        shape = count * config.tries, group
        rows, found = jax.tree.map(
            lambda x: x.reshape(*shape, *x.shape[1:]), (rows, found)
        )
        kept = choose(config.keep, found)
        first = first_of_kind(rows["tokens"], rows["mask"], kept & found.right)
        counts = (jnp.sum(x, 1).reshape(count, -1) for x in (first, kept))
        return heats[policy.best_configuration(*counts, wanted=config.wanted)[0]]

    @jax.jit
    def begin(state):
        def fresh(state):
            author = state.train.params
            heat = balance(author, state.step) if count > 1 else heats[0]
            return state._replace(author=author, temperature=heat)

        first = state.step % config.steps == 0
        return jax.lax.cond(first, fresh, lambda state: state, state)

    return begin


def make_loss(lm: LM) -> Any:
    """Mean over the tokens of kept answers, as `make_train_step` takes it."""

    def loss(params, rows, keys):
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
        given = (flat[x] for x in ("prompt", "tokens", "prompt_mask", "mask"))
        logp = completion_logp(lm, params, *given)
        mask = (flat["mask"] & flat["keep"][:, None]).astype(jnp.float32)
        return aggregate(policy.nll(logp, mask), mask, "token_mean")

    return loss


def make_evaluation(lm: LM, task: Task, mesh: jax.sharding.Mesh, seed: int) -> Any:
    """``params -> figures`` of the held-out questions, at temperature 1 and 0."""

    def run(params, asked):
        count = len(jax.tree.leaves(asked)[0])
        keys = rng.sample_keys(jax.random.key(seed), jnp.arange(count))
        found = [answer(lm, task, params, keys, asked, heat)[1] for heat in (1.0, 0.0)]
        return [(x.right, x.length) for x in found]

    mapped = pmapped(run, mesh, (None, 0), pad=True)

    def evaluate(params):
        found = replicate(mesh, mapped(*replicate(mesh, (params, task.test))))
        (right, length), (greedy, _) = found
        shown = {"accuracy": right, "greedy": greedy, "tokens": length}
        return {name: float(jnp.mean(x)) for name, x in shown.items()}

    return evaluate


def train(config: Config) -> dict[str, dict[str, float]]:
    """Runs, or goes on with, a run.

    Returns:
      The figures before and after; empty if it was stopped.
    """
    require_ranges(config)
    own = config.smollm2 is None, "SmolLM2, which comes as it is"
    only = config.smollm2 is not None, "the world of sums; it is for SmolLM2"
    several = len(config.temperatures) > 1, "one temperature"
    parts = dict.fromkeys(("start", "digits", "direct"), own)
    parts |= {"sums": only} | dict.fromkeys(("tries", "wanted"), several)
    require_effect(config, parts)
    if not config.temperatures or not all(
        0 <= heat < np.inf for heat in config.temperatures
    ):
        raise ValueError(
            f"temperatures are {config.temperatures}; expected finite numbers from 0 up"
        )
    if not 1 <= config.digits <= 3:
        raise ValueError(f"digits is {config.digits}; expected 1 to 3")
    lm, params, task, about = load(config)
    run = open_run(config)
    evaluate = make_evaluation(lm, task, run.mesh, config.seed)
    size, mine = config.prompts * config.group, run.rows(config.prompts)
    mine = slice(mine.start * config.group, mine.stop * config.group)

    def rate(step):
        return config.learning_rate * (1 - step % config.steps / config.steps)

    tx = optax.adam(rate, b2=0.99)

    def make_state():
        trained = init_state(params, tx, jax.random.key(config.seed))
        heat = jnp.float32(config.temperatures[0])
        return State(jnp.zeros((), jnp.int32), trained, params, heat)

    state, sharding = run.place(make_state)
    update = run.step(make_loss(lm), tx, sharding.train, ema_decay=0.9, clip=1.0)
    begin = make_begin(config, lm, task)
    collect = jax.jit(make_collect(config, lm, task))

    def take(state, ids):
        state = begin(state)
        rows, figures = collect(state.author, state.temperature, ids)
        trained, metrics = update(state.train, rows)
        figures["temperature"] = state.temperature
        return state._replace(step=state.step + 1, train=trained), metrics | figures

    def batch_at(i):
        ids = np.arange(i * size, (i + 1) * size, dtype=np.uint32)
        return run.shard(ids[mine])

    before = evaluate(replicate(run.mesh, params))
    state, finished = fit(
        take,
        state,
        batch_at,
        steps=config.rounds * config.steps,
        folder=run.folder,
        log=config.log,
        eval_fn=lambda done, state: evaluate(state.train.params),
        best_metric="accuracy",
        mode="max",
    )
    if not finished:
        return {}
    params = run.gather(state.train.params)
    after = evaluate(params)
    run.export(params, about | {"selftrain": run.settings})
    if run.chief:
        for name, figures in (("before", before), ("after", after)):
            print(name, *(f"{k} {v:.3f}" for k, v in figures.items()), sep="  ")
    return {"before": before, "after": after}


def compare(config: Config) -> None:
    """Each filter with ``config.compare`` seeds, at equal samples; prints a table.

    Stopped, it leaves without the rest of the table.
    """
    if config.compare < 1:
        raise ValueError(f"compare is {config.compare}; expected at least 1, or 0")
    unused = config.keep == Config.keep, "a comparison, which tries all"
    require_effect(config, {"keep": unused})
    print("| kept | figure | before | after | gains |\n|---|---|---|---|---|")
    for keep in get_args(Keep):
        runs = []
        for seed in range(config.seed, config.seed + config.compare):
            place = config.directory / f"{keep}{seed}"
            one = dataclasses.replace(config, keep=keep, seed=seed, compare=0)
            runs.append(train(dataclasses.replace(one, directory=place)))
            if not runs[-1]:
                return
        for name in ("accuracy", "greedy", "tokens"):
            before, after = (
                np.array([run[when][name] for run in runs])
                for when in ("before", "after")
            )
            gains = " ".join(f"{gain:+.3f}" for gain in after - before)
            means = f"{before.mean():.3f} | {after.mean():.3f}"
            print(f"| {keep} | {name} | {means} | {gains} |", flush=True)


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        (compare if config.compare else train)(config)
