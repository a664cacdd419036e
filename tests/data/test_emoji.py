"""The bundled emoji, their captions and the vectors of words."""

import numpy as np
import pytest

from jaxlib_guidance.data import (
    EMOJI_CATEGORIES,
    caption_words,
    embed_words,
    emoji_vocabulary,
    load_emoji,
    load_images,
)


def test_the_splits_are_fixed_stratified_and_disjoint():
    train, test = load_emoji("train"), load_emoji("test")
    assert train.images.shape == (1720, 32, 32, 3)
    assert test.images.shape == (186, 32, 32, 3)
    both = np.bincount(np.concatenate([train.labels, test.labels]))
    assert len(both) == len(EMOJI_CATEGORIES)
    np.testing.assert_array_equal(np.bincount(test.labels), both // 10)
    assert not set(train.codes) & set(test.codes)
    assert len({*train.codes, *test.codes}) == 1906
    with pytest.raises(ValueError, match="split is 'valid'"):
        load_emoji("valid")


def test_ranges_types_and_what_is_drawn():
    found = load_emoji()
    assert found.images.dtype == np.float32
    assert found.labels.dtype == found.words.dtype == np.int32
    assert (found.images.min(), found.images.max()) == (-1, 1)
    # On white: most corners are background.
    assert (found.images[:, 0, 0] == 1).all(-1).mean() > 0.9
    mean = {
        caption: image.mean((0, 1))
        for caption, image in zip(found.captions, found.images, strict=True)
        if caption in ("red heart", "blue heart", "green heart", "yellow heart")
    }
    for name, channel in (("red", 0), ("green", 1), ("blue", 2)):
        if f"{name} heart" in mean:
            assert mean[f"{name} heart"].argmax() == channel
    assert len(mean) >= 3


def test_words_are_those_of_captions_and_keywords_are_others():
    words, _ = emoji_vocabulary()
    for split in ("train", "test"):
        found = load_emoji(split)
        rows = zip(found.captions, found.words, found.keywords, strict=True)
        for caption, own, more in rows:
            named = [words[i] for i in own if i >= 0]
            assert named == caption_words(caption)
            assert not set(own[own >= 0]) & set(more[more >= 0])


def test_vectors_tell_words_apart_and_bring_the_like_together():
    words, vectors = emoji_vocabulary()
    assert vectors.shape == (len(words), 64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, 0)
    assert alike.max() < 0.9999
    at = {word: i for i, word in enumerate(words)}
    assert alike[at["apple"], at["pear"]] > alike[at["apple"], at["train"]] + 0.2
    assert alike[at["happy"], at["smile"]] > alike[at["happy"], at["fish"]] + 0.2
    assert alike[at["red"], at["blue"]] > alike[at["red"], at["dog"]] + 0.2


def test_texts_become_rows_of_vectors():
    words, vectors = emoji_vocabulary()
    text, mask = embed_words(["A red apple!", ""], size=4)
    assert text.shape == (2, 4, 64)
    assert mask.tolist() == [[True, True, False, False], [False] * 4]
    np.testing.assert_array_equal(text[0, 0], vectors[words.index("red")])
    np.testing.assert_array_equal(text[0, 1], vectors[words.index("apple")])
    assert not text[1].any()
    # Order is all that is not seen: it only permutes rows.
    other, _ = embed_words(["apple, the RED"], size=4)
    np.testing.assert_array_equal(other[0, [1, 0]], text[0, :2])


def test_mistakes_of_texts_are_named():
    with pytest.raises(ValueError, match="'aple' is not in the vocabulary.*apple"):
        embed_words(["red aple"])
    with pytest.raises(ValueError, match="has 3 words; expected at most 2"):
        embed_words(["big red apple"], size=2)
    with pytest.raises(TypeError, match="expected a sequence of texts"):
        embed_words("red apple")


def test_it_is_a_source_of_labelled_images():
    found, direct = load_images("emoji", "test"), load_emoji("test")
    np.testing.assert_allclose(found.images, direct.images, atol=1e-6)
    np.testing.assert_array_equal(found.labels, direct.labels)
    assert found.classes == EMOJI_CATEGORIES
    small = load_images("emoji", "test", size=16, channels=1)
    assert small.images.shape == (186, 16, 16, 1)
