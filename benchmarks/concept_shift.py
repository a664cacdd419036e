"""The homeostatic learning rate on digits whose labels swap, beside searched rates.

    python benchmarks/concept_shift.py             # a minute on one core
    python benchmarks/concept_shift.py --epochs 1

An ELU network learns the bundled digits by plain SGD, ten samples a step, while two
classes swap their labels ``n`` times an epoch. Three rules, from each of five first
rates: the rate stays; it moves at random decisions, by the true class (the authors'
control); it moves by `training.homeostatic_rate`. As in the authors' code a decision is
made at the first sample of a step, trials take a step on that sample's share of the
gradient, and are judged on the 20 samples before. The score is the accuracy on samples
before they are learned from, after the first quarter.
"""

import dataclasses
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.data import load_digits
from jaxlib_guidance.training import homeostatic_rate, shifted_rate

RULES = ("constant", "random", "homeostatic")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    epochs: int = 5
    """Passes over the data."""
    seeds: int = 5
    """Runs of each cell."""
    swaps: tuple[int, ...] = (0, 1, 4, 16)
    """Swaps of two classes in an epoch."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.4)
    """First rates; a step of the rules is a tenth of it."""
    hidden: tuple[int, ...] = (40, 30)
    """Widths; the authors have 80 and 60 for larger digits."""


def init(key, sizes):
    """The authors' initial weights: He's, and biases from N(0, 1)."""
    layers = []
    for a, b in pairwise(sizes):
        key, w, c = jax.random.split(key, 3)
        scale = (2 / a) ** 0.5
        layers.append(
            (scale * jax.random.normal(w, (a, b)), jax.random.normal(c, (b,)))
        )
    return layers


def logits(params, x):
    *hidden, (w, b) = params
    for v, c in hidden:
        x = jax.nn.elu(x @ v + c)
    return x @ w + b


def summed_loss(params, x, y):
    logp = jax.nn.log_softmax(logits(params, x))
    return -jnp.sum(jnp.take_along_axis(logp, y[:, None], 1))


def accuracy(params, x, y):
    return jnp.mean(jnp.argmax(logits(params, x), 1) == y)


def moved(params, gradient, rate):
    return jax.tree.map(lambda p, g: p - rate / 10 * g, params, gradient)


def learn(config, images, classes, rule, swaps, first_rate, key):
    """Accuracy before learning in each step, and the rate, ``[steps]`` each."""
    per_epoch = len(images) // 10
    init_key, order_key, swap_key, chance_key = jax.random.split(key, 4)
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(images)))(
        jax.random.split(order_key, config.epochs)
    )
    rows = orders[:, : per_epoch * 10].reshape(-1, 10)
    count = jnp.arange(1, len(rows) + 1)
    # After the steps at which the swaps' share of an epoch is complete.
    swapped = count * swaps // per_epoch > (count - 1) * swaps // per_epoch
    # The two batches before are the memory; the first two steps decide nothing.
    memory = jnp.concatenate([jnp.roll(rows, 2, 0), jnp.roll(rows, 1, 0)], 1)

    def step(carry, inputs):
        params, rate, labels = carry
        index, rows, memory, swap, swap_key, chance_key = inputs
        x, y = images[rows], labels[classes[rows]]
        past = images[memory], labels[classes[memory]]
        right = accuracy(params, x, y)
        guess = jnp.argmax(logits(params, x[:1]))
        one = jax.grad(summed_loss)(params, x[:1], y[:1])
        size = 0.1 * first_rate
        trial = shifted_rate(rate, guess >= 5, step=size)
        kept, tried = (accuracy(moved(params, one, r), *past) for r in (rate, trial))
        chance = jax.random.bernoulli(chance_key).astype(jnp.float32)
        scores = jnp.array([[0, 0], [0, chance], [kept, tried]])[rule]
        decided = homeostatic_rate(rate, *scores, y[0] >= 5, step=size)
        rate = jnp.where(index >= 2, decided, rate)
        params = moved(params, jax.grad(summed_loss)(params, x, y), rate)
        a, b = jax.random.choice(swap_key, 10, (2,), replace=False)
        exchanged = jnp.where(labels == a, b, jnp.where(labels == b, a, labels))
        labels = jnp.where(swap, exchanged, labels)
        return (params, rate, labels), (right, rate)

    params = init(init_key, (images.shape[1], *config.hidden, 10))
    carry = params, jnp.asarray(first_rate), jnp.arange(10)
    keys = (jax.random.split(k, len(rows)) for k in (swap_key, chance_key))
    inputs = jnp.arange(len(rows)), rows, memory, swapped, *keys
    return jax.lax.scan(step, carry, inputs)[1]


def run(config):
    """Scores and last rates, ``[rule, swaps, rate, seed]`` each."""
    images, classes = load_digits("train")
    images = jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 2 + 0.5
    classes = jnp.asarray(classes, jnp.int32)
    each = partial(learn, config, images, classes)

    def score(*cell):
        right, rate = each(*cell)
        return jnp.mean(right[len(right) // 4 :]), rate[-1]

    for axis in (3, 2, 1, 0):
        score = jax.vmap(score, tuple(0 if i == axis else None for i in range(4)))
    keys = jax.random.split(jax.random.key(0), config.seeds)
    axes = jnp.arange(3), jnp.array(config.swaps), jnp.array(config.rates), keys
    return jax.tree.map(np.asarray, jax.jit(score)(*axes))


def main(config: Config) -> np.ndarray:
    """Prints the table; returns the scores."""
    scores, rates = run(config)
    print(f"{config.epochs} epochs, {config.seeds} seeds: {' / '.join(RULES)}\n")
    heads = [f"rate {rate:g}" for rate in config.rates]
    print(f"| swaps | {' | '.join(heads)} | best constant | best homeostatic |")
    print("|---" * (len(heads) + 3) + "|")
    for i, swaps in enumerate(config.swaps):
        mean = scores[:, i].mean(-1)
        cells = [" / ".join(f"{x:.3f}"[1:] for x in column) for column in mean.T]
        best = []
        for rule in (0, 2):
            at = int(mean[rule].argmax())
            each = " ".join(f"{x:.3f}"[1:] for x in scores[rule, i, at])
            best.append(f"{mean[rule, at]:.3f} ({each})")
        print(f"| {swaps} | {' | '.join(cells)} | {' | '.join(best)} |")
    print("\nLast rate over first, homeostatic, mean of seeds:\n")
    print(f"| swaps | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    for swaps, row in zip(config.swaps, rates[2].mean(-1), strict=True):
        cells = (f"{x:.2f}" for x in row / np.array(config.rates))
        print(f"| {swaps} | {' | '.join(cells)} |")
    return scores


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
