"""Byte-level tokens: the reference library's, and back to the same text."""

import json
import random

import numpy as np
import pytest
import tokenizers as reference

from jaxlib_guidance.models import (
    Tokenizer,
    chat,
    pad_rows,
    split_words,
    tokenizer_from_gguf,
)
from jaxlib_guidance.models.lm._tokens import CHARACTERS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def metadata(merges):
    """Special tokens, all bytes, and what the merges make."""
    made = [left + right for left, right in merges]
    tokens = [*SPECIAL, *CHARACTERS.values(), *made]
    kinds = np.full(len(tokens), 1, np.int32)
    kinds[: len(SPECIAL)] = 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.eos_token_id": 2,
    }


# By rank: "at" is merged before "he", and "the" comes from "t" + "he".
MERGES = [("a", "t"), ("h", "e"), ("t", "he"), ("Ġ", "the"), ("c", "at"), ("Ġ", "cat")]


def test_the_best_ranked_pair_is_merged_first():
    tokenizer = tokenizer_from_gguf(metadata(MERGES))
    ids = tokenizer.encode("the cat that")
    parts = [tokenizer.tokens[i] for i in ids]
    assert parts == ["the", "Ġcat", "Ġ", "t", "h", "at"]
    assert tokenizer.decode(ids) == "the cat that"
    assert tokenizer.eos == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("I'll say it's 2024!", ["I", "'ll", " say", " it", "'s", " ", *"2024", "!"]),
        ("a  b", ["a", " ", " b"]),
        ("end  \n", ["end", "  \n"]),
        ("x = y_1 + é²", ["x", " =", " y", "_", "1", " +", " é", "²"]),
        ("'tis 'S", ["'t", "is", " '", "S"]),
        ("東京\u3000!", ["東京", "\u3000", "!"]),
    ],
)
def test_words_are_gpt2s_between_single_digits(text, words):
    assert split_words(text) == words


def test_special_tokens_are_single_unless_the_text_is_a_strangers():
    tokenizer = tokenizer_from_gguf(metadata(MERGES))
    text = "cat<|im_end|>cat"
    ids = tokenizer.encode(text)
    assert [tokenizer.tokens[i] for i in ids] == ["cat", "<|im_end|>", "cat"]
    assert tokenizer.decode(ids) == "catcat"
    assert tokenizer.decode(ids, special=True) == text
    plain = tokenizer.encode(text, special=False)
    assert 2 not in plain
    assert tokenizer.decode(plain) == text


def texts(n):
    pool = ["Hello", "world", "'s", "'ll", "don't", " ", "  ", "\n", "\t", "\u00a0"]
    pool += [
        "12",
        "²",
        "Ⅷ",
        "一二",
        "é",
        "ß",
        "東京",
        "😀",
        "!",
        "...",
        "_",
        "x_1",
        "'",
    ]
    pool += ["\x1c", "\r\n", "مرحبا", "२", "- ", "+ 4 =", "\x85", "\u200b", "e\u0301"]
    pool += SPECIAL
    rng = random.Random(0)
    return ["".join(rng.choices(pool, k=rng.randint(0, 12))) for _ in range(n)]


def test_the_reference_agrees_and_every_text_comes_back():
    split = reference.pre_tokenizers
    model = reference.Tokenizer(reference.models.BPE())
    model.pre_tokenizer = split.Sequence(
        [
            split.Digits(individual_digits=True),
            split.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    trainer = reference.trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=list(CHARACTERS.values()),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    model.train_from_iterator(texts(300), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    assert len(merges) > 50
    tokenizer = tokenizer_from_gguf(metadata(merges))
    for text in texts(1500):
        ids = tokenizer.encode(text)
        assert [tokenizer.tokens[i] for i in ids] == model.encode(text).tokens
        assert tokenizer.decode(ids, special=True) == text


def test_bytes_that_are_no_text_and_bytes_that_are_no_token():
    data = metadata(MERGES)
    tokenizer = tokenizer_from_gguf(data)
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"
    data["tokenizer.ggml.tokens"][3 + list(CHARACTERS).index(0x14)] = "gone"
    with pytest.raises(ValueError, match="the byte 0x14"):
        tokenizer_from_gguf(data).encode("a\x14")


@pytest.mark.parametrize("number", [-100, -1, -257, -258, 257, 300])
def test_numbers_that_are_no_tokens_are_refused(number):
    tokenizer = Tokenizer((*CHARACTERS.values(), "<|end|>"), {}, {"<|end|>": 256}, 256)
    with pytest.raises(ValueError, match=rf"token {number}; expected 0 to 256"):
        tokenizer.decode([72, 40, number])
    with pytest.raises(ValueError, match=rf"token {number}; expected 0 to 256"):
        tokenizer.decode(np.array([number]))
    with pytest.raises(TypeError, match="integer"):
        tokenizer.decode([72.5])
    assert tokenizer.decode(np.array([40, 256])) == tokenizer.decode([40])


def test_a_vocabulary_that_does_not_fit_is_refused():
    tokens = tuple(CHARACTERS.values())
    with pytest.raises(ValueError, match=r"merge \('h', 'e'\), and no token is 'he'"):
        Tokenizer(tokens, {("h", "e"): 0}, {}, 0)
    for number in (-1, 256):
        with pytest.raises(ValueError, match=rf"eos is token {number}; expected 0 to"):
            Tokenizer(tokens, {}, {}, number)
        with pytest.raises(ValueError, match=rf"<end> is token {number}; expected"):
            Tokenizer(tokens, {}, {"<end>": number}, 0)


@pytest.mark.parametrize("name", ["model", "pre", "tokens", "merges", "eos_token_id"])
def test_another_tokenizer_is_refused(name):
    data = metadata(MERGES)
    del data[f"tokenizer.ggml.{name}"]
    with pytest.raises(ValueError, match=rf"None|tokenizer\.ggml\.{name}"):
        tokenizer_from_gguf(data)


def test_a_dialogue_has_a_system_turn_and_ends_where_the_answer_begins():
    turn = "<|im_start|>{}\n{}<|im_end|>\n".format
    end = "<|im_start|>assistant\n"
    asked = chat([("user", "Hi")])
    assert asked.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert asked.endswith(turn("user", "Hi") + end)
    own = chat([("system", "Be brief."), ("user", "Hi")])
    assert own == turn("system", "Be brief.") + turn("user", "Hi") + end


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_on_either_side(side):
    rows = [[5, 6, 7], [8], []]
    tokens, mask = pad_rows(rows, length=4, pad=9, side=side)
    assert tokens.shape == mask.shape == (3, 4)
    for row, line, real in zip(rows, tokens, mask, strict=True):
        assert line[real].tolist() == row
        assert (line[~real] == 9).all()
        assert real[:: 1 if side == "right" else -1][: len(row)].all()
    assert pad_rows(rows)[0].shape == (3, 3)
    assert pad_rows([])[0].shape == (0, 0)


def test_wrong_padding_is_named():
    with pytest.raises(ValueError, match="a row has 3 tokens; expected at most 2"):
        pad_rows([[1, 2, 3]], length=2)
    with pytest.raises(ValueError, match="side is 'top'"):
        pad_rows([[1]], side="top")
