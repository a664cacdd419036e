r"""Pictures of texts from a published model: Stable Diffusion, Flux or PixArt.

    python sample/text_to_image.py --model FOLDER --prompt "a cat" --guide cfg=6.5
    python sample/text_to_image.py --model FOLDER --prompt "a cat" --size 512 \
        --negative "blurry" --guide cfg=6.5 --guide pag=2@mid --steps 30
    python sample/text_to_image.py --model FOLDER --prompt "a cat" --init photo.png \
        --strength 0.7 --mask mask.png

FOLDER is what diffusers saves and hubs serve, on disk; docs/models.md says how to get
one. Guides have the grammar of sample/images.py, and sites the published indices:
``pag=2@mid``, ``seg=3@up1/1/0/attn``. A guide's weight w is diffusers' guidance_scale
less one.

``--init`` begins from a picture, noised by ``--strength``. ``--mask`` repaints where it
is white: by a network with nine channels as it was trained to, else by keeping the rest
at each step. Picture number i depends on --seed and i alone, whatever the batch; a
batch is split among all devices that share it equally. The PNG's text says how it was
made.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import images as recipe
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from outputs import require_writable
from pictures import read_mask, read_picture
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance.data import save_grid
from jaxlib_guidance.models import (
    FluxModel,
    LoRA,
    StableDiffusion,
    TextTransformer,
    latent_mask,
    load_published,
    load_stable_diffusion,
    read_lora,
)
from jaxlib_guidance.training import batch_sharding, data_mesh, replicated


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw."""

    model: Path
    """Folder of a published model."""
    weights: Path | None = None
    """A file of all weights under the authors' names, in place of the folder's."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A text for one row of pictures; give it repeatedly."""
    negative: str | None = None
    """What to move away from under cfg; by default the empty text, or SDXL's zeros."""
    guide: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A guidance term, NAME=WEIGHT[@WHERE][,KEY=VALUE...]; give it repeatedly."""
    sampler: str = "dpmpp_2m"
    """Solver of sample/images.py with its options, such as ddim,eta=1, on the times of
    diffusers' scheduler; or recommended, on its own."""
    steps: int = 30
    """Steps of the solver."""
    size: tuple[int, ...] = ()
    """Pixels: one number, or height and width; that of the training by default."""
    columns: int = 1
    """Pictures of each text."""
    batch: int = 1
    """Pictures drawn at once."""
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A LoRA file to merge, FILE or FILE@SCALE; give it repeatedly."""
    init: Path | None = None
    """A picture to begin from, cropped to the size."""
    strength: float = 0.8
    """Share of the steps that a picture to begin from is noised by."""
    mask: Path | None = None
    """A picture that is white where the other is to be painted anew."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of parameters and computation."""
    variant: str | None = None
    """Variant of the files, such as fp16."""
    seed: int = 0
    """Of the noise that all samples start from."""
    out: Path = Path("out/text_to_image.png")


