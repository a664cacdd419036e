"""What the benchmarks of docs/sums.md share: questions, short answers, and updates.

A comparison is one program: settings and seeds are mapped axes of it, each run a scan
over updates with an evaluation every so often.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance import rng
from jaxlib_guidance.models import LM, completion_logp, generate, load_pretrained
from jaxlib_guidance.worlds import chains, sums

Array = jax.Array
VERDICTS = chains.encode("RW")
"""Tokens of "right" and "wrong"."""
SHORT = 5
"""Places of a direct answer: up to four digits and the end."""


class Drawn(NamedTuple):
    """Answers that were sampled, ``[N, ...]`` or in groups ``[P, G, ...]``.

    Attributes:
      prompt: Tokens of the prompts.
      prompt_mask: Which of them count.
      tokens: Tokens of the answers.
      mask: Which of them count.
      old: Log-probabilities of the tokens when they were drawn.
    """

    prompt: Array
    prompt_mask: Array
    tokens: Array
    mask: Array
    old: Array


def load(name: str) -> tuple[LM, Any]:
    """A language model that ships, and its parameters."""
    lm, params = load_pretrained(name)
    assert isinstance(lm, LM)
    return lm, params


def problems(key: Array, world: sums.Sums, count: int) -> sums.Problem:
    """Sums to learn from ``[count]``."""
    return jax.vmap(partial(sums.draw, world))(jax.random.split(key, count))


def held_out(digits: int, count: int, seed: int = 0) -> sums.Problem:
    """Sums for tests ``[count]``, which `problems` never has."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 10**digits, (2, 20 * count + 100), dtype=np.int32)
    kept = np.asarray(sums.held_out(sums.Problem(a, b, a)))
    a, b = (jnp.asarray(x[kept][:count]) for x in (a, b))
    return sums.Problem(a, b, jnp.full(count, digits, jnp.int32))


def repeat(tree: Any, count: int) -> Any:
    """Each row ``count`` times, neighbours of each other."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), tree)


def draw(
    lm: LM,
    params: Any,
    key: Array,
    asked: tuple[Array, Array],
    *,
    steps: int = SHORT,
    temperature: Array | float = 1.0,
    control: Any = None,
) -> Drawn:
    """Samples an answer to each prompt ``[N]``."""
    keys = rng.sample_keys(key, jnp.arange(len(asked[0])))
    ends: dict[str, Any] = {"eos": sums.END, "pad": sums.END, "control": control}
    out = generate(
        keys, lm, params, *asked, steps=steps, temperature=temperature, **ends
    )
    return Drawn(*asked, out.tokens, out.mask, out.logp)


def after(asked: tuple[Array, Array], *begun: tuple[Array, Array]) -> Any:
    """Prompts and what was written since, ``[N, T]`` each, padded on the left."""
    tokens, seen = (jnp.concatenate(x, 1) for x in zip(asked, *begun, strict=True))
    order = jnp.argsort(seen, 1, stable=True)
    return tuple(jnp.take_along_axis(x, order, 1) for x in (tokens, seen))


def score(lm: LM, params: Any, rows: Drawn) -> Array:
    """Log-probabilities of the answers, of the shape of ``rows.tokens``."""
    shape = rows.tokens.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), rows)
    given = flat.prompt, flat.tokens, flat.prompt_mask, flat.mask
    return completion_logp(lm, params, *given).reshape(shape)


def groups(tree: Any, size: int) -> Any:
    """``[P G, ...]`` as ``[P, G, ...]``."""
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tree)


def check_direct(asked: sums.Problem, rows: Drawn) -> sums.Check:
    """Checks digits that follow a prompt with ``#``, ``[N]``."""

    def one(problem, tokens, mask):
        tokens = jnp.concatenate([jnp.full(1, sums.SOLUTION), tokens])
        mask = jnp.concatenate([jnp.ones(1, bool), mask])
        return sums.check(problem, tokens, mask, most=2)

    return jax.vmap(one)(asked, rows.tokens, rows.mask)


def accepted(rows: Drawn) -> tuple[Array, Array]:
    """Whether a verdict is ``R.``, and whether it is a verdict at all."""
    ended = (rows.tokens[..., 1] == sums.END) & rows.mask[..., 1]
    yes, no = (rows.tokens[..., 0] == kind for kind in VERDICTS)
    return yes & ended, (yes | no) & ended


class Plan(NamedTuple):
    """What a comparison does.

    Attributes:
      collect: ``(params, key, setting, memory) -> (batch, memory)``, an update's data.
      loss: ``(params, batch, setting) -> scalar``.
      evaluate: ``(params, setting, key of the seed) -> figures``.
      memory: ``(key of the seed) -> memory``, what a run begins with.
    """

    collect: Callable[..., Any]
    loss: Callable[..., Array]
    evaluate: Callable[..., Any]
    memory: Callable[[Array], Any] = lambda key: ()


def learn(
    plan: Plan,
    params: Any,
    settings: Any,
    *,
    updates: int,
    every: int,
    rate: float | Array,
    seeds: int,
    falls: bool = True,
    each: bool = False,
    first: int = 0,
) -> Any:
    """Figures ``[setting, seed, 1 + updates / every, ...]``, the first before all.

    ``rate`` is one for all or ``[setting]``. With ``each`` every seed begins with
    parameters of its own, ``[seed, ...]``. Other ``first`` are other seeds.
    """
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    rates = jnp.broadcast_to(rate, len(jax.tree.leaves(settings)[0]))

    def begin(params, setting, key):
        return params, tx.init(params), plan.memory(key)

    def stage(carry, setting, key, begun):
        setting, rate = setting

        def update(carry, index):
            params, moments, memory = carry
            key_now = jax.random.fold_in(key, index)
            batch, memory = plan.collect(params, key_now, setting, memory)
            slope = jax.grad(plan.loss)(params, batch, setting)
            change, moments = tx.update(slope, moments)
            size = rate * (1 - index / updates if falls else 1.0)
            params = jax.tree.map(lambda x, y: x - size * y, params, change)
            return (params, moments, memory), None

        return jax.lax.scan(update, carry, begun + jnp.arange(every))[0]

    def over_all(f, carries=(0, 0), rest=()):
        seeds = jax.vmap(f, (carries[1], None, 0, *rest))
        return jax.jit(jax.vmap(seeds, (carries[0], 0, None, *rest)))

    keys = jax.random.split(jax.random.key(first), seeds)
    carry = over_all(begin, (None, 0 if each else None))(params, settings, keys)
    evaluate = over_all(plan.evaluate)
    figures, advance = (
        [evaluate(carry[0], settings, keys)],
        over_all(stage, rest=(None,)),
    )
    for begun in range(0, updates, every):
        carry = advance(carry, (settings, rates), keys, jnp.int32(begun))
        figures.append(evaluate(carry[0], settings, keys))
    return jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x], 2), *figures)


def told(before: float, after: np.ndarray) -> str:
    """A cell of a table: the mean, and the gains of the seeds."""
    gains = " ".join(f"{x - before:+.3f}" for x in after)
    return f"{after.mean():.3f} ({gains})"
