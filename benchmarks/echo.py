"""How a probe finds its planes: what pre-training is worth, and what past frames are.

    python benchmarks/echo.py    # docs/continuous.md
    python benchmarks/echo.py --seeds 1 --search 1 --pretrain 20 --updates 20

A vision transformer sees pictures of `worlds.echo` and says the motion to each of six
standard planes. Pre-training has scans of many patients and the motions between their
frames, and no plane; fine-tuning has few patients' planes; patients of validation, by
which each row's learning rate is chosen, and of test are others.
"""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from echo_networks import FRAMES, LEG, SCALE, SCAN, Guide, fine_tune, pretrain, windows

from jaxlib_guidance.worlds import echo, rigid

MOVES = 4
JITTER = jnp.array([8.0] * 3 + [0.15] * 3)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 3
    """Networks of each row."""
    search: int = 1
    """Seeds, of these, by which rates are chosen on patients of validation."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of fine-tuning that are tried."""
    pretrain: int = 2000
    """Steps of pre-training."""
    pretrain_rate: float = 2e-3
    """Its learning rate."""
    updates: int = 200
    """Steps of fine-tuning."""
    batch: int = 8
    """Sequences of 8 frames of a step; pre-training has as many frames, in pairs."""
    patients: int = 120
    """Patients without labels."""
    labelled: int = 16
    """Patients whose planes are known."""
    held_out: int = 48
    """Patients of test, and half as many of validation."""
    width: int = 64
    """Width of the transformer."""
    depth: int = 3
    """Blocks of the transformer."""


def tour(patient: Any, key: Any) -> Any:
    """Poses ``[SCAN, 4, 4]`` of a scan from plane to plane, by an unsteady hand."""
    order, shake = jax.random.split(key)
    planes = jax.random.permutation(order, patient.planes)
    ways = rigid.motion(rigid.relative(planes, jnp.roll(planes, -1, 0)))
    share = jnp.arange(LEG) / LEG
    legs = rigid.matrix(share[:, None, None] * ways)
    steady = jnp.swapaxes(rigid.compose(planes, legs), 0, 1).reshape(SCAN, 4, 4)
    shaken = JITTER * jax.random.normal(shake, (SCAN, 6))
    return rigid.compose(steady, rigid.matrix(shaken))


def scans(phantom: Any, count: int, key: Any) -> Any:
    """Pictures ``[count, SCAN, 32, 32]``, their poses, and patients."""

    def one(key):
        who, where = jax.random.split(key)
        patient = echo.draw(phantom, who)
        poses = tour(patient, where)
        look = partial(echo.observe, phantom, patient)
        return jax.lax.map(look, poses, batch_size=16), poses, patient

    return jax.lax.map(one, jax.random.split(key, count))


ROWS = {
    "one frame, from scratch": ("", 0, 0),
    "one frame, masked": ("masked", 0, 0),
    "one frame, masked and motion (smooth L1)": ("smooth L1", 0, 0),
    "one frame, masked and motion (contrastive)": ("contrastive", 0, 0),
    "8 frames, from scratch": ("", 1, 0),
    "8 frames and motions, from scratch": ("", 1, 1),
    "8 frames and motions, masked and motion (contrastive)": ("contrastive", 1, 1),
}
"""Pre-training, and what a guide is told, as in `Guide`."""
WEIGHTS = {"masked": (0.0, 0.0), "smooth L1": (0.1, 0.0), "contrastive": (0.0, 0.1)}
"""Of the two losses of motion-conditioned prediction; masked prediction has 1."""


def errors(made: Any, to: Any) -> Any:
    """Distance, mm, and angle, degrees, between motions ``[..., 6]``: ``[..., 2]``."""
    distance, angle = rigid.apart(rigid.matrix(made * SCALE), rigid.matrix(to * SCALE))
    return jnp.stack([distance, jnp.rad2deg(angle)], -1)


