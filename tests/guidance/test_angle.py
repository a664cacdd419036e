import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import adamag, adg, cfg_zero, tcfg, vags

C, U = np.array([2.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
D = C - U


def test_adg_golden(golden):
    """theta = 0.886077: at scale 3 the limit acts, at 1.5 not (arXiv 2506.11039)."""
    got = golden(adg(2.0, 0))
    np.testing.assert_allclose(got, (2.118034, -1.118034, 1.618034), rtol=1e-5)
    got = golden(adg(0.5, 0))
    np.testing.assert_allclose(got, (2.360339, -0.553432, 1.456885), rtol=1e-5)


def test_adg_is_bounded_and_smooth_where_both_agree(golden, lookup, context):
    """|x0| <= sqrt(2) |c|; parallel estimates leave c, with a finite gradient."""
    norms = [np.linalg.norm(golden(adg(w, 0))) for w in (0.3, 1.0, 30.0)]
    assert max(norms) <= (2 * 5) ** 0.5 * (1 + 1e-6)
    for rows in ((2 * C, C), (-C, C), (0 * U, C), (U, 0 * C)):
        steered = jg.guided(lookup(rows), adg(2.0, 0))
        ctx = context(jg.VPCosine(), jnp.zeros((1, 3)), 0.5, jnp.array([1]))
        value, _ = steered(ctx, steered.init(ctx.x))
        assert np.isfinite(value).all()


def test_cfg_zero_golden(golden):
    """c = (2, 1), u = (1, 1): a = 1.5, scale 3 gives (3, 0) (arXiv 2503.18886)."""
    rows = ((1.0, 1.0), (2.0, 1.0))
    got = golden(cfg_zero(2.0, 0, zero_steps=0, space="x0"), rows=rows)
    np.testing.assert_allclose(got, (3.0, 0.0), atol=1e-6)
    # a = 1 here, which is cfg.
    got = golden(cfg_zero(2.0, 0, zero_steps=0, space="x0"))
    np.testing.assert_allclose(got, C + 2 * D, rtol=1e-6)


def test_cfg_zero_does_not_move_at_first(golden):
    """A velocity of 0 in the first steps, unless the weight is 0."""
    x, t, process = jnp.array([[0.3, -1.2, 0.8]]), jnp.float32(0.5), jg.RectifiedFlow()
    at = {"x": x, "process": process, "steps": 9}
    first = golden(cfg_zero(2.0, 0, zero_steps=2), step=1, **at)
    velocity = jg.diffusion.from_x0(process, "velocity", jnp.asarray([first]), x, t)
    np.testing.assert_allclose(velocity, 0, atol=1e-6)
    third = golden(cfg_zero(2.0, 0, zero_steps=2), step=2, **at)
    assert abs(third - first).max() > 0.1
    off = golden(cfg_zero(jnp.zeros(1), 0, zero_steps=2), step=1, **at)
    np.testing.assert_array_equal(off, C)


def test_tcfg_golden(golden):
    """u' = (1, 0.2, 0.4) at scale 3, and numpy's singular vectors elsewhere."""
    got = golden(tcfg(2.0, 0, space="x0"))
    np.testing.assert_allclose(got, (4.0, -0.4, 2.2), rtol=1e-5)
    rng = np.random.default_rng(0)
    u, c = rng.normal(size=(2, 5))
    v = np.linalg.svd(np.stack([u, c]))[2][0]
    got = golden(tcfg(2.0, 0, space="x0"), rows=(u, c))
    np.testing.assert_allclose(got, c + 2 * (c - (u @ v) * v), rtol=1e-4, atol=1e-5)


FLOW = jg.RectifiedFlow()


def test_vags_golden(golden):
    """t = 0.2 and a cosine of 0.632456: 3 e^(0.6 cos); kappa = 0 is cfg."""
    at = {"process": FLOW, "t": 0.2}
    got = golden(vags(3.0, 0, space="x0"), **at)
    np.testing.assert_allclose(got, (5.384544, -3.384544, 4.384544), rtol=1e-5)
    got = golden(vags(3.0, 0, kappa=0.0), **at)
    np.testing.assert_allclose(got, C + 2 * D, rtol=1e-5)


def test_adamag_golden(golden):
    """Velocities (2, 0, 1) and (1, 1, 0) at x = (1, 2, -1), t = 0.8."""
    x, t = np.array([1.0, 2.0, -1.0]), 0.8
    rows = (x - t * U, x - t * C)
    place = {"process": FLOW, "t": t, "x": jnp.asarray(x[None], jnp.float32)}
    got = golden(adamag(3.0, 0), rows=rows, **place)
    want = x - t * np.array([2.557225, 0.240378, 1.041129])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    got = golden(adamag(3.0, 0, beta=1.0, power=0.0), rows=rows, **place)
    np.testing.assert_allclose(got, x - t * (C + 2 * D), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adg(1.0, 0, limit=2.0), "adg's limit is 2.0"),
        (lambda: cfg_zero(1.0, 0, zero_steps=-1), "zero_steps is -1"),
        (lambda: cfg_zero(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: tcfg(1.0, 0, space="noise"), "space is 'noise'"),
        (lambda: vags(1.0, 0, space="noise"), "space is 'noise'"),
    ],
)
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
