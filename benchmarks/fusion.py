"""Three views of a digit, each of them lost at times: how should they be joined?

    python benchmarks/fusion.py    # docs/classifiers.md
    python benchmarks/fusion.py --seeds 1 --updates 20 --rates 0.01

Sequences of 12 digits whose labels are a Markov chain (the label stays with
probability .7, else it is any other), and of each digit three views: its upper half,
its lower half, 16 random cosine features. Training, choice and test have digits of
their own. Per view a network: two layers, context by a bidirectional `S4D` or none,
broad features with fixed random matrices, and a head. What is lost, with probability
.3:

none      nothing
items     each view of each digit by itself: Gaussian noise of the view's own spread
views     a view in the whole sequence, by the same noise
digits    each view of each digit, by the view of any digit: a lie, and not noise
unseen    as "items", by networks that have learned from data of "none"

Rows that join distributions share their networks, one for each view. "concatenation"
has networks of its own, and a head on all their features. Rows named "knows" are told
what is lost. "exact chain" is the forward-backward recursion with the true chain, on
the product of networks without context. Every row has the learning rate, and where it
has one the temperature, with the most of other digits right.
"""

import dataclasses
import itertools
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxlib_guidance.data import load_digits
from jaxlib_guidance.models import (
    S4D,
    probability_fusion,
    weighted_experts,
)

