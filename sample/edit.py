"""Changes a picture: what it shows, in words, becomes something else.

    python sample/edit.py --source "red circle" --target "blue circle"
    python sample/edit.py --picture photo.png --source "a red car" --target "a blue car"
    python sample/edit.py --source "cat face" --target "dog face" --method sdedit

Without --picture it takes the emoji whose caption is --source. The result is a PNG of
the picture, then what it becomes under each --target. Guide-and-Rescale keeps the
layout by the picture's own attention; "inversion" is the same without that; "sdedit"
draws a noisy version of the picture again. docs/editing.md compares them.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from conditions import condition_of, takes_text
from outputs import require_writable
from pictures import read_picture

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_emoji, save_grid
from jaxlib_guidance.editing import guide_and_rescale, sdedit
from jaxlib_guidance.models import DiffusionModel, load_pretrained


@dataclasses.dataclass(frozen=True)
class Config:
    """What to change, into what, and how."""

    source: str
    """What the picture shows."""
    target: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """What it is to show; give it repeatedly for several results."""
    picture: Path | None = None
    """A file of a picture; by default the emoji of that caption."""
    weights: Annotated[str, tyro.conf.arg(aliases=["--model"])] = "emoji"
    """A name of `load_pretrained`, or a file that train/emoji.py wrote."""
    method: Literal["guide-and-rescale", "inversion", "sdedit"] = "guide-and-rescale"
    """How the picture is kept while its words change; see docs/editing.md."""
    weight: float = 6.5
    """Factor of classifier-free guidance."""
    maps: float = 3e5
    """Factor of the distance of attention maps, for guide-and-rescale."""
    low: float = 1.5
    """Least norm of the pull to the picture, relative to that of the guidance."""
    high: float = 1.5
    """Greatest such norm."""
    share: float = 0.6
    """Share of the steps with this pull."""
    strength: float = 0.7
    """Share of the steps that sdedit takes."""
    steps: int = 50
    """Steps of the solver, there and back."""
    seed: int = 0
    """Of the noise that all samples start from."""
    scale: int = 6
    """Pixels of the result for each pixel of the model."""
    out: Path = Path("out/edit.png")


def picture_of(config: Config, model: DiffusionModel) -> np.ndarray:
    """The picture ``[H, W, C]`` in [-1, 1] that is changed.

    Raises:
      ValueError: No such file, or no emoji of that caption.
    """
    height, width, channels = model.shape
    if config.picture is not None:
        return 2 * read_picture(config.picture, (height, width), channels) - 1
    for split in ("train", "test"):
        emoji = load_emoji(split)
        if config.source in emoji.captions:
            return np.asarray(emoji.images[emoji.captions.index(config.source)])
    raise ValueError(
        f"no emoji has the caption {config.source!r}; give its exact caption, or a "
        "file by --picture"
    )


def edit(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The picture ``[H, W, C]``, and what it becomes ``[N, H, W, C]``.

    Raises:
      ValueError: Options out of their range, a model without text, words that it does
        not know, or no such picture.
    """
    if config.steps < 1:
        raise ValueError(f"steps is {config.steps}; expected at least 1")
    model, params = load_pretrained(config.weights)
    if not isinstance(model, DiffusionModel) or not takes_text(model):
        raise ValueError(f"weights {config.weights!r} take no text; expected emoji's")
    picture = picture_of(config, model)
    count = len(config.target)
    none = np.full(count, model.classes or 0)
    source, target = (
        condition_of(model, none, list(texts))
        for texts in ([config.source] * count, config.target)
    )
    keys = jg.sample_keys(jax.random.key(config.seed), count)
    grid = jg.uniform_grid(model.process, config.steps)

    @jax.jit
    def run(params: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
        net = model.denoiser(params)
        if config.method == "sdedit":
            guidance = jg.cfg(weight, model.null)
            given = {"strength": config.strength, "guidance": guidance}
            return sdedit(keys, net, grid, x, target, **given)
        held = config.method == "guide-and-rescale"
        return guide_and_rescale(
            *(keys, net, grid, x, source, target, model.null),
            weight=weight,
            maps={"*/attn": config.maps},
            low=config.low if held else 0.0,
            high=config.high if held else 0.0,
            share=config.share,
        ).x

    x = jnp.broadcast_to(picture, (count, *model.shape))
    return picture, np.asarray(run(params, x, jnp.float32(config.weight)))


def main(config: Config) -> None:
    """Changes, and draws."""
    require_writable(config.out)
    picture, edited = edit(config)
    rows = np.concatenate([picture[None], edited])
    note = {"source": config.source, "targets": ", ".join(config.target)}
    save_grid(config.out, rows, len(rows), config.scale, note)
    print(f"{config.out}: the picture, then {', '.join(map(repr, config.target))}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
