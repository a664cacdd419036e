"""Builders of edits against what the papers' attention does."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import (
    Edit,
    attend,
    attenuate,
    blur,
    borrow,
    combine,
    emphasise,
    identity,
    shift,
    suppress,
    token_mask,
)

B, T, H, D = 2, 6, 2, 3
Q, K, V = (
    jnp.asarray(np.random.default_rng(i).normal(size=(B, T, H, D)), jnp.float32)
    for i in range(3)
)
OBJECT = jnp.array([0, 1, 1, 0, 0, 0])


def close(a, b, tol=2e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tol, rtol=tol)


def test_suppress_is_the_attentive_erasers_attention():
    # Rows of the object: softmax(scale S + hidden); the others: softmax(S + hidden).
    out, _ = attend(Q, K, V, suppress(OBJECT, 0.3))
    logits = np.einsum("bqhd,bmhd->bhqm", Q, K).astype(np.float64) / math.sqrt(D)
    rows = []
    for scale in (0.3, 1.0):
        each = np.exp(scale * logits) * (1 - np.asarray(OBJECT))
        probs = each / each.sum(-1, keepdims=True)
        rows.append(np.einsum("bhqm,bmhd->bqhd", probs, V))
    m = np.asarray(OBJECT)[None, :, None, None]
    close(out, m * rows[0] + (1 - m) * rows[1])


def test_suppress_limits():
    mean = V[:, OBJECT == 0].mean(1)
    out, _ = attend(Q, K, V, suppress(OBJECT, 0.0))
    close(out[:, 1], mean)
    close(out[:, 2], mean)
    close(attend(Q, K, V, suppress(jnp.zeros(T)))[0], attend(Q, K, V)[0])
    assert not np.any(attend(Q, K, V, suppress(jnp.ones(T), 0.3))[0])
    per_sample, _ = attend(Q, K, V, suppress(jnp.stack([OBJECT, 0 * OBJECT])))
    close(per_sample[0], attend(Q, K, V, suppress(OBJECT))[0][0])
    close(per_sample[1], attend(Q, K, V)[0][1])
    scales, _ = attend(Q, K, V, suppress(OBJECT, jnp.array([0.3, 1.0])))
    close(scales[0], attend(Q, K, V, suppress(OBJECT, 0.3))[0][0])
    close(scales[1], attend(Q, K, V, suppress(OBJECT))[0][1])


def test_suppressed_tokens_are_not_seen_by_any_query():
    def out(k, v):
        return attend(Q, k, v, suppress(OBJECT, 0.5))[0]

    by_k, by_v = jax.jacrev(out, (0, 1))(K, V)
    hidden = np.asarray(OBJECT, bool)
    for jacobian in (by_k, by_v):
        seen = np.abs(np.asarray(jacobian)).sum((0, 1, 2, 3, 4, 6, 7))
        assert not seen[hidden].any()
        assert (seen[~hidden] > 0).all()


def test_emphasis_is_not_renormalised_unless_asked():
    word = jnp.array([0.0, 1, 1, 0, 0, 0])
    _, probs = attend(Q, K, V, capture=True)
    _, more = attend(Q, K, V, emphasise(word, 0.5), capture=True)
    close(more, probs + 0.5 * word)
    close(more.sum(-1), jnp.full((B, H, T), 2.0))
    _, fair = attend(Q, K, V, emphasise(word, 0.5, renormalise=True), capture=True)
    close(fair, more / 2)
    window = (jnp.arange(T) < 2).astype(jnp.float32)
    _, part = attend(Q, K, V, emphasise(word, 0.5, window), capture=True)
    close(part[:, :, :2], more[:, :, :2])
    close(part[:, :, 2:], probs[:, :, 2:])
    _, each = attend(Q, K, V, emphasise(word, jnp.array([0.0, 0.5])), capture=True)
    close(each[0], probs[0])
    close(each[1], more[1])


def test_attenuation_erases_in_its_window():
    word, window = jnp.eye(T)[2], (jnp.arange(T) > 3).astype(jnp.float32)
    _, probs = attend(Q, K, V, capture=True)
    _, less = attend(Q, K, V, attenuate(word, 0.1, window), capture=True)
    close(less[:, :, 4:, 2], 0.1 * probs[:, :, 4:, 2])
    close(less.at[:, :, 4:, 2].set(0), probs.at[:, :, 4:, 2].set(0))
    _, none = attend(Q, K, V, attenuate(word, 0.0, renormalise=True), capture=True)
    close(none, attend(Q, K, V, suppress(word), capture=True)[1])


def test_weight_zero_is_no_edit():
    base, _ = attend(Q, K, V)
    for edit in (
        identity(0.0),
        shift(0),
        emphasise(OBJECT, 0.0),
        attenuate(OBJECT, 1.0),
        suppress(0 * OBJECT, 0.3),
        Edit(query_blur=0.0),
    ):
        close(attend(Q, K, V, edit)[0], base)


def test_token_mask_counts_any_pixel():
    mask = jnp.zeros((8, 8)).at[3, 4].set(0.2)
    want = np.zeros((4, 4), bool)
    want[1, 2] = True
    np.testing.assert_array_equal(token_mask(mask, (4, 4)), want.ravel())
    np.testing.assert_array_equal(
        token_mask(jnp.stack([mask, 0 * mask]), (4, 4)), [want.ravel(), [False] * 16]
    )
    with pytest.raises(ValueError, match="does not divide"):
        token_mask(mask, (3, 4))


def test_combining():
    both = combine(borrow(("q", "k", "v"), "a"), shift(2))
    assert both.shift == 2
    assert dict(both.borrow) == {"q": "a", "k": "a", "v": "a"}
    with pytest.raises(ValueError, match="two edits set identity"):
        combine(identity(), identity())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: suppress(jnp.ones((1, 1, T))), "mask has shape"),
        (lambda: suppress(jnp.ones((B, T)), jnp.ones(3)), "scale has shape"),
        (lambda: borrow("w", "a"), "borrow of 'w'"),
        (lambda: borrow("q", "a", columns=jnp.ones(T)), "columns has no effect"),
        (lambda: emphasise(OBJECT, jnp.ones((2, 2))), "weight has shape"),
    ],
)
def test_bad_arguments_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: suppress(jnp.ones((2, 8, 8))), "pixels becomes one of tokens"),
        (lambda: suppress(jnp.array([0, jnp.nan])), "mask holds NaN"),
        (lambda: token_mask(jnp.ones(64), (4, 4)), r"mask has shape \(64,\)"),
        (lambda: token_mask(jnp.full((4, 4), jnp.nan), (2, 2)), "mask holds NaN"),
        (lambda: emphasise(255 * OBJECT, 0.5), "columns goes from 0.* to 255"),
        (lambda: emphasise(OBJECT, 0.5, -OBJECT), "rows goes from -1"),
        (lambda: attenuate(jnp.full(T, jnp.nan), 0.5), "columns goes from nan"),
        (lambda: borrow("probs", "a", columns=2 * OBJECT), "columns goes from 0"),
        (lambda: blur(-1.0), "sigma is -1.0"),
        (lambda: blur(jnp.array([1.0, jnp.nan])), "expected a width"),
    ],
)
def test_masks_and_widths_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_mask_of_pixels_is_told_from_one_of_tokens():
    pixels = jnp.ones((B, 2 * T)).at[0].set(0)
    with pytest.raises(ValueError, match="logit_bias has shape.*token_mask"):
        attend(Q, K, V, suppress(pixels))


def test_masks_may_be_bool_or_numbers():
    for kind in (bool, int, jnp.uint8, float):
        edit = suppress(OBJECT.astype(kind), 0.3)
        close(attend(Q, K, V, edit)[0], attend(Q, K, V, suppress(OBJECT, 0.3))[0])
        found = token_mask(jnp.eye(4).astype(kind), (2, 2))
        np.testing.assert_array_equal(found, [True, False, False, True])
