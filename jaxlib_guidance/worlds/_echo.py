"""A heart under an ultrasound probe, and the exact way to its standard planes.

Patients are drawn: a heart of ellipsoids (walls, cavities, valves) beside a liver and a
lung, each of its own size, place, tilt and brightness, and scatterers that make its
speckle. A probe anywhere, of six degrees of freedom, sees a fan of 80 degrees to a
depth of 150 mm. Six planes are poses that landmarks of the patient's own heart define,
so what leads to them is known (`solve`). Lengths are in mm, angles in rad; poses are
matrices ``[4, 4]`` of `worlds.rigid`: the probe looks along its third axis, beams lie
along the first.

Reference: after the task of Yue et al., "EchoWorld: Learning Motion-Aware World Models
for Echocardiography Probe Guidance", arXiv 2504.13065, whose scans are private. The
phantom is ours, and no model of an organ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, pytree_dataclass, require_array
from jaxlib_guidance.worlds import _rigid as rigid
from jaxlib_guidance.worlds._checks import require_index, require_number
from jaxlib_guidance.worlds._picture import paper

SIZE, NEAR, FAR, HALF = 32, 10.0, 150.0, np.deg2rad(40)
"""Beams and depths of a picture, the depths between, half of the fan's angle."""
PLANES = (
    "apical four-chamber",
    "apical two-chamber",
    "apical long-axis",
    "parasternal long-axis",
    "short-axis at the mitral valve",
    "short-axis at the papillary muscles",
)
TISSUE, BLOOD, WAVES = 0.3, 0.03, 24
# Centre, radii, rotation vector, thickness of the wall (0 for a solid), brightness. The
# third axis leads from the base of the heart to its apex, the first from the left
# ventricle to the right one, the second to the chest. Later ones are painted over
# earlier ones, and a cavity right after its wall.
ANATOMY = {
    "liver": ((75, -45, 45), (60, 40, 60), (0, 0, 0.3), 0, 0.45),
    "lung": ((-80, 15, 0), (38, 80, 80), (0, 0, 0), 0, 0.9),
    "right atrium": ((38, -4, -54), (22, 20, 22), (0, 0, 0), 3, 0.6),
    "left atrium": ((-4, -10, -56), (22, 19, 20), (0, 0, 0), 3, 0.6),
    "right ventricle": ((33, 9, -2), (23, 19, 38), (0, -0.15, 0), 4, 0.65),
    "aorta": ((13, 22, -62), (14, 14, 36), (0.35, 0.2, 0), 3, 0.75),
    "left ventricle": ((0, 0, 0), (27, 27, 46), (0, 0, 0), 10, 0.7),
    "mitral valve": ((-2, -5, -36), (17, 15, 2.5), (0.2, 0, 0), 0, 1.0),
    "tricuspid valve": ((36, 3, -33), (15, 13, 2.5), (0, -0.2, 0), 0, 0.95),
    "aortic valve": ((9, 15, -36), (10, 10, 2.5), (0.35, 0.2, 0), 0, 0.95),
    "papillary muscle": ((-9, -8, 8), (5, 5, 11), (0, 0, 0), 0, 0.65),
}
NAMES = tuple(ANATOMY)
_HOLLOW = [part[3] > 0 for part in ANATOMY.values()]
_PAINTED = [(i, inner) for i, h in enumerate(_HOLLOW) for inner in range(1 + h)]
_PART, _INNER = np.array(_PAINTED).T
"""The part of each ellipsoid in the order of painting, and 1 for its cavity."""


@pytree_dataclass
class Phantom:
    """Parameters.

    Attributes:
      plane: Number of the plane to find, in `PLANES`.
      variation: How much patients differ, 0 for the same heart; 1 by default.
      speckle: Strength of speckle, 0 to 1.
      attenuation: Loss along 1 mm of tissue of brightness 1.
      wander: How far from a plane the probe begins: standard deviations of the way, mm,
        and of the rotation vector, rad, ``[2]``.
      reach: Distance, mm, and angle, rad, within which a plane is found, ``[2]``.
    """

    plane: Array
    variation: Array
    speckle: Array
    attenuation: Array
    wander: Array
    reach: Array


class Patient(NamedTuple):
    """A patient, in the frame of its own body.

    Attributes:
      centre: Centres of ellipsoids in the order in which they are painted, ``[M, 3]``.
      shape: What takes a point less its centre to the unit ball, ``[M, 3, 3]``.
      echo: Brightness ``[M]``.
      waves: Wave vectors of the scatterers, rad a mm, ``[W, 3]``.
      phases: Their phases ``[W]``.
      planes: Poses of the standard planes ``[6, 4, 4]``.
    """

    centre: Array
    shape: Array
    echo: Array
    waves: Array
    phases: Array
    planes: Array


class State(NamedTuple):
    """The patient, and the pose of the probe ``[4, 4]``."""

    patient: Patient
    pose: Array


