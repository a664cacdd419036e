"""CLIP's tokenizer: lower case, GPT-2's bytes, merges that end in words.

A text is brought to composed characters, one blank between words and lower case; cut
into words by CLIP's pattern; the last byte of a word is marked ``</w>``, and pairs
merge best rank first. Characters are letters, numbers or others as Python's Unicode has
them; those that are newer are others.
"""

import dataclasses
import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models.lm import byte_characters
from jaxlib_guidance.models.published._folder import read_json

END_OF_WORD = "</w>"
CHARACTERS = byte_characters()
CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
WORD = re.compile(r"l+|n|o+")
# What Unicode calls white space; Python's own class has four control characters more.
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SPACES = re.compile(f"[{WHITE}]+")
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class CLIPTokenizer:
    """Texts to the token numbers that CLIP's text encoders take.

    Attributes:
      vocabulary: Number of each token.
      ranks: Rank of each pair that merges; the lowest merges first.
      length: Number of tokens of a text, start, end and padding included.
      pad: Token that fills up a text. Where it is not the end token, as "!" in Stable
        Diffusion 2.x, it is a token of its own wherever it stands.

    Raises:
      ValueError: A vocabulary without the tokens of start, end or padding.
    """

    vocabulary: Mapping[str, int] = dataclasses.field(repr=False)
    ranks: Mapping[tuple[str, str], int] = dataclasses.field(repr=False)
    length: int = 77
    pad: str = END

    def __post_init__(self):
        for token in (START, END, self.pad):
            if token not in self.vocabulary:
                raise ValueError(f"the vocabulary has no token {token!r}")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token numbers, cut and filled up to ``length``.

        Args:
          texts: Texts; each may be empty.

        Returns:
          int32 ``[B, length]``.

        Raises:
          TypeError: One text, or something that is none.
          ValueError: A byte that the vocabulary lacks.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is the text {texts!r:.80}; expected a list of them")
        rows = np.full((len(texts), self.length), self.vocabulary[self.pad], np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = self.encode(text)[: self.length - 2]
            both = [self.vocabulary[START], *ids, self.vocabulary[END]]
            row[: len(both)] = both
        return rows

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without start, end and padding.

        Args:
          text: Text to encode.

        Raises:
          TypeError: Something else.
          ValueError: A byte that the vocabulary lacks.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}; expected str")
        ids = []
        special = {START, END, self.pad}
        parts = re.split("(" + "|".join(map(re.escape, sorted(special))) + ")", text)
        for part in parts:
            if part in special:
                ids.append(self.vocabulary[part])
                continue
            for word in _words(part):
                for piece in self._pieces(word):
                    if piece not in self.vocabulary:
                        raise ValueError(
                            f"text has {piece!r}, which no token stands for"
                        )
                    ids.append(self.vocabulary[piece])
        return ids

    @functools.cached_property
    def _pieces(self):
        return functools.lru_cache(2**14)(functools.partial(_merged, self.ranks))


def _merged(ranks, word):
    pieces = [CHARACTERS[byte] for byte in word.encode()]
    pieces[-1] += END_OF_WORD
    while len(pieces) > 1:
        best = min(
            itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks))
        )
        if best not in ranks:
            break
        merged, i = [], 0
        while i < len(pieces):
            whole = i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == best
            merged.append(pieces[i] + pieces[i + 1] if whole else pieces[i])
            i += 1 + whole
        pieces = merged
    return tuple(pieces)


def _words(text) -> Iterator[str]:
    text = SPACES.sub(" ", unicodedata.normalize("NFC", text))
    # One by one: no final sigma at the end of a word.
    text = "".join(character.lower() for character in text)
    classes, at = "".join(map(_class, text)), 0
    while at < len(text):
        found: Any = CONTRACTION.match(text, at) or WORD.match(classes, at)
        if found is None:
            at += 1
            continue
        yield text[at : found.end()]
        at = found.end()


def _class(character):
    """Letters l, numbers n, blanks " ", and others o."""
    if character == " ":
        return " "
    return {"L": "l", "N": "n"}.get(unicodedata.category(character)[0], "o")


def load_clip_tokenizer(folder: str | os.PathLike) -> CLIPTokenizer:
    """A tokenizer from a published part.

    Args:
      folder: Folder with ``vocab.json`` and ``merges.txt``, or with ``tokenizer.json``
        alone; and perhaps ``tokenizer_config.json``, ``special_tokens_map.json``.

    Raises:
      FileNotFoundError: None of these files.
      CorruptFileError: Files that are damaged or do not fit each other.
    """
    folder = Path(folder).expanduser()
    try:
        return CLIPTokenizer(*_read(folder), *_options(folder))
    except CorruptFileError:
        raise
    # JSON of another writer can be anything.
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"{folder}: {error!s:.200}") from error


def _read(folder):
    """Vocabulary and ranks."""
    if (folder / "vocab.json").is_file():
        vocabulary: Any = read_json(folder / "vocab.json")
        path = folder / "merges.txt"
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} beside vocab.json")
        # The first line says the version.
        lines = path.read_text(encoding="utf-8").strip().split("\n")[1:]
        merges: Any = [line.split() for line in lines]
    elif (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
        model = read_json(path).get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            raise CorruptFileError(f"{path} has no model of byte pairs")
        vocabulary, merges = model.get("vocab", {}), model.get("merges", ())
    else:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: neither vocab.json nor tokenizer.json"
        )
    pairs = [tuple(m.split() if isinstance(m, str) else m) for m in merges]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
    return {str(token): int(i) for token, i in vocabulary.items()}, ranks


def _options(folder):
    """Length and padding token, where a file says them."""
    length, pad = 77, END
    # What a later file says holds.
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        found = read_json(folder / name)
        length = found.get("model_max_length", length)
        token = found.get("pad_token", pad)
        pad = token.get("content", pad) if isinstance(token, dict) else token
    # transformers writes 10^30 where it does not know.
    return (length if 2 < length < 10**6 else 77), pad or END
