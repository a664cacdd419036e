"""Gates as step sizes: is a short residual network with them as stiff as a deep one?

    python benchmarks/stiffness.py --picture docs/stiffness.png    # docs/samplers.md
    python benchmarks/stiffness.py --seeds 1 --updates 20 --deep 12

Networks of 12 residual blocks on 4 by 4 places of 16 channels learn 400 digits, plain
or with a gate: a constant for each channel, squeeze-and-excitation (what the block
adds), or the step gate (also what the last block changed). Each row's rate is the best
of the list by 300 other digits, with two other seeds; the rest of the 1,797 digits
judge. A plain network of 48 blocks, of the same search, is the reference.

stiffness   `diffusion.stiffness` of each block on the way of unseen digits, as the
            block is, gate included; its mean over blocks, and its variation
agreement   correlation over depth of a network's profile with the reference's, four of
            whose blocks are one; behind it, how often the reference in a random order
            is agreed with as much. "Not trained" is the plain network at its start; of
            the reference itself each network beside the others: what can be had
learned     the same of the log of stiffness less that at the start
change      the same of |f(x)| / |x|, what a block changes of its input
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from drawing import picture

from jaxlib_guidance.data import load_digits
from jaxlib_guidance.diffusion import stiffness
from jaxlib_guidance.models import SEGate, StepGate

CHANNELS, HIDDEN, TRAIN, VALIDATE = 16, 4, 400, 300
ROWS = ("plain", "constant gate", "SE gate", "step gate")
GATES: dict[str, Any] = {"SE gate": SEGate(HIDDEN), "step gate": StepGate(HIDDEN)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 5
    """Networks of each row, each with digits of its own to learn from."""
    references: int = 3
    """Networks of the reference."""
    search: int = 2
    """Other seeds, by which rates are chosen; one of them for the reference."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates that are tried."""
    blocks: int = 12
    """Depth of the networks."""
    deep: int = 48
    """Depth of the reference, a multiple of ``blocks``."""
    updates: int = 300
    """Steps of training, of 64 digits each."""
    rows: tuple[str, ...] = ROWS
    """Rows to measure; "plain" must be there."""
    picture: Path | None = None
    """PNG to draw the profiles in."""


def normed(x: Any) -> Any:
    """Each sample divided by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, (1, 2, 3), keepdims=True) + 1e-6)


def conv(kernel: Any, x: Any) -> Any:
    """3 by 3; as one product it is four times as fast on a CPU, and can be mapped."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, -1) @ kernel


def init(row: str, blocks: int, key: Any) -> Any:
    """Parameters, those of blocks with a leading axis."""
    stem, head, body, gate = jax.random.split(key, 4)
    he = jax.nn.initializers.he_normal(in_axis=-2, out_axis=-1, batch_axis=(0, 1))
    block = {"convs": he(body, (blocks, 2, 9 * CHANNELS, CHANNELS))}
    if row == "constant gate":
        block["gate"] = jnp.zeros((blocks, CHANNELS))
    elif row != "plain":
        some = (jnp.zeros((1, 4, 4, CHANNELS)),) * (2 if row == "step gate" else 1)
        block["gate"] = jax.vmap(lambda k: GATES[row].init(k, *some))(
            jax.random.split(gate, blocks)
        )
    lecun = jax.nn.initializers.lecun_normal()
    return {
        "stem": lecun(stem, (4, CHANNELS)),
        "head": lecun(head, (CHANNELS, 10)),
        "blocks": block,
    }


def added(row: str, block: Any, change: Any, x: Any) -> Any:
    """What a block adds to ``x``, gate included."""
    f = conv(block["convs"][0], jax.nn.relu(normed(x)))
    f = conv(block["convs"][1], jax.nn.relu(f))
    if row == "plain":
        return f
    if row == "constant gate":
        return jax.nn.sigmoid(block["gate"]) * f
    seen = (f, change) if row == "step gate" else (f,)
    return GATES[row].apply(block["gate"], *seen) * f


def run(row: str, params: Any, images: Any, measure: bool = False) -> tuple[Any, Any]:
    """Logits ``[B, 10]``; stiffness and relative change ``[blocks]``, or None."""
    x = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 4, 4, 4)
    x = x @ params["stem"]

    def step(carry, block):
        x, change = carry
        adds = partial(added, row, block, change)
        f, found = adds(x), None
        if measure:
            size = partial(jnp.linalg.norm, axis=1)
            ratio = size(f.reshape(len(x), -1)) / size(x.reshape(len(x), -1))
            found = jnp.stack([stiffness(adds, x).mean(), ratio.mean()])
        return (x + f, f), found

    (x, _), found = jax.lax.scan(step, (x, jnp.zeros_like(x)), params["blocks"])
    return normed(x).mean((1, 2)) @ params["head"], found


def train(
    config: Config, row: str, blocks: int, data: Any, rate: Any, seed: Any
) -> Any:
    """Of one network: accuracies on validation and test, and its profiles.

    ``data`` are images and labels; the seed chooses which of them are learned from.
    """
    order, first, batches = jax.random.split(jax.random.key(seed), 3)
    order = jax.random.permutation(order, len(data[1]))
    images, labels = data[0][order], data[1][order]
    start = init(row, blocks, first)
    tx = optax.adam(optax.cosine_decay_schedule(1.0, config.updates))

    def loss(params, some):
        logits, _ = run(row, params, images[some])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[some])
        return each.mean()

    def update(carry, key):
        params, state = carry
        grad = jax.grad(loss)(params, jax.random.randint(key, (64,), 0, TRAIN))
        change, state = tx.update(grad, state)
        change = jax.tree.map(lambda leaf: rate * leaf, change)
        return (optax.apply_updates(params, change), state), None

    keys = jax.random.split(batches, config.updates)
    params = jax.lax.scan(update, (start, tx.init(start)), keys)[0][0]
    right = run(row, params, images[TRAIN:])[0].argmax(-1) == labels[TRAIN:]
    profiles = [run(row, p, images[-256:], measure=True)[1] for p in (params, start)]
    return right[:VALIDATE].mean(), right[VALIDATE:].mean(), *profiles


