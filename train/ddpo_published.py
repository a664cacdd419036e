r"""Fine-tunes a published model of texts for a reward: a low-rank change, by DDPO.

    python train/ddpo_published.py --model FOLDER --prompts prompts.txt
    python train/ddpo_published.py --model FOLDER --prompts prompts.txt --guidance 4 \
        --lora-rank 8 --reward score.py:aesthetic --size 512
    python sample/text_to_image.py --model FOLDER --lora runs/lora/lora.safetensors ...

FOLDER is what diffusers saves (docs/models.md), prompts.txt has a text a line. The
policy is the guided sampler: ancestral DDIM, or the stochastic sampler of Flow-GRPO for
flows such as SD3 and Flux. Trained are the factors of a low-rank change of attention,
beside weights that stay as they are; lora.safetensors has them in the layout that
diffusers' ``load_lora_weights`` reads.

Rewards are of the decoded pictures: "compressibility" and "incompressibility", minus
and plus the kilobytes of a JPEG as in the paper, "brightness", or a function of your
own (see rewards.py), whose labels are the numbers of the prompts. A sample's advantage
is to those of the same prompt: --group of them in a round.

A run lives in one folder and goes on where it was stopped; see train/images.py.
Reference: Black et al., arXiv 2305.13301.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from ddpo_published_options import Config, texts_of
from ddpo_published_policy import Policy, load_policy, scorer
from rewards import identity, is_own

import jaxlib_guidance as jg
from jaxlib_guidance.data import save_grid
from jaxlib_guidance.finetuning import ddpo, rescore, rollout, step_kl
from jaxlib_guidance.models import init_lora, write_lora
from jaxlib_guidance.policy import group_normalize
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.training import (
    TrainState,
    data_mesh,
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
    """A run between two rounds."""

    step: Array
    train: TrainState


def make_loss(config: Config, policy: Policy) -> tuple[Any, Any, Any]:
    """``draw``, ``prepare`` and ``loss`` of a round."""
    root = jax.random.key(config.seed + 1)
    sampler, grid, shape = policy.start
    same: Any = {"guidance": policy.guidance, "reduce": "mean"}

    @jax.jit
    def draw(factors, frozen, ids, root=root):
        prompts = jnp.asarray(ids // config.group % policy.count, jnp.int32)
        keys = jg.sample_keys(root, ids)
        net = policy.denoiser(factors, frozen)
        path = rollout(keys, net, sampler, grid, shape, prompts, **same)
        images = policy.model.decode(frozen["params"], path.states[:, -1])
        rows = {"id": ids, "prompt": prompts, "states": path.states, "logp": path.logp}
        return rows, images

    def score(factors, frozen, rows, **more):
        keys, net = jg.sample_keys(root, rows["id"]), policy.denoiser(factors, frozen)
        given = (keys, net, sampler, grid, rows["states"], rows["prompt"])
        return rescore(*given, **same, **more)

    @jax.jit
    def prepare(base, frozen, rows):
        return {**rows, "base": score(base, frozen, rows).transition}

    def loss(factors, rows, keys, frozen):
        path = score(factors, frozen, rows, remat=config.scale.remat)
        each = ddpo(
            path.logp, rows["logp"], rows["advantage"], path.mask, clip=config.clip
        )
        ratio = jnp.abs(jnp.expm1(path.logp - rows["logp"]))
        metrics = {"ratio": jnp.max(ratio, axis=1)}
        if config.kl:
            away = step_kl(path.transition, rows["base"], "mean")
            each += config.kl * away
            metrics["divergence"] = masked_mean(away, path.mask, 1)
        return masked_mean(each, path.mask, 1), metrics

    return draw, prepare if config.kl else None, loss


def train(config: Config) -> dict[str, float]:
    """Runs, or goes on with, a run of fine-tuning.

    Returns:
      The mean rewards "before" and "after", of the same noise; empty if it was stopped.
    """
    texts = texts_of(config)
    policy, frozen = load_policy(config, texts, data_mesh())
    reward = scorer(config.reward, policy.pixels)
    settings = settings_of(config) | {"texts": texts}
    if is_own(config.reward):
        settings["reward_file"] = identity(config.reward)
    run = open_run(config, settings, free=("directory", "log", "rounds"))
    network = frozen["params"][policy.part]
    key = jax.random.key(config.seed)
    begin = init_lora(key, network, config.lora_rank)
    tx = optax.adam(config.learning_rate)

    def make_state():
        return State(jnp.zeros((), jnp.int32), init_state(begin, tx, key))

    state, sharding = run.place(make_state)
    base = replicate(run.mesh, begin)
    draw, prepare, loss = make_loss(config, policy)
    update = run.step(loss, tx, sharding.train, ema_decay=config.ema, clip=1.0)

    def scored(images, prompts):
        """Whole arrays, on every process."""
        images, prompts = run.gather((images, prompts))
        found = np.asarray(reward(images, prompts), np.float32)
        if not np.isfinite(found).all():
            raise ValueError(f"reward {config.reward!r} gives numbers without end")
        return found, images, prompts

    def take(state, batch):
        rows, images = draw(state.train.params, frozen, batch["id"])
        found, _, prompts = scored(images, rows["prompt"])
        given = jnp.asarray(found), jnp.asarray(prompts), policy.count
        each = group_normalize(*given, ddof=0, eps=1e-4)
        rows["advantage"] = run.shard(np.asarray(each)[run.rows(config.batch)])
        if prepare is not None:
            rows = prepare(base, frozen, rows)
        trained, metrics = state.train, {}
        for _ in range(config.updates):
            trained, metrics = update(trained, rows, None, frozen)
        return State(state.step + 1, trained), {**metrics, "sampled": found.mean()}

    fixed = jax.random.key(config.seed + 2)

    def evaluate(name, factors):
        factors = replicate(run.mesh, factors)
        rows, images = draw(factors, frozen, run.ids(0, config.batch), fixed)
        found, images, _ = scored(images, rows["prompt"])
        if run.chief:
            path = run.folder / "samples" / f"{name}.png"
            save_grid(path, 2 * images - 1, config.group)
        return {"reward": float(found.mean())}

    before = evaluate("before", base)["reward"]
    if run.chief:
        print(f"reward {config.reward} of the published model: {before:.4f}")
    state, finished = fit(
        take,
        state,
        lambda i: {"id": run.ids(i, config.batch)},
        steps=config.rounds,
        folder=run.folder,
        log=config.log,
        eval_fn=lambda done, state: evaluate(f"{done:05d}", state.train.ema),
        best_metric="reward",
        mode="max",
    )
    if not finished:
        return {}
    ema = run.gather(state.train.ema)
    after = evaluate("after", ema)["reward"]
    if run.chief:
        path = run.folder / "lora.safetensors"
        write_lora(path, network, ema, part=policy.part)
        print(f"and of the tuned one: {after:.4f}; its change is in {path}")
    return {"before": before, "after": after}


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
