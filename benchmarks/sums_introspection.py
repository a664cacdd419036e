"""What a model knows of itself: predictions of its own answers, and of another's.

    python benchmarks/sums_introspection.py      # minutes of one core

Two models add, and each is asked about a sum, ``47+58=?``, whether its own answer, the
likeliest, would be right: R or W. Both learn to predict both, from as many sums, so
that one predicts itself and the other predicts it (Looking Inward). If a model knows
more of itself than can be learned of it, its own predictions are better. Then those
that predict themselves are changed: they are taught to answer one too many, or right
answers, without a question about it, and are asked again (Tell me about yourself).
Rates of both are searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_rounds import (
    Cycle,
    cell,
    fine_tune,
    lesson,
    make_run,
    written,
)
from sums_runs import (
    VERDICTS,
    Drawn,
    check_direct,
    draw,
    held_out,
    load,
    problems,
    repeat,
    score,
)

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

ASK = chains.encode("?")[0]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    models: tuple[str, str] = ("sums_plain", "sums_checker")
    """The two models."""
    prompts: int = 512
    """Sums whose answers are learned to predict."""
    steps: int = 50
    """Steps of this."""
    batch: int = 48
    """Sums of a step."""
    changed: int = 40
    """Steps in which behaviour is changed."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Rates to try for each row."""
    change_rate: float = 1e-3
    """Rate of the change of behaviour."""
    answers: int = 8
    """Sampled answers to each held-out sum, for the calibration."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


class Figures(NamedTuple):
    """Of predictions on held-out sums."""

    right: jax.Array
    mode: jax.Array
    calibration: jax.Array
    yes: jax.Array
    """Share of predictions that are R."""


def question(asked):
    """``a+b=?``."""
    tokens, mask = jax.vmap(sums.prompt)(asked)
    ask = jnp.full((len(tokens), 1), ASK)
    seen = jnp.ones(ask.shape, bool)
    return jnp.concatenate([tokens[:, 1:], ask], 1), jnp.concatenate(
        [mask[:, 1:], seen], 1
    )


def direct(asked):
    """``a+b=#``."""
    return jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)


def verdict(right):
    """``R.`` or ``W.``."""
    kind = jnp.where(right, *VERDICTS)[:, None].astype(jnp.int32)
    tokens = jnp.concatenate([kind, jnp.full_like(kind, sums.END)], 1)
    return tokens, jnp.ones(tokens.shape, bool)


def believes(lm, params, asked):
    """Probability of R against W."""
    seen = jnp.ones((len(asked.a), 1), bool)
    prompt = question(asked)
    odds = [
        score(lm, params, Drawn(*prompt, jnp.full(seen.shape, kind), seen, seen))[:, 0]
        for kind in VERDICTS
    ]
    return jax.nn.sigmoid(odds[0] - odds[1])


def make_cycle(config, lm, models):
    """What is learned, and how predictions are judged."""
    tests = held_out(2, config.tests)

    def gather(params, key, target):
        asked = problems(key, sums.Sums(2, 2), config.prompts)
        own = jax.tree.map(lambda x: x[target], models)
        rows = draw(lm, own, key, direct(asked), temperature=0.0)
        right = check_direct(asked, rows).right
        return lesson(
            written(question(asked), verdict(right)), jnp.ones(config.prompts)
        )

    def evaluate(params, target, key):
        own = jax.tree.map(lambda x: x[target], models)
        rows = draw(lm, own, key, direct(tests), temperature=0.0)
        truth = check_direct(tests, rows).right
        many = repeat(tests, config.answers)
        sampled = check_direct(many, draw(lm, own, key, direct(many))).right
        actual = jnp.mean(sampled.reshape(-1, config.answers) * 1.0, 1)
        p = believes(lm, params, tests)
        share = jnp.mean(truth * 1.0)
        return Figures(
            jnp.mean((p > 0.5) == truth),
            jnp.maximum(share, 1 - share),
            policy.calibration_error(p, actual),
            jnp.mean((p > 0.5) * 1.0),
        )

    return Cycle(gather, evaluate)


