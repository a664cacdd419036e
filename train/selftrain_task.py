"""What train/selftrain.py asks, and how it checks answers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from reason_task import fingerprint, load_smollm2_sums

from jaxlib_guidance.models import LM, from_config, read_pretrained
from jaxlib_guidance.training import Scale
from jaxlib_guidance.worlds import sums

Array = jax.Array


class Found(NamedTuple):
    """What a check says of answers, ``[N]``.

    Attributes:
      right: Whether an answer is right, bool.
      ended: Whether it is an answer at all, bool; others are never kept.
      said: What it says, int32: answers that say the same have the same number.
      length: Number of its tokens, int32.
    """

    right: Array
    ended: Array
    said: Array
    length: Array


class Task(NamedTuple):
    """Questions and a check; write one of your own for other questions.

    Attributes:
      draw: ``key -> question`` to learn from, a pytree of arrays.
      ask: ``questions [N] -> (tokens [N, T], mask [N, T])``, padded on the left.
      check: ``(questions [N], tokens [N, S], mask [N, S]) -> Found``.
      test: Questions that ``draw`` never gives, ``[M]``.
      places: Most tokens of an answer.
      eos: The token that ends an answer.
    """

    draw: Callable[[Array], Any]
    ask: Callable[[Any], tuple[Array, Array]]
    check: Callable[[Any, Array, Array], Found]
    test: Any
    places: int
    eos: int


def sums_task(digits: int, direct: bool, tests: int) -> Task:
    """Sums of `worlds.sums`, answered with steps or ``direct``-ly."""

    def check(asked, tokens, mask):
        length = jnp.sum(mask, 1).astype(jnp.int32)
        if direct:
            before = ((0, 0), (1, 0))
            tokens = jnp.pad(tokens, before, constant_values=sums.SOLUTION)
            mask = jnp.pad(mask, before, constant_values=True)
        found = jax.vmap(sums.check)(asked, tokens, mask)
        return Found(found.right, found.parsed, found.answer, length)

    random = np.random.default_rng(0)
    a, b = random.integers(0, 10**digits, (2, 20 * tests + 100), dtype=np.int32)
    apart = np.asarray(sums.held_out(sums.Problem(a, b, a)))
    a, b = (jnp.asarray(x[apart][:tests]) for x in (a, b))
    return Task(
        partial(sums.draw, sums.Sums(digits, digits)),
        jax.vmap(partial(sums.prompt, direct=direct)),
        check,
        sums.Problem(a, b, jnp.full(tests, digits, jnp.int32)),
        digits + 3 if direct else 32,
        sums.END,
    )


def smollm2_task(
    file: Path, below: int, tests: int, scale: Scale
) -> tuple[LM, Any, Task]:
    """SmolLM2, its parameters, and sums asked in a chat as in train/reason.py."""
    lm, params, table = load_smollm2_sums(file, below, scale)

    def check(at, tokens, mask):
        truth, seen = table.answers[at], table.answer_mask[at]
        right = jnp.all((tokens == truth) | ~seen, 1) & jnp.all(mask == seen, 1)
        ended = jnp.any((tokens == table.eos) & mask, 1)
        length = jnp.sum(mask, 1).astype(jnp.int32)
        return Found(right, ended, fingerprint(tokens, mask), length)

    task = Task(
        lambda key: jax.random.choice(key, table.train),
        lambda at: (table.prompts[at], table.prompt_mask[at]),
        check,
        table.test[:tests],
        table.answers.shape[1],
        table.eos,
    )
    return lm, params, task


def load(config: Any) -> tuple[LM, Any, Task, dict[str, Any]]:
    """Network, parameters and task, and what `load_pretrained` has to know of them."""
    if config.smollm2 is not None:
        below, tests = config.sums, config.tests
        return *smollm2_task(config.smollm2, below, tests, config.scale), {}
    params, about = read_pretrained(config.start)
    if "network" not in about:
        raise ValueError(f"start is {config.start!r}, which does not say what it is of")
    lm, params = from_config(about), jax.tree.map(jnp.asarray, params)
    if not isinstance(lm, LM):
        raise ValueError(
            f"start is {config.start!r}, {type(lm).__name__}; expected a language model"
        )
    scale = config.scale
    lm = lm.clone(dtype=jnp.dtype(scale.precision), remat=scale.remat)
    task = sums_task(config.digits, config.direct, config.tests)
    return lm, params, task, {"network": about["network"]}
