"""Synthetic motions: what is said of them is true."""

import numpy as np
import pytest

from jaxlib_guidance.data import (
    BONES,
    MOTION_ACTIONS,
    MOTION_CHANNELS,
    embed_words,
    make_motions,
    skeleton_positions,
)

MOTIONS = make_motions(3, 400)


def test_words_and_truth_agree():
    numbers = ("one", "two", "three", "four", "five")
    assert MOTIONS.poses.shape == (400, 48, len(MOTION_CHANNELS))
    assert set(MOTIONS.labels) == set(range(len(MOTION_ACTIONS)))
    assert set(MOTIONS.counts) == {1, 2, 3, 4, 5}
    for i, text in enumerate(MOTIONS.texts):
        words = text.split()
        assert MOTION_ACTIONS[MOTIONS.labels[i]] in words
        told = [numbers.index(word) + 1 for word in words if word in numbers]
        assert told in ([], [MOTIONS.counts[i]])
        for side, other in (("left", "right"), ("right", "left")):
            if side in words:
                name = MOTION_CHANNELS[MOTIONS.moved[i]]
                assert name.startswith(side)
                still = [c.startswith(other) for c in MOTION_CHANNELS]
                assert not MOTIONS.poses[i][:, still].any()
    embed_words(MOTIONS.texts, 6)  # All of their words are in the vocabulary.


def test_there_is_rest_around_the_action():
    frame = np.arange(48)
    inside = (frame >= MOTIONS.spans[:, :1]) & (frame < MOTIONS.spans[:, 1:])
    assert not MOTIONS.poses[~inside].any()
    moving = np.abs(MOTIONS.poses).max(-1) > 0.01
    # A cycle begins at rest.
    assert (moving.sum(1) >= inside.sum(1) - 2 * MOTIONS.counts).all()


def test_a_seed_says_which():
    again = make_motions(3, 5)
    np.testing.assert_array_equal(again.poses, MOTIONS.poses[:5])
    assert again.texts == MOTIONS.texts[:5]
    assert make_motions(4, 5).texts != again.texts
    assert make_motions(0, 0).poses.shape == (0, 48, 12)
    for frames, count in ((8, 1), (48, -1)):
        with pytest.raises(ValueError, match="expected at least 16 frames"):
            make_motions(0, count, frames)


def test_bones_keep_their_length():
    at = skeleton_positions(MOTIONS.poses)
    assert at.shape == (400, 48, 15, 3)
    first, second = np.array(BONES).T
    # Shoulders and hips are joined to the trunk's ends, which are no bones.
    limbs = [i for i, (a, b) in enumerate(BONES) if b - a == 1]
    lengths = np.linalg.norm(at[..., first, :] - at[..., second, :], axis=-1)
    np.testing.assert_allclose(lengths[..., limbs].std((0, 1)), 0, atol=1e-6)
    with pytest.raises(ValueError, match="expected"):
        skeleton_positions(np.zeros((2, 3)))
