"""Learns the weight of guidance in each step by the gradient through the sampler.

    python train/schedule.py                   # CFG on the bundled digits
    python train/schedule.py --steps 40 --seeds 0 1 2

The schedule ``w(t)`` is a leaf of `guidance.scheduled`, one value a step; the best
constant weight is learned by the same search from the same start. Both lower the kernel
distance between the features of samples and of training digits of the same classes, in
the eyes of the classifier of noisy digits; the judge that measures them takes no part.
(Learning to guide, arXiv 2510.00815; here the schedule depends on time alone.)
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_digits
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.testing import judge_samples
from jaxlib_guidance.training import require_ranges, usage_errors


@dataclasses.dataclass(frozen=True)
class Config:
    """A search."""

    start: float = 1.0
    """Weight in every step at first."""
    updates: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 40
    """Gradient steps."""
    batch: int = 128
    """Samples of one."""
    solver_steps: int = 8
    """Steps of the sampler."""
    learning_rate: float = 0.1
    """Adam's rate."""
    count: int = 360
    """Samples that the judge sees."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One search for each."""


def learn(
    objective: Callable[[Any, jax.Array], jax.Array],
    weights: Any,
    keys: jax.Array,
    learning_rate: float,
) -> tuple[Any, jax.Array]:
    """Lowers ``objective(weights, key)`` by Adam, whose rate falls to 0 by a cosine.

    Args:
      objective: Differentiable function of weights and a typed key.
      weights: Pytree of weights to begin with.
      keys: Typed keys ``[N]``, one for each update.
      learning_rate: Largest rate.

    Returns:
      The weights, and the objective before each update ``[N]``.
    """
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, len(keys)))

    def update(carry, key):
        weights, state = carry
        value, slope = jax.value_and_grad(objective)(weights, key)
        change, state = tx.update(slope, state)
        return (optax.apply_updates(weights, change), state), value

    (weights, _), values = jax.lax.scan(update, (weights, tx.init(weights)), keys)
    return weights, values


def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    """Unbiased squared maximum mean discrepancy of features ``[N, F]``, cubic."""
    n, m = len(a), len(b)

    def k(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    own = [(jnp.sum(k(x, x)) - jnp.trace(k(x, x))) for x in (a, b)]
    return own[0] / (n * (n - 1)) + own[1] / (m * (m - 1)) - 2 * jnp.mean(k(a, b))


def loaded(name: str) -> Any:
    """A model of any kind and its parameters."""
    return load_pretrained(name)


def main(config: Config) -> dict[str, list[dict[str, float]]]:
    """Learns and measures, seed by seed."""
    require_ranges(config)
    model, params = loaded("digits")
    eyes, eye_params = loaded("digits_classifier")
    judge, judge_params = loaded("digits_judge")
    score = jax.jit(partial(judge, judge_params))
    (real, real_labels), (kept, _) = load_digits("train"), load_digits("test")
    grid = model.grid(config.solver_steps)
    rows = np.argsort(np.asarray(real_labels), kind="stable")
    places = [rows[np.asarray(real_labels)[rows] == c][:120] for c in range(10)]
    table = jnp.asarray(np.stack(places))  # [class, 120]

    def draw(weights, keys, labels, params):
        weights = jnp.broadcast_to(weights, (config.solver_steps,))
        guidance = jg.scheduled(jg.cfg(1.0, model.null), weights)
        network = model.denoiser(params)
        return jg.sample(
            *(keys, network, jg.dpmpp_2m(), grid, model.shape, labels),
            guidance=guidance,
            remat=True,
        )[0]

    def seen(images):
        return eyes(eye_params, images, 0.05).features

    def objective(params, weights, key):
        own, pick = jax.random.split(key)
        labels = jnp.arange(config.batch) % model.classes
        images = draw(weights, jg.sample_keys(own, config.batch), labels, params)
        columns = jax.random.randint(pick, labels.shape, 0, table.shape[1])
        return kernel(seen(images), seen(jnp.asarray(real)[table[labels, columns]]))

    @jax.jit
    def search(params, weights, keys):
        return learn(partial(objective, params), weights, keys, config.learning_rate)

    labels = jnp.arange(config.count) % model.classes
    look = jax.jit(draw)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in config.seeds:
        keys = jax.random.split(jax.random.key(seed), config.updates)
        start = {
            "constant": jnp.float32(config.start),
            "schedule": jnp.full(config.solver_steps, config.start),
        }
        found = {"start": start["constant"]}
        for name, weights in start.items():
            found[name], values = search(params, weights, keys)
            print(f"seed {seed} {name}: {np.round(found[name], 2).tolist()}")
            print(f"  kernel in training {np.mean(values[-10:]):.4f}", flush=True)
        for name, weights in found.items():
            fresh = jg.sample_keys(jax.random.key(1000 + seed), config.count)
            images = look(weights, fresh, labels, params)
            scores = judge_samples(score(images), score(kept), labels)
            results.setdefault(name, []).append(scores)
    names = ("accuracy", "frechet", "kernel", "coverage")
    print("| weights | " + " | ".join(names) + " |\n|---|---:|---:|---:|---:|")
    for name, each in results.items():
        columns = [[row[k] for row in each] for k in names]
        cells = (f"{np.mean(c):.4f} ({min(c):.4f} to {max(c):.4f})" for c in columns)
        print(f"| {name} | " + " | ".join(cells) + " |")
    return results


if __name__ == "__main__":
    with usage_errors():
        main(tyro.cli(Config, description=__doc__))
