"""What sample/edit.py changes: a picture with its model and the conditions of words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from conditions import condition_of, takes_text
from pictures import read_picture

import jaxlib_guidance as jg
from jaxlib_guidance.data import caption_words, load_emoji
from jaxlib_guidance.models import (
    DiffusionModel,
    StableDiffusion,
    load_pretrained,
    load_published,
)
from jaxlib_guidance.types import Array, Denoiser, PyTree


class Subject(NamedTuple):
    """A picture and the model that changes it.

    Attributes:
      params: Parameters of the model.
      denoiser: Function of the parameters that gives the denoiser.
      grid: Times.
      x: State of the picture ``[*S]``, itself or its latent.
      picture: The picture as the model has it ``[H, W, C]`` in [-1, 1].
      conds: Conditions of the source and the targets, ``[N, ...]`` each, and null.
      words: Words, or token numbers, of the source and of each target.
      spell: Function of a word that gives its words or token numbers.
      columns: Number of columns of cross-attention.
      decode: Function ``(params, x [N, *S])`` that gives pictures in [-1, 1].
    """

    params: PyTree
    denoiser: Callable[[PyTree], Denoiser]
    grid: Any
    x: Any
    picture: np.ndarray
    conds: tuple[PyTree, PyTree, PyTree]
    words: tuple[list[Any], list[list[Any]]]
    spell: Callable[[str], list[Any]]
    columns: int
    decode: Callable[[PyTree, Array], Array]


def is_published(weights: str) -> bool:
    """Whether weights are the folder of a published model."""
    return (Path(weights) / "model_index.json").exists()


def bundled(
    weights: str, picture: Path | None, source: str, targets: list[str], steps: int
) -> Subject:
    """A picture of pixels, by the emoji model or one of its kind.

    Raises:
      ValueError: A model without text, words that it does not know, no such picture.
    """
    model, params = load_pretrained(weights)
    if not isinstance(model, DiffusionModel) or not takes_text(model):
        raise ValueError(f"weights {weights!r} take no text; expected emoji's")
    none = np.full(len(targets), model.classes or 0)
    conds = [condition_of(model, none, t) for t in ([source] * len(targets), targets)]
    x = _pixels(model.shape, picture, source)
    return Subject(
        *(params, model.denoiser, jg.uniform_grid(model.process, steps), x, x),
        conds=(*conds, model.null),
        words=(caption_words(source), [caption_words(text) for text in targets]),
        spell=caption_words,
        columns=conds[0]["text"].shape[1],
        decode=lambda params, x: x,
    )


def _pixels(shape, picture, source):
    height, width, channels = shape
    if picture is not None:
        return 2 * read_picture(picture, (height, width), channels) - 1
    for split in ("train", "test"):
        emoji = load_emoji(split)
        if source in emoji.captions:
            return np.asarray(emoji.images[emoji.captions.index(source)])
    raise ValueError(
        f"no emoji has the caption {source!r}; give its exact caption, or a "
        "file by --picture"
    )


def published(
    folder: str,
    picture: Path | None,
    source: str,
    targets: list[str],
    steps: int,
    *,
    size: tuple[int, ...] = (),
    dtype: str = "bfloat16",
) -> Subject:
    """A picture of latents, by a published Stable Diffusion.

    Raises:
      ValueError: Another model, no picture, or a size that does not fit.
    """
    model, params = load_published(folder, dtype=jnp.dtype(dtype))
    if not isinstance(model, StableDiffusion) or model.repaints:
        raise ValueError(
            f"{folder} is no Stable Diffusion of texts; see docs/models.md"
        )
    if picture is None:
        raise ValueError("a published model needs --picture FILE")
    height, width = (size * 2)[:2] if size else model.size
    model.latent(height, width)
    pixels = read_picture(picture, (height, width), 3)
    x = jax.jit(model.encode)(params, jnp.asarray(pixels)[None])[0]

    def conditions(texts):
        return model.prompts(params, texts, size=(height, width))

    (own, null), (cond, _) = (conditions(t) for t in ([source] * len(targets), targets))
    return Subject(
        *(params, model.denoiser, model.grid(steps, "ddim"), x, 2 * pixels - 1),
        conds=(own, cond, null),
        words=(
            _said(model, source),
            [_said(model, text) for text in targets],
        ),
        spell=lambda word: _said(model, word)[1:-1],
        columns=cond["text"].shape[1],
        decode=lambda params, x: 2 * model.decode(params, x) - 1,
    )


def _said(model, text):
    """Token numbers up to the end of the text, the largest of all numbers."""
    numbers = np.asarray(model.tokens([text])[0])[0]
    return numbers[: int(np.argmax(numbers)) + 1].tolist()
