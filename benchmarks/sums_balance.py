"""Rounds of self-training that choose their temperature and their filter.

    python benchmarks/sums_balance.py            # minutes of one core
    python benchmarks/sums_balance.py --picture sums_balance.png

A model that writes sums with columns learns in rounds from its own right answers. Right
answers differ, for columns may be looked at again and corrected, and all may be done
twice. B-STaR draws a few answers at each of four temperatures, scores each with each of
two filters (right; right without a wrong step) by how many different right answers they
give, and draws the round's answers at the best. Beside it stand three fixed
temperatures. All draw the same number of answers, and the rate of each is searched with
another seed.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from drawing import picture
from sums_rounds import Cycle, cell, compare, lesson, make_run
from sums_runs import draw, groups, held_out, load, problems, repeat

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_checker"
    """Model to begin with."""
    rounds: int = 3
    """Rounds of sampling and fine-tuning."""
    prompts: int = 18
    """Sums of a round, and a sixth as many for each temperature that is tried."""
    group: int = 8
    """Answers to each."""
    wanted: int = 4
    """Different right answers of a sum that are enough."""
    length: int = 32
    """Places of an answer."""
    steps: int = 15
    """Steps of fine-tuning in a round."""
    batch: int = 16
    """Answers of a step."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 32
    """Held-out sums, with eight answers each."""
    picture: Path | None = None
    """File for the curves over rounds; None for none."""


HEATS = (0.5, 0.8, 1.1, 1.4)
ROWS = {"fixed 0.5": 0, "fixed 0.8": 1, "fixed 1.1": 2, "fixed 1.4": 3, "B-STaR": -1}


class Figures(NamedTuple):
    """Of held-out sums at temperature 1, and what a round would choose."""

    right: jax.Array
    any: jax.Array
    different: jax.Array
    tokens: jax.Array
    heat: jax.Array


def first_of_kind(tokens, right):
    """Whether an answer of a group is right and the first of its kind, ``[P, G]``."""
    same = jnp.all(tokens[:, :, None] == tokens[:, None], -1) & right[:, None]
    return right & (jnp.argmax(same, -1) == jnp.arange(right.shape[1]))


def make_cycle(config, lm):
    """What a round and an evaluation are."""
    ask, check, size = jax.vmap(sums.prompt), jax.vmap(sums.check), config.group
    heats = jnp.array(HEATS)

    def answers(params, key, count, heat):
        """Answers, and under each filter which are kept: ``[2, P, G]``."""
        which, how = jax.random.split(key)
        asked = repeat(problems(which, sums.Sums(2, 2), count), size)
        rows = draw(lm, params, how, ask(asked), steps=config.length, temperature=heat)
        found = check(asked, rows.tokens, rows.mask)
        tokens, right, clean = groups(
            (rows.tokens, found.right, found.first_wrong >= found.steps), size
        )
        return rows, tokens, jnp.stack([right, right & clean])

    def choose(params, key, row):
        """What is tried, the temperature, and the filter."""
        few = config.prompts // 6
        tried = jnp.where(row < 0, heats, heats[row])
        many = jnp.repeat(tried, few * size)
        rows, tokens, kept = answers(params, key, few * len(HEATS), many)
        new = jax.vmap(first_of_kind, (None, 0))(tokens, kept)
        # [filter, temperature, sum]
        shape = 2, len(HEATS), few
        counts = (jnp.sum(x, -1).reshape(shape) for x in (new, kept))
        correct, selected = (x.reshape(-1, few) for x in counts)
        best, _ = policy.best_configuration(correct, selected, wanted=config.wanted)
        which, heat = jnp.divmod(best, len(HEATS))
        which = jnp.where(row < 0, which, 0)
        heat = jnp.where(row < 0, heats[heat], heats[row])
        return (rows, new[which].reshape(-1)), which, heat

    def gather(params, key, row):
        first, second = jax.random.split(key)
        (tried, kept), which, heat = choose(params, first, row)
        rows, tokens, found = answers(params, second, config.prompts, heat)
        new = first_of_kind(tokens, found[which]).reshape(-1)
        rows = jax.tree.map(lambda *x: jnp.concatenate(x), rows, tried)
        return lesson(rows, jnp.concatenate([new, kept]).astype(jnp.float32))

    tests = repeat(held_out(2, config.tests), size)

    def evaluate(params, row, key):
        rows = draw(lm, params, key, ask(tests), steps=config.length)
        found = check(tests, rows.tokens, rows.mask)
        tokens, right = groups((rows.tokens, found.right), size)
        new = jnp.sum(first_of_kind(tokens, right), -1)
        shown = right, jnp.any(right, 1), new, found.length
        heat = choose(params, jax.random.fold_in(key, 1), row)[2]
        return Figures(*(jnp.mean(x * 1.0) for x in shown), heat)

    return Cycle(gather, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, round]``."""
    lm, params = load(config.start)
    sizes = {"steps": config.steps, "batch": config.batch}
    run = make_run(lm, make_cycle(config, lm), rounds=config.rounds, **sizes)
    found, rates = compare(
        run,
        params,
        jnp.array(list(ROWS.values())),
        config.rates,
        config.seeds,
        lambda x: x.right[:, -1],
    )
    heads = ["rate", "right", "any of 8", "different right ones of 8", "tokens"]
    heads += ["different, by round", "temperature, by round"]
    print(f"| temperature | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    before = " | ".join(f"{x[:, :, 0].mean():.3g}" for x in found[:4])
    print(f"| before | – | {before} | | |")
    for row, name in enumerate(ROWS):
        cells = [
            cell(x[row, :, -1], n) for x, n in zip(found[:4], (3, 3, 2, 1), strict=True)
        ]
        for x, n in ((found.different, 2), (found.heat, 1)):
            cells.append(" ".join(f"{one:.{n}f}" for one in x[row].mean(0)))
        print(f"| {name} | {rates[row]:g} | {' | '.join(cells)} |")
    if config.picture is not None:
        show(config, found)
    return found


def show(config, found):
    """Accuracy and different right answers over rounds, means and ranges of seeds."""
    parts = {"share of right answers": found.right}
    parts["different right answers of 8"] = found.different
    with picture(config.picture, (8, 3.2), dpi=110) as figure:
        axes = figure.subplots(1, 2)
        for axis, (label, x) in zip(axes, parts.items(), strict=True):
            for color, name in enumerate(ROWS):
                rounds = range(x.shape[-1])
                axis.plot(rounds, x[color].mean(0), color=f"C{color}", label=name)
                span = x[color].min(0), x[color].max(0)
                axis.fill_between(rounds, *span, color=f"C{color}", alpha=0.15, lw=0)
            axis.set(xlabel="round", ylabel=label)
        axes[0].legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
