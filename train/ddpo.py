"""Fine-tunes a diffusion model for a reward, by DDPO, Flow-GRPO or DiffusionNFT.

    python train/ddpo.py                                  # bundled digits, minutes
    python train/ddpo.py --method nft --targets 3 8
    python train/ddpo.py --method flow_grpo --reward compressibility --kl 0.05
    python train/ddpo.py --weights runs/cats/ema.safetensors --reward score.py:red
    python train/ddpo.py --help

Reward "class" is a classifier's log-probability that an unlabelled sample is one of the
target digits. "compressibility" is the length of the image as a JPEG block codes it,
which has no gradient. Neither is what one wants, so each comes with a reward that is
held out: a judge that was trained apart says whether the digit is still the one that
was asked for. How far the samples are from data and the sampler from the base model is
measured as well; docs/finetuning.md shows what the three say of each other. A reward of
your own is a function in a file (see rewards.py), of images of any model that
train/images.py made; --held_out is another one, which is measured and not climbed.

A run lives in one folder and goes on where it was stopped; see train/images.py.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from ddpo_options import Config, require_use
from ddpo_task import Task, classes, load_base, make_evaluation, make_task, network
from rewards import identity, is_own

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.data import save_grid
from jaxlib_guidance.diffusion import log_normal_t
from jaxlib_guidance.finetuning import (
    ddpo,
    nft_loss,
    old_decay,
    optimality,
    prediction_gap,
    rescore,
    rollout,
    step_kl,
)
from jaxlib_guidance.models import DiffusionModel
from jaxlib_guidance.policy import group_normalize
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.sampling import flow_sde
from jaxlib_guidance.training import (
    TrainState,
    ema_update,
    fit,
    init_state,
    open_run,
    replicate,
    settings_of,
    start,
    usage_errors,
)

Array = jax.Array


class State(NamedTuple):
    """A run between two rounds; ``old`` is NFT's slow copy, else empty."""

    step: Array
    train: TrainState
    old: Any


class Method(NamedTuple):
    """What a round does.

    Attributes:
      draw: ``(params, ids, prompts) -> rows``: samples as ``rows["x"]``, and what the
        loss needs of how they were drawn.
      prepare: ``(rows, old, base, number of the update) -> rows``: what the loss needs
        of other networks.
      loss: ``(params, rows, keys) -> (loss [B], metrics)``, as `make_train_step` wants.
      evaluations: Network evaluations a sample and round: without and with a gradient.
    """

    draw: Any
    prepare: Any
    loss: Any
    evaluations: tuple[int, int]


def guided(config: Config, model: DiffusionModel) -> Any:
    """The policy's guidance, for roll-outs and re-scoring alike."""
    if not config.guidance:
        return None
    if not classes(model):
        raise ValueError("guidance has no effect on a model without labels")
    return jg.chain(jg.cfg(config.guidance, null=classes(model)))


def by_steps(config: Config, model: DiffusionModel) -> Method:
    """DDPO and Flow-GRPO: every step of the sampler is an action."""
    n, root = config.solver_steps, jax.random.key(config.seed + 1)
    sampler, grid = {
        "ddpo": (jg.ddim(1.0), model.grid(n)),
        "flow_grpo": (flow_sde(0.7), model.grid(n, jg.flow_grid)),
    }[config.method]
    policy = (sampler, grid)
    same: Any = {"guidance": guided(config, model), "reduce": "sum"}
    steps, net = n * (2 if config.guidance else 1), network(model)

    def draw(params, ids, prompts):
        keys = jg.sample_keys(root, ids)
        path = rollout(keys, net(params), *policy, model.shape, prompts, **same)
        return {"x": path.states[:, -1], "states": path.states, "logp": path.logp}

    def score(params, rows, **more):
        keys, prompts = jg.sample_keys(root, rows["id"]), rows["prompt"]
        return rescore(
            keys, net(params), *policy, rows["states"], prompts, **same, **more
        )

    def prepare(rows, old, base, number):
        return {**rows, "base": score(base, rows).transition} if config.kl else rows

    def loss(params, rows, keys):
        path = score(params, rows, remat=config.scale.remat)
        each = ddpo(
            path.logp, rows["logp"], rows["advantage"], path.mask, clip=config.clip
        )
        if config.kl:
            each += config.kl * step_kl(path.transition, rows["base"], "sum")
        ratio = jnp.abs(jnp.expm1(path.logp - rows["logp"]))
        return masked_mean(each, path.mask, 1), {"ratio": jnp.max(ratio, axis=1)}

    extra = config.updates * steps if config.kl else 0
    return Method(draw, prepare, loss, (steps + extra, config.updates * steps))


