"""The sums of train/reason.py: their tokens, examples, and attempts at them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import policy, rng
from jaxlib_guidance.models import (
    LM,
    chat,
    completion_logp,
    generate,
    load_smollm2,
    pad_rows,
)
from jaxlib_guidance.training import Scale

Array = jax.Array


class Task(NamedTuple):
    """All sums, as tokens.

    Attributes:
      prompts: ``[N, T]``, padded on the left.
      prompt_mask: ``[N, T]``, true on the tokens of the prompts.
      answers: ``[N, S]`` with the end of the answer, padded on the right.
      answer_mask: ``[N, S]``, true on the tokens of the answers.
      hint: ``[H]``, what asks for a second attempt.
      train: Numbers of the sums to learn from.
      test: Numbers of those held out.
      eos: The token that ends an answer.
    """

    prompts: Array
    prompt_mask: Array
    answers: Array
    answer_mask: Array
    hint: Array
    train: Array
    test: Array
    eos: int


def make_task(
    encode: Callable[[str], list[int]],
    ask: str,
    tell: Callable[[int], str],
    hint: str,
    eos: int,
    sums: int,
) -> Task:
    """The sums of two numbers below ``sums``, in the tokens of ``encode``."""
    pairs = [(a, b) for a in range(sums) for b in range(sums)]
    prompts = pad_rows([encode(ask.format(a=a, b=b)) for a, b in pairs], pad=eos)
    answers = [[*encode(tell(a + b)), eos] for a, b in pairs]
    order = np.random.default_rng(0).permutation(len(pairs))
    test, train = np.split(order, [len(pairs) // 10])
    tables = (*prompts, *pad_rows(answers, pad=eos, side="right"))
    rest = (encode(hint), train, test)
    return Task(*map(jnp.asarray, (*tables, *rest)), eos=eos)


def load_smollm2_sums(file: Path, sums: int, scale: Scale) -> tuple[LM, Any, Task]:
    """SmolLM2, its parameters, and sums of numbers below ``sums`` as it answers them.

    Asked in words it explains itself at length and is never right to the letter. Its
    answer is begun for it, with two sums; it writes the third and a new line.
    """
    lm, params, tokenizer = load_smollm2(file)
    lm = lm.clone(dtype=jnp.dtype(scale.precision), remat=scale.remat)
    begun = "2 + 3 = 5\n10 + 11 = 21\n{a} + {b} = "
    ask = chat([("user", "Add the numbers.")]) + begun
    (line,) = tokenizer.encode("\n")
    hint = "The right sum is "
    return lm, params, make_task(tokenizer.encode, ask, str, hint, line, sums)


def again(task: Task, prompts: tuple[Array, Array], first: tuple[Array, Array]) -> Any:
    """``(tokens, mask)`` of what comes before a second attempt: all, and the hint."""
    rows = len(prompts[0])
    hint = jnp.broadcast_to(task.hint, (rows, len(task.hint)))
    parts = zip(prompts, first, (hint, jnp.ones(hint.shape, bool)), strict=True)
    return tuple(jnp.concatenate(part, axis=1) for part in parts)


def make_examples(task: Task, root: Array) -> Any:
    """``ids [B] -> rows``: first attempts, and second ones after a right or a wrong."""

    def one(key):
        which, other, coins = (jax.random.fold_in(key, i) for i in range(3))
        sum_, wrong = (jax.random.choice(k, task.train) for k in (which, other))
        second, mistaken = jax.random.bernoulli(coins, shape=(2,))
        return sum_, jnp.where(mistaken, wrong, sum_), second

    def rows(ids):
        at, tried, second = jax.vmap(one)(rng.sample_keys(root, ids))
        prompts = task.prompts[at], task.prompt_mask[at]
        first = task.answers[tried], task.answer_mask[tried]
        tokens, mask = again(task, prompts, first)
        # What comes after the prompt is hidden from first attempts.
        mask &= second[:, None] | (jnp.arange(mask.shape[1]) < task.prompts.shape[1])
        return {
            "prompt": tokens,
            "prompt_mask": mask,
            "tokens": task.answers[at],
            "mask": task.answer_mask[at],
        }

    return rows


def attempt_twice(
    lm: LM, task: Task, params: Any, keys: Array, at: Array, temperature: float
) -> list[dict[str, Array]]:
    """Two answers to each sum ``at [B]``: rows of `completion_logp`, and ``right``."""
    prompts, found = (task.prompts[at], task.prompt_mask[at]), []
    for turn in range(2):
        out = generate(
            rng.fold(keys, turn),
            lm,
            params,
            *prompts,
            steps=task.answers.shape[1],
            temperature=temperature,
            eos=task.eos,
            pad=task.eos,
        )
        same = (out.tokens == task.answers[at]) | ~task.answer_mask[at]
        found.append(
            {
                "prompt": prompts[0],
                "prompt_mask": prompts[1],
                "tokens": out.tokens,
                "mask": out.mask,
                "old": out.logp,
                "right": jnp.all(same, axis=1).astype(jnp.float32),
            }
        )
        prompts = again(task, prompts, (out.tokens, out.mask))
    return found


def fingerprint(tokens: Array, mask: Array) -> Array:
    """One number for each row, int32 ``[...]`` of ``[..., S]``; equal rows have one.

    Of two rows that differ, one pair in four thousand million has the same.
    """
    factors = jnp.uint32(2654435761) ** jnp.arange(tokens.shape[-1], dtype=jnp.uint32)
    kept = jnp.where(mask, tokens + 1, 0).astype(jnp.uint32)
    return jnp.sum(kept * factors, -1).astype(jnp.int32)


def in_majority(said: Array, ended: Array) -> Array:
    """Which answers of groups ``[P, G]`` end and say what most do that end."""
    winner = policy.weighted_vote(said, mask=ended).label
    return ended & (said == winner[:, None])


def score(lm: LM, params: Any, row: dict[str, Array]) -> Array:
    """Log-probabilities of a row's answers, ``[B, S]``."""
    return completion_logp(
        lm, params, row["prompt"], row["tokens"], row["prompt_mask"], row["mask"]
    )
