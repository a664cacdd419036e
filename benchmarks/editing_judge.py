"""A judge of colours for benchmarks/editing.py, which no editor uses.

A small network is trained, in about a minute, on emoji of the training set that are
tinted in the colours of hearts, in shades of these, in grey and in hues between them.
It has never seen a circle, a square, a book or a diamond in its own colours: its
accuracy on those is printed.
"""

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance.data import load_emoji
from jaxlib_guidance.models import Classifier

Judge = Callable[[np.ndarray], np.ndarray]
BLANK = 0.86  # Least channel of what is background, in [-1, 1].


def palette(known: dict[str, np.ndarray], colours: Sequence[str]) -> np.ndarray:
    """Hue, saturation and value of each colour's heart ``[C, 3]``."""
    found = []
    for colour in colours:
        x = known[f"{colour} heart"].reshape(-1, 3)
        median = np.median(x[x.min(-1) < BLANK], 0)
        found.append(colorsys.rgb_to_hsv(*(0.5 + 0.5 * median)))
    return np.array(found)


def paint(random: Any, colours: np.ndarray, label: int) -> np.ndarray:
    """A colour of a class, in [0, 1]; of none of them for the last class."""
    if label < len(colours):
        h, s, v = colours[label] * random.uniform((1, 0.75, 0.8), (1, 1.1, 1.1))
        h += random.uniform(-0.015, 0.015)
    elif random.random() < 0.5:
        h, s, v = random.random(), random.uniform(0, 0.15), random.uniform(0.1, 1)
    else:
        while True:
            h, s, v = random.uniform((0, 0.4, 0.4), (1, 1, 1))
            apart = np.abs((h - colours[:, 0] + 0.5) % 1 - 0.5)
            if apart.min() > 0.07:
                break
    return np.array(colorsys.hsv_to_rgb(h % 1, np.clip(s, 0, 1), np.clip(v, 0, 1)))


def tint(random: Any, x: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A picture in shades of one colour, its background as it was, with some noise."""
    light = 0.5 + 0.5 * x.mean(-1, keepdims=True)
    thing = x.min(-1, keepdims=True) < BLANK
    middle = np.median(light[thing]) if thing.any() else 0.5
    shade = np.clip(1 + random.uniform(0.2, 0.8) * (light - middle), 0.5, 1.5)
    painted = colour * np.minimum(shade, 1)
    painted = painted + (1 - painted) * np.maximum(shade - 1, 0)
    found = np.where(thing, 2 * painted - 1, x)
    found += random.uniform(0, 0.15) * random.normal(size=x.shape)
    return np.clip(found[:, :: random.choice((1, -1))], -1, 1)


def train_judge(
    known: dict[str, np.ndarray], colours: Sequence[str], steps: int, kept: Path
) -> Judge:
    """Pictures ``[N, 32, 32, 3]`` to the number of a colour, or to that of none.

    Its weights are kept in a file, and read if there is one.
    """
    random = np.random.default_rng(0)
    own = palette(known, colours)
    things = [
        x for x in load_emoji("train").images if 0.1 < (x.min(-1) < BLANK).mean() < 0.95
    ]
    module = Classifier(classes=len(colours) + 1, widths=(16, 32, 32))
    params = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def logits(params, x):
        out: Any = module.apply({"params": params}, x)
        return out.logits

    @jax.jit
    def step(params, state, x, labels):
        def loss(params):
            each = optax.softmax_cross_entropy_with_integer_labels
            return each(logits(params, x), labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    tree = jax.tree.structure(params)
    if kept.exists():
        saved = np.load(kept)
        params = jax.tree.unflatten(tree, [saved[name] for name in saved.files])
        steps = 0
    state = tx.init(params)
    for _ in range(steps):
        labels = random.integers(0, len(colours) + 1, 64)
        chosen = (things[i] for i in random.integers(0, len(things), 64))
        x = [
            tint(random, thing, paint(random, own, label))
            for thing, label in zip(chosen, labels, strict=True)
        ]
        params, state = step(params, state, np.array(x, np.float32), labels)
    if steps:
        np.savez(kept, *map(np.asarray, jax.tree.leaves(params)))
    run = jax.jit(lambda x: jnp.argmax(logits(params, x), -1))
    return lambda x: np.asarray(run(np.asarray(x, np.float32)))


def held_out(
    judge: Judge,
    known: dict[str, np.ndarray],
    colours: Sequence[str],
    kinds: Sequence[str] = ("circle", "square", "book", "large diamond"),
) -> dict[str, list[str]]:
    """Captions of pictures in their own colours: those told, and those not."""
    names = [(f"{c} {k}", i) for k in kinds for i, c in enumerate(colours)]
    names = [(n.replace("blue large", "large blue"), i) for n, i in names]
    names = [(n.replace("orange large", "large orange"), i) for n, i in names]
    names = [(n, i) for n, i in names if n in known]
    told = judge(np.stack([known[n] for n, _ in names]))
    found: dict[str, list[str]] = {"right": [], "wrong": []}
    for (name, i), number in zip(names, told, strict=True):
        found["right" if number == i else "wrong"].append(name)
    return found
