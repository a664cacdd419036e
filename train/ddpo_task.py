"""What train/ddpo.py wants of samples, how it judges them, and what it starts from."""

import dataclasses
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rewards import is_own, load_reward

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_digits
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.finetuning import rescore, rollout, step_kl
from jaxlib_guidance.models import (
    ClassifierModel,
    DiffusionModel,
    from_config,
    load_pretrained,
)
from jaxlib_guidance.testing import judge_samples
from jaxlib_guidance.training import Scale, pmapped, replicate

Array = jax.Array


class Task(NamedTuple):
    """What is wanted.

    Attributes:
      reward: ``(images, prompts) -> [B]``, higher is better.
      prompt: ``ids [B] -> [B]``: the label that the network is given, or the null one.
      wanted: ``(the judge's logits, prompts) -> [B]``, 1 where the held-out judge sees
        what was asked for; None for a reward of one's own, of which it knows nothing.
      digits: Labels of the data that samples should be like; empty for a model of other
        images than the bundled digits, which the judge does not know.
      held_out: Another reward, which is not climbed; None without one.
    """

    reward: Any
    prompt: Any
    wanted: Any
    digits: tuple[int, ...]
    held_out: Any = None


# Luminance table of the JPEG standard (ITU-T T.81, annex K.1).
QUANTA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""


def code_length(images: Array) -> Array:
    """About how many bits JPEG spends on each 8x8 image ``[B, 8, 8, 1]``.

    Quantised cosine coefficients: those that are not 0 cost their binary digits and a
    code of four bits.
    """
    k = np.arange(8)
    cosine = np.cos(np.pi * (2 * k + 1) * k[:, None] / 16) / 2
    cosine[0] /= np.sqrt(2)
    c = jnp.asarray(cosine, jnp.float32)
    quanta = jnp.asarray(np.array(QUANTA.split(), np.float32).reshape(8, 8))
    pixels = 127.5 * jnp.clip(images[..., 0], -1, 1)
    levels = jnp.abs(jnp.round(jnp.einsum("ki,bij,lj->bkl", c, pixels, c) / quanta))
    bits = jnp.floor(jnp.log2(jnp.maximum(levels, 1))) + 5
    return jnp.sum(jnp.where(levels > 0, bits, 0), axis=(1, 2))


def classes(model: DiffusionModel) -> int:
    """Number of labels, and the null label; 0 for a model without labels."""
    return model.classes or 0


def network(model: DiffusionModel) -> Any:
    """``params -> denoiser``, which takes labels even where the network has none."""

    def bound(params):
        made = model.denoiser(params)
        if model.classes:
            return made
        unlabelled = lambda x, t, cond, **edits: made.apply(x, t, None, **edits)  # noqa: E731
        return dataclasses.replace(made, apply=unlabelled)

    return bound


def of_digits(model: DiffusionModel) -> bool:
    """Whether the rewards and the judge that are bundled know a model's samples."""
    return (model.shape, model.classes) == ((8, 8, 1), 10)


def make_task(
    reward: str,
    targets: tuple[int, ...],
    model: DiffusionModel,
    held_out: str | None = None,
) -> Task:
    """The rewards, the one to climb and the one that is held out.

    Args:
      reward: Name of the reward, "class" or "compressibility", or one of a file.
      targets: Digits that reward "class" wants.
      model: The model to tune.
      held_out: A reward of a file that is measured and not climbed, or None.

    Raises:
      ValueError: A bundled reward for a model of other images; a file's that
        `load_reward` refuses.
    """
    null = classes(model)
    if is_own(reward):
        other = None if held_out is None else load_reward(held_out, model.shape)
        return Task(
            reward=load_reward(reward, model.shape),
            prompt=lambda ids: jnp.asarray(ids % max(null, 1), jnp.int32),
            wanted=None,
            digits=tuple(range(null)) if of_digits(model) else (),
            held_out=other,
        )
    if not of_digits(model):
        raise ValueError(
            f"reward is {reward!r}, of the 8x8 digits, and weights are of images "
            f"{model.shape}; expected --reward file.py:function"
        )
    if reward == "compressibility":
        return Task(
            reward=lambda images, prompts: -code_length(images),
            prompt=lambda ids: jnp.asarray(ids % null, jnp.int32),
            wanted=lambda logits, prompts: jnp.argmax(logits, -1) == prompts,
            digits=tuple(range(null)),
        )
    scorer, params = load_pretrained("digits_classifier")
    assert isinstance(scorer, ClassifierModel)
    assert scorer.process is not None
    wanted, t = jnp.asarray(targets), scorer.process.t_min

    def chance(images, prompts):
        logs = jax.nn.log_softmax(scorer.logits(params, images, t))
        return jax.nn.logsumexp(logs[:, wanted], axis=-1)

    return Task(
        reward=chance,
        prompt=lambda ids: jnp.full(ids.shape, null, jnp.int32),
        wanted=lambda logits, prompts: jnp.isin(jnp.argmax(logits, -1), wanted),
        digits=targets,
    )