def fit(
    config: Config, row: str, blocks: int, seeds: int, search: int
) -> dict[str, Any]:
    """A row at its best rate: accuracies ``[S]``, profiles ``[S, blocks, 2]``."""
    parts = [load_digits(split) for split in ("train", "test")]
    data = [jnp.concatenate(part) for part in zip(*parts, strict=True)]
    learn = jax.jit(partial(train, config, row, blocks))
    tried = {
        rate: np.mean([learn(data, rate, 100 + seed)[0] for seed in range(search)])
        for rate in config.rates
        if len(config.rates) > 1
    }
    rate = max(tried, key=lambda r: tried[r]) if tried else config.rates[0]
    made = [learn(data, rate, seed) for seed in range(seeds)]
    _, accuracy, after, before = (np.stack(part) for part in zip(*made, strict=True))
    shapes = jax.eval_shape(partial(init, row, blocks), jax.random.key(0))
    shown = ", ".join(f"{r:g}: {v:.3f}" for r, v in tried.items())
    print(f"{row}, {blocks} blocks, right by rate: {shown or 'one alone'}", flush=True)
    return {
        "rate": rate,
        "size": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        "accuracy": 100 * accuracy,
        "after": after,
        "before": before,
    }


def profiles(config: Config, each: dict[str, Any]) -> dict[str, np.ndarray]:
    """``[seeds, blocks]`` by measure; of deeper networks means over neighbours."""
    after, before = (
        each[name].reshape(len(each[name]), config.blocks, -1, 2).mean(2)
        for name in ("after", "before")
    )
    stiff = after[..., 0]
    return {
        "stiffness": stiff,
        "learned": np.log(stiff / before[..., 0]),
        "change": after[..., 1],
        "start": before[..., 0],
    }


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def agreement(found: np.ndarray, wanted: np.ndarray) -> str:
    """Correlations, and the share of random orders whose mean is as large."""
    each, rng = correlation(found, wanted), np.random.default_rng(0)
    orders = np.array([rng.permutation(len(wanted)) for _ in range(10_000)])
    chance = correlation(found[:, None], wanted[orders]).mean(0)
    return f"{spread(each)} ({np.mean(chance >= each.mean()):.3f})"


def spread(values: np.ndarray, digits: int = 2) -> str:
    """The mean with its standard error."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def table(config: Config, found: dict[str, Any], deep: dict[str, Any]) -> str:
    """Markdown: a line a row, then the reference, and the network at its start."""
    reference = profiles(config, deep)
    wanted = {name: each.mean(0) for name, each in reference.items()}
    lines = [
        "| | parameters | rate | accuracy, % | less plain's | stiffness | variation "
        "| agreement | learned | change |",
        "|---|" + "---:|" * 9,
    ]
    measures = ("stiffness", "learned", "change")

    def line(name, each, stiff, gain, agreements):
        size = f"{each['size']:,} | {each['rate']:g} | {spread(each['accuracy'])}"
        steps = spread(np.abs(np.diff(stiff)).sum(1))
        cells = [size, gain, spread(stiff.mean(1)), steps, *agreements]
        lines.append(f"| {name} | {' | '.join(cells)} |")

    for row, each in found.items():
        own = profiles(config, each)
        gain = spread(each["accuracy"] - found["plain"]["accuracy"])
        agreements = [agreement(own[name], wanted[name]) for name in measures]
        line(row, each, own["stiffness"], "–" if row == "plain" else gain, agreements)
    # Each network of the reference beside the mean of the others.
    agreements = [
        spread(
            np.array(
                [
                    correlation(p, np.delete(reference[name], i, 0).mean(0))
                    for i, p in enumerate(reference[name])
                ]
            )
        )
        for name in measures
    ]
    line(f"plain, {config.deep} blocks", deep, deep["after"][..., 0], "–", agreements)
    start = profiles(config, found["plain"])["start"]
    cells = [spread(start.mean(1)), spread(np.abs(np.diff(start)).sum(1))]
    cells += [agreement(start, wanted["stiffness"]), "–", "–"]
    lines.append(f"| plain, not trained | – | – | – | – | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(config: Config, found: dict, deep: dict, path: Path) -> None:
    """Stiffness over depth, a line a row."""
    with picture(path, (6.4, 3.2), dpi=110) as fig:
        axis = fig.subplots()
        for row, each in (*found.items(), (f"plain, {config.deep} blocks", deep)):
            s = each["after"][..., 0].mean(0)
            style = "-" if row in found else "k--"
            axis.plot((np.arange(len(s)) + 0.5) / len(s), s, style, label=row, lw=1)
        axis.set(xlabel="share of the depth", ylabel="stiffness", yscale="log")
        axis.legend(fontsize=7)


def main(config: Config) -> str:
    """Measures, prints and draws."""
    if config.deep % config.blocks:
        raise ValueError(f"deep is {config.deep}; expected a multiple of blocks")
    if "plain" not in config.rows:
        raise ValueError(f"rows is {config.rows}; expected 'plain' among them")
    found = {
        row: fit(config, row, config.blocks, config.seeds, config.search)
        for row in config.rows
    }
    deep = fit(config, "plain", config.deep, config.references, 1)
    text = table(config, found, deep)
    print(text)
    if config.picture is not None:
        draw(config, found, deep, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