def by_contrast(config: Config, model: DiffusionModel) -> Method:
    """DiffusionNFT: samples of any solver, then regressions on their noised copies."""
    n, root = config.solver_steps, jax.random.key(config.seed + 1)
    process, net = model.process, network(model)

    def draw(params, ids, prompts):
        return {
            "x": jg.sample(
                jg.sample_keys(root, ids),
                net(params),
                *jg.recommended(process, n, scale=model.data_scale),
                model.shape,
                prompts,
                guidance=guided(config, model),
            )[0]
        }

    def prepare(rows, old, base, number):
        keys = rng.fold(jg.sample_keys(root, rows["id"]), rng.NOISING)
        keys = rng.fold(keys, number)
        t = log_normal_t(process, rng.uniform(rng.fold(keys, 0)), -0.6, 1.2)
        x_t = jg.perturb(
            process, rows["x"], rng.normal(rng.fold(keys, 1), model.shape), t
        )
        rows = {**rows, "x_t": x_t, "t": t, "old": net(old)(x_t, t, rows["prompt"]).x0}
        if config.kl:
            rows["base"] = net(base)(x_t, t, rows["prompt"]).x0
        return rows

    def loss(params, rows, keys):
        x0 = net(params)(rows["x_t"], rows["t"], rows["prompt"]).x0
        r = optimality(rows["advantage"])
        each = nft_loss(x0, rows["old"], rows["x"], r)
        if config.kl:
            gap = prediction_gap(process, rows["t"], x0, rows["base"], "velocity")
            each += config.kl * gap
        return each, {}

    steps = n * (2 if config.guidance else 1)
    others = config.updates * (2 if config.kl else 1)
    return Method(draw, prepare, loss, (steps + others, config.updates))


def make_round(
    method: Method, task: Task, update: Any, base: Any, config: Config, groups: int
) -> Any:
    """``(state, {"id": [B]}) -> (state, metrics)``: draw, score, learn."""
    slow = config.method == "nft"

    @jax.jit
    def draw(params, ids):
        prompts = task.prompt(ids)
        rows = method.draw(params, ids, prompts)
        reward = task.reward(rows["x"], prompts)
        # Each label is a group of its own; without labels the batch is one.
        advantage = group_normalize(reward, prompts, groups, ddof=0, eps=1e-4)
        rows |= {"id": ids, "prompt": prompts, "advantage": advantage}
        return rows, jnp.mean(reward)

    prepare = jax.jit(method.prepare)

    @partial(jax.jit, donate_argnums=0)
    def follow(old, params, step):
        return ema_update(old, params, old_decay(step + 1))

    def take(state, batch):
        behind = state.old if slow else state.train.params
        rows, reward = draw(behind, batch["id"])
        trained, metrics = state.train, {}
        for number in range(config.updates):
            old = state.old if slow else None
            ready = prepare(rows, old, base, number)
            trained, metrics = update(trained, ready)
        old = follow(state.old, trained.params, state.step) if slow else ()
        return State(state.step + 1, trained, old), {**metrics, "sampled": reward}

    return take


def train(config: Config) -> dict[str, dict[str, float]]:
    """Runs, or goes on with, a run of fine-tuning.

    Returns:
      The figures of the base model and of the tuned one; empty if it was stopped.
    """
    require_use(config)
    model, start_at, about = load_base(config.weights, config.scale)
    task = make_task(config.reward, config.targets, model, config.held_out)
    settings = settings_of(config)
    if is_own(config.reward):
        settings["reward_file"] = identity(config.reward)
    run = open_run(config, settings, free=("directory", "log", "rounds"))
    tx = optax.adam(config.learning_rate, b2=0.99)
    train_key = jax.random.key(config.seed)
    slow = config.method == "nft"

    def make_state():
        state = init_state(start_at, tx, train_key)
        old = jax.tree.map(jnp.array, start_at) if slow else ()
        return State(jnp.zeros((), jnp.int32), state, old)

    state, sharding = run.place(make_state)
    base = replicate(run.mesh, start_at)
    method = (by_contrast if slow else by_steps)(config, model)
    update = run.step(method.loss, tx, sharding.train, ema_decay=config.ema, clip=1.0)
    take = make_round(method, task, update, base, config, classes(model) + 1)
    evaluate = make_evaluation(
        model,
        task,
        base,
        guided(config, model),
        count=config.count,
        solver_steps=config.solver_steps,
        seed=config.seed,
        mesh=run.mesh,
    )
    plain, graded = method.evaluations

    def eval_fn(done, state):
        figures, images = evaluate(state.train.ema)
        if run.chief:
            name = "after" if done == config.rounds else f"{done:05d}"
            save_grid(run.folder / "samples" / f"{name}.png", images[:100], 10, 4)
        spent = float(done * config.batch)
        return {**figures, "evaluations": spent * plain, "gradients": spent * graded}

    before, images = evaluate(base)
    if run.chief:
        save_grid(run.folder / "samples" / "before.png", images[:100], 10, 4)
        print(show("base", before), flush=True)
    state, finished = fit(
        take,
        state,
        lambda i: {"id": run.ids(i, config.batch)},
        steps=config.rounds,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
        best_metric="held_out" if "held_out" in before else "reward",
        mode="max",
    )
    if not finished:
        return {}
    ema = run.gather(state.train.ema)
    after, _ = evaluate(ema)
    run.export(ema, about | {"finetuning": run.settings})
    if run.chief:
        print(show(config.method, after))
        print(f"weights and pictures in {run.folder}")
    return {"base": before, config.method: after}


def show(name: str, figures: dict[str, float]) -> str:
    """A line of figures."""
    return "  ".join([f"{name:10}", *(f"{k} {v:.3f}" for k, v in figures.items())])


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
