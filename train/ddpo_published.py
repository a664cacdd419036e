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

import dataclasses
import io
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rewards import identity, is_own, load_reward
from tyro.conf import OmitArgPrefixes, arg

import jaxlib_guidance as jg
from jaxlib_guidance.data import save_grid
from jaxlib_guidance.diffusion import VPDiscrete
from jaxlib_guidance.finetuning import ddpo, rescore, rollout, step_kl
from jaxlib_guidance.models import (
    FluxModel,
    StableDiffusion,
    TextTransformer,
    init_lora,
    load_published,
    merge_lora,
    write_lora,
)
from jaxlib_guidance.policy import group_normalize
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.sampling import flow_sde
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    TrainState,
    data_mesh,
    fit,
    init_state,
    open_run,
    replicate,
    replicated,
    settings_of,
    start,
    usage_errors,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of fine-tuning."""

    model: Path
    """Folder of a published model of texts."""
    prompts: Path
    """File with a text a line."""
    directory: Path = Path("runs/lora")
    """Folder of the run."""
    reward: str = "compressibility"
    """"compressibility", "incompressibility", "brightness", or a function of your own
    as file.py:function."""
    lora_rank: int = 4
    """Rank of the change of each layer."""
    negative: str | None = None
    """What guidance moves away from; by default the empty text, or SDXL's zeros."""
    guidance: float = 4.0
    """Classifier-free guidance weight w, diffusers' guidance_scale less one."""
    size: tuple[int, ...] = ()
    """Pixels: one number, or height and width; that of the training by default."""
    rounds: Annotated[int, arg(aliases=["--steps"])] = 100
    """Each draws samples, scores them and learns from them."""
    batch: int = 16
    """Samples of a round."""
    group: int = 4
    """Samples of the same prompt in a row."""
    solver_steps: int = 20
    """Steps of the sampler."""
    updates: int = 1
    """Gradient steps on a round's samples."""
    kl: float = 0.0
    """Pull to the published model: factor of the divergence of a step, a mean over the
    latent's elements."""
    clip: float = 1e-4
    """Clip of the ratio of a step's density, of which the D-th root is taken."""
    learning_rate: float = 3e-4
    """Adam's rate."""
    ema: float = 0.9
    """Decay of the average that is evaluated and kept."""
    seed: int = 0
    """Of the factors and the samples."""
    log: Log = Log(every=1, save_every=10, eval_every=10)
    scale: OmitArgPrefixes[Scale] = Scale(remat=True)
    hosts: OmitArgPrefixes[Hosts] = Hosts()


class State(NamedTuple):
    """A run between two rounds."""

    step: Array
    train: TrainState


class Policy(NamedTuple):
    """A guided sampler, but for its weights.

    Attributes:
      model: The published model.
      part: The part that is changed, "unet" or "transformer".
      count: Number of prompts.
      start: Solver, times and shape of a latent.
      guidance: Guidance, of labels that are the numbers of the prompts.
      pixels: Shape of a picture.
    """

    model: Any
    part: str
    count: int
    start: tuple[Any, Any, tuple[int, ...]]
    guidance: Any
    pixels: tuple[int, ...]

    def denoiser(self, factors: Any, frozen: Any) -> jg.Denoiser:
        """The changed network; its condition is the number of a prompt."""
        params, table = frozen["params"], frozen["texts"]
        changed = merge_lora(params[self.part], factors)
        made = self.model.denoiser(params | {self.part: changed})

        def apply(x, t, prompts, **edits):
            cond = jax.tree.map(lambda rows: rows[prompts], table)
            return made.apply(x, t, cond, **edits)

        return dataclasses.replace(made, apply=apply)


def texts_of(config: Config) -> list[str]:
    """The prompts, for options that make sense.

    Raises:
      ValueError: Options that are out of range; a file without prompts.
      OSError: No such file.
    """
    for option in ("rounds", "group", "solver_steps", "updates", "lora_rank"):
        least = 2 if option == "group" else 1
        if getattr(config, option) < least:
            raise ValueError(
                f"{option} is {getattr(config, option)}; expected at least {least}"
            )
    if config.batch < 1 or config.batch % config.group:
        raise ValueError(
            f"batch is {config.batch}; expected a multiple of group, {config.group}"
        )
    if config.batch % jax.device_count():
        raise ValueError(
            f"batch is {config.batch}; expected a multiple of the "
            f"{jax.device_count()} devices"
        )
    if len(config.size) > 2:
        raise ValueError(f"size is {config.size}; expected one number or two")
    if config.negative is not None and not config.guidance:
        raise ValueError("negative has no effect without guidance")
    try:
        text = config.prompts.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts: {config.prompts} is no text ({error})") from error
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"prompts: {config.prompts} has no line of text")
    return texts


