"""A tree of steps beside many answers, at as many tokens.

    python benchmarks/sums_tree.py               # minutes of one core

A weak model writes sums column by column. A value says how far an answer has come
(`policy.quality_values`), by a judge of its steps that is always right, or is wrong
about a fifth of them and stays so, as a learned value would. The tree (ReST-MCTS*) adds
steps where values are high; beside it stand one answer, a vote of many, the best of
many by the same value at their ends, and a beam by values. All write at most so many
tokens. Seeds differ in the answers and in what the judge is wrong about.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_rounds import cell
from sums_runs import draw, groups, held_out, load, repeat

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import sums

STEP = 6
"""Tokens of a column, and places of a solution with its end."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    model: str = "sums_young"
    """Model that answers."""
    heat: float = 1.2
    """Temperature of all answers and steps."""
    deep: int = 3
    """Steps of an answer."""
    branch: int = 3
    """Steps that a node of the tree, and of the beam, is continued with."""
    rounds: tuple[int, ...] = (2, 6)
    """Rounds of the tree: each writes the steps of a node and a simulation."""
    errors: tuple[float, ...] = (0.0, 0.2)
    """Chance that the value is wrong about a step."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 64
    """Held-out sums."""


class Answer(NamedTuple):
    """An answer that is being written."""

    tokens: jax.Array
    mask: jax.Array
    steps: jax.Array
    over: jax.Array


def make(config, lm, params):
    """How an answer begins, how it goes on, and what it is worth."""
    length = STEP * config.deep

    def begin(problem):
        empty = jnp.full(length, sums.END, jnp.int32), jnp.zeros(length, bool)
        return Answer(*empty, jnp.int32(0), jnp.bool_(False))

    def go_on(key, problem, answer, count):
        """``count`` next steps."""
        asked, seen = sums.prompt(problem)
        # What is there stands right before what comes.
        whole = jnp.concatenate([asked, answer.tokens])
        known = jnp.concatenate([seen, answer.mask])
        given = (jnp.broadcast_to(x, (count, len(x))) for x in (whole, known))
        rows = draw(lm, params, key, tuple(given), steps=STEP, temperature=config.heat)
        at = answer.steps * STEP
        put = jax.vmap(
            lambda x, y: jax.lax.dynamic_update_slice(x, y, (at,)), (None, 0)
        )
        over = jnp.any(rows.tokens == sums.END, 1) | (answer.steps + 1 >= config.deep)
        return Answer(
            put(answer.tokens, rows.tokens),
            put(answer.mask, rows.mask),
            jnp.broadcast_to(answer.steps + 1, (count,)),
            over,
        )

    def worth(problem, noise, answer):
        """The share of the way that is right, as far as who judges it sees."""
        found = sums.check(problem, answer.tokens, answer.mask, most=config.deep + 1)
        index = jnp.arange(config.deep)
        said = answer.tokens.reshape(config.deep, STEP)
        mark = jnp.sum(said * jnp.array([1, 7, 31, 127, 8191, 131]), 1)

        def errs(place, mark):
            # The same step is judged alike, whoever asks.
            key = jax.random.fold_in(jax.random.fold_in(noise[0], place), mark)
            return jax.random.bernoulli(key, noise[1])

        good = found.step_right[: config.deep] ^ jax.vmap(errs)(index, mark)
        left = jnp.where(said[:, 0] == sums.SOLUTION, 0, config.deep - 1 - index)
        values = policy.quality_values(good * 1.0, left)
        return jnp.where(found.steps > 0, values[jnp.maximum(found.steps - 1, 0)], 0.0)

    return begin, go_on, worth


def main(config: Config) -> dict[str, np.ndarray]:
    """Prints the table; returns shares of right answers by row, ``[seed]``."""
    lm, params = load(config.model)
    begin, go_on, worth = make(config, lm, params)
    tests, length = held_out(2, config.tests), STEP * config.deep
    final = jax.vmap(sums.check)

    def tree(key, problem, noise, rounds):
        found = policy.value_tree(
            key,
            begin(problem),
            lambda key, x: go_on(key, problem, x, config.branch),
            lambda x: worth(problem, noise, x),
            lambda x: x.over,
            follow=lambda key, x: jax.tree.map(
                lambda y: y[0], go_on(key, problem, x, 1)
            ),
            rounds=rounds,
            steps=config.deep - 1,
        )
        best = jax.tree.map(lambda x: x[found.best], found.states)
        return sums.check(problem, best.tokens, best.mask).right, found.rounds

    def beam(key, problem, noise, width):
        answer = begin(problem)
        for depth in range(config.deep):
            more = go_on(jax.random.fold_in(key, depth), problem, answer, width)
            values = jax.vmap(lambda x: worth(problem, noise, x))(more)
            index, _ = policy.best_of_n(values)
            after = jax.tree.map(lambda x, i=index: x[i], more)
            over = answer.over
            answer = jax.tree.map(
                lambda x, y, o=over: jnp.where(o, x, y), answer, after
            )
        return sums.check(problem, answer.tokens, answer.mask).right

    def many(key, noises, count):
        """One answer, the vote of many, and the best of them by the value."""
        asked = repeat(tests, count)
        prompts = jax.vmap(sums.prompt)(asked)
        rows = draw(lm, params, key, prompts, steps=length, temperature=config.heat)
        found = final(asked, rows.tokens, rows.mask)
        steps = jnp.zeros(len(asked.a), jnp.int32)
        answers = Answer(rows.tokens, rows.mask, steps, steps > 0)
        each = jax.tree.map(lambda x: jnp.repeat(x, count, 0), noises)
        values = jax.vmap(worth)(asked, each, answers)
        found, values = groups((found, values), count)
        vote = policy.weighted_vote(found.answer, mask=found.parsed)
        # Of equal values the first; an answer that did not end is worth nothing.
        index, _ = policy.best_of_n(jnp.where(found.parsed, values, -1.0))
        best = jnp.take_along_axis(found.right, index[:, None], 1)[:, 0]
        said = vote.label == sums.solve(tests)
        return jnp.stack(
            [x.mean() for x in (found.right * 1.0, said * 1.0, best * 1.0)]
        )

    def measure(key, error, rounds):
        keys = jax.random.split(key, config.tests)
        noises = keys, jnp.full(config.tests, error)
        budget = rounds * (config.branch + config.deep - 1) * STEP
        count = budget // length
        one, vote, best = many(key, noises, count)
        by_tree, used = jax.vmap(partial(tree, rounds=rounds))(keys, tests, noises)
        by_beam = jax.vmap(partial(beam, width=count))(keys, tests, noises)
        right = one, vote, best, jnp.mean(by_beam * 1.0), jnp.mean(by_tree * 1.0)
        return jnp.stack([*right, jnp.mean(used * 1.0)])

    keys = jax.random.split(jax.random.key(0), config.seeds)
    rows = ["one answer", "vote", "best by value at the end", "beam", "tree"]
    print(f"| tokens | value errs | {' | '.join(rows)} | rounds used |")
    print("|---" * (len(rows) + 3) + "|")
    found = {}
    for rounds in config.rounds:
        each = jax.jit(jax.vmap(lambda k, e, r=rounds: measure(k, e, r), (0, None)))
        for error in config.errors:
            part = found[f"{rounds} rounds, {error}"] = np.array(each(keys, error))
            tokens = rounds * (config.branch + config.deep - 1) * STEP
            cells = [cell(part[:, i]) for i in range(5)] + [f"{part[:, 5].mean():.1f}"]
            print(f"| {tokens} | {error:g} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
