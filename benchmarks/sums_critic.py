"""A critic that learns from a player who tries to deceive it.

    python benchmarks/sums_critic.py             # minutes of one core

Two players begin with the same model: one answers sums, the other gives a verdict on an
answer, R or W. In the game (SPC) a wrong answer that the critic accepts is a point for
the one who gave it, and one that it refuses a point for the critic; half of what the
critic sees are right answers, which it is to accept. Beside it stand critics that learn
from as many wrong answers of a player that does not learn, or of an author who makes
them up. All are judged by answers of the model before the game, wrong ones and right
ones alike. The rate of each is searched with another seed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from sums_rounds import cell
from sums_runs import (
    Plan,
    accepted,
    check_direct,
    draw,
    groups,
    held_out,
    learn,
    load,
    problems,
    repeat,
    score,
)

from jaxlib_guidance import policy
from jaxlib_guidance.reduce import finalize, masked_mean
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_checker"
    """Model that both begin with."""
    updates: int = 40
    """Updates of each run."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 4
    """Answers to each."""
    verdicts: int = 4
    """Verdicts on each answer."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


ROWS = ("errors made up", "a player that does not learn", "the game (SPC)")


def mistake(key, problem):
    """A wrong answer with one digit off by one or two, carries and all."""
    place, size = jax.random.split(key)
    by = jax.random.choice(size, jnp.array([-2, -1, 1, 2]))
    by *= jnp.int32(10) ** jax.random.randint(place, (), 0, problem.digits + 1)
    return jnp.abs(sums.solve(problem) + by) % jnp.int32(10) ** (problem.digits + 1)


def judge(asked, answer):
    """``a+b=#105?``."""
    return jax.vmap(lambda p, x: sums.follow_up(p, x, judge=True))(asked, answer)


def make_plan(config, lm, start):
    """What an update and an evaluation are."""
    size, world = config.group, sums.Sums(2, 2)
    direct = jax.vmap(lambda p: sums.prompt(p, direct=True))

    def collect(players, key, row, memory):
        which, how, made, coin, say = jax.random.split(key, 5)
        asked = repeat(problems(which, world, config.prompts), size)
        count = config.prompts * size
        sneaky = jax.tree.map(lambda x, y: jnp.where(row == 2, x, y), players[1], start)
        rows = draw(lm, sneaky, how, direct(asked))
        found = check_direct(asked, rows)
        errors = jax.vmap(mistake)(jax.random.split(made, count), asked)
        given = jnp.where(row == 0, errors, found.answer)
        truth = sums.solve(asked)
        honest = jax.random.bernoulli(coin, 0.5, (count,))
        shown = jnp.where(honest, truth, given)
        right = shown == truth
        told = repeat((asked, shown, right), config.verdicts)
        verdicts = draw(lm, players[0], say, judge(*told[:2]), steps=2)
        yes, clear = accepted(verdicts)
        # A point for whoever is right about the answer; what is no verdict is wrong.
        critic = jnp.where(clear & (yes == told[2]), 1.0, -1.0)
        fooled = groups(yes & clear, config.verdicts)
        # Neither a right answer nor one that was not shown is a move of the game.
        moves = ~honest & ~right & found.parsed
        player = policy.step_game(jnp.mean(fooled * 1.0, 1) > 0.5, moves)[:, 0]
        seen = rows._replace(mask=rows.mask & ~honest[:, None])
        return (
            groups((verdicts, critic), config.verdicts),
            groups((seen, player), size),
            row == 2,
        ), memory

    def loss(players, batch, row):
        total = 0.0
        for params, (rows, rewards), on in zip(
            players, batch[:2], (True, batch[2]), strict=True
        ):
            logp = score(lm, params, rows)
            one = finalize(policy.grpo(logp, rows.old, rewards, rows.mask))[0]
            total += jnp.where(on, one, 0.0)
        return total

    tests = held_out(2, config.tests)

    def evaluate(players, row, key):
        before = check_direct(tests, draw(lm, start, jax.random.key(2), direct(tests)))
        wrong = (before.answer != sums.solve(tests)) & before.parsed
        verdict = []
        for answer in (before.answer, sums.solve(tests)):
            rows = draw(
                lm, players[0], key, judge(tests, answer), steps=2, temperature=0.0
            )
            verdict.append(accepted(rows)[0])
        refused = masked_mean(~verdict[0] * 1.0, wrong)
        kept = jnp.mean(verdict[1] * 1.0)
        now = check_direct(tests, draw(lm, players[1], key, direct(tests)))
        judged = draw(lm, players[0], key, judge(tests, now.answer), steps=2)
        fooled = accepted(judged)[0] & ~now.right
        return jnp.stack(
            [
                (refused + kept) / 2,
                refused,
                kept,
                jnp.mean(~now.right * 1.0),
                jnp.mean(fooled * 1.0),
            ]
        )

    return Plan(collect, loss, evaluate)


def main(config: Config) -> jax.Array:
    """Prints the table; returns ``[row, seed, time, figure]``."""
    lm, params = load(config.start)
    plan = make_plan(config, lm, params)
    sizes = {"updates": config.updates, "every": max(config.updates // 2, 1)}
    count, tried, both = len(ROWS), jnp.array(config.rates), (params, params)
    rows, rates = jnp.arange(count), jnp.full(count, tried[0])
    if len(tried) > 1:
        each, rate = jnp.repeat(rows, len(tried)), jnp.tile(tried, count)
        searched = learn(plan, both, each, rate=rate, seeds=1, first=1000, **sizes)
        rates = tried[jnp.argmax(searched[:, 0, -1, 0].reshape(count, -1), 1)]
    found = learn(plan, both, rows, rate=rates, seeds=config.seeds, **sizes)
    heads = ["rate", "verdicts right", "wrong refused", "right accepted", "by time"]
    print(f"| learned from | {' | '.join(heads)} | player wrong | and accepted |")
    print("|---" * 8 + "|")
    before = " | ".join(f"{x:.3f}" for x in found[:, :, 0, :3].mean((0, 1)))
    print(f"| nothing | – | {before} | | | |")
    for row, name in enumerate(ROWS):
        cells = [cell(found[row, :, -1, i]) for i in range(3)]
        cells.append(" ".join(f"{x:.3f}" for x in found[row, :, :, 0].mean(0)))
        cells += [f"{found[row, :, -1, i].mean():.3f}" for i in (3, 4)]
        print(f"| {name} | {rates[row]:g} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
