import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import beta_ramp, exponential_ramp, power_cosine, ramp

ROWS = ((0.0,), (1.0,))
P = np.arange(5) / 4


def factors(golden, make, steps=5, **place):
    """What a ramp makes of a weight of 1 in each step."""
    rows = [
        golden(make(jg.cfg(1.0, 0)), rows=ROWS, step=step, steps=steps, **place)[0] - 1
        for step in range(steps)
    ]
    return np.asarray(rows)


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ("linear", 2 * P),
        ("cosine", 1 - np.cos(np.pi * P)),
        ("inverse_linear", 2 - 2 * P),
        ("sine", 1 + np.cos(np.pi * P)),
        ("v", 2 * abs(1 - 2 * P)),
        ("lambda", 2 - 2 * abs(1 - 2 * P)),
    ],
)
def test_ramps_golden(shape, want, golden):
    """Wang et al., arXiv 2404.13040, on a weight, from the first step to the last."""
    got = factors(golden, lambda term: ramp(term, shape))
    np.testing.assert_allclose(got, want, atol=1e-6)
    if shape not in ("v", "lambda"):
        np.testing.assert_allclose(got.mean(), 1, rtol=1e-6)


def test_other_ramps(golden):
    got = factors(golden, lambda term: ramp(term, floor=0.7))
    np.testing.assert_allclose(got, np.maximum(0.7, 2 * P), rtol=1e-6)
    got = factors(golden, lambda term: power_cosine(term, 2.0))
    np.testing.assert_allclose(got, (1 - np.cos(np.pi * P**2)) / 2, atol=1e-6)
    got = factors(golden, lambda term: beta_ramp(term, 2.0, 3.0))
    np.testing.assert_allclose(got, stats.beta.pdf(P, 2, 3), atol=1e-5)
    for t in (0.25, 1.0):
        at = {"process": jg.RectifiedFlow(), "t": t}
        got = factors(golden, exponential_ramp, steps=1, **at)
        np.testing.assert_allclose(got, 2 ** (1 - t), rtol=1e-5)


def test_ramps_of_samples_and_of_bad_input(golden):
    one = golden(ramp(jg.cfg(1.0, 0), floor=jnp.asarray([0.5])), rows=ROWS)
    np.testing.assert_allclose(one, [1.5])
    with pytest.raises(ValueError, match="shape is 'square'; expected one of"):
        ramp(jg.cfg(1.0, 0), "square")
    with pytest.raises(TypeError, match="ramp's floor is None"):
        ramp(jg.cfg(1.0, 0), floor=None)
    with pytest.raises(ValueError, match="power is 0"):
        power_cosine(jg.cfg(1.0, 0), 0)
    with pytest.raises(ValueError, match="b is 0.5"):
        beta_ramp(jg.cfg(1.0, 0), b=0.5)
    for make in (ramp, beta_ramp, lambda term: power_cosine(term, 1.0)):
        with pytest.raises(ValueError, match="an adaptive solver has none"):
            golden(make(jg.cfg(1.0, 0)), rows=ROWS, steps=None)
