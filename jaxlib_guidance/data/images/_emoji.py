"""The bundled emoji: 1,906 captioned colour pictures of 32x32, and their words.

Source and licence are in ``emoji.md`` beside the file. A text is a set of words, each
with a fixed vector: the order of words and their grammar are not seen.
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from jaxlib_guidance.data.images._digits import Split

EMOJI_CATEGORIES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""Names of the categories of the emoji, by label."""

_ARTICLES = ("a", "an", "the")


class Emoji(NamedTuple):
    """Captioned pictures.

    Attributes:
      images: Float32 ``[N, 32, 32, 3]`` in [-1, 1], on white.
      labels: Categories int32 ``[N]``, indices into `EMOJI_CATEGORIES`.
      captions: Captions, ``N`` of them.
      codes: Unicode code points in hexadecimal, joined by "-"; ``N`` of them.
      words: Indices of the captions' words int32 ``[N, 8]``, -1 where there is none.
      keywords: Indices of words for the same picture that its caption does not have,
        int32 ``[N, 12]``, -1 where there is none.
    """

    images: np.ndarray
    labels: np.ndarray
    captions: tuple[str, ...]
    codes: tuple[str, ...]
    words: np.ndarray
    keywords: np.ndarray


class Vocabulary(NamedTuple):
    """Words with vectors.

    Attributes:
      words: Words in lower case, ``V`` of them, sorted.
      vectors: Vectors float32 ``[V, 64]``.
    """

    words: tuple[str, ...]
    vectors: np.ndarray


def load_emoji(split: Split = "train") -> Emoji:
    """The emoji of Noto, drawn at 32x32, with captions (Google, Apache-2.0).

    Args:
      split: "train" for 1,720 pictures, or "test" for 186, a tenth of each category.

    Returns:
      Pictures, categories, captions and words.

    Raises:
      ValueError: Unknown split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    data = _read()
    cut = int(data["train"])
    rows = slice(None, cut) if split == "train" else slice(cut, None)
    return Emoji(
        data["images"][rows].astype(np.float32) / 127.5 - 1,
        data["labels"][rows].astype(np.int32),
        _lines(data["captions"])[rows],
        _lines(data["codes"])[rows],
        data["words"][rows].astype(np.int32),
        data["keywords"][rows].astype(np.int32),
    )


@cache
def emoji_vocabulary() -> Vocabulary:
    """The words that `embed_words` knows, with their vectors.

    The vectors are principal components of the embeddings that the sentence encoder
    all-MiniLM-L6-v2 gives to each word by itself.

    Returns:
      The words and their vectors.
    """
    data = _read()
    return Vocabulary(_lines(data["vocabulary"]), data["vectors"].astype(np.float32))


def caption_words(text: str) -> list[str]:
    """The words of a text: letters and digits, lower case, without accents or articles.

    Args:
      text: Any text.

    Returns:
      Words in the order of the text.

    Example:
      >>> from jaxlib_guidance.data import caption_words
      >>> caption_words("A piñata, and the Queen's clown-fish")
      ['pinata', 'and', 'queens', 'clown', 'fish']
    """
    plain = unicodedata.normalize("NFKD", text.lower()).replace("’", "'")
    plain = "".join(c for c in plain if c != "'" and not unicodedata.combining(c))
    found = re.findall(r"[a-z0-9]+", plain)
    return [word for word in found if word not in _ARTICLES]


def embed_words(
    prompts: Sequence[str], size: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Texts as vectors of words, which cross-attention attends to.

    Args:
      prompts: Texts, ``B`` of them; an empty one is no condition.
      size: Number of words that there is room for in a text.

    Returns:
      ``(text [B, size, 64], text_mask [B, size])``, float32 and bool: entries of the
      condition of the emoji model.

    Raises:
      ValueError: A word that the vocabulary does not have; more than ``size`` words.
      TypeError: One string instead of several.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts is {prompts!r}; expected a sequence of texts")
    words, vectors = emoji_vocabulary()
    number = {word: i for i, word in enumerate(words)}
    text = np.zeros((len(prompts), size, vectors.shape[1]), np.float32)
    mask = np.zeros((len(prompts), size), bool)
    for i, prompt in enumerate(prompts):
        own = caption_words(prompt)
        if len(own) > size:
            raise ValueError(
                f"prompt {prompt!r} has {len(own)} words; expected at most {size}"
            )
        for j, word in enumerate(own):
            if word not in number:
                near = difflib.get_close_matches(word, words)
                hint = f"; near it are {', '.join(near)}" if near else ""
                raise ValueError(
                    f"prompt {prompt!r}: {word!r} is not in the vocabulary of "
                    f"{len(words)} words{hint}"
                )
            text[i, j], mask[i, j] = vectors[number[word]], True
    return text, mask


@cache
def _read():
    file = resources.files("jaxlib_guidance.data.images") / "emoji.npz"
    with file.open("rb") as handle, np.load(handle) as data:
        return {name: data[name] for name in data.files}


def _lines(stored):
    return tuple(stored.tobytes().decode().split("\n"))