def build(
    *,
    plane: int | Array = 0,
    variation: float | Array = 1.0,
    speckle: float | Array = 0.6,
    attenuation: float | Array = 0.015,
    wander: tuple[float, float] = (12.0, 0.25),
    reach: tuple[float, float] = (5.0, 0.1),
) -> Phantom:
    """A phantom.

    Args:
      plane: Number of the plane to find, 0 to 5.
      variation: How much patients differ.
      speckle: Strength of speckle, 0 to 1.
      attenuation: Loss along 1 mm of tissue of brightness 1, at least 0.
      wander: Standard deviations of a start from a plane: mm, rad.
      reach: When a plane is found: mm, rad.

    Raises:
      ValueError: A number out of range.
    """
    require_index("plane", plane, len(PLANES))
    require_number("variation", variation, 0, 2)
    require_number("speckle", speckle, 0, 1)
    require_number("attenuation", attenuation, 0)
    for name, pair in (("wander", wander), ("reach", reach)):
        require_shape(name, jnp.asarray(pair), (2,))
        require_number(name, jnp.asarray(pair), 0)
    numbers = (variation, speckle, attenuation, wander, reach)
    return Phantom(jnp.int32(plane), *(jnp.asarray(x, jnp.float32) for x in numbers))


def draw(phantom: Phantom, key: Array) -> Patient:
    """A patient.

    The heart's size varies by a tenth, places of parts by 3 mm, radii by a tenth, tilts
    by .1 rad and brightness by a fifth (standard deviations, times ``variation``).

    Args:
      phantom: Parameters.
      key: Typed key.
    """
    centre, radii, turn, wall, echo = (
        jnp.asarray(np.array(column, np.float32))
        for column in zip(*ANATOMY.values(), strict=True)
    )
    keys = jax.random.split(key, 7)

    def vary(key, shape=()):
        return phantom.variation * jax.random.normal(key, shape)

    size = jnp.exp(0.1 * vary(keys[0]))
    centre = size * (centre + 3 * vary(keys[1], centre.shape))
    radii = size * radii * jnp.exp(0.1 * vary(keys[2], radii.shape))
    turn += 0.1 * vary(keys[3], turn.shape)
    echo = jnp.minimum(echo * jnp.exp(0.2 * vary(keys[4], echo.shape)), 1)
    frames = rigid.matrix(jnp.concatenate([centre, turn], -1))
    painted = frames[_PART]
    within = jnp.where(_INNER, wall[_PART], 0)[:, None]
    size_of = jnp.maximum(radii[_PART] - within, 1)
    return Patient(
        painted[:, :3, 3],
        jnp.swapaxes(painted[:, :3, :3], -1, -2) / size_of[..., None],
        jnp.where(_INNER, BLOOD, echo[_PART]),
        0.35 * jax.random.normal(keys[5], (WAVES, 3)),
        jax.random.uniform(keys[6], (WAVES,), maxval=2 * jnp.pi),
        _planes(frames, radii),
    )


def _planes(frames, radii):
    """Poses of `PLANES` by landmarks: frames and radii of the parts."""
    place = {name: frames[i, :3, 3] for i, name in enumerate(NAMES)}
    number = NAMES.index("left ventricle")
    middle, length = frames[number], radii[number, 2]
    axis, middle, mitral = middle[:3, 2], middle[:3, 3], place["mitral valve"]
    septum = _across(place["right ventricle"] - middle, axis)
    front = _across(place["aortic valve"] - middle, axis)
    apical = middle + (length + 30) * axis
    chest = middle + 75 * front
    papillary = middle + 0.15 * length * axis
    views = [
        (apical, mitral, septum),
        (apical, mitral, jnp.cross(axis, septum)),
        (apical, mitral, front),
        (chest, 0.5 * (middle + mitral), axis),
        (chest, mitral, jnp.cross(front, axis)),
        (chest, papillary, jnp.cross(front, axis)),
    ]
    return jnp.stack([_look(*view) for view in views])


def _across(a, axis):
    """The direction of what is left of ``a`` across a unit vector."""
    a = a - (a @ axis) * axis
    return a / jnp.linalg.norm(a)


def _look(at, to, along):
    """The pose at a point that looks to another, its beams along a direction."""
    depth = (to - at) / jnp.linalg.norm(to - at)
    beam = _across(along, depth)
    return rigid.join(jnp.stack([beam, jnp.cross(depth, beam), depth], -1), at)