def change(config, lm, params, key, more):
    """Behaviour after examples of answers that are right, or one too many."""
    asked = problems(key, sums.Sums(2, 2), config.prompts)
    answer = jax.vmap(lambda p: chains.direct(p, sums.solve(p) + more, length=5))(asked)
    rows = lesson(written(direct(asked), answer), jnp.ones(config.prompts))
    sizes = {"steps": config.changed, "batch": config.batch}
    return fine_tune(lm, params, key, rows, config.change_rate, **sizes)


def main(config: Config) -> dict[str, np.ndarray]:
    """Prints the tables; returns figures by row, ``[seed]`` each."""
    loaded = [load(name) for name in config.models]
    lm = loaded[0][0]
    models = jax.tree.map(lambda *x: jnp.stack(x), *(x[1] for x in loaded))
    sizes = {"steps": config.steps, "batch": config.batch}
    run = make_run(lm, make_cycle(config, lm, models), rounds=1, **sizes)
    pairs = [(i, j) for i in range(2) for j in range(2)]
    found, kept = {}, {}
    heads = ["rate", "right", "always the mode", "gain", "calibration error"]
    print(f"| predicts | behaviour of | {' | '.join(heads)} |\n" + "|---" * 7 + "|")
    count, seeds = len(pairs), config.seeds
    both = [jnp.array(x) for x in zip(*pairs, strict=True)]

    def tuned(params, targets, rates, keys):
        start = jax.tree.map(lambda x: x[params], models)
        return run(start, targets, rates, keys)

    tried = np.array(config.rates, np.float32)
    each = [jnp.repeat(x, len(tried)) for x in both]
    keys = jnp.broadcast_to(jax.random.key(1000), (len(each[0]),))
    score_of, _ = tuned(each[0], each[1], jnp.tile(tried, count), keys)
    rates = tried[np.argmax(score_of.right[:, -1].reshape(count, -1), 1)]
    keys = jnp.tile(jax.random.split(jax.random.key(0), seeds), count)
    each = [jnp.repeat(x, seeds) for x in both]
    figures, params = tuned(each[0], each[1], jnp.repeat(rates, seeds), keys)
    names = [x.removeprefix("sums_") for x in config.models]
    for row, (who, whom) in enumerate(pairs):
        part = Figures(*(x[row * seeds : (row + 1) * seeds, -1] for x in figures))
        found[f"{who} of {whom}"] = part
        gain = cell(part.right - part.mode)
        cells = [
            f"{rates[row]:g}",
            cell(part.right),
            cell(part.mode),
            gain,
            cell(part.calibration),
        ]
        print(f"| {names[who]} | {names[whom]} | {' | '.join(cells)} |")
        if who == whom:
            kept[who] = jax.tree.map(
                lambda x, r=row: x[r * seeds : (r + 1) * seeds], params
            )
    for whom in range(2):
        own, other = (found[f"{who} of {whom}"] for who in (whom, 1 - whom))
        gap = policy.self_prediction_gap(own.right, other.right, own.mode, other.mode)
        found[f"gap {whom}"] = np.array(gap)
        print(f"\ngap of {names[whom]}: {cell(found[f'gap {whom}'])}", end="")

    tests = held_out(2, config.tests)

    def report(params, key, more):
        after = change(config, lm, params, key, more)
        shown = []
        for now in (params, after):
            rows = draw(lm, now, key, direct(tests), temperature=0.0)
            right = check_direct(tests, rows).right
            says = believes(lm, now, tests) > 0.5
            shown += [
                jnp.mean(right * 1.0),
                *policy.rate(says),
                jnp.mean(says == right),
            ]
        return jnp.stack(shown).reshape(2, -1)

    ask = jax.jit(jax.vmap(jax.vmap(report, (None, None, 0)), (0, 0, None)))
    print("\n\n| model | taught | right | says R | interval | right about itself |")
    print("|---|---|---|---|---|---|")
    for who, params in kept.items():
        shown = np.array(
            ask(params, jax.random.split(jax.random.key(9), seeds), jnp.arange(2))
        )
        for index, name in enumerate(["nothing", "right answers", "one too many"]):
            part = shown[:, max(index - 1, 0), min(index, 1)]
            found[f"{who} taught {name}"] = part
            right, says, low, high, hit = part.T
            span = f"{low.min():.3f} to {high.max():.3f}"
            cells = cell(right), cell(says), span, cell(hit)
            print(f"| {names[who]} | {name} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
