import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import contrastive_cfg, negation, nested, perp_neg

C, U, N = np.array([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
ROWS = U, C, N


def test_negation_golden(golden):
    """u + 3 (c - n), and not what cfg with the negative for null gives."""
    got = golden(jg.cfg(2.0, 0), negation(3.0, 0, 2), rows=ROWS)
    np.testing.assert_allclose(got, (7.0, -2.0, 0.0), atol=1e-5)
    other = golden(jg.cfg(2.0, 2), rows=ROWS)
    np.testing.assert_allclose(got - other, U - N, atol=1e-5)
    same = golden(negation(3.0, 0, 2), rows=(U, C, U))
    np.testing.assert_array_equal(same, C)


def test_perp_neg_golden(golden):
    """Only what is perpendicular to c - u; nothing of a negative that is c."""
    terms = jg.cfg(2.0, 0), perp_neg(3.0, 0, 2)
    # n - u is perpendicular as it is, so the same as above.
    np.testing.assert_allclose(golden(*terms, rows=ROWS), (7.0, -2.0, 0.0), atol=1e-5)
    got = golden(*terms, rows=(U, C, U + np.eye(3)[0]))
    np.testing.assert_allclose(got, (2.0, -3.0, 4.0), rtol=1e-5)
    own = golden(perp_neg(3.0, 0, 2), rows=(U, C, C))
    np.testing.assert_allclose(own, C, atol=1e-6)


def test_contrastive_cfg_golden(golden):
    """tau = 0.5: weights 1.635149 and 0.537883; none where n = u."""
    term = contrastive_cfg(3.0, 0, 2, 0.5, space="x0")
    got = golden(term, rows=ROWS)
    np.testing.assert_allclose(got, (7.519095, -3.905447, 3.291798), rtol=1e-5)
    plain = golden(term, rows=(U, C, U))
    np.testing.assert_allclose(plain, U + 3 * 1.635149 * (C - U), rtol=1e-5)


def test_nested_golden(golden):
    """InstructPix2Pix: u + 1.5 (n - u) + 7.5 (c - n); both scales 1 give c."""
    got = golden(nested(6.5, 0, 2, 0.5), rows=ROWS)
    np.testing.assert_allclose(got, (14.5, -6.5, 1.5), rtol=1e-5)
    np.testing.assert_array_equal(golden(nested(0.0, 0, 2, 0.0), rows=ROWS), C)
    inner = golden(nested(0.0, 0, 2, 2.0), rows=ROWS)
    np.testing.assert_allclose(inner, C + 2 * (N - U), rtol=1e-5)


def test_arguments_that_make_no_sense():
    for make in (negation, perp_neg):
        with pytest.raises(ValueError, match="names are .*expected two different"):
            make(1.0, 0, 2, names=("uncond", "uncond"))
        with pytest.raises(TypeError, match="weight is '1'"):
            make("1", 0, 2)
    with pytest.raises(ValueError, match="space is 'noise'"):
        contrastive_cfg(1.0, 0, 2, 0.1, space="noise")
    with pytest.raises(TypeError, match="nested's inner_weight is None"):
        nested(1.0, 0, 2, None)