# Families of schedulers, which choose their timesteps by other rules.
FAMILIES = {
    "ddim": ("ddim", "ddpm", "pndm", "annealed_langevin"),
    "dpm": (
        *("dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "dpmpp_sde", "unipc", "deis"),
        *("sa_solver", "adams"),
    ),
    "euler": ("euler", "euler_ancestral", "heun", "edm", "dpm_2", "lms"),
}


@dataclasses.dataclass(frozen=True)
class Prompted:
    """What guides ask of a model: the condition to move away from, and a shape."""

    null: Any
    shape: tuple[int, ...]


def solver_of(
    config: Config, model: StableDiffusion | TextTransformer, size: tuple[int, int]
) -> tuple[jg.Sampler, Any, float | None]:
    """The solver, and what diffusers' scheduler of its family adds: times, a bound.

    Raises:
      ValueError: A solver or options that do not exist.
    """
    name, options = recipe.options_of(config.sampler)
    if name == "recommended":
        own = recipe.Config(sampler=config.sampler, steps=config.steps)
        return *recipe.solver_of(own, model), model.scheduler.clip()
    if name not in recipe.SOLVERS:
        known = ", ".join((*recipe.SOLVERS, "recommended"))
        raise ValueError(f"sampler {name!r}; expected one of {known}")
    family = next(family for family, names in FAMILIES.items() if name in names)
    try:
        solver = recipe.SOLVERS[name](**options)
        if isinstance(model, FluxModel):
            return solver, model.grid(config.steps, size=size), None
        grid = model.grid(config.steps, family, clipped=True)
        return solver, grid, model.scheduler.clip(family)
    except TypeError as error:
        raise ValueError(f"sampler {config.sampler!r}: {error}") from error


def lora_of(text: str) -> LoRA:
    """A LoRA file and its scale, ``FILE@0.8``; 1 without one.

    Raises:
      ValueError: A scale that is no number; a file that is no LoRA.
      OSError: No such file.
    """
    path, at, scale = text.rpartition("@")
    if not at:
        return read_lora(text)
    try:
        return read_lora(path, float(scale))
    except ValueError as error:
        raise ValueError(f"lora {text!r}: {error}") from error


def require_known(config: Config) -> None:
    """Raises for options that contradict each other or have no meaning.

    Raises:
      ValueError: Such options.
    """
    if not config.prompt:
        raise ValueError("no prompt; expected --prompt TEXT, at least one")
    for option in ("steps", "columns", "batch"):
        if getattr(config, option) < 1:
            raise ValueError(
                f"{option} is {getattr(config, option)}; expected at least 1"
            )
    if len(config.size) > 2:
        raise ValueError(f"size is {config.size}; expected one number or two")
    if config.mask is not None and config.init is None:
        raise ValueError("mask has no effect without init, the picture to repaint")
    if not 0 < config.strength <= 1:
        raise ValueError(f"strength is {config.strength}; expected above 0, up to 1")


def draw(config: Config) -> np.ndarray:
    """The pictures ``[N, H, W, 3]`` in [0, 1].

    Raises:
      ValueError: Options, guides or solvers that do not exist, or have no effect.
      OSError: A folder that lacks files.
    """
    require_known(config)
    mesh = data_mesh() if config.batch % jax.device_count() == 0 else None
    single = {} if config.weights is None else {"single_file": config.weights}
    load: Any = load_published if config.weights is None else load_stable_diffusion
    model, params = load(
        config.model,
        dtype=jnp.dtype(config.dtype),
        sharding=None if mesh is None else replicated(mesh),
        variant=config.variant,
        lora=[lora_of(text) for text in config.lora],
        **single,
    )
    if not isinstance(model, StableDiffusion | TextTransformer):
        raise ValueError(f"{config.model} takes no texts; see docs/models.md")
    size = tuple(config.size) * (3 - len(config.size)) if config.size else model.size
    size = size[0], size[1]
    shape = model.latent(*size)
    sampler, grid, bound = solver_of(config, model, size)
    texts = [text for text in config.prompt for _ in range(config.columns)]
    root = jax.random.key(config.seed)
    # Texts are few: encoded one by one, once for all.
    conds = _conditions(model, params, config, size)
    start = None
    if config.init is not None:
        kept = max(1, int(config.steps * config.strength))
        grid = grid[len(grid) - 1 - kept :]
        start = read_picture(config.init, size, 3)
    hole = None
    if config.mask is not None:
        hole = jnp.asarray(read_mask(config.mask, config.init, size))

    @jax.jit
    def run(params, ids, cond, null):
        keys = jg.sample_keys(root, ids)
        x, solver = shape, sampler
        if start is not None:
            images = jnp.broadcast_to(start, (len(keys), *start.shape))
            z = model.encode(params, images)
            alpha = model.process.alpha(grid[0])
            sigma = model.process.sigma(grid[0])
            x = alpha * z + sigma * jg.rng.normal(keys, shape)
            trained = isinstance(model, StableDiffusion) and model.repaints
            if hole is not None and trained:
                cond = model.masked(params, cond, images, hole)  # pyrefly: ignore
                null = {**null, "image": cond["image"]}
            elif hole is not None:
                known = latent_mask(hole < 0.5, shape[:2])[..., None]
                solver = jg.inpaint(solver, z, known, "fixed")
        nets = recipe.Nets(Prompted(null, shape), [params])  # pyrefly: ignore
        terms = [recipe.term_of(text, nets) for text in config.guide]
        # Last, as diffusers clips what its guidance gives.
        clips = [] if bound is None else [jg.clip_x0(-bound, bound)]
        guidance = jg.chain(*terms, *clips)
        if nets.others:
            raise ValueError("guides by another network are for sample/images.py")
        z, _ = jg.sample(
            *(keys, model.denoiser(params), solver, grid, x, cond), guidance=guidance
        )
        return model.decode(params, z)

    ids = np.arange(len(texts))
    padded = np.resize(ids, -(-len(ids) // config.batch) * config.batch)
    rows = padded.reshape(-1, config.batch)
    drawn = []
    for part in tqdm(rows, unit="batch", disable=len(rows) == 1):
        both = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves), *(conds[texts[i]] for i in part)
        )
        given = (jnp.asarray(part), *both)
        if mesh is not None:
            given = jax.device_put(given, batch_sharding(mesh))
        drawn.append(np.asarray(run(params, *given)))
    return np.concatenate(drawn)[: len(ids)]


def _conditions(model, params, config, size):
    """Condition and negative of each text."""
    encode = jax.jit(lambda p, tokens: model.condition(p, tokens, size))

    def prompts(text):
        cond = encode(params, model.tokens([text]))
        if config.negative is None and model.zeros:
            return cond, model.empty(cond)
        return cond, encode(params, model.tokens([config.negative or ""]))

    return {text: prompts(text) for text in dict.fromkeys(config.prompt)}


def main(config: Config) -> None:
    """Draws and writes the pictures; a mistake is told in one line."""
    made = {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config)}
    try:
        # Drawing may take minutes.
        require_writable(config.out)
        pictures = draw(config)
        save_grid(config.out, 2 * pictures - 1, config.columns, note=made)
    except (ValueError, OSError) as error:
        sys.exit(f"sample/text_to_image.py: {error}")
    print(f"{len(pictures)} pictures in {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
