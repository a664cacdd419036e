"""T5's tokenizer gives the numbers that transformers' gives."""

import base64
import json

import numpy as np
import pytest

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import published


def test_tokens_are_equal(golden):
    folder, want = golden("t5_tokens")
    tokenizer = published.load_t5_tokenizer(folder, 40)
    texts = json.loads(want["texts"].tobytes())
    assert len(texts) >= 400
    rows = tokenizer(texts)
    different = np.flatnonzero((rows != want["tokens"]).any(1))
    assert not different.size, [texts[n] for n in different[:5]]


def test_a_single_text_and_other_tokenizers_are_refused(golden, tmp_path):
    folder, _ = golden("t5_tokens")
    with pytest.raises(TypeError, match="texts is 'a cat'; expected a list"):
        published.load_t5_tokenizer(folder)("a cat")
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        published.load_t5_tokenizer(tmp_path)
    whole = json.loads((folder / "tokenizer.json").read_text())
    for key, value, told in (
        ("model", {"type": "BPE"}, "no model of pieces"),
        ("pre_tokenizer", {"type": "ByteLevel"}, "pre_tokenizer {'type'"),
        ("normalizer", {"type": "NFKC"}, "normalizer {'type'"),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": "AAA="},
            "bytes",
        ),
        ("added_tokens", [], "no token '</s>'"),
        ("added_tokens", [{"id": 1, "content": ""}], "no pieces, or an empty one"),
        ("model", whole["model"] | {"vocab": [["a"]]}, "not enough values"),
        ("model", whole["model"] | {"unk_id": None}, "NoneType"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(whole | {key: value}))
        with pytest.raises(CorruptFileError, match=f"not T5's tokenizer .*{told}"):
            published.load_t5_tokenizer(tmp_path)


def test_a_damaged_table_of_characters_is_told(golden, tmp_path):
    """Whatever the table's bytes, a text gives numbers or one error."""
    folder, _ = golden("t5_tokens")
    whole = json.loads((folder / "tokenizer.json").read_text())
    rng, refused = np.random.default_rng(0), 0
    table = base64.b64decode(whole["normalizer"]["precompiled_charsmap"])
    for _ in range(20):
        data = bytearray(table)
        for at in rng.integers(4, len(data), 20_000):
            data[at] = rng.integers(256)
        text = base64.b64encode(data).decode()
        whole["normalizer"]["precompiled_charsmap"] = text
        (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
        tokenizer = published.load_t5_tokenizer(tmp_path)
        try:
            assert tokenizer(["½ ｱﾞ é ﬁ ㍿ Å" * 9]).shape == (1, 512)
        except CorruptFileError as error:
            refused += "table of characters is damaged" in str(error)
    assert 0 < refused < 20