def load_policy(config: Config, texts: list[str], mesh: Any) -> tuple[Policy, Any]:
    """The policy and what stays as it is: parameters, and encoded texts.

    Raises:
      ValueError: A model that takes no texts, or a size that it cannot have.
      OSError: A folder that lacks files.
    """
    model, params = load_published(
        config.model,
        dtype=jnp.dtype(config.scale.precision),
        sharding=replicated(mesh),
    )
    if not isinstance(model, StableDiffusion | TextTransformer):
        raise ValueError(f"model {config.model} takes no texts; see docs/models.md")
    if isinstance(model, StableDiffusion) and model.repaints:
        raise ValueError(f"model {config.model} fills in masks; expected another")
    size = tuple(config.size) * (3 - len(config.size)) if config.size else model.size
    shape = model.latent(size[0], size[1])
    encode = jax.jit(lambda p, tokens: model.condition(p, tokens, (size[0], size[1])))
    rows = [encode(params, model.tokens([text])) for text in texts]
    if config.negative is None and model.zeros:
        rows.append(model.empty(rows[0]))
    else:
        rows.append(encode(params, model.tokens([config.negative or ""])))
    table = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)
    part = "unet" if isinstance(model, StableDiffusion) else "transformer"
    discrete = isinstance(model.process, VPDiscrete)
    steps = config.solver_steps
    terms: list[Any] = []
    if config.guidance:
        terms.append(jg.cfg(config.guidance, null=len(texts)))
    if discrete:
        grid, bound = (
            model.grid(steps, "ddim", clipped=True),
            model.scheduler.clip("ddim"),
        )
        terms += [] if bound is None else [jg.clip_x0(-bound, bound)]
    elif isinstance(model, FluxModel):
        grid = model.grid(steps, size=(size[0], size[1]))
    else:
        grid = model.grid(steps)
    policy = Policy(
        *(model, part, len(texts)),
        start=(jg.ddim(1.0) if discrete else flow_sde(), grid, shape),
        guidance=jg.chain(*terms) if terms else None,
        pixels=(size[0], size[1], 3),
    )
    # The text encoders have done their work.
    kept = {name: params[name] for name in (part, "vae")}
    return policy, {"params": kept, "texts": replicate(mesh, table)}


def scorer(reward: str, pixels: tuple[int, ...]) -> Any:
    """``(pictures [B, H, W, 3] in [0, 1], numbers of prompts) -> [B]``, on the host.

    Raises:
      ValueError: An unknown reward, or one that `load_reward` refuses.
    """
    if is_own(reward):
        own = load_reward(reward, pixels)
        return lambda images, prompts: own(2 * images - 1, prompts)
    known = {
        "compressibility": lambda images, prompts: -jpeg_kilobytes(images),
        "incompressibility": lambda images, prompts: jpeg_kilobytes(images),
        "brightness": lambda images, prompts: images.mean((1, 2, 3)),
    }
    if reward not in known:
        raise ValueError(
            f"reward is {reward!r}; expected one of {tuple(known)} or file.py:function"
        )
    return known[reward]


def jpeg_kilobytes(images: np.ndarray) -> np.ndarray:
    """Kilobytes of each picture as a JPEG of quality 95, as in DDPO's experiments."""
    from PIL import Image

    sizes = []
    for image in np.round(255 * images).astype(np.uint8):
        held = io.BytesIO()
        Image.fromarray(image).save(held, format="JPEG", quality=95)
        sizes.append(held.tell() / 1000)
    return np.asarray(sizes, np.float32)


def make_loss(config: Config, policy: Policy) -> tuple[Any, Any, Any]:
    """``draw``, ``prepare`` and ``loss`` of a round."""
    root = jax.random.key(config.seed + 1)
    same: Any = {"guidance": policy.guidance, "reduce": "mean"}

    @jax.jit
    def draw(factors, frozen, ids, root=root):
        prompts = jnp.asarray(ids // config.group % policy.count, jnp.int32)
        keys = jg.sample_keys(root, ids)
        net = policy.denoiser(factors, frozen)
        path = rollout(keys, net, *policy.start, prompts, **same)
        images = policy.model.decode(frozen["params"], path.states[:, -1])
        rows = {"id": ids, "prompt": prompts, "states": path.states, "logp": path.logp}
        return rows, images

    def score(factors, frozen, rows, **more):
        keys, net = jg.sample_keys(root, rows["id"]), policy.denoiser(factors, frozen)
        given = (keys, net, *policy.start[:2], rows["states"], rows["prompt"])
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
        each = group_normalize(found, prompts, policy.count, ddof=0, eps=1e-4)
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
