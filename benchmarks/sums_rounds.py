"""Rounds of self-training on sums: sample, filter, fine-tune, and again.

What the benchmarks of docs/sums.md share that learn from a model's own answers. Every
run of a comparison, each row with each seed, is a place on one mapped axis. The rate of
each row is searched first, with a seed of its own; both are the same compiled program.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sums_runs import Drawn

from jaxlib_guidance import policy
from jaxlib_guidance.models import LM, completion_logp
from jaxlib_guidance.reduce import masked_mean

Array = jax.Array


class Lesson(NamedTuple):
    """Answers to fine-tune on, ``[N, ...]``.

    Attributes:
      prompt: Tokens of the prompts.
      prompt_mask: Which of them count.
      tokens: Tokens of the answers.
      mask: Which of them are seen.
      train: Which of them train.
      keep: Weight with which a row is drawn, 0 for one that was filtered out.
    """

    prompt: Array
    prompt_mask: Array
    tokens: Array
    mask: Array
    train: Array
    keep: Array


def lesson(rows: Drawn, keep: Array, train: Array | None = None) -> Lesson:
    """Answers that were drawn, of which some are kept."""
    train = rows.mask if train is None else train
    return Lesson(*rows[:4], jnp.asarray(train, jnp.float32), keep)


def written(asked: tuple[Array, Array], answer: tuple[Array, Array]) -> Drawn:
    """Answers of an author, as if they had been drawn."""
    return Drawn(*asked, *answer, jnp.zeros(answer[0].shape))


def fine_tune(
    lm: LM, params: Any, key: Array, rows: Lesson, rate: Any, *, steps: int, batch: int
) -> Any:
    """Adam on rows drawn by weight, at a rate that falls to 0; no rows, no change."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    some = jnp.any(rows.keep > 0)
    chance = jnp.where(some, jnp.log(rows.keep), 0.0)

    def step(carry, index):
        params, moments = carry
        key_now = jax.random.fold_in(key, index)
        which = jax.random.categorical(key_now, chance, shape=(batch,))
        now = jax.tree.map(lambda x: x[which], rows)

        def loss(params):
            given = now.prompt, now.tokens, now.prompt_mask, now.mask
            logp = completion_logp(lm, params, *given)
            return masked_mean(policy.nll(logp, now.train), now.train)

        change, moments = tx.update(jax.grad(loss)(params), moments)
        size = jnp.where(some, rate * (1 - index / steps), 0.0)
        params = jax.tree.map(lambda x, y: x - size * y, params, change)
        return (params, moments), None

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]


class Cycle(NamedTuple):
    """What a comparison does.

    Attributes:
      gather: ``(params, key, setting) -> Lesson``, a round's answers.
      evaluate: ``(params, setting, key) -> figures``.
    """

    gather: Callable[..., Lesson]
    evaluate: Callable[..., Any]


def make_run(
    lm: LM, cycle: Cycle, *, rounds: int, steps: int, batch: int
) -> Callable[..., tuple[Any, Any]]:
    """``(params, settings, rates, keys) -> (figures [N, 1 + rounds, ...], params)``."""

    def one(params, setting, rate, key, number):
        sample, order = jax.random.split(jax.random.fold_in(key, number))
        rows = cycle.gather(params, sample, setting)
        return fine_tune(lm, params, order, rows, rate, steps=steps, batch=batch)

    advance = jax.jit(jax.vmap(one, (0, 0, 0, 0, None)))
    evaluate = jax.jit(jax.vmap(cycle.evaluate))

    def run(params, settings, rates, keys):
        figures = [evaluate(params, settings, keys)]
        for number in range(rounds):
            params = advance(params, settings, rates, keys, jnp.int32(number))
            figures.append(evaluate(params, settings, keys))
        return jax.tree.map(lambda *x: np.stack(x, 1), *figures), params

    return run


def spread(params: Any, count: int) -> Any:
    """The same parameters for each of ``count`` runs."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), params)


def compare(
    run: Callable[..., tuple[Any, Any]],
    params: Any,
    settings: Any,
    rates: Sequence[float],
    seeds: int,
    score: Callable[[Any], np.ndarray],
) -> tuple[Any, np.ndarray]:
    """Figures ``[row, seed, 1 + rounds, ...]`` and each row's rate.

    Args:
      run: From `make_run`.
      params: Parameters of the model that all begin with.
      settings: A pytree of arrays ``[row]``.
      rates: Rates to try for each row, with a seed that is not measured.
      seeds: Number of measured seeds.
      score: ``figures [N, 1 + rounds, ...] -> [N]``, by which a rate is chosen.
    """
    count, tried = len(jax.tree.leaves(settings)[0]), np.asarray(rates, np.float32)
    chosen = np.full(count, tried[0])
    if len(tried) > 1:
        size = count * len(tried)
        keys = jnp.broadcast_to(jax.random.key(1000), (size,))
        each = jax.tree.map(lambda x: jnp.repeat(x, len(tried), 0), settings)
        found, _ = run(spread(params, size), each, jnp.tile(tried, count), keys)
        chosen = tried[np.argmax(score(found).reshape(count, -1), 1)]
    each = jax.tree.map(lambda x: jnp.repeat(x, seeds, 0), settings)
    keys = jnp.tile(jax.random.split(jax.random.key(0), seeds), count)
    size = count * seeds
    found, _ = run(spread(params, size), each, jnp.repeat(chosen, seeds), keys)
    return jax.tree.map(lambda x: x.reshape(count, seeds, *x.shape[1:]), found), chosen


def cell(x: np.ndarray, places: int = 3) -> str:
    """A cell of a table: the mean, and each seed."""
    each = " ".join(f"{one:.{places}f}" for one in x)
    return f"{x.mean():.{places}f} ({each})"