LENGTH, STAY, LOST, WIDTH, BROAD = 12, 0.7, 0.3, 32, 64
TRAIN, VALIDATE = 497, 650  # And 650 to test.
S4 = S4D(state=8, dt_min=0.03, dt_max=0.5)
# Probabilities that noise takes a view of a digit, that it takes the whole view, and
# that what takes it is another digit's view.
KINDS = {
    "none": (0.0, 0.0, 0.0),
    "items": (LOST, 0.0, 0.0),
    "views": (0.0, LOST, 0.0),
    "digits": (LOST, 0.0, 1.0),
}
COLUMNS = {
    "none": ("none", "none"),
    "unseen": ("none", "items"),
    "items": ("items", "items"),
    "views": ("views", "views"),
    "digits": ("digits", "digits"),
}
TEMPERATURES = (0.03, 0.1, 0.3, 3.0)
ROWS = (
    "upper half alone",
    "lower half alone",
    "cosines alone",
    "mean of probabilities",
    "probability",
    "probability, best temperature",
    "entropy",
    "mean of logarithms",
    "probability, of logarithms",
    "mean, knows",
    "mean of logarithms, knows",
    "concatenation",
    "exact chain",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 5
    """Networks of each row, each with digits of its own to learn from."""
    search: int = 2
    """Other seeds, by which rates and temperatures are chosen."""
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Learning rates that are tried."""
    updates: int = 150
    """Steps of training."""
    batch: int = 16
    """Sequences of a step."""
    sequences: int = 200
    """Sequences of a test, each of 12 digits."""


def views(images: Any, key: Any) -> Any:
    """Three views ``[N, 3, 32]`` of pictures, on the first ones of spread 1."""
    flat = images.reshape(len(images), 64)
    phase, direction = jax.random.split(key)
    mapped = flat @ (jax.random.normal(direction, (64, 16)) / 8)
    mapped += 2 * jnp.pi * jax.random.uniform(phase, (16,))
    cosines = jnp.pad(jnp.cos(mapped), ((0, 0), (0, 16)))
    each = jnp.stack([flat[:, :32], flat[:, 32:], cosines], 1)
    each -= each[:TRAIN].mean(0)
    return each / jnp.sqrt(jnp.mean(each[:TRAIN] ** 2, (0, 2), keepdims=True))


def draw(digits: Any, spread: Any, lost: Any, count: int, key: Any) -> Any:
    """Sequences: views ``[count, L, 3, 32]``, labels and what is lost ``[..., 3]``.

    ``digits`` are views and labels; an index of a label's digits is drawn alike.
    """
    x, y = digits
    keys = jax.random.split(key, 8)
    moves = ~jax.random.bernoulli(keys[0], STAY, (count, LENGTH))
    by = jnp.where(moves, jax.random.randint(keys[1], moves.shape, 1, 10), 0)
    start = jax.random.randint(keys[2], (count, 1), 0, 10)
    labels = (start + jnp.cumsum(by, 1) - by[:, :1]) % 10
    order, sizes = jnp.argsort(y), jnp.bincount(y, length=10)
    within = jax.random.uniform(keys[3], labels.shape) * sizes[labels]
    index = order[(jnp.cumsum(sizes) - sizes)[labels] + within.astype(int)]
    item, view, lie = lost
    gone = jax.random.bernoulli(keys[4], item, (count, LENGTH, 3))
    gone |= jax.random.bernoulli(keys[5], view, (count, 1, 3))
    noise = spread * jax.random.normal(keys[6], (count, LENGTH, *x.shape[1:]))
    other = jax.random.randint(keys[7], (count, LENGTH, 3), 0, len(y))
    noise = jnp.where(lie > 0, x[other, jnp.arange(3)], noise)
    return jnp.where(gone[..., None], noise, x[index]), labels, gone


def init(key: Any) -> Any:
    """Parameters of three views' networks and the heads of a way to join them."""
    keys = jax.random.split(key, 5)
    he = jax.nn.initializers.he_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
    lecun = jax.nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
    size = WIDTH + 2 * BROAD
    some = jnp.zeros((1, LENGTH, WIDTH))
    return {
        "in": he(keys[0], (3, 32, WIDTH)),
        "in bias": jnp.zeros((3, 1, WIDTH)),
        "next": he(keys[1], (3, WIDTH, WIDTH)),
        "s4": jax.vmap(lambda k: S4.init(k, some))(jax.random.split(keys[2], 3)),
        "heads": lecun(keys[3], (3, size, 10)),
        "bias": jnp.zeros((3, 1, 10)),
        "joined": lecun(keys[4], (1, 3 * size, 10))[0],
    }


def features(context: Any, params: Any, x: Any) -> tuple[Any, Any]:
    """Features ``[B, L, 3, H]`` and each view's own logits ``[B, L, 3, 10]``."""
    count = len(x)
    z = jnp.moveaxis(x, 2, 0).reshape(3, count * LENGTH, -1)
    z = jax.nn.relu(z @ params["in"] + params["in bias"])
    z = jax.nn.relu(z @ params["next"])
    sequences = z.reshape(3, count, LENGTH, WIDTH)
    z += context * jax.vmap(S4.apply)(params["s4"], sequences).reshape(z.shape)
    # Random matrices that are the same for every network, and are not learned.
    one, two = jax.random.split(jax.random.key(0))
    mapped = jax.random.normal(one, (WIDTH, BROAD)) / WIDTH**0.5
    h = jnp.concatenate([z, jnp.tanh(z @ mapped)], -1)
    mapped = jax.random.normal(two, (WIDTH + BROAD, BROAD)) / (WIDTH + BROAD) ** 0.5
    h = jnp.concatenate([h, jnp.tanh(h @ mapped)], -1)
    logits = h @ params["heads"] + params["bias"]
    split = (3, count, LENGTH, -1)
    return tuple(jnp.moveaxis(each.reshape(split), 0, 2) for each in (h, logits))


def both(context: Any, params: Any, x: Any) -> tuple[Any, Any]:
    """Logits of "concatenation" ``[B, L, 10]``, and of views ``[B, L, 3, 10]``.

    The two have networks of their own, stacked, so that they are compiled once.
    """
    h, logits = jax.vmap(lambda p: features(context, p, x))(params)
    return h[1].reshape(*h.shape[1:3], -1) @ params["joined"][1], logits[0]


def smoothed(log_p: Any) -> Any:
    """Log-posteriors of labels with the true chain, up to a constant.

    Emissions are ``p(y | x)``, labels being equally frequent.
    """
    chain = jnp.log(
        jnp.full((10, 10), (1 - STAY) / 9).at[jnp.diag_indices(10)].set(STAY)
    )

    def step(message, here):
        message = jax.nn.logsumexp(message[:, :, None] + chain, 1)
        return message + here, message

    def sweep(steps):
        return jax.lax.scan(step, jnp.zeros_like(steps[0]), steps)[1]

    steps = jnp.moveaxis(log_p, 1, 0)
    both = sweep(steps) + steps + sweep(steps[::-1])[::-1]
    return jnp.moveaxis(both, 0, 1)


def answers(context: Any, params: Any, x: Any, gone: Any) -> dict[str, Any]:
    """Log-probabilities ``[B, L, 10]`` by row; temperatures are rows of their own."""
    concatenated, logits = both(context, params, x)
    # Where all are lost, one as good as another is all that is left.
    clean = jnp.where(gone.all(-1, keepdims=True), 1.0, ~gone)
    found = {row: logits[:, :, i] for i, row in enumerate(ROWS[:3])}
    for pool, name in (("mixture", "probabilities"), ("product", "logarithms")):
        fuse = partial(probability_fusion, logits, pool=pool)
        found[f"mean of {name}"] = fuse(temperature=jnp.inf)
        short = "" if pool == "mixture" else " of logarithms"
        found[f"mean{short}, knows"] = weighted_experts(logits, clean, pool=pool)
        found["probability" + short.replace(" of", ", of")] = fuse()
    found["entropy"] = probability_fusion(logits, confidence="entropy")
    for tau in TEMPERATURES:
        found[f"temperature {tau}"] = probability_fusion(logits, temperature=tau)
    found["exact chain"] = smoothed(jax.nn.log_softmax(logits).sum(2))
    found["concatenation"] = concatenated
    return found


def train(config: Config, context: Any, data: Any, lost: Any, rate: Any, seed: Any):
    """Shares right by row, on digits of validation, and of test by what is lost."""
    order, first, batches, ends = jax.random.split(jax.random.key(seed), 4)
    order = jax.random.permutation(order, len(data[1]))
    x, y = views(data[0][order], jax.random.key(1)), data[1][order]
    spread = x[:TRAIN].std(0)
    parts = [
        slice(TRAIN),
        slice(TRAIN, TRAIN + VALIDATE),
        slice(TRAIN + VALIDATE, None),
    ]
    learn, choose, test = ((x[part], y[part]) for part in parts)
    # All begin alike.
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), init(first))
    tx = optax.adam(optax.cosine_decay_schedule(1.0, config.updates))
    entropy = optax.softmax_cross_entropy_with_integer_labels

    def loss(params, some, labels):
        concatenated, logits = both(context, params, some)
        each = jnp.broadcast_to(labels[..., None], logits.shape[:-1])
        own = entropy(logits, each).mean((0, 1)).sum()
        return own + entropy(concatenated, labels).mean()

    def update(carry, key):
        params, state = carry
        some, labels, _ = draw(learn, spread, lost, config.batch, key)
        change, state = tx.update(jax.grad(loss)(params, some, labels), state)
        change = jax.tree.map(lambda leaf: rate * leaf, change)
        return (optax.apply_updates(params, change), state), None

    keys = jax.random.split(batches, config.updates)
    params = jax.lax.scan(update, (params, tx.init(params)), keys)[0][0]

    def right(case):
        digits, lost, key = case
        some, labels, gone = draw(digits, spread, lost, config.sequences, key)
        found = answers(context, params, some, gone)
        return {row: (p.argmax(-1) == labels).mean() for row, p in found.items()}

    one, two = jax.random.split(ends)
    kinds = [jnp.array(lost), *map(jnp.array, KINDS.values())]
    cases = [
        (choose if i == 0 else test, kind, one if i == 0 else two)
        for i, kind in enumerate(kinds)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    made = jax.lax.map(right, stacked)
    at = lambda i: {row: shares[i] for row, shares in made.items()}  # noqa: E731
    return at(0), {kind: at(i + 1) for i, kind in enumerate(KINDS)}


def measure(config: Config) -> dict[tuple[bool, str, str], np.ndarray]:
    """Percents right ``[seeds]`` by context, row and column; prints what was chosen."""
    made = [load_digits(split) for split in ("train", "test")]
    data = [jnp.concatenate(part) for part in zip(*made, strict=True)]
    data[0] = data[0].reshape(-1, 64)
    learn = jax.jit(partial(train, config))

    @cache
    def run(context, kind, rate, seed):
        lost = jnp.array(KINDS[kind])
        return jax.device_get(learn(float(context), data, lost, rate, seed))

    found: dict[tuple[bool, str, str], np.ndarray] = {}
    for column, context in itertools.product(COLUMNS, (False, True)):
        learned, tested = COLUMNS[column]
        searched = range(100, 100 + config.search)
        tried = {
            rate: [run(context, learned, rate, seed)[0] for seed in searched]
            for rate in config.rates
        }

        def best(row, tried=tried):
            """Of a row and its variants: what is chosen, and by which rate."""
            variants = [row]
            if row == "probability, best temperature":
                variants = ["probability", "mean of probabilities"]
                variants += [f"temperature {tau}" for tau in TEMPERATURES]
            each = [(name, rate) for name in variants for rate in config.rates]
            return max(each, key=lambda e: sum(r[e[0]] for r in tried[e[1]]))

        chosen = {}
        for row in ROWS[: -1 if context else None]:
            name, rate = chosen[row] = best(row)
            each = [
                run(context, learned, rate, seed)[1] for seed in range(config.seeds)
            ]
            share = 100 * np.array([r[tested][name] for r in each])
            found[context, row, column] = share
        rates = ", ".join(f"{rate:g}" for _, rate in chosen.values())
        name = chosen["probability, best temperature"][0]
        print(f"{column}, context {context}: {rates}; {name}", flush=True)
    return found


def spread(values: np.ndarray) -> str:
    """The mean with its standard error."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{values.mean():.1f} ± {error:.1f}"


def table(found: dict[tuple[str, str], np.ndarray]) -> str:
    """Markdown: a line a row, a column for each way to lose views."""
    lines = [f"| right, % | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    for row in dict.fromkeys(row for row, _ in found):
        cells = [spread(found[row, column]) for column in COLUMNS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines.append("")
    for a, b in (
        ("probability", "mean of probabilities"),
        ("probability, best temperature", "mean of probabilities"),
        ("probability", "concatenation"),
        ("entropy", "mean of probabilities"),
        ("probability, of logarithms", "mean of logarithms"),
    ):
        gains = [spread(found[a, c] - found[b, c]) for c in COLUMNS]
        lines.append(f"{a} less {b}: {', '.join(gains)}")
    return "\n".join(lines)


def main(config: Config) -> str:
    """Measures and prints a table without context and one with."""
    found = measure(config)
    each = {
        context: {key[1:]: v for key, v in found.items() if key[0] == context}
        for context in (False, True)
    }
    texts = [f"context {context}\n\n{table(some)}" for context, some in each.items()]
    gains = [
        f"{row}, gain of context: "
        + ", ".join(spread(each[True][row, c] - each[False][row, c]) for c in COLUMNS)
        for row in ROWS[:-1]
    ]
    text = "\n\n".join([*texts, "\n".join(gains)])
    print(text)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
