"""Edits of joint attention touch the image and leave the text's own alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import Edit, attend, blur, combine, identity, shift

KEYS = jax.random.split(jax.random.key(0), 3)
Q, K, V = (jax.random.normal(key, (2, 9, 3, 4)) for key in KEYS)
# The text before, after, and on both sides of an image of 2 x 3 tokens.
IMAGES = slice(3, 9), slice(0, 6), slice(1, 7)


def run(image, edit, **options):
    options = {"grid": (2, 3), "capture": True} | options
    return attend(Q, K, V, edit, image=image, **options)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("masked", [False, True])
def test_identity_hides_other_tokens_of_the_image_from_each(image, masked):
    """The reference forbids those entries; here no map of them is made."""
    mask = jnp.arange(9)[None] != jnp.array([[image.stop % 9], [4]]) if masked else None
    tokens = np.arange(9)
    inside = (tokens >= image.start) & (tokens < image.stop)
    hidden = inside[:, None] & inside & ~np.eye(9, dtype=bool)
    bias = jnp.where(hidden, -jnp.inf, 0.0)[None, None]
    want, probs = run(image, Edit(logit_bias=bias), mask=mask)
    out, found = run(image, identity(), mask=mask)
    np.testing.assert_allclose(out, want, atol=1e-6)
    np.testing.assert_allclose(found, probs, atol=1e-6)
    fused, none = run(image, identity(), mask=mask, capture=False)
    np.testing.assert_allclose(fused, want, atol=1e-6)
    assert none is None


@pytest.mark.parametrize("image", IMAGES[2:])
def test_gates_are_of_each_sample_and_zero_is_off(image):
    plain, whole = run(image, None)[0], run(image, identity())[0]
    mixed = run(image, identity(jnp.array([0.0, 0.25])))[0]
    np.testing.assert_allclose(mixed[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], 0.75 * plain[1] + 0.25 * whole[1], atol=1e-6)
    off = run(image, combine(identity(0.0), blur(0.0)))[0]
    np.testing.assert_allclose(off, plain, atol=1e-6)


@pytest.mark.parametrize("image", IMAGES[2:])
def test_blur_and_shift_move_the_image_alone(image):
    tokens = Q[:, image]
    means = Q.at[:, image].set(jnp.mean(tokens, 1, keepdims=True))
    want = attend(means, K, V)[0]
    np.testing.assert_allclose(run(image, blur(jnp.inf))[0], want, atol=1e-6)
    rolled = (a.at[:, image].set(jnp.roll(a[:, image], 2, 1)) for a in (Q, K, V))
    np.testing.assert_allclose(run(image, shift(2))[0], attend(*rolled)[0], atol=1e-6)


def test_a_grid_of_another_size_is_told():
    with pytest.raises(ValueError, match="number of queries, 6"):
        run(slice(3, 9), blur(1.0), grid=(3, 3))
