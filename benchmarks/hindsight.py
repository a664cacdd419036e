"""A seller trained on what customers say at once, or after they used what they bought.

    python benchmarks/hindsight.py                      # the table of docs/grids.md
    python benchmarks/hindsight.py --trust 1
    python benchmarks/hindsight.py --seeds 2 --tuning 1 --answers 2048    # a trial

The world is `worlds.shop`: a seller, who reads three listings, claims of each item that
it has the feature asked for, that it lacks it, or nothing; the policy is a table of
27 listings. It begins honest in three claims of five and is trained by DPO on pairs of
its first answers, or by GRPO on its own, as many answers each. Labels are the utility
that the customer believes in at once, the mean of simulated outcomes
(`policy.hindsight_score`), by simulators that err or not, or the true utility. The step
size and the weight of the reference are searched for each row alike, by what its own
label says of the policy on other seeds. All columns are exact expectations.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture

from jaxlib_guidance.policy import (
    dpo,
    grpo,
    hindsight_score,
    pair_from_scores,
    sequence_logp,
)
from jaxlib_guidance.reduce import finalize, masked_mean
from jaxlib_guidance.worlds import shop as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    answers: int = 8192
    """Labelled answers of a run."""
    updates: int = 128
    """Updates of a run; those of DPO go through its pairs eight times."""
    seeds: int = 5
    """Runs of each row."""
    tuning: int = 3
    """Runs that choose the settings of each row, which are not reported."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Step sizes of Adam, each tried by each row."""
    betas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Strengths of DPO's reference, each tried by each of its rows."""
    penalties: tuple[float, ...] = (0.0, 0.01, 0.04, 0.16)
    """Weights of GRPO's divergence from the reference, as many as ``betas``."""
    trust: float = 0.8
    """How far customers trust sellers."""
    picture: Path | None = None
    """File for stated and true utility of each row; None for none."""


NOW, LATER, TRUTH = 0, 1, 2


class Label(NamedTuple):
    """Who judges an answer, and after how many outcomes of which simulator."""

    kind: int
    outcomes: int = 16
    guess: float = 0.0
    echo: float = 0.0


LABELS = {
    "at once": Label(NOW),
    "1 outcome": Label(LATER, 1),
    "4 outcomes": Label(LATER, 4),
    "16 outcomes": Label(LATER, 16),
    "16, half by a coin": Label(LATER, 16, guess=0.5),
    "16, half as claimed": Label(LATER, 16, echo=0.5),
    "16, all as claimed": Label(LATER, 16, echo=1.0),
    "truth": Label(TRUTH),
}


def first_policy():
    """Logits ``[27, 3, 3]`` of a seller who passes on three listings of five."""
    honest = jax.nn.one_hot(world.solve(world.build()).listings, 3)
    return jnp.log(0.2 + 0.4 * honest)


def answer(theta, row, key, number):
    """Claims on listings ``[P]``, ``number`` answers each: ``[P, number, 3]``."""
    chosen = jax.random.categorical(key, theta[row], shape=(number, len(row), 3))
    return jnp.moveaxis(chosen, 0, 1)


def logp(theta, row, claims):
    """Log-probability of each claim, ``[P, G, 3]``."""
    every = jax.nn.log_softmax(theta)[row][:, None]
    return jnp.take_along_axis(every, claims[..., None], -1)[..., 0]


def number_of(claims):
    """Place of claims in the table's list."""
    return jnp.sum(claims * jnp.array([9, 3, 1]), -1)


def judge(shop, table, label, row, claims, key):
    """Score of each answer ``[P, G]``."""
    listing = jnp.broadcast_to(table.listings[row][:, None], claims.shape)

    def simulate(listing, claims, key):
        options = {"guess": label.guess, "echo": label.echo}
        return world.outcomes(shop, listing, claims, key, number=16, **options)

    keys = jax.random.split(key, claims.shape[:2])
    paid = jax.vmap(jax.vmap(simulate))(listing, claims, keys)
    seen = (jnp.arange(16) < label.outcomes).astype(jnp.float32)
    later = hindsight_score(paid, jnp.broadcast_to(seen, paid.shape))
    at = row[:, None], number_of(claims)
    exact = jnp.where(label.kind == NOW, table.satisfaction[at], table.utility[at])
    return jnp.where(label.kind == LATER, later, exact)


def visits(table, key, number):
    """Listings drawn as they come, as their numbers ``[number]``."""
    return jax.random.categorical(key, jnp.log(table.odds), shape=(number,))


def ascend(loss, rate, updates, key):
    """Adam on ``loss(theta, key)`` from the first policy."""
    tx = optax.adam(rate)

    def update(carry, key):
        theta, state = carry
        step, state = tx.update(jax.grad(loss)(theta, key), state)
        return (optax.apply_updates(theta, step), state), None

    start = first_policy()
    keys = jax.random.split(key, updates)
    return jax.lax.scan(update, (start, tx.init(start)), keys)[0][0]


