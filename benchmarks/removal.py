"""Objects removed from pictures whose background is known, by the emoji model.

    python benchmarks/removal.py                         # emoji
    python benchmarks/removal.py --kinds emoji photo     # the table of docs/erasing.md

A small emoji is pasted on a picture, so that background and mask are known exactly. The
pictures are held-out emoji, or crops of photographs that scikit-image ships as CC0 or
of the public domain (pip install scikit-image), which the model has never seen the like
of. All methods have the mask, no text, and the same number of network calls; settings
are searched on other scenes, as many for each.

inside    root of the mean squared distance to the background in the mask, in [-1, 1]
outside   the same distance outside of it
better    share of the scenes that are nearer to the background than by the mean fill
seconds   for one picture, of this machine's processors
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image
from scipy import ndimage

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_emoji, save_grid
from jaxlib_guidance.editing import erase, sdedit
from jaxlib_guidance.models import load_pretrained

# In the wheel of scikit-image 0.26, whose docstrings say CC0 or public domain.
PHOTOS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
    *("grass.png", "brick.png", "gravel.png"),
)
# The later half, as the authors take.
SITES = ("block3", "block4", "block5")


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    kinds: tuple[Literal["emoji", "photo"], ...] = ("emoji",)
    """Backgrounds."""
    scenes: int = 32
    """Scenes of each kind that are judged."""
    tuned: int = 10
    """Scenes of each kind that settings see."""
    calls: int = 40
    """Network calls for a sample."""
    seeds: int = 3
    out: Path = Path("out/removal.png")


class Scenes(NamedTuple):
    """Pictures ``[N, 32, 32, 3]`` in [-1, 1] with and without, and masks ``[N, ...]``.

    Attributes:
      pictures: What is to be cleaned.
      truth: The backgrounds.
      masks: Where they differ, bool ``[N, 32, 32]``.
    """

    pictures: np.ndarray
    truth: np.ndarray
    masks: np.ndarray


def photographs(random: np.random.Generator, count: int) -> np.ndarray:
    """Crops of photographs at 32x32, of 96 to 256 pixels each way."""
    folder = resources.files("skimage.data")
    crops = []
    for i in range(count):
        with folder.joinpath(PHOTOS[i % len(PHOTOS)]).open("rb") as file:
            whole = np.asarray(Image.open(file))
        side = int(random.integers(96, 257))
        y, x = (int(random.integers(n - side + 1)) for n in whole.shape[:2])
        crop = Image.fromarray(whole[y : y + side, x : x + side]).convert("RGB")
        crops.append(np.asarray(crop.resize((32, 32), Image.Resampling.BOX)))
    return np.stack(crops).astype(np.float32) / 127.5 - 1


def make_scenes(kind: str, seed: int, count: int) -> Scenes:
    """Backgrounds with a small emoji on each; seeds share no background of emoji."""
    random = np.random.default_rng(seed)
    emoji = load_emoji("test").images
    order = np.random.default_rng(0).permutation(len(emoji))
    half = len(emoji) // 2
    own = order[half:] if seed else order[:half]
    if kind == "photo":
        truth = photographs(random, count)
    else:
        truth = emoji[np.resize(own, count)]
    objects = emoji[random.permutation(own)]
    pictures, masks = truth.copy(), np.zeros((count, 32, 32), bool)
    for i in range(count):
        side = int(random.integers(9, 15))
        solid = ndimage.binary_fill_holes((objects[i % len(own)] < 0.9).any(-1))
        levels = np.round((objects[i % len(own)] + 1) * 127.5)
        rgba = np.dstack([levels, 255.0 * solid]).astype(np.uint8)
        small = Image.fromarray(rgba, "RGBA").resize((side, side), Image.Resampling.BOX)
        colour, alpha = np.split(np.asarray(small, np.float32), [3], -1)
        y, x = (int(k) for k in random.integers(2, 31 - side, 2))
        there = pictures[i, y : y + side, x : x + side]
        there[...] += alpha / 255 * (colour / 127.5 - 1 - there)
        masks[i, y : y + side, x : x + side] = alpha[..., 0] > 0
    return Scenes(pictures, truth, masks)


def mean_fill(scenes: Scenes) -> np.ndarray:
    """The mean colour of what is not masked, in the mask."""
    known = ~scenes.masks[..., None]
    total = (scenes.pictures * known).sum((1, 2), keepdims=True)
    return np.where(known, scenes.pictures, total / known.sum((1, 2), keepdims=True))


def methods(model: Any, calls: int) -> dict[str, tuple[Callable, list[tuple]]]:
    """Functions by name, and the settings that are searched.

    A setting is what the program depends on, then the weight of guidance, if any.
    """

    def removed(keys, net, scene, cond, strength, solver, suppression, weight):
        x, masks = scene
        return erase(
            *(keys, net, jg.uniform_grid(model.process, round(calls / 2 / strength))),
            *(x, masks, cond),
            sites=SITES,
            weight=weight,
            suppression=suppression,
            strength=strength,
            sampler=getattr(jg, solver)(),
        )

    def inpainted(keys, net, scene, cond, strength, solver, noise):
        x, masks = scene
        return sdedit(
            *(keys, net, jg.uniform_grid(model.process, round(calls / strength))),
            *(x, cond),
            strength=strength,
            sampler=jg.inpaint(getattr(jg, solver)(), x, ~masks[..., None], noise),
        )

    def repainted(keys, net, scene, cond, repeats, solver):
        x, masks = scene
        inner = jg.inpaint(getattr(jg, solver)(), x, ~masks[..., None])
        grid = jg.uniform_grid(model.process, calls // (repeats + 1))
        sampler = jg.with_recurrence(inner, repeats)
        return jg.sample(keys, net, sampler, grid, model.shape, cond)[0]

    solvers, weights = ("ddim", "ddpm"), (1.0, 3.0, 9.0)
    begun = list(itertools.product((0.8, 1.0), solvers))

    def weighted(scale):
        return [((*each, scale), w) for each in begun for w in weights]

    noises = itertools.product((0.6, 0.8, 1.0), solvers, ("fresh", "fixed"))
    repeats = itertools.product((1, 2, 3, 4, 7, 9), solvers)
    return {
        "Attentive Eraser": (removed, weighted(0.3)),
        "redirection alone": (removed, weighted(None)),
        "RePaint": (repainted, [(each,) for each in repeats]),
        "inpainting": (inpainted, [(each,) for each in noises]),
    }


def main(config: Config) -> None:
    """Searches on some scenes, judges on others, prints and draws."""
    model, params = load_pretrained("emoji")
    sets = [
        [make_scenes(kind, seed, count) for kind in config.kinds]
        for seed, count in ((0, config.tuned), (1, config.scenes))
    ]
    tuned, judged = (
        Scenes(*(np.concatenate(part) for part in zip(*each, strict=True)))
        for each in sets
    )

    def distance(x, scenes, where):
        square = np.mean((np.clip(x, -1, 1) - scenes.truth) ** 2, -1)
        return np.sqrt((square * where).sum((1, 2)) / where.sum((1, 2)))

    @partial(jax.jit, static_argnums=(0, 1))
    def remove(method, static, params, seed, x, masks, *weight):
        like = jnp.zeros((len(x), 1, model.module.text))
        cond = {
            "label": jnp.full(len(x), model.classes),
            "text": like,
            "text_mask": jnp.zeros(like.shape[:2], bool),
        }
        keys = jg.sample_keys(jax.random.key(seed), len(x))
        net = model.denoiser(params)
        return method(keys, net, (x, masks), cond, *static, *weight)

    kinds = np.repeat(np.arange(len(config.kinds)), config.scenes)
    filled = mean_fill(judged)
    base = distance(filled, judged, judged.masks)
    drawn = [judged.pictures, judged.truth, filled]
    print("| background | method | setting | inside | outside | better | seconds |")
    print("|---|---|---|---:|---:|---:|---:|")
    for i, kind in enumerate(config.kinds):
        print(f"| {kind} | mean fill | – | {base[kinds == i].mean():.3f} | 0 | – | – |")
    for name, (method, settings) in methods(model, config.calls).items():

        def run(seed, scenes, setting, method=method):
            static, *weight = setting
            given = (params, seed, scenes.pictures, scenes.masks, *weight)
            return np.asarray(remove(method, static, *given))

        errors = [
            distance(run(100, tuned, each), tuned, tuned.masks).mean()
            for each in settings
        ]
        best = settings[int(np.argmin(errors))]
        results = [run(0, judged, best)]
        begin = time.monotonic()
        results += [run(seed, judged, best) for seed in range(1, config.seeds)]
        again = max(1, config.seeds - 1) * len(judged.truth)
        seconds = (time.monotonic() - begin) / again
        inside = np.stack([distance(x, judged, judged.masks) for x in results])
        outside = np.stack([distance(x, judged, ~judged.masks) for x in results])
        shown = ", ".join(map(str, (*best[0], *best[1:])))
        for i, kind in enumerate(config.kinds):
            own = inside[:, kinds == i]
            spread = own.mean(1).std(ddof=1) if config.seeds > 1 else float("nan")
            print(
                f"| {kind} | {name} | {shown} | {own.mean():.3f} ± {spread:.3f} | "
                f"{outside[:, kinds == i].mean():.3f} | "
                f"{(own < base[kinds == i]).mean():.2f} | {seconds:.2f} |",
                flush=True,
            )
        drawn.append(results[0])
    few = np.flatnonzero(np.arange(len(kinds)) % config.scenes < 10)
    rows = [part for each in drawn for part in np.split(each[few], len(config.kinds))]
    order = [r for i in range(len(config.kinds)) for r in rows[i :: len(config.kinds)]]
    save_grid(config.out, np.concatenate(order), len(few) // len(config.kinds), 3)
    print(f"\n{config.out}: with, without, mean fill, then the methods as above")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
