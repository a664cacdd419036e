"""Punishments and reputations of arXiv 2301.08278, by its released code's constants."""

import numpy as np
import pytest

from jaxlib_guidance.policy import punishment, reputation_change

pytestmark = pytest.mark.usefixtures("one_program")
PUNISH = np.array([0, 0, 1, 1])
DEFECTED = np.array([0, 1, 0, 1])


def test_punishments():
    got = punishment(PUNISH, DEFECTED)
    np.testing.assert_array_equal(got.victim, [0, 0, -3, -3])
    np.testing.assert_array_equal(got.punisher, [0, 0, -10, 2])
    costly = punishment(PUNISH, DEFECTED, just=-3.0)
    np.testing.assert_array_equal(costly.punisher, [0, 0, -10, -3])
    # Certain punishment makes the temptation, 4, less than the reward, 3.
    assert 4 + float(got.victim[3]) < 3


def test_reputations():
    np.testing.assert_array_equal(reputation_change(DEFECTED), [1, -1, 1, -1])
    np.testing.assert_array_equal(reputation_change(DEFECTED, PUNISH), [0, 0, -3, 2])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"defected has shape \(3,\)"):
        punishment(PUNISH, DEFECTED[:3])
    with pytest.raises(ValueError, match="penalty is -1"):
        punishment(PUNISH, DEFECTED, penalty=-1.0)
