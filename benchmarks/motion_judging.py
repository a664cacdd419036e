"""How benchmarks/motion.py judges motions: by a classifier, by peaks, by frames."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance.data import Motions
from jaxlib_guidance.editing import count_peaks
from jaxlib_guidance.models import Classifier


def train_judge(motions: Motions, steps: int) -> Callable[[Any], np.ndarray]:
    """Motions ``[N, T, C]`` to labels ``[N]``, by a classifier of clips."""
    module = Classifier(classes=int(motions.labels.max()) + 1, widths=(32, 64))
    params = module.init(jax.random.key(0), jnp.zeros((1, 48, 12)))["params"]
    tx = optax.adam(2e-3)

    def logits(params, x):
        out: Any = module.apply({"params": params}, x)
        return out.logits

    @jax.jit
    def step(params, state, x, labels):
        def loss(params):
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits(params, x), labels
            )
            return each.mean()

        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    state, random = tx.init(params), np.random.default_rng(0)
    for _ in range(steps):
        rows = random.integers(0, len(motions.poses), 64)
        # A little noise: what a model draws is not as smooth.
        x = motions.poses[rows] + 0.03 * random.normal(size=(64, 48, 12))
        params, state = step(
            params, state, jnp.asarray(x, jnp.float32), motions.labels[rows]
        )
    run = jax.jit(lambda x: jnp.argmax(logits(params, x), -1))
    return lambda x: np.asarray(run(jnp.asarray(x, jnp.float32)))


def activity(x: np.ndarray) -> np.ndarray:
    """How much each frame moves away from rest ``[N, T]``."""
    return np.sqrt(np.mean(np.asarray(x) ** 2, -1))


def active(x: np.ndarray) -> np.ndarray:
    """The frames from the first to the last that is not at rest, bool ``[N, T]``."""
    moving = activity(x) > 0.25 * activity(x).max(-1, keepdims=True)
    after = np.cumsum(moving, -1) > 0
    return after & (np.cumsum(moving[:, ::-1], -1)[:, ::-1] > 0)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of frames ``[N]``."""
    return (a & b).sum(-1) / np.maximum((a | b).sum(-1), 1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of two courses ``[N, T]``."""
    a, b = (c - c.mean(-1, keepdims=True) for c in (a, b))
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return (a * b).sum(-1) / np.maximum(scale, 1e-9)


def repetitions(x: np.ndarray) -> np.ndarray:
    """How often each motion is done ``[N]``: peaks of the channel that moves most."""
    x = np.asarray(x)
    most = np.argmax((x**2).mean(1), -1)
    return np.asarray(
        count_peaks(np.take_along_axis(x, most[:, None, None], 2)[..., 0])
    )
