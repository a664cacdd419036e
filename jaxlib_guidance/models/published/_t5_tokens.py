"""T5's tokenizer: texts to numbers of pieces, the likeliest pieces of each word.

A text is normalised by a table that the file holds, split at white space, and each word
is cut where the sum of its pieces' log-probabilities is largest. This reads
``tokenizer.json``, which folders of SD3 and Flux hold beside SentencePiece's own file.
"""

import base64
import dataclasses
import functools
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models.published._folder import read_json

# What a character that no piece has costs beyond the least likely piece.
UNKNOWN = 10.0
SPACE = "▁"
# Longest cluster, in bytes, that the table is asked for as a whole.
CLUSTER = 6


class Normaliser:
    """SentencePiece's table of replacements: a double-array trie, and texts.

    Args:
      table: The bytes of ``precompiled_charsmap``.

    Raises:
      ValueError: A table that is cut short.
    """

    def __init__(self, table: bytes):
        size = int.from_bytes(table[:4], "little")
        if len(table) < 4 + size or size % 4:
            raise ValueError(f"the table of characters has {len(table)} bytes")
        self.units = np.frombuffer(table, "<u4", size // 4, 4)
        self.texts = table[4 + size :]

    def __call__(self, text: str) -> str:
        """The text with each character replaced as the table says."""
        return "".join(map(self._cluster, _clusters(text)))

    def _cluster(self, cluster):
        if len(cluster.encode()) < CLUSTER:
            found = self._find(cluster)
            if found is not None:
                return found
        parts = ((c, self._find(c)) for c in cluster)
        return "".join(c if found is None else found for c, found in parts)

    def _find(self, text):
        """What replaces the shortest beginning of the text that the table has."""
        units, at = self.units, 0
        if not len(units):
            return None
        at ^= _offset(int(units[0]))
        for byte in text.encode("utf-8", "replace"):
            at ^= byte
            if not byte or at >= len(units):
                return None
            unit = int(units[at])
            if unit & 0x800000FF != byte:
                return None
            at ^= _offset(unit)
            if unit >> 8 & 1 and at < len(units):
                start = int(units[at]) & 0x7FFFFFFF
                return self._text(start)
        return None

    def _text(self, start):
        try:
            return self.texts[start : self.texts.index(0, start)].decode()
        except ValueError as error:
            raise CorruptFileError(
                f"the tokenizer's table of characters is damaged ({error})"
            ) from error


def _offset(unit):
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _clusters(text):
    """Characters with the marks that follow them."""
    cluster = ""
    for c in text:
        if cluster and _joins(c) and unicodedata.category(cluster[0])[0] != "C":
            cluster += c
            continue
        if cluster:
            yield cluster
        cluster = c
    if cluster:
        yield cluster


def _joins(c):
    kind = unicodedata.category(c)
    return kind[0] == "M" or c in "\u200c\u200d" or "\U0001f3fb" <= c <= "\U0001f3ff"


@dataclasses.dataclass(frozen=True)
class T5Tokenizer:
    """Texts to the token numbers that T5's encoder takes.

    Attributes:
      pieces: Number and log-probability of each piece.
      special: Numbers of texts that are tokens wherever they stand, such as "</s>".
      normaliser: Table of replacements, or None for none.
      unknown: Number of what no piece has.
      length: Number of tokens of a text, end and padding included.

    Raises:
      ValueError: A vocabulary without pieces or without the tokens of end and padding,
        or a length below 2.
    """

    pieces: Mapping[str, tuple[int, float]] = dataclasses.field(repr=False)
    special: Mapping[str, int] = dataclasses.field(repr=False)
    normaliser: Normaliser | None = dataclasses.field(repr=False, default=None)
    unknown: int = 2
    length: int = 512

    def __post_init__(self):
        if not self.pieces or "" in self.pieces or "" in self.special:
            raise ValueError("no pieces, or an empty one")
        if self.length < 2:
            raise ValueError(f"length is {self.length}; expected at least 2")
        for token in ("</s>", "<pad>"):
            if token not in self.special:
                raise ValueError(f"the vocabulary has no token {token!r}")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token numbers of texts, cut and padded to one length.

        Args:
          texts: Texts; each may be empty.

        Returns:
          int32 ``[B, length]``: the pieces, the end, and padding.

        Raises:
          TypeError: One text alone, or something that is none.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts is {texts!r:.80}; expected a list of texts")
        rows = np.full((len(texts), self.length), self.special["<pad>"], np.int32)
        for row, text in zip(rows, texts, strict=True):
            found = [*self._numbers(text)[: self.length - 1], self.special["</s>"]]
            row[: len(found)] = found
        return rows

    def _numbers(self, text):
        tokens = sorted(self.special, key=len, reverse=True)
        found = []
        for part in re.split(f"({'|'.join(map(re.escape, tokens))})", text):
            if part in self.special:
                found.append(self.special[part])
                continue
            normal = part if self.normaliser is None else self.normaliser(part)
            for word in normal.split():
                found += self._word(SPACE + word.replace(" ", SPACE))
        return found

    @functools.cached_property
    def _bounds(self):
        """Score of a character that no piece has, and the length of the longest."""
        worst = min(score for _, score in self.pieces.values())
        return worst - UNKNOWN, max(map(len, self.pieces))

    def _word(self, word):
        """The likeliest pieces of a word."""
        none, longest = self._bounds
        # Of each place: the best score so far, where its last piece began, its number.
        best = [(0.0, 0, 0)] + [(-math.inf, 0, 0)] * len(word)

        def improve(start, end, score, number):
            if best[start][0] + score > best[end][0]:
                best[end] = (best[start][0] + score, start, number)

        for start in range(len(word)):
            single = False
            for end in range(start + 1, min(len(word), start + longest) + 1):
                piece = self.pieces.get(word[start:end])
                if piece is not None:
                    single |= end == start + 1
                    improve(start, end, piece[1], piece[0])
            if not single:
                improve(start, start + 1, none, self.unknown)
        found, at = [], len(word)
        while at:
            _, at, number = best[at]
            # Neighbours that no piece has are one token.
            if number != self.unknown or found[-1:] != [number]:
                found.append(number)
        return found[::-1]


def load_t5_tokenizer(folder: str | os.PathLike, length: int = 512) -> T5Tokenizer:
    """T5's tokenizer from a published part.

    Args:
      folder: Folder with ``tokenizer.json``.
      length: Number of tokens of a text; what is longer is cut.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: A file that is damaged, or of another kind of tokenizer.
    """
    path = Path(folder).expanduser() / "tokenizer.json"
    found = read_json(path)
    try:
        model = found["model"]
        if model["type"] != "Unigram" or model.get("byte_fallback"):
            raise ValueError("no model of pieces (Unigram)")
        pieces = {str(p): (i, float(s)) for i, (p, s) in enumerate(model["vocab"])}
        special = {t["content"]: int(t["id"]) for t in found["added_tokens"]}
        _require_split(found["pre_tokenizer"])
        table = _table(found.get("normalizer"))
        normaliser = None if table is None else Normaliser(base64.b64decode(table))
        return T5Tokenizer(pieces, special, normaliser, int(model["unk_id"]), length)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(
            f"{path} is not T5's tokenizer ({type(error).__name__}: {error!s:.200})"
        ) from error


def _require_split(splitter: Mapping[str, Any]) -> None:
    """Words are split at white space and begin with the mark of a space."""
    steps = splitter.get("pretokenizers", [splitter])
    for step in steps:
        marks = step["type"] == "Metaspace" and step["replacement"] == SPACE
        first = step.get("prepend_scheme", "always") == "always"
        if not (step["type"] == "WhitespaceSplit" or (marks and first)):
            raise ValueError(f"pre_tokenizer {step!r:.80}")


def _table(normaliser: Mapping[str, Any] | None) -> str | None:
    """The table among a normaliser's steps; the others are undone by the splitting."""
    if normaliser is None:
        return None
    tables = []
    for step in normaliser.get("normalizers", [normaliser]):
        if step["type"] == "Precompiled":
            tables.append(step["precompiled_charsmap"])
        elif step["type"] not in ("Strip", "Replace"):
            raise ValueError(f"normalizer {step!r:.80}")
    if len(tables) > 1:
        raise ValueError("two tables of characters")
    return tables[0] if tables else None
