"""What train/ddpo_published.py tunes, a guided published sampler, and for what."""

import dataclasses
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ddpo_published_options import Config
from rewards import is_own, load_reward

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import VPDiscrete
from jaxlib_guidance.models import (
    FluxModel,
    StableDiffusion,
    TextTransformer,
    load_published,
    merge_lora,
)
from jaxlib_guidance.sampling import flow_sde
from jaxlib_guidance.training import replicate, replicated


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
    own = isinstance(model, StableDiffusion) and model.zeros
    if config.negative is None and own:
        rows.append(model.empty(rows[0]))  # pyrefly: ignore
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
