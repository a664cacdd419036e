"""Byte-level byte-pair encoding in plain Python, as SmolLM2's tokenizer has it.

Text is cut at special tokens, then into single digits and the words of GPT-2's pattern;
the bytes of a word are written as printable characters and merged, best-ranked pair
first. For prompts and answers; a corpus wants a compiled tokenizer.

The package tokenizers (0.23) gives the same numbers, which a test compares, and takes
0.02 ms for a prompt that takes 0.08 ms here. But it drops bytes and numbers that the
vocabulary lacks without a word, panics on merges that do not fit it, and brings
huggingface-hub along, so it is not needed here.
"""

import dataclasses
import itertools
import operator
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# GGUF's type of tokens that never come from ordinary text.
CONTROL = 3
# System turn that SmolLM2 gets where a dialogue has none.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
# GPT-2's pattern over classes of characters: l letter, o other, s space, " " the blank.
WORD = re.compile(r" ?l+| ?o+|[s ]+(?![lo])|[s ]+")


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself, or one from 256 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = (byte for byte in range(256) if byte not in own)
    return {byte: chr(byte) for byte in own} | {
        byte: chr(256 + i) for i, byte in enumerate(rest)
    }


CHARACTERS = byte_characters()
BYTES = {character: byte for byte, character in CHARACTERS.items()}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token numbers and back.

    Attributes:
      tokens: Text of each token, its bytes as printable characters.
      ranks: Rank of each pair of texts that merges; the lowest merges first.
      special: Numbers of the tokens that stand for themselves, such as ``<|im_end|>``.
      eos: Number of the token that ends an answer.

    Raises:
      ValueError: A special token or ``eos`` that is none of ``tokens``, or a pair whose
        merged text is none of them.
    """

    tokens: Sequence[str]
    ranks: Mapping[tuple[str, str], int] = dataclasses.field(repr=False)
    special: Mapping[str, int]
    eos: int
    _ids: Mapping[str, int] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        ids = {token: i for i, token in enumerate(self.tokens)}
        object.__setattr__(self, "_ids", ids)
        for name, number in {"eos": self.eos, **self.special}.items():
            if not 0 <= number < len(self.tokens):
                raise ValueError(
                    f"{name} is token {number}; expected 0 to {len(self.tokens) - 1}"
                )
        for left, right in self.ranks:
            if left + right not in ids:
                raise ValueError(
                    f"ranks merge {(left, right)}, and no token is {left + right!r}"
                )

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token numbers of a text.

        Args:
          text: Text to encode, which may be empty.
          special: Whether ``<|im_end|>`` and its like are single tokens, the default.
            Say False for text of a stranger, which could otherwise end its own turn.

        Raises:
          ValueError: A byte that the vocabulary lacks; SmolLM2's lacks some control
            characters.
        """
        pieces = [text]
        if special and self.special:
            names = sorted(self.special, key=len, reverse=True)
            pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self.special[piece])
                continue
            merged = map(self._merge, split_words(piece))
            for part in itertools.chain.from_iterable(merged):
                if part not in self._ids:
                    raise ValueError(
                        f"text has the byte {BYTES[part]:#04x}, which no token stands "
                        "for"
                    )
                ids.append(self._ids[part])
        return ids

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of token numbers; bytes that are no text become U+FFFD.

        Args:
          ids: Token numbers.
          special: Whether special tokens are shown; by default they are left out.

        Raises:
          ValueError: A number that is no token's, such as the -100 of ignored labels.
          TypeError: Numbers that are not integers.
        """
        names = {number: name for name, number in self.special.items()}
        held = bytearray()
        for number in map(operator.index, ids):
            if not 0 <= number < len(self.tokens):
                raise ValueError(
                    f"ids has the token {number}; expected 0 to {len(self.tokens) - 1}"
                )
            if number in names:
                held += names[number].encode() if special else b""
            else:
                held += bytes(BYTES[character] for character in self.tokens[number])
        return held.decode("utf-8", errors="replace")

    def _merge(self, word):
        parts = [CHARACTERS[byte] for byte in word.encode()]
        while len(parts) > 1:
            worst = len(self.ranks)
            pairs = itertools.pairwise(parts)
            best = min(pairs, key=lambda pair: self.ranks.get(pair, worst))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                whole = i + 1 < len(parts) and (parts[i], parts[i + 1]) == best
                merged.append(parts[i] + parts[i + 1] if whole else parts[i])
                i += 1 + whole
            parts = merged
        return parts


def split_words(text: str) -> list[str]:
    """Cuts a text before merging: single digits, and GPT-2's words between them.

    Args:
      text: Any text.

    Returns:
      The pieces in their order, which joined are the text.
    """
    words = []
    for number, run in _runs(text):
        if number:
            words.extend(run)
            continue
        classes, at = "".join(map(_class, run)), 0
        while at < len(run):
            word: Any = CONTRACTION.match(run, at) or WORD.match(classes, at)
            words.append(run[at : word.end()])
            at = word.end()
    return words


def _runs(text):
    """``(is number, run)`` of characters that are numbers, or not."""
    start = 0
    for end in range(1, len(text) + 1):
        number = _is_number(text[start])
        if end == len(text) or _is_number(text[end]) != number:
            yield number, text[start:end]
            start = end


def _is_number(character):
    return unicodedata.category(character)[0] == "N"


def _class(character):
    if character == " ":
        return " "
    kind = unicodedata.category(character)[0]
    if kind == "Z" or character in "\t\n\v\f\r\x85":
        return "s"
    return "l" if kind == "L" else "o"


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF file.

    Args:
      metadata: Second result of `load_gguf`.

    Raises:
      ValueError: None there, one that is not byte-pair encoding with SmolLM's rules of
        cutting, or one whose merges or special tokens do not fit its vocabulary.
    """
    kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"tokenizer is {kind}; expected ('gpt2', 'smollm')")
    try:
        tokens, kinds, merges, eos = (
            metadata[f"tokenizer.ggml.{name}"]
            for name in ("tokens", "token_type", "merges", "eos_token_id")
        )
    except KeyError as error:
        raise ValueError(f"metadata has no {error}") from error
    pairs = (merge.partition(" ") for merge in merges)
    return Tokenizer(
        tokens=tuple(tokens),
        ranks={(left, right): rank for rank, (left, _, right) in enumerate(pairs)},
        special={
            token: i
            for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == CONTROL
        },
        eos=eos,
    )


def chat(messages: Sequence[tuple[str, str]]) -> str:
    """A dialogue as SmolLM2 reads it, up to where the assistant answers.

    Args:
      messages: ``(role, text)`` pairs, roles "system", "user" and "assistant". Unless
        the first is a system turn, SmolLM2's own is put before it.

    Returns:
      Text for `Tokenizer.encode`.
    """
    if not messages or messages[0][0] != "system":
        messages = [("system", SYSTEM), *messages]
    turns = (f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


def pad_rows(
    rows: Sequence[Sequence[int]],
    *,
    length: int | None = None,
    pad: int = 0,
    side: str = "left",
) -> tuple[np.ndarray, np.ndarray]:
    """Token lists of different lengths as one array.

    Args:
      rows: Lists of token numbers.
      length: Length of the result; None for that of the longest row.
      pad: Token number that fills the rest.
      side: Side of a row on which the padding stands, "left" or "right".

    Returns:
      ``(tokens int32 [B, T], mask bool [B, T])``.

    Raises:
      ValueError: A row that is longer than ``length``, or an unknown side.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}; expected 'left' or 'right'")
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a row has {longest} tokens; expected at most {length}")
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        tokens[i, place], mask[i, place] = row, True
    return tokens, mask