def observe(phantom: Phantom, patient: Patient, pose: Array, size: int = SIZE) -> Array:
    """What the probe sees: a row a depth, a column a beam, as the scanner records it.

    ``I = (e ((1 - s) + s |sum_w exp(i (k_w x + phi_w))| / sqrt(W)) exp(-mu int e))^.5``
    with the brightness ``e`` at a point, the speckle ``s`` and the attenuation ``mu``,
    the integral along the beam; the root is the compression of a display.

    Args:
      phantom: Parameters.
      patient: A patient.
      pose: Pose of the probe ``[4, 4]``.
      size: Number of beams, and of depths.

    Returns:
      Float32 ``[size, size]`` in [0, 1].

    Raises:
      ValueError: Another shape of ``pose``, or a size below 2.
    """
    require_shape("pose", pose, (4, 4))
    require_number("size", size, 2)
    angle = jnp.linspace(-HALF, HALF, size)
    depth = jnp.linspace(NEAR, FAR, size)[:, None]
    fan = jnp.stack([depth * jnp.sin(angle), depth * jnp.cos(angle)], -1)
    x = fan @ pose[:3, (0, 2)].T + pose[:3, 3]
    local = jnp.einsum(
        "mij,hwmj->hwmi", patient.shape, x[..., None, :] - patient.centre
    )
    inside = 1 - jnp.sqrt(jnp.sum(local**2, -1) + 1e-6)
    # About the distance from the edge, of which .8 mm are soft.
    scale = jnp.linalg.det(patient.shape) ** (-1 / 3)
    share = jax.nn.sigmoid(inside * scale / 0.8)
    # Painting is linear: what shows of each is its share of what later ones leave.
    left = jnp.cumprod(jnp.flip(1 - share, -1), -1)
    shown = share * jnp.flip(jnp.roll(left, 1, -1).at[..., 0].set(1), -1)
    echo = shown @ patient.echo + TISSUE * left[..., -1]
    phase = x @ patient.waves.T + patient.phases
    parts = jnp.cos(phase).sum(-1), jnp.sin(phase).sum(-1)
    speckle = jnp.hypot(*parts) / WAVES**0.5
    seen = echo * (1 - phantom.speckle + phantom.speckle * speckle)
    lost = jnp.cumsum(echo, 0) * (FAR - NEAR) / (size - 1)
    return jnp.sqrt(jnp.clip(seen * jnp.exp(-phantom.attenuation * lost), 0, 1))


def begin(phantom: Phantom, patient: Patient, key: Array) -> State:
    """A probe about some plane of a patient, which need not be the one to find.

    Args:
      phantom: Parameters.
      patient: A patient.
      key: Typed key.
    """
    which, how = jax.random.split(key)
    plane = jax.random.randint(which, (), 0, len(PLANES))
    spread = jnp.repeat(phantom.wander, 3, total_repeat_length=6)
    away = rigid.matrix(spread * jax.random.normal(how, (6,)))
    return State(patient, rigid.compose(patient.planes[plane], away))


def reset(phantom: Phantom, key: Array) -> tuple[State, Array]:
    """A new patient with a probe about some plane.

    Args:
      phantom: Parameters.
      key: Typed key.

    Returns:
      State and picture ``[32, 32]``.
    """
    who, where = jax.random.split(key)
    state = begin(phantom, draw(phantom, who), where)
    return state, observe(phantom, *state)


def step(
    phantom: Phantom, state: State, action: Array, key: Array | None
) -> tuple[State, Array, Array, Array]:
    """A motion of the probe.

    Args:
      phantom: Parameters.
      state: State.
      action: Way, mm, and rotation vector, rad, in the probe's own frame, ``[6]``.
      key: Typed key; nothing is drawn from it.

    Returns:
      State, picture ``[32, 32]``, 1 where the plane is found and else 0, and whether it
      is.

    Raises:
      TypeError: A list as ``action``.
      ValueError: Another shape.
    """
    del key
    require_array("action", action)
    require_shape("action", action, (6,))
    pose = rigid.compose(state.pose, rigid.matrix(action))
    state = State(state.patient, pose)
    far = jnp.stack(rigid.apart(pose, state.patient.planes[phantom.plane]))
    found = (far <= phantom.reach).all()
    return state, observe(phantom, *state), found.astype(jnp.float32), found


def solve(state: State) -> Array:
    """The exact motion to each plane, an action of `step`, ``[6, 6]``."""
    return rigid.motion(rigid.relative(state.pose, state.patient.planes))


def render(phantom: Phantom, state: State, *, size: int = 128) -> Array:
    """The fan as a display shows it, the probe on top.

    Args:
      phantom: Parameters.
      state: State.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], black outside of the fan.
    """
    require_number("size", size, 2)
    polar = observe(phantom, *state, size=size)
    _, side, up = paper(size)
    down, side = FAR * (1 - up), FAR * np.sin(HALF) * (2 * side - 1)
    depth, angle = jnp.hypot(down, side), jnp.arctan2(side, down)
    row = (depth - NEAR) / (FAR - NEAR) * (size - 1)
    column = (angle / HALF + 1) / 2 * (size - 1)
    within = (row >= 0) & (row <= size - 1) & (column >= 0) & (column <= size - 1)
    at = [jnp.clip(jnp.round(a), 0, size - 1).astype(int) for a in (row, column)]
    return jnp.repeat(jnp.where(within, polar[*at], 0.0)[..., None], 3, -1)
