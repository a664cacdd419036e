"""Attention by relative motions: its formula in numpy, symmetries, what is hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxlib_guidance.models import MotionAttention
from jaxlib_guidance.testing import randomise

B, N, D, R, HEADS = 2, 5, 8, 3, 2
RNG = np.random.default_rng(0)
FRAMES = RNG.normal(size=(B, N, D)).astype(np.float32)
PLACES = RNG.normal(size=(B, N, R)).astype(np.float32)
MOTIONS = PLACES[:, None] - PLACES[:, :, None]
MASK = np.array([[1, 1, 0, 1, 1], [0, 0, 0, 1, 0]], np.float32)
NET = MotionAttention(heads=HEADS)
PARAMS = randomise(
    jax.random.key(1),
    jax.eval_shape(NET.init, jax.random.key(0), FRAMES, MOTIONS),
)
RUN = jax.jit(lambda h, r, mask=None: NET.apply(PARAMS, h, r, mask))


def layer(name, x):
    """A layer in float64."""
    weights = {k: np.float64(v) for k, v in PARAMS["params"][name].items()}
    return x @ weights["kernel"] + weights.get("bias", 0)


def gelu(x):
    return x * (1 + erf(x / 2**0.5)) / 2


def plain(frames, motions):
    """One set of frames, pair by pair."""
    hidden = layer("motion", motions)
    m = layer("motion_out", hidden / (1 + np.exp(-hidden)))
    out = np.zeros_like(frames)
    for i, frame in enumerate(frames):
        q = layer("q_out", gelu(layer("q", frame)))
        k, v = (
            np.stack(
                [
                    layer(
                        f"{n}_out",
                        gelu(
                            layer(f"{n}_frame", other) + layer(f"{n}_motion", m[i, j])
                        ),
                    )
                    for j, other in enumerate(frames)
                ]
            )
            for n in "kv"
        )
        heard = []
        for head in np.split(np.arange(D), HEADS):
            score = k[:, head] @ q[head] / len(head) ** 0.5
            weight = np.exp(score) / np.exp(score).sum()
            heard.append(weight @ v[:, head])
        out[i] = frame + layer("out", np.concatenate(heard))
    return out


def test_it_is_the_formula():
    want = [plain(*map(np.float64, pair)) for pair in zip(FRAMES, MOTIONS, strict=True)]
    np.testing.assert_allclose(RUN(FRAMES, MOTIONS), want, atol=2e-5)


def test_frames_have_no_order_and_no_place():
    out = RUN(FRAMES, MOTIONS)
    order = np.array([3, 0, 4, 1, 2])
    moved = RUN(FRAMES[:, order], MOTIONS[:, order][:, :, order])
    np.testing.assert_allclose(moved, out[:, order], atol=1e-5)
    shifted = PLACES + np.float32([2, -1, 4])
    away = RUN(FRAMES, shifted[:, None] - shifted[:, :, None])
    np.testing.assert_allclose(away, out, atol=1e-4)
    # A motion is read by the frame that it begins at, and by no other.
    other = MOTIONS.copy()
    other[:, 1, 3] += 1
    change = np.abs(RUN(FRAMES, other) - out).max(-1)
    assert (change[:, 1] > 1e-3).all()
    np.testing.assert_allclose(np.delete(change, 1, 1), 0, atol=1e-6)


def test_equal_motions_make_it_ordinary_attention_with_other_keys_and_values():
    motion = np.float32([0.3, -1, 2])
    out = RUN(FRAMES, np.broadcast_to(motion, MOTIONS.shape))
    hidden = layer("motion", motion)
    m = layer("motion_out", hidden / (1 + np.exp(-hidden)))
    # Keys and values of one frame, the motion a bias of their first layers.
    q = layer("q_out", gelu(layer("q", FRAMES)))
    k, v = (
        layer(f"{n}_out", gelu(layer(f"{n}_frame", FRAMES) + layer(f"{n}_motion", m)))
        for n in "kv"
    )
    q, k, v = (jnp.float32(x.reshape(B, N, HEADS, -1)) for x in (q, k, v))
    heard = jax.nn.dot_product_attention(q, k, v).reshape(B, N, D)
    np.testing.assert_allclose(out, FRAMES + layer("out", heard), atol=2e-5)


def test_what_is_hidden_is_as_if_never_there():
    out = RUN(FRAMES, MOTIONS, MASK)
    known = MASK[0] > 0
    fewer = RUN(FRAMES[:1, known], MOTIONS[:1, known][:, :, known])
    np.testing.assert_allclose(out[0, known], fewer[0], atol=1e-5)
    np.testing.assert_array_equal(out[MASK == 0], 0)
    frames, motions = FRAMES.copy(), MOTIONS.copy()
    frames[MASK == 0] = np.nan
    motions[(MASK[:, :, None] * MASK[:, None]) == 0] = np.nan
    np.testing.assert_array_equal(RUN(frames, motions, MASK), out)
    np.testing.assert_allclose(
        RUN(FRAMES, MOTIONS, np.ones((B, N))), RUN(FRAMES, MOTIONS)
    )

    @jax.jit
    def slopes(params, frames, motions, mask):
        total = lambda *a: jnp.sum(NET.apply(*a, mask) ** 2)  # noqa: E731
        return jax.grad(total, (0, 1, 2))(params, frames, motions)

    for mask in (MASK, 0 * MASK):
        found = slopes(PARAMS, frames, motions, mask)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        np.testing.assert_array_equal(found[1][mask == 0], 0)


def test_half_precision():
    net = MotionAttention(heads=HEADS, dtype=jnp.bfloat16)
    half = jnp.asarray(FRAMES, jnp.bfloat16)
    out = jax.jit(net.apply)(PARAMS, half, MOTIONS)
    assert out.dtype == jnp.bfloat16
    wide = RUN(half.astype(jnp.float32), MOTIONS)
    np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((FRAMES[0], MOTIONS), r"frames has shape \(5, 8\); expected \[B, N, D\]"),
        (
            (FRAMES, MOTIONS[:, 1:]),
            r"motions has shape \(2, 4, 5, 3\); expected \(2, 5",
        ),
        ((FRAMES, PLACES), "motions has shape"),
        ((FRAMES, MOTIONS, MASK[:1]), r"mask has shape \(1, 5\)"),
        ((FRAMES, MOTIONS, -MASK), "mask has values from -1"),
        ((FRAMES[..., :7], MOTIONS), "heads=2 does not divide the width 7"),
    ],
)
def test_what_is_refused(args, match):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(lambda: NET.init(jax.random.key(0), *args))