def cases(data: Any) -> Any:
    """Of each patient a frame of each plane's leg, with the 7 before: who, and when."""
    who = jnp.repeat(jnp.arange(len(data[0])), len(echo.PLANES))
    return who, jnp.tile(jnp.arange(len(echo.PLANES)) * LEG + LEG // 2, len(data[0]))


def judge(config: Config, data: Any, told: Any, params: Any) -> Any:
    """Errors ``[2, 2]``: at the last of 8 frames, and of all 8 answers as one."""
    guide = Guide(config.width, config.depth)

    def some(case):
        pictures, between, to = windows(data, *(jnp.atleast_1d(c) for c in case))
        made = guide.apply(params, pictures, between, told)
        # By the motions that are known, each frame's answer is one for the last.
        there = rigid.matrix(between[:, -1] * SCALE)[:, :, None]
        each = rigid.compose(there, rigid.matrix(made * SCALE))
        joined = rigid.motion(rigid.mean(jnp.moveaxis(each, 1, 2))) / SCALE
        return jnp.stack([errors(x, to[:, -1])[0] for x in (made[:, -1], joined)])

    return jax.lax.map(some, cases(data), batch_size=32).mean((0, 2))


def drive(config: Config, phantom: Any, patients: Any, told: Any, params: Any) -> Any:
    """Errors ``[MOVES + 1, 2]`` of a probe that carries out what it is told."""
    guide = Guide(config.width, config.depth)

    def episode(case):
        patient, number = case
        state = echo.begin(
            phantom, patient, jax.random.fold_in(jax.random.key(7), number)
        )
        goal = number % len(echo.PLANES)

        def move(carry, _):
            pose, pictures, poses, known = carry
            seen = echo.observe(phantom, patient, pose)
            pictures, poses, known = (
                jnp.concatenate([old[1:], new[None]])
                for old, new in (
                    (pictures, seen),
                    (poses, pose),
                    (known, jnp.array(1.0)),
                )
            )
            between = rigid.motion(rigid.relative(poses[:, None], poses)) / SCALE
            made = guide.apply(params, pictures[None], between[None], told, known[None])
            next_pose = rigid.compose(pose, rigid.matrix(made[0, -1, goal] * SCALE))
            return (next_pose, pictures, poses, known), pose

        begun = (
            state.pose,
            jnp.zeros((FRAMES, echo.SIZE, echo.SIZE)),
            jnp.tile(jnp.eye(4), (FRAMES, 1, 1)),
            jnp.zeros(FRAMES),
        )
        _, poses = jax.lax.scan(move, begun, length=MOVES + 1)
        distance, angle = rigid.apart(poses, patient.planes[goal])
        return jnp.stack([distance, jnp.rad2deg(angle)], -1)

    numbers = jnp.arange(len(patients.echo))
    return jax.lax.map(episode, (patients, numbers), batch_size=16).mean(0)


def mean_motion(labelled: Any, test: Any) -> Any:
    """Errors ``[2]`` of the mean of all labelled motions, whatever is seen."""
    every = jnp.indices(labelled[0].shape[:2]).reshape(2, -1)
    poses, planes = labelled[1][tuple(every)], labelled[2].planes[every[0]]
    ways = jnp.moveaxis(rigid.relative(poses[:, None], planes), 0, 1)
    who, when = cases(test)
    to = rigid.relative(test[1][who, when][:, None], test[2].planes[who])
    made = rigid.motion(rigid.mean(ways)) / SCALE
    return errors(made, rigid.motion(to) / SCALE).mean((0, 1))


def measure(config: Config) -> dict[str, Any]:
    """Errors by row ``[seeds, 2, 2]`` and driven ``[seeds, MOVES + 1, 2]``."""
    phantom = echo.build()
    counts = config.patients, config.labelled, config.held_out // 2, config.held_out
    data = jax.jit(scans, static_argnums=1)(phantom, sum(counts), jax.random.key(9))
    ends = np.cumsum(counts)
    unlabelled, labelled, choose, test = (
        jax.tree.map(lambda leaf, a=end - n, b=end: leaf[a:b], data)
        for end, n in zip(ends, counts, strict=True)
    )
    learn = jax.jit(partial(pretrain, config))
    tune = jax.jit(partial(fine_tune, config))
    judged = jax.jit(partial(judge, config))
    driven = jax.jit(partial(drive, config))

    @cache
    def encoder(way, seed):
        if not way:
            return encoder("masked", seed)
        made, told = learn(
            *unlabelled[:2],
            jnp.array(WEIGHTS[way]),
            jax.random.key(seed),
            jnp.float32(config.pretrain_rate),
            jnp.int32(config.pretrain),
        )
        print(f"{way}, seed {seed}: losses {np.round(told, 3)}", flush=True)
        return made

    @cache
    def guide(row, rate, seed):
        way, *told = ROWS[row]
        begun = encoder(way, seed), jnp.array(way != "")
        told = jnp.array(told, jnp.float32)
        key = jax.random.key(1000 + seed)
        steps = jnp.int32(config.updates)
        return told, tune(labelled, told, begun, key, jnp.float32(rate), steps)

    found: dict[str, Any] = {"mean motion": jax.jit(mean_motion)(labelled, test)}
    for row in ROWS:
        # A millimetre counts as much as a degree.
        cost = {
            rate: sum(
                float(judged(choose, *guide(row, rate, seed))[0].sum())
                for seed in range(config.search)
            )
            for rate in config.rates
        }
        rate = min(cost, key=lambda rate: cost[rate])
        made = [guide(row, rate, seed) for seed in range(config.seeds)]
        errors = np.stack([judged(test, *each) for each in made])
        found[row] = (
            rate,
            errors,
            np.stack([driven(phantom, test[2], *each) for each in made]),
        )
        print(row, rate, np.round(errors.mean(0), 1).tolist(), flush=True)
    return found


def spread(values: Any) -> str:
    """The mean with its standard error."""
    values = np.asarray(values)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{values.mean():.1f} ± {error:.1f}"


def table(found: dict[str, Any]) -> str:
    """Markdown: errors, and the way of a probe that is driven."""
    head = ("rate", "mm", "degrees", "8 answers: mm", "degrees")
    driven = [f"{n} moves: mm, degrees" for n in range(MOVES + 1)]
    lines = [
        f"| guide | {' | '.join([*head, *driven])} |",
        "|---|" + "---:|" * (len(head) + len(driven)),
    ]
    mm, degrees = found["mean motion"]
    lines.append(
        f"| mean motion | – | {mm:.1f} | {degrees:.1f} |" + " – |" * (MOVES + 3)
    )
    for row in ROWS:
        rate, errors, moves = found[row]
        cells = [spread(errors[:, i, j]) for i in range(2) for j in range(2)]
        cells += [f"{a:.1f}, {b:.1f}" for a, b in moves.mean(0)]
        lines.append(f"| {row} | {rate:g} | {' | '.join(cells)} |")
    lines.append("")
    names = list(ROWS)
    for a, b in ((1, 0), (2, 1), (3, 1), (3, 0), (4, 0), (5, 4), (6, 3), (6, 5)):
        gain = found[names[a]][1][:, 0] - found[names[b]][1][:, 0]
        line = f"{spread(gain[:, 0])} mm, {spread(gain[:, 1])} degrees"
        lines.append(f"{names[a]} less {names[b]}: {line}")
    return "\n".join(lines)


def main(config: Config) -> dict[str, Any]:
    """Measures and prints the table."""
    found = measure(config)
    print(table(found))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