def make_evaluation(
    model: DiffusionModel,
    task: Task,
    base: Any,
    guidance: Any,
    *,
    count: int,
    solver_steps: int,
    seed: int,
    mesh: Mesh,
) -> Any:
    """``params -> (figures, images)``: the same noise each time, an ODE, the judge.

    Of images that the judge does not know there are the rewards and the divergence.

    "divergence" is that of the paths of ancestral sampling from those of the base
    model, in nats a sample, whatever the policy was in training; of 64 samples.

    Args:
      model: The model that is tuned.
      task: What is wanted of its samples.
      base: Parameters before tuning, whole on each device.
      guidance: Guidance of the policy, or None.
      count: Samples to draw.
      solver_steps: Steps of the samplers.
      seed: Seed of the run.
      mesh: Devices to draw on.
    """
    judged = make_judge(task) if task.digits else None
    ids = np.arange(count)
    keys = jg.sample_keys(jax.random.key(seed + 2), count)
    prompts = task.prompt(jnp.asarray(ids))
    net, grid = network(model), model.grid(solver_steps)
    recommended = jg.recommended(model.process, solver_steps, scale=model.data_scale)
    options: Any = {"guidance": guidance}

    def draw(params, keys, prompts):
        x, _ = jg.sample(
            keys,
            net(params),
            *recommended,
            model.shape,
            prompts,
            **options,
        )
        held = task.reward if task.held_out is None else task.held_out
        return x, task.reward(x, prompts), held(x, prompts)

    def stray(params, base, keys, prompts):
        policy = (jg.ddim(1.0), grid)
        path = rollout(keys, net(params), *policy, model.shape, prompts, **options)
        there = rescore(keys, net(base), *policy, path.states, prompts, **options)
        each = step_kl(path.transition, there.transition, "sum")
        return jnp.sum(each, axis=1)

    draws = pmapped(draw, mesh, (None, 0, 0), pad=True)
    strays = pmapped(stray, mesh, (None, None, 0, 0), pad=True)

    def evaluate(params):
        ours, rows = replicate(mesh, (params, (keys, prompts)))
        x, reward, held = map(np.asarray, replicate(mesh, draws(ours, *rows)))
        few = jax.tree.map(lambda leaf: leaf[:64], rows)
        away = np.asarray(replicate(mesh, strays(ours, base, *few)))
        figures = {"reward": float(reward.mean()), "divergence": float(away.mean())}
        if task.held_out is not None:
            figures["held_out"] = float(held.mean())
        return figures | (judged(x, prompts) if judged else {}), x

    return evaluate


def make_judge(task: Task) -> Any:
    """``(images, prompts) -> figures`` of digits, by a classifier trained apart."""
    judge, params = load_pretrained("digits_judge")
    assert isinstance(judge, ClassifierModel)
    splits = [load_digits(split) for split in ("train", "test")]
    images, labels = (np.concatenate(each) for each in zip(*splits, strict=True))
    look = jax.jit(partial(judge, params))
    data = look(images[np.isin(labels, task.digits)])

    def judged(x, prompts):
        seen = look(x)
        scores = judge_samples(seen, data)
        figures = {name: scores[name] for name in ("coverage", "frechet", "kernel")}
        if task.wanted is not None:
            figures["held_out"] = float(np.mean(task.wanted(seen.logits, prompts)))
        return figures

    return judged


def load_base(weights: str, scale: Scale) -> tuple[DiffusionModel, Any, dict[str, Any]]:
    """The model to start from, its parameters and its configuration.

    Args:
      weights: A name or a file, as `load_pretrained` takes it.
      scale: How the network is computed.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        load_pretrained(weights)  # Says which names there are.
        path = (
            resources.files("jaxlib_guidance.models") / f"assets/{weights}.safetensors"
        )
    with resources.as_file(path) as file:
        params, about = load_weights(file)
    network = {**about["network"], "dtype": scale.precision}
    network["remat"] = scale.remat
    model = from_config({**about, "network": network})
    if not isinstance(model, DiffusionModel) or len(model.shape) != 3:
        raise ValueError(
            f"weights is {weights!r}; expected a diffusion model of images"
        )
    if getattr(model.module, "text", None) is not None:
        raise ValueError(
            f"weights is {weights!r}, a model of texts; expected one of labels, or of "
            "none"
        )
    return model, jax.tree.map(jnp.asarray, params), about
