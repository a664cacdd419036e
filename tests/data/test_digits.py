"""The bundled digits."""

import numpy as np
import pytest

from jaxlib_guidance.data import load_digits


def test_the_splits_are_fixed_stratified_and_disjoint():
    train, test = load_digits("train"), load_digits("test")
    assert train[0].shape == (1437, 8, 8, 1)
    assert test[0].shape == (360, 8, 8, 1)
    assert (np.bincount(test[1]) == 36).all()
    seen = {image.tobytes() for image in train[0]}
    assert not [image for image in test[0] if image.tobytes() in seen]


def test_ranges_and_types():
    images, labels = load_digits()
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert images.min() == -1
    assert images.max() == 1
    assert len(np.unique(images)) == 17
    assert set(labels) == set(range(10))


def test_labels_belong_to_images():
    # The nearest training image has the same label for nearly all test images: about
    # 98 % in the literature on this set.
    (x, y), (xt, yt) = load_digits(), load_digits("test")
    gaps = ((xt[:, None] - x[None]) ** 2).sum((2, 3, 4))
    assert (y[gaps.argmin(1)] == yt).mean() > 0.97


def test_unknown_split():
    with pytest.raises(ValueError, match="split is 'valid'"):
        load_digits("valid")
