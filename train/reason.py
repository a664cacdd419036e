"""Teaches a small language model to add, first by examples, then by reward alone.

    python train/reason.py                         # GRPO, minutes on a CPU
    python train/reason.py --method score          # two attempts, SCoRe
    python train/reason.py --compare 3             # all methods, 3 seeds each
    python train/reason.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf --sums 20
    python train/reason.py --help

The model answers "12+34=" with "64.", last digit first. Examples come first, so few
that it is often wrong; then it samples answers to the training sums, each is checked
against the true sum, and a policy gradient follows what was right. Accuracy is that of
greedy answers to sums that were never trained on. After "?" the model may try again:
SCoRe trains that second attempt, and the accuracy of both is reported. docs/policy.md
has the table.

A run lives in one folder and goes on where it was stopped; see train/images.py.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tyro.conf import OmitArgPrefixes

from jaxlib_guidance import rng
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.models import (
    LM,
    chat,
    completion_logp,
    generate,
    load_smollm2,
    pad_rows,
)
from jaxlib_guidance.policy import (
    group_center,
    group_normalize,
    informative,
    kl_loss,
    leave_one_out,
    nft,
    ppo_clip,
    reinforce,
    score_kl,
    score_rewards,
)
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.training import (
    FREE,
    Hosts,
    Log,
    Scale,
    TrainState,
    claim,
    data_mesh,
    fit,
    init_state,
    local_rows,
    make_train_step,
    pmapped,
    replicate,
    require_effect,
    shard_batch,
    start,
    state_sharding,
)

Array = jax.Array
Method = Literal["grpo", "rloo", "nft", "score"]
CLIPPED = ("grpo", "rloo")


@dataclasses.dataclass(frozen=True)
class Model:
    """The network, where it is not SmolLM2."""

    width: int = 64
    depth: int = 3
    heads: int = 4
    hidden: int = 192


@dataclasses.dataclass(frozen=True)
class Start:
    """Learning from examples."""

    steps: int = 350
    batch: int = 128
    learning_rate: float = 3e-3
    directory: Path | None = None
    """Folder of this part, which runs can share; None is "start" in the run's own."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: examples, then reward."""

    directory: Path = Path("runs/reason")
    method: Method = "grpo"
    sums: int = 100
    """Numbers below this are added; a tenth of all sums is held out."""
    updates: int = 150
    prompts: int = 32
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    learning_rate: float = 5e-4
    clip: float = 0.2
    kl: float = 0.0
    """Weight of k3 to the model after its examples; SCoRe has its own."""
    seed: int = 0
    smollm2: Path | None = None
    """A GGUF file of SmolLM2, which then starts without examples."""
    compare: int = 0
    """If not 0, runs each method with this many seeds and prints a table."""
    model: Model = Model()
    start: Start = Start()
    log: Log = Log(every=10, save_every=100, eval_every=50)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()


class State(NamedTuple):
    """A run between two updates."""

    step: Array
    train: TrainState


class Task(NamedTuple):
    """All sums, as tokens.

    Attributes:
      prompts: ``[N, T]``, padded on the left.
      prompt_mask: Like ``prompts``.
      answers: ``[N, S]`` with the end of the answer, padded on the right.
      answer_mask: Like ``answers``.
      hint: ``[H]``, what asks for a second attempt.
      train: Numbers of the sums to learn from.
      test: Numbers of those held out.
      eos: The token that ends an answer.
    """

    prompts: Array
    prompt_mask: Array
    answers: Array
    answer_mask: Array
    hint: Array
    train: Array
    test: Array
    eos: int


