"""A probe over a phantom: motions are a group, truth is exact, pictures are physics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import echo, rigid

PHANTOM = echo.build()
DRAW = jax.jit(echo.draw)
SEE = jax.jit(echo.observe)
STEP = jax.jit(echo.step)
PATIENT = DRAW(PHANTOM, jax.random.key(0))
APART = jax.jit(rigid.apart)
MATRIX, MOTION = jax.jit(rigid.matrix), jax.jit(rigid.motion)
RNG = np.random.default_rng(0)
SOME = (RNG.normal(size=(3, 7, 6)) * ([30] * 3 + [1.0] * 3)).astype(np.float32)


def exponential(turn):
    """The matrix exponential of a rotation vector, by its series in float64."""
    x, y, z = np.float64(turn)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total, term = np.eye(3), np.eye(3)
    for n in range(1, 60):
        term = term @ cross / n
        total = total + term
    return total


def test_motions_are_a_group():
    a, b, c = MATRIX(SOME)
    want = np.stack([exponential(m[3:]) for m in SOME[0]])
    np.testing.assert_allclose(a[:, :3, :3], want, atol=2e-6)
    np.testing.assert_array_equal(a[:, :3, 3], SOME[0, :, :3])
    one = np.broadcast_to(np.eye(4), a.shape)
    np.testing.assert_allclose(rigid.compose(a, rigid.inverse(a)), one, atol=1e-4)
    np.testing.assert_allclose(rigid.compose(rigid.inverse(a), a), one, atol=1e-4)
    first = rigid.compose(rigid.compose(a, b), c)
    np.testing.assert_allclose(
        first, rigid.compose(a, rigid.compose(b, c)), rtol=1e-4, atol=1e-3
    )
    # What leads from one to the other does so, and whoever moves both sees the same.
    way = rigid.relative(a, b)
    np.testing.assert_allclose(rigid.compose(a, way), b, atol=2e-4)
    moved = rigid.relative(rigid.compose(c, a), rigid.compose(c, b))
    np.testing.assert_allclose(moved, way, atol=2e-4)
    np.testing.assert_allclose(
        rigid.compose(way, rigid.relative(b, c)), rigid.relative(a, c), atol=3e-4
    )


def test_six_numbers_there_and_back():
    axis = RNG.normal(size=(40, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    # From none over the smallest to nearly half a turn, where digits are lost easily.
    angles = np.array([0, 1e-6, 1e-4, 1e-2, 1, 2, 3, 3.1, 3.1414])
    turns = axis[:, None] * angles[:, None]
    motions = np.concatenate([np.ones_like(turns), turns], -1).astype(np.float32)
    back = MOTION(MATRIX(motions))
    np.testing.assert_allclose(back, motions, atol=2e-6 * 3)
    half = np.diag([1, -1, -1, 1]).astype(np.float32)
    np.testing.assert_allclose(np.abs(MOTION(half)[3:]), [np.pi, 0, 0], atol=1e-6)
    slope = jax.jit(jax.jacobian(lambda m: rigid.motion(rigid.matrix(m))))
    for turn in (0.0, 1.0):
        found = slope(np.full(6, turn, np.float32))
        np.testing.assert_allclose(found, np.eye(6), atol=1e-5)
    shift = MATRIX(np.array([3, 0, 4, 0, 0.5, 0], np.float32))
    np.testing.assert_allclose(APART(np.eye(4), shift), (5, 0.5), rtol=1e-6)


def test_the_mean_of_poses():
    turns = np.array([-0.5, 0.1, 0.4, 0.6], np.float32)
    motions = np.zeros((4, 6), np.float32)
    motions[:, 0], motions[:, 5] = [1, 2, 3, 6], turns
    # About one axis the nearest rotation is that of the mean of the unit circle.
    angle = np.angle(np.exp(1j * turns).mean())
    mean = MOTION(jax.jit(rigid.mean)(MATRIX(motions)))
    np.testing.assert_allclose(mean, [3, 0, 0, 0, 0, angle], atol=1e-6)
    poses = MATRIX(SOME[:, 0])
    alone = jax.jit(rigid.mean)(poses, np.float32([0, 2, 0]))
    np.testing.assert_allclose(alone, poses[1], atol=1e-5)


def test_the_exact_motion_finds_the_plane_and_no_other():
    begun = jax.jit(jax.vmap(lambda key: echo.reset(PHANTOM, key)[0]))
    states = begun(jax.random.split(jax.random.key(1), 3))
    truth = jax.jit(jax.vmap(echo.solve))(states)
    world = echo.build(reach=(0.01, 0.001))
    for i in range(3):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
        for plane in (0, 3):
            here = echo.Phantom(jnp.int32(plane), *jax.tree.leaves(world)[1:])
            after, seen, paid, found = STEP(here, state, truth[i, plane], None)
            assert found
            assert paid == 1
            near = APART(after.pose, state.patient.planes[plane])
            assert near[0] < 0.01
            np.testing.assert_allclose(
                seen,
                SEE(PHANTOM, state.patient, state.patient.planes[plane]),
                atol=0.02,
            )
            _, _, paid, found = STEP(here, state, truth[i, plane - 1], None)
            assert not found
            assert paid == 0
            short = truth[i, plane] - np.float32([0.02, 0, 0, 0, 0, 0])
            assert not STEP(here, state, short, None)[3]


def test_planes_show_what_they_are_named_for():
    planes = np.asarray(PATIENT.planes)
    rotations = planes[:, :3, :3]
    one = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.swapaxes(-1, -2), one, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-5)
    # A cavity comes right after its wall: the first of a part is the part itself.
    first = np.unique(echo._PART, return_index=True)[1]
    centre = dict(zip(echo.NAMES, np.asarray(PATIENT.centre)[first], strict=True))
    seen = {
        "apical four-chamber": ("left ventricle", "right ventricle"),
        "apical long-axis": ("left ventricle", "aortic valve"),
        "short-axis at the mitral valve": ("mitral valve",),
    }
    for name, parts in seen.items():
        pose = planes[echo.PLANES.index(name)]
        for part in parts:
            local = pose[:3, :3].T @ (centre[part] - pose[:3, 3])
            # In the plane but for how far the valve is off the axis, and in the fan.
            assert abs(local[1]) < (0.01 if part == "mitral valve" else 6)
            assert np.hypot(local[0], local[2]) < echo.FAR
            assert abs(np.arctan2(local[0], local[2])) < echo.HALF
    # A long axis lies across a short one.
    across = planes[3, :3, 1] @ planes[5, :3, 1]
    assert abs(across) < 0.3


def test_a_picture_is_tissue_blood_and_loss_along_the_beam():
    still = echo.build(speckle=0.0, attenuation=0.0, variation=0.0)
    heart = DRAW(still, jax.random.key(0))
    seen = SEE(still, heart, heart.planes[0])
    # In the left ventricle's middle there is blood, and far from all parts tissue.
    row = round(float((46 + 30 - echo.NEAR) / (echo.FAR - echo.NEAR) * 31))
    np.testing.assert_allclose(seen[row, 16], echo.BLOOD**0.5, atol=0.02)
    away = rigid.compose(
        heart.planes[0], rigid.matrix(np.float32([0, 500, 0, 0, 0, 0]))
    )
    flat = SEE(still, heart, away)
    np.testing.assert_allclose(flat, echo.TISSUE**0.5, atol=1e-3)
    lossy = echo.build(speckle=0.0, attenuation=0.02, variation=0.0)
    depth = np.arange(1, 33) * (echo.FAR - echo.NEAR) / 31
    want = np.sqrt(echo.TISSUE * np.exp(-0.02 * echo.TISSUE * depth))
    got = SEE(lossy, heart, away)
    np.testing.assert_allclose(got, np.broadcast_to(want[:, None], (32, 32)), rtol=1e-3)
    # Speckle keeps the mean square of the wave: I^2 = e |..|, whose mean is near .886.
    rough = SEE(echo.build(speckle=1.0, attenuation=0.0), heart, away) ** 2
    np.testing.assert_allclose(rough.mean() / echo.TISSUE, 0.886, atol=0.06)
    assert rough.std() / rough.mean() > 0.35


def test_a_patient_is_itself_and_no_other():
    again = DRAW(PHANTOM, jax.random.key(0))
    pose = PATIENT.planes[0]
    seen = SEE(PHANTOM, PATIENT, pose)
    np.testing.assert_array_equal(seen, SEE(PHANTOM, again, again.planes[0]))
    assert seen.dtype == jnp.float32
    assert seen.shape == (32, 32)
    other = DRAW(PHANTOM, jax.random.key(1))
    assert np.abs(SEE(PHANTOM, other, other.planes[0]) - seen).mean() > 0.03
    # Without variation hearts are one, and only speckle differs.
    same = echo.build(variation=0.0, speckle=0.0)
    hearts = [DRAW(same, jax.random.key(i)) for i in range(2)]
    pictures = [SEE(same, heart, heart.planes[3]) for heart in hearts]
    np.testing.assert_allclose(*pictures, atol=1e-5)


def test_jit_vmap_and_scan_agree():
    keys = jax.random.split(jax.random.key(2), 2)
    state, seen = jax.jit(jax.vmap(lambda k: echo.reset(PHANTOM, k)))(keys)
    moves = jnp.asarray(0.3 * SOME[0, :2])

    def walk(state, _):
        out = jax.vmap(echo.step, (None, 0, 0, None))(PHANTOM, state, moves, None)
        return out[0], out[1:]

    _, (pictures, _, _) = jax.jit(lambda s: jax.lax.scan(walk, s, length=2))(state)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], state)
        np.testing.assert_allclose(SEE(PHANTOM, *one), seen[i], atol=1e-4)
        for step in range(2):
            one, picture, _, _ = STEP(PHANTOM, one, moves[i], None)
            np.testing.assert_allclose(picture, pictures[step, i], atol=2e-3)


def test_a_display():
    frame = jax.jit(lambda s: echo.render(PHANTOM, s, size=40))(
        echo.State(PATIENT, PATIENT.planes[0])
    )
    assert frame.shape == (40, 40, 3)
    assert frame.min() >= 0
    assert frame.max() <= 1
    np.testing.assert_array_equal(frame[0, 0], 0)
    np.testing.assert_array_equal(frame[-1, 0], 0)
    assert (frame[20, 20] > 0).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: echo.build(plane=6), "plane is 6"),
        (lambda: echo.build(variation=-1.0), "variation is -1"),
        (lambda: echo.build(speckle=1.5), "speckle is 1.5"),
        (lambda: echo.build(attenuation=float("nan")), "attenuation is nan"),
        (lambda: echo.build(wander=(1.0, -1.0)), "wander is -1"),
        (lambda: echo.build(reach=(1.0, 1.0, 1.0)), "reach has shape"),
        (
            lambda: echo.step(
                PHANTOM, echo.State(PATIENT, np.eye(4)), np.ones(3), None
            ),
            r"action has shape \(3,\)",
        ),
        (lambda: echo.observe(PHANTOM, PATIENT, np.eye(3)), "pose has shape"),
        (lambda: rigid.matrix(np.ones(5)), r"motion has shape \(5,\)"),
        (lambda: rigid.relative(np.eye(4), np.eye(3)), r"b has shape \(3, 3\)"),
        (lambda: rigid.mean(np.eye(3)), "poses has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
