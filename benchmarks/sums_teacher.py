"""A teacher's corrections inside the roll-outs of GRPO.

    python benchmarks/sums_teacher.py            # minutes of one core

The student never looks at a column again. The teacher has its size, and has been taught
to correct columns. Some of the student's answers that fail are cut after their first
error, and the teacher goes on from there: ``x``, the column anew, and the rest
(ThinkTuning). They stand in the student's group with the reward of the whole. Rows
differ in the weight of the teacher's tokens; beside them stand GRPO without a teacher,
and fine-tuning on what the teacher put right. The student draws equally many answers in
all, and the rate of each row is searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import cell, fine_tune, lesson, written
from sums_runs import (
    Drawn,
    Plan,
    after,
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
from jaxlib_guidance.reduce import aggregate, finalize
from jaxlib_guidance.worlds import chains, sums

LENGTH, REST = 30, 24
"""Places of an answer, and of what a teacher writes after ``x``."""
CORRECTION = chains.encode("x")[0]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    student: str = "sums_young"
    """Model that learns."""
    teacher: str = "sums_checker"
    """Model that is taught to correct."""
    taught: int = 200
    """Steps in which it is taught."""
    share: float = 0.5
    """Share of the failed answers that the teacher corrects."""
    updates: int = 24
    """Updates of each run."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4)
    """Adam's rates to try for each row; they fall to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 128
    """Held-out sums."""


class Setting(NamedTuple):
    """A row: whether there is a teacher, its weight, and whether it is imitated."""

    helped: bool
    shape: int
    imitates: bool = False


ROWS = {
    "GRPO": Setting(False, 0),
    "corrections, weight 1": Setting(True, 0),
    "corrections, ratio": Setting(True, 1),
    "corrections, shaped (LUFFY)": Setting(True, 2),
    "corrections, by advantage (ThinkTuning)": Setting(True, 3),
    "fine-tuning on right corrections": Setting(True, 0, True),
}


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    right: jax.Array
    corrections: jax.Array
    repaired: jax.Array
    """Right answers after a wrong first column that was not the model's choice."""


class Batch(NamedTuple):
    """Answers ``[P, G, ...]``, which tokens a teacher wrote, and what they earn."""

    rows: Drawn
    teacher: jax.Array
    rewards: jax.Array


def join(*parts):
    """Tokens, marks and log-probabilities in a row, without what does not count."""
    tokens, mask, teacher, old = (
        jnp.concatenate(x, 1) for x in zip(*parts, strict=True)
    )
    order = jnp.argsort(~mask, 1, stable=True)
    tokens, mask, teacher, old = (
        jnp.take_along_axis(x, order, 1)[:, :LENGTH]
        for x in (tokens, mask, teacher, old)
    )
    return jnp.where(mask, tokens, sums.END), mask, teacher, old


def correct(lm, teacher, key, asked, rows, found):
    """Failed answers up to their first error, and the teacher's way on."""
    prompt, mask = jax.vmap(sums.prompt)(asked), rows.mask
    wrong = found.first_wrong[:, None]
    column = (found.first_wrong < found.columns)[:, None]
    kept = (found.step_of < wrong) | (column & (found.step_of == wrong))
    kept &= mask & (rows.tokens != sums.END) & (found.step_of >= 0)
    # A wrong sum is written anew, a wrong column is corrected.
    mark = jnp.full_like(wrong, CORRECTION)
    forced = jnp.concatenate([rows.tokens, mark], 1)
    seen = jnp.concatenate([kept, column], 1)
    begun = after(prompt, (forced, seen))
    rest = draw(lm, teacher, key, begun, steps=REST)
    ours = jnp.zeros_like(mask), rows.old
    theirs = jnp.ones_like(rest.mask), rest.old
    return join(
        (rows.tokens, kept, *ours),
        (mark, column, jnp.ones_like(column), jnp.zeros(mark.shape)),
        (rest.tokens, rest.mask, *theirs),
    )


def teach(config, lm, params):
    """A model that corrects wrong columns; these themselves are not learned."""
    which, how, order = jax.random.split(jax.random.key(8), 3)
    count = 4096
    asked = problems(which, sums.Sums(2, 2), count)
    habits = {"error": 0.4, "recheck": 0.5}
    answer = jax.vmap(lambda k, p: chains.write(k, p, length=LENGTH, **habits))(
        jax.random.split(how, count), asked
    )
    found = jax.vmap(sums.check)(asked, *answer)
    train = policy.step_mask(
        jnp.maximum(found.step_of, 0), ~found.step_right, answer[1]
    )
    keep = (found.right & (found.rechecks == 0)) * 1.0
    rows = lesson(written(jax.vmap(sums.prompt)(asked), answer), keep, train)
    sizes = {"steps": config.taught, "batch": 32}
    return jax.jit(lambda p: fine_tune(lm, p, order, rows, 2e-3, **sizes))(params)