def make_task(
    encode: Callable[[str], list[int]],
    ask: str,
    tell: Callable[[int], str],
    hint: str,
    eos: int,
    sums: int,
) -> Task:
    """The sums of two numbers below ``sums``, in the tokens of ``encode``."""
    pairs = [(a, b) for a in range(sums) for b in range(sums)]
    prompts = pad_rows([encode(ask.format(a=a, b=b)) for a, b in pairs], pad=eos)
    answers = [[*encode(tell(a + b)), eos] for a, b in pairs]
    order = np.random.default_rng(0).permutation(len(pairs))
    test, train = np.split(order, [len(pairs) // 10])
    tables = (*prompts, *pad_rows(answers, pad=eos, side="right"))
    rest = (encode(hint), train, test)
    return Task(*map(jnp.asarray, (*tables, *rest)), eos=eos)


def load(config: Config) -> tuple[LM, Any, Task]:
    """The network, its parameters (or None, if it begins at random) and the task."""
    dtype = jnp.dtype(config.scale.precision)
    if config.smollm2 is not None:
        lm, params, tokenizer = load_smollm2(config.smollm2)
        lm = lm.clone(dtype=dtype, remat=config.scale.remat)
        ask = chat([("user", "What is {a}+{b}? Answer with the number alone.")])
        turn = chat([("system", ""), ("user", "Is that right? Answer again.")])
        hint = "\n" + turn[turn.index("<|im_start|>user") :]
        encode, eos = tokenizer.encode, tokenizer.eos
        return lm, params, make_task(encode, ask, str, hint, eos, config.sums)
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


def again(task: Task, prompts: tuple[Array, Array], first: tuple[Array, Array]) -> Any:
    """``(tokens, mask)`` of what comes before a second attempt: all, and the hint."""
    rows = len(prompts[0])
    hint = jnp.broadcast_to(task.hint, (rows, len(task.hint)))
    parts = zip(prompts, first, (hint, jnp.ones(hint.shape, bool)), strict=True)
    return tuple(jnp.concatenate(part, axis=1) for part in parts)


def make_examples(task: Task, root: Array) -> Any:
    """``ids [B] -> rows``: first attempts, and second ones after a right or a wrong."""

    def one(key):
        which, other, coins = (jax.random.fold_in(key, i) for i in range(3))
        sum_, wrong = (jax.random.choice(k, task.train) for k in (which, other))
        second, mistaken = jax.random.bernoulli(coins, shape=(2,))
        return sum_, jnp.where(mistaken, wrong, sum_), second

    def rows(ids):
        at, tried, second = jax.vmap(one)(rng.sample_keys(root, ids))
        prompts = task.prompts[at], task.prompt_mask[at]
        first = task.answers[tried], task.answer_mask[tried]
        tokens, mask = again(task, prompts, first)
        # What comes after the prompt is hidden from first attempts.
        mask &= second[:, None] | (jnp.arange(mask.shape[1]) < task.prompts.shape[1])
        return {
            "prompt": tokens,
            "prompt_mask": mask,
            "tokens": task.answers[at],
            "mask": task.answer_mask[at],
        }

    return rows


def attempt_twice(
    lm: LM, task: Task, params: Any, keys: Array, at: Array, heat: float
) -> list[dict[str, Array]]:
    """Two answers to each sum ``at [B]``: rows of `completion_logp`, and ``right``."""
    prompts, found = (task.prompts[at], task.prompt_mask[at]), []
    for turn in range(2):
        out = generate(
            rng.fold(keys, turn),
            lm,
            params,
            *prompts,
            steps=task.answers.shape[1],
            temperature=heat,
            eos=task.eos,
            pad=task.eos,
        )
        same = (out.tokens == task.answers[at]) | ~task.answer_mask[at]
        found.append(
            {
                "prompt": prompts[0],
                "prompt_mask": prompts[1],
                "tokens": out.tokens,
                "mask": out.mask,
                "old": out.logp,
                "right": jnp.all(same, axis=1).astype(jnp.float32),
            }
        )
        prompts = again(task, prompts, (out.tokens, out.mask))
    return found


def score(lm: LM, params: Any, row: dict[str, Array]) -> Array:
    """Log-probabilities of a row's answers, ``[B, S]``."""
    return completion_logp(
        lm, params, row["prompt"], row["tokens"], row["prompt_mask"], row["mask"]
    )


class Algorithm(NamedTuple):
    """What a method makes of rewards, and its loss.

    Attributes:
      turns: Attempts that are trained.
      credit: ``(rewards of each turn [P, G], stage) -> `` what the loss needs of each
        turn, ``[P, G]``.
      loss: ``(logp [B, S], row, turn) -> [B, S]``.
    """

    turns: int
    credit: Any
    loss: Any


def make_algorithm(config: Config) -> Algorithm:
    """The method with its papers' choices."""

    def clipped(logp, row, turn, level: Literal["token", "seq_sum"] = "token"):
        mask, clip = row["mask"], config.clip
        return ppo_clip(
            *(logp, row["old"], row["advantage"], mask),
            clip_low=clip,
            clip_high=clip,
            level=level,
        )

    def by_sequence(logp, row, turn):
        return clipped(logp, row, turn, "seq_sum")

    def rate(rewards, stage):
        r = rewards[0]
        share = jnp.broadcast_to(jnp.mean(r, 1, keepdims=True), r.shape)
        return [{"rate": share, "teaches": informative(r)}]

    def contrast(logp, row, turn):
        each = nft(logp, row["old"], row["right"], row["rate"], row["mask"])
        return row["teaches"][:, None] * each

    def improve(rewards, stage):
        paid = [score_rewards(*rewards, stage=number) for number in (1, 2)]
        paid = jnp.where(stage[..., None] == 2, paid[1], paid[0])
        return [{"advantage": group_center(paid[..., turn])} for turn in range(2)]

    def held(logp, row, turn):
        # The first stage holds the first attempt where it was, the second both.
        turns = jnp.full(logp.shape, turn)
        pulls = [
            score_kl(logp, row["ref"], turns, jnp.array(beta), row["mask"])
            for beta in ((0.1, 0.0), (0.01, 0.01))
        ]
        pull = jnp.where(row["stage"][:, None] == 2, pulls[1], pulls[0])
        return reinforce(logp, row["advantage"], row["mask"]) + pull

    return {
        "grpo": Algorithm(
            1, lambda r, _: [{"advantage": group_normalize(r[0])}], clipped
        ),
        "rloo": Algorithm(
            1, lambda r, _: [{"advantage": leave_one_out(r[0])}], by_sequence
        ),
        "nft": Algorithm(1, rate, contrast),
        "score": Algorithm(2, improve, held),
    }[config.method]


def make_round(
    config: Config, lm: LM, task: Task, algorithm: Algorithm, update: Any, ref: Any
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
        by_sum = lambda x: x.reshape(-1, group)  # noqa: E731
        turns = turns[: algorithm.turns]
        given = algorithm.credit([by_sum(row["right"]) for row in turns], by_sum(stage))
        report = {
            f"right{i + 1}": jnp.mean(row["right"]) for i, row in enumerate(turns)
        }
        for row, extra in zip(turns, given, strict=True):
            row |= {name: x.reshape(-1) for name, x in extra.items()}
            row |= {"stage": stage, "ref": score(lm, ref, row)}
        return turns, report

    def take(state, batch):
        rows, report = collect(state.train.params, ref, batch)
        trained, metrics = update(state.train, rows)
        return State(state.step + 1, trained), {**metrics, **report}

    return take


def make_loss(config: Config, lm: LM, algorithm: Algorithm) -> Any:
    """``(params, rows, keys) -> (loss [B], metrics)``: means over tokens, summed."""

    def loss(params, rows, keys):
        total, ratio = jnp.float32(0), []
        for turn, row in enumerate(rows):
            logp = score(lm, params, row)
            each = algorithm.loss(logp, row, turn)
            if config.kl:
                each += config.kl * kl_loss(logp, row["ref"], row["mask"])
            total += masked_mean(each, row["mask"], 1)
            ratio.append(jnp.max(jnp.abs(jnp.expm1(logp - row["old"])), axis=1))
        return total, {"ratio": jnp.maximum(*ratio) if len(ratio) > 1 else ratio[0]}

    return loss


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
    own = config.smollm2 is None, "SmolLM2, which comes as it is"
    clipped = config.method in CLIPPED, f'method "{config.method}"'
    require_effect(config, {"clip": clipped, "model": own, "start": own})
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    folder = claim(config.directory, settings, free=("directory", "log", *FREE))
    lm, params, task = load(config)
    mesh = data_mesh()
    evaluate = make_evaluation(lm, task, mesh)
    if params is None:
        params = learn_examples(config, lm, task, mesh, evaluate)
        if params is None:
            return {}
    key = jax.random.key(config.seed)
    tx = optax.adam(config.learning_rate, b2=0.99)

    def make_state():
        return State(jnp.zeros((), jnp.int32), init_state(params, tx, key))

    sharding = state_sharding(mesh, make_state, config.scale.mesh)
    algorithm = make_algorithm(config)
    update = make_train_step(
        make_loss(config, lm, algorithm),
        tx,
        ema_decay=0.95,
        accumulate=config.scale.accumulate,
        clip=1.0,
        mesh=mesh,
        sharding=sharding.train,
    )
    size = config.prompts * config.group
    mine = local_rows(mesh, size)

    def batch_at(i):
        ids = np.arange(i * size, (i + 1) * size, dtype=np.uint32)
        stage = np.full(size, 1 if 2 * i < config.updates else 2, np.int32)
        return shard_batch(mesh, {"id": ids[mine], "stage": stage[mine]})

    ref = replicate(mesh, params)
    before = evaluate(ref)
    state, finished = fit(
        make_round(config, lm, task, algorithm, update, ref),
        jax.jit(make_state, out_shardings=sharding)(),
        batch_at,
        steps=config.updates,
        folder=folder,
        log=config.log,
        eval_fn=lambda done, state: evaluate(state.train.ema),
        best_metric="accuracy",
        mode="max",
    )
    if not finished:
        return {}
    ema = jax.tree.map(np.asarray, replicate(mesh, state.train.ema))
    after = evaluate(ema)
    if jax.process_index() == 0:
        export_weights(folder / "ema.safetensors", ema, {"reason": settings})
        for name, figures in (("before", before), ("after", after)):
            print(name, *(f"{k} {v:.3f}" for k, v in figures.items()), sep="  ")
    return {"before": before, "after": after}


def learn_examples(
    config: Config, lm: LM, task: Task, mesh: jax.sharding.Mesh, evaluate: Any
) -> Any:
    """Parameters after the examples; None if it was stopped."""
    wanted = config.start
    folder = wanted.directory or config.directory / "start"
    # Runs may share it that agree in what is learnt there.
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
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

    sharding = state_sharding(mesh, make_state, config.scale.mesh)
    update = make_train_step(
        loss,
        tx,
        ema_decay=0.98,
        accumulate=config.scale.accumulate,
        clip=1.0,
        mesh=mesh,
        sharding=sharding,
    )
    examples = jax.jit(make_examples(task, jax.random.key(config.seed + 2)))
    mine = local_rows(mesh, wanted.batch)

    def batch_at(i):
        ids = np.arange(i * wanted.batch, (i + 1) * wanted.batch, dtype=np.uint32)
        return examples(shard_batch(mesh, ids[mine]))

    state, finished = fit(
        update,
        jax.jit(make_state, out_shardings=sharding)(),
        batch_at,
        steps=wanted.steps,
        folder=folder,
        log=dataclasses.replace(config.log, every=50, save_every=250, eval_every=0),
        eval_fn=lambda done, state: evaluate(state.ema),
    )
    return jax.tree.map(np.asarray, replicate(mesh, state.ema)) if finished else None


def compare(config: Config) -> None:
    """Each method with ``config.compare`` seeds, at equal samples; prints a table.

    Stopped, it leaves without the rest of the table.
    """
    print("| method | attempt | before | after | gains |\n|---|---|---|---|---|")
    for method in get_args(Method):
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
    config = tyro.cli(Config, description=__doc__)
    start(config.hosts)
    if config.compare:
        compare(config)
    else:
        train(config)