def train_dpo(config, shop, table, label, key):
    """Final logits of each setting ``[rates, betas, 27, 3, 3]``."""
    come, speak, ask, key = jax.random.split(key, 4)
    row = visits(table, come, config.answers // 2)
    start = first_policy()
    claims = answer(start, row, speak, 2)
    pairs = pair_from_scores(judge(shop, table, label, row, claims, ask))
    batch = 8 * len(row) // config.updates

    def taken(theta, row, claims, which):
        chosen = jnp.take_along_axis(claims, which[:, None, None], 1)
        gap = logp(theta, row, chosen) - logp(start, row, chosen)
        return sequence_logp(gap[:, 0])

    def run(rate, beta):
        def loss(theta, key):
            some = jax.random.choice(key, len(row), (batch,), replace=False)
            at = row[some], claims[some]
            won = taken(theta, *at, pairs.chosen[some])
            lost = taken(theta, *at, pairs.rejected[some])
            return masked_mean(dpo(won, lost, beta=beta), pairs.mask[some])

        return ascend(loss, rate, config.updates, key)

    each = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return each(jnp.array(config.rates), jnp.array(config.betas))


def train_grpo(config, shop, table, label, key):
    """Final logits of each setting ``[rates, penalties, 27, 3, 3]``."""
    start, group = first_policy(), 8
    prompts = config.answers // group // config.updates

    def run(rate, penalty):
        def loss(theta, key):
            come, speak, ask = jax.random.split(key, 3)
            row = visits(table, come, prompts)
            claims = answer(jax.lax.stop_gradient(theta), row, speak, group)
            paid = judge(shop, table, label, row, claims, ask)
            new = logp(theta, row, claims)
            out = grpo(
                new, jax.lax.stop_gradient(new), paid,
                logp_ref=logp(start, row, claims), beta=penalty,
            )  # fmt: skip
            return finalize(out)[0]

        return ascend(loss, rate, config.updates, key)

    each = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return each(jnp.array(config.rates), jnp.array(config.penalties))


def measure(shop, table, label, policy):
    """Satisfaction, utility, false promises, false denials, and the own label's say."""
    own = world.solve(shop, guess=label.guess, echo=label.echo).utility
    own = jnp.where(label.kind == NOW, table.satisfaction, own)
    every = table.satisfaction, table.utility, table.feigned, table.denied, own
    return jnp.stack([table.odds @ jnp.sum(policy * x, -1) for x in every])


def probabilities(table, theta):
    """Chance of each answer, ``[27, 27]``."""
    each = jax.nn.softmax(theta)[:, jnp.arange(3), table.listings]
    return jnp.prod(each, -1)


def main(config: Config) -> dict:
    """Prints the table; returns columns by method and label, ``[seeds, 5]``."""
    shop = world.build(trust=config.trust)
    table = world.solve(shop)
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    labels = Label(*(jnp.array(x) for x in zip(*LABELS.values(), strict=True)))
    kept, told, settings = {}, {}, {}
    for method, train in (("DPO", train_dpo), ("GRPO", train_grpo)):

        def score(label, key, train=train):
            theta = train(config, shop, table, label, key)
            flat = theta.reshape(-1, *theta.shape[2:])
            one = partial(probabilities, table)
            return jax.vmap(lambda x: measure(shop, table, label, one(x)))(flat)

        both = jax.vmap(score, (None, 0))
        found = jax.jit(
            lambda labels, both=both: jax.lax.map(lambda x: both(x, keys), labels)
        )
        weights = config.betas if method == "DPO" else config.penalties
        grid = [(r, w) for r in config.rates for w in weights]
        for name, cells in zip(LABELS, np.asarray(found(labels)), strict=True):
            tried = cells[: config.tuning].mean(0)
            own, true = tried[:, 4].argmax(), tried[:, 1].argmax()
            kept[method, name] = cells[config.tuning :, own]
            told[method, name] = cells[config.tuning :, true, 1].mean()
            settings[method, name] = grid[own]
    report(config, shop, table, kept, told, settings)
    if config.picture is not None:
        draw(config, kept, float(table.value))
    return kept


def report(config, shop, table, kept, told, settings):
    """The table of the docs."""
    print(
        "| trained by | label | rate, weight | stated | true utility | seeds | regret "
        "| false promises | false denials | true utility, setting by the truth |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    value, cases = float(table.value), jnp.arange(27)
    fixed = {
        "optimum": jax.nn.one_hot(table.best, 27),
        "honest": jax.nn.one_hot(cases, 27),
        "most satisfying": jax.nn.one_hot(jnp.argmax(table.satisfaction, -1), 27),
        "first policy": probabilities(table, first_policy()),
    }
    for name, policy in fixed.items():
        found = measure(shop, table, LABELS["truth"], policy)
        said, paid, feigned, denied, _ = map(float, found)
        print(
            f"| – | {name} | – | {said:.3f} | {paid:.3f} | – | {value - paid:.3f} | "
            f"{feigned:.3f} | {denied:.3f} | – |"
        )
    for (method, name), cells in kept.items():
        said, paid, feigned, denied, _ = cells.mean(0)
        rate, weight = settings[method, name]
        each = " ".join(f"{x:.2f}" for x in cells[:, 1])
        print(
            f"| {method} | {name} | {rate:g}, {weight:g} | {said:.3f} | "
            f"{paid:.3f} ± {cells[:, 1].std():.3f} | {each} | {value - paid:.3f} | "
            f"{feigned:.3f} | {denied:.3f} | {told[method, name]:.3f} |"
        )


def draw(config, kept, value):
    """What is stated and what is true, and false promises, of each row."""
    names = list(LABELS)
    with picture(config.picture, (9, 3.2)) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        place = np.arange(len(names))[::-1]
        for panel, method in zip(panels, ("DPO", "GRPO"), strict=True):
            cells = np.stack([kept[method, name].mean(0) for name in names])
            panel.hlines(place, cells[:, 0], cells[:, 1], color="0.7")
            panel.plot(cells[:, 0], place, "o", color="w", mec="C3", label="stated")
            panel.plot(cells[:, 1], place, "o", color="C0", label="true")
            panel.plot(cells[:, 2], place, "x", color="k", label="false promises")
            panel.axvline(value, color="C0", lw=0.8, ls="--", label="optimum")
            panel.axvline(0, color="k", lw=0.5)
            panel.set(title=method, yticks=place, yticklabels=names)
            panel.set_xlabel("utility of a visit; share of the claims")
        panels[0].legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