def make_plan(config, lm, teacher):
    """What an update and an evaluation are."""
    ask, check = jax.vmap(sums.prompt), jax.vmap(sums.check)
    size = config.group

    def collect(params, key, setting, memory):
        which, how, chance, more = jax.random.split(key, 4)
        asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), size)
        rows = draw(lm, params, how, ask(asked), steps=LENGTH)
        found = check(asked, rows.tokens, rows.mask)
        fixed = correct(lm, teacher, more, asked, rows, found)
        use = jax.random.bernoulli(chance, config.share, found.right.shape)
        use &= setting.helped & ~found.right & (found.first_wrong < found.steps)
        own = rows.tokens, rows.mask, jnp.zeros_like(rows.mask), rows.old
        tokens, mask, taught, old = (
            jnp.where(use[:, None], x, y) for x, y in zip(fixed, own, strict=True)
        )
        rows = Drawn(rows.prompt, rows.prompt_mask, tokens, mask, old)
        rewards = check(asked, tokens, mask).right * 1.0
        return groups(Batch(rows, taught, rewards), size), memory

    def loss(params, batch, setting):
        rows, teacher, rewards = batch
        mask = rows.mask
        logp = score(lm, params, rows)
        gain = policy.group_normalize(rewards)
        options = [
            {"shape": "none"},
            {"shape": "ratio", "logp_old": rows.old},
            {"shape": "shaped"},
            {"shape": "advantage", "advantage": gain},
        ]
        weights = [
            policy.mixed_policy_weight(logp, teacher, mask, **x) for x in options
        ]
        weight = jnp.stack(weights)[setting.shape]
        taught = weight * policy.reinforce(logp, gain, mask)
        own = policy.ppo_clip(logp, rows.old, gain, mask)
        mixed = jnp.where(teacher, taught, own)
        # Imitation of the roll-outs that the teacher put right, and of nothing else.
        put_right = jnp.any(teacher, -1) * rewards
        kept = mask * put_right[..., None]
        losses = [
            finalize(aggregate(x, m, "seq_mean_token_mean"))[0]
            for x, m in ((mixed, mask), (policy.nll(logp, kept), kept))
        ]
        return jnp.where(setting.imitates, losses[1], losses[0])

    tests = held_out(2, config.tests)
    forced = jax.vmap(
        lambda key, problem: chains.write(key, problem, length=6, error=1.0)[0]
    )(jax.random.split(jax.random.key(7), config.tests), tests)

    def evaluate(params, setting, key):
        rows = draw(lm, params, key, ask(tests), steps=LENGTH)
        found = check(tests, rows.tokens, rows.mask)
        begun = jnp.ones(forced.shape, bool)
        rest = draw(
            lm, params, key, after(ask(tests), (forced, begun)), steps=LENGTH - 6
        )
        whole = (
            jnp.concatenate([forced, rest.tokens], 1),
            jnp.concatenate([begun, rest.mask], 1),
        )
        shown = (
            found.right,
            found.corrections > 0,
            check(tests, *whole).right,
        )
        return Figures(*(jnp.mean(x * 1.0) for x in shown))

    return Plan(collect, loss, evaluate)


def judge(config, lm, student, teacher):
    """How often the teacher puts a failed answer of the student right."""

    def one(key):
        which, how, more = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(2, 2), 512)
        rows = draw(lm, student, how, jax.vmap(sums.prompt)(asked), steps=LENGTH)
        found = jax.vmap(sums.check)(asked, rows.tokens, rows.mask)
        tokens, mask, *_ = correct(lm, teacher, more, asked, rows, found)
        failed = ~found.right & (found.first_wrong < found.steps)
        right = jax.vmap(sums.check)(asked, tokens, mask).right
        return policy.rate(right, failed), jnp.mean(failed * 1.0)

    return jax.jit(one)(jax.random.key(5))


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, time]``."""
    lm, student = load(config.student)
    teacher = teach(config, lm, load(config.teacher)[1])
    put_right, failed = judge(config, lm, student, teacher)
    print(
        f"of {failed:.3f} failed answers the teacher puts {put_right.value:.3f} right"
    )
    plan = make_plan(config, lm, teacher)
    settings = jax.tree.map(lambda *x: jnp.array(x), *ROWS.values())
    sizes = {"updates": config.updates, "every": config.updates}
    count, tried = len(ROWS), jnp.array(config.rates)
    rates = jnp.full(count, tried[0])
    if len(tried) > 1:
        each = jax.tree.map(lambda x: jnp.repeat(x, len(tried)), settings)
        rate = jnp.tile(tried, count)
        search = learn(plan, student, each, rate=rate, seeds=1, first=1000, **sizes)
        score = search.right[:, 0, -1].reshape(count, -1)
        print(f"searched: {score.round(3).tolist()}")
        rates = tried[jnp.argmax(score, 1)]
    found = learn(plan, student, settings, rate=rates, seeds=config.seeds, **sizes)
    tutor = jax.jit(lambda p: plan.evaluate(p, None, jax.random.key(0)))(teacher)
    heads = ["rate", "right", "a correction", "right after a wrong column"]
    print(f"\n| learned by | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for name, part in (
        ("nothing", [x[0, :, 0].mean() for x in found]),
        ("the teacher", tutor),
    ):
        print(f"| {name} | – | {' | '.join(f'{x:.3f}' for x in part)} |")
    for row, name in enumerate(ROWS):
        cells = " | ".join(cell(x[row, :, -1]) for x in found)
        print(f"| {name} | {rates[row]:g} | {cells} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
