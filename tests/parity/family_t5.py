"""T5's encoder: texts beyond the longest distance, with a mask and without."""

import json

import numpy as np
import torch
from published_files import randomise
from transformers import T5Config, T5EncoderModel


def _make(folder, mlp):
    config = T5Config(
        vocab_size=64,
        d_model=12,
        d_kv=8,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        feed_forward_proj=mlp,
    )
    T5EncoderModel(config).save_pretrained(folder)
    randomise(folder)
    model = T5EncoderModel.from_pretrained(folder).eval()
    tokens = np.random.default_rng(0).integers(2, 64, (2, 150)).astype(np.int32)
    mask = np.arange(150)[None] < np.array([[150], [7]])
    given = torch.tensor(tokens).long()
    with torch.no_grad():
        plain = model(given).last_hidden_state
        masked = model(given, attention_mask=torch.tensor(mask).long())
    return {
        "tokens": tokens,
        "mask": mask,
        "plain": plain[:, ::15],
        "masked": masked.last_hidden_state[:, ::15],
    }


CASES = {
    "t5_gated": lambda folder: _make(folder, "gated-gelu"),
    "t5_relu": lambda folder: _make(folder, "relu"),
}


def _tokenizer(folder):
    """A vocabulary that SentencePiece learns of random words, with its own table."""
    import io

    import sentencepiece
    from family_sd import texts
    from transformers import T5Tokenizer

    rng = np.random.default_rng(0)
    letters = np.array(list("aeiourstnlcdé"))
    words = ["".join(rng.choice(letters, rng.integers(1, 7))) for _ in range(300)]
    words += [
        "photo",
        "astronaut",
        "riding",
        "horse",
        "café",
        "hello",
        "日本語",
        "テキスト",
        "fish",
        "12345",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(rng.choice(words, 12)) for _ in range(500)),
        model_writer=model,
        vocab_size=250,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=4)
    (folder / "spiece.model").unlink()
    tokenizer.save_pretrained(folder)
    given = texts()
    given += ["a<extra_id_1>b </s> c", "e\u0301 a\u200db ﬀ ㍿ ½ ｱﾞ a\u0301\u0301", " "]
    given += [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(100)]
    rows = tokenizer(given, padding="max_length", max_length=40, truncation=True)
    return {
        "texts": np.frombuffer(json.dumps(given).encode(), np.uint8),
        "tokens": np.array(rows.input_ids, np.int16),
    }


CASES["t5_tokens"] = _tokenizer
