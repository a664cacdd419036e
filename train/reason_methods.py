"""The methods of train/reason.py: what each makes of rewards, and its loss.

A row is all answers to one sum, a group ``[G, ...]``: a method that compares the
answers of a group sees it whole in every micro-batch and on every device.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import policy
from jaxlib_guidance.reduce import LossOut, Mean, aggregate

Array = jax.Array
Name = Literal["grpo", "rloo", "nft", "score"]
CLIPPED = ("grpo", "rloo")


class Method(NamedTuple):
    """What a method makes of rewards, and its loss.

    Attributes:
      turns: Attempts that are trained, 1 or 2.
      loss: ``(logp of each turn [P, G, S], rows of each turn) -> LossOut``. A row holds
        "tokens", "mask", "old" (log-probabilities when it was drawn) and "ref" (those
        of the model after its examples), ``[P, G, S]``; and "right" and "stage",
        ``[P, G]``.
    """

    turns: int
    loss: Callable[[list[Array], list[dict[str, Array]]], LossOut]


def make_method(name: Name, clip: float, kl: float) -> Method:
    """A method with its paper's choices.

    Args:
      name: Which one.
      clip: Half-width of the interval around 1 to which "grpo" and "rloo" clip ratios.
      kl: Weight of k3, the estimate of the divergence from the model after its
        examples.
    """

    def grpo(logp, rows):
        row = rows[0]
        drawn = logp[0], row["old"], row["right"], row["mask"]
        ref, beta = (row["ref"], kl) if kl else (None, None)
        return policy.grpo(*drawn, clip=clip, logp_ref=ref, beta=beta)

    def rloo(logp, rows):
        row = rows[0]
        drawn = logp[0], row["old"], row["right"], row["mask"]
        return plus(policy.rloo(*drawn, clip=clip), held(logp, rows))

    def nft(logp, rows):
        row = rows[0]
        right = row["right"]
        rate = jnp.broadcast_to(jnp.mean(right, 1, keepdims=True), right.shape)
        each = policy.nft(logp[0], row["old"], right, rate, row["mask"])
        each *= policy.informative(right)[..., None]
        return plus(by_answer(each, row["mask"]), held(logp, rows))

    def score(logp, rows):
        stage, right = rows[0]["stage"], [row["right"] for row in rows]
        paid = [policy.score_rewards(*right, stage=number) for number in (1, 2)]
        paid = jnp.where(stage[..., None] == 2, paid[1], paid[0])
        parts = []
        for turn, (now, row) in enumerate(zip(logp, rows, strict=True)):
            advantage = policy.group_center(paid[..., turn])
            # The first stage keeps the first attempt where it was, the second both.
            turns = jnp.full(now.shape, turn)
            pulls = [
                policy.score_kl(now, row["ref"], turns, jnp.array(beta), row["mask"])
                for beta in ((0.1, 0.0), (0.01, 0.01))
            ]
            pull = jnp.where(stage[..., None] == 2, pulls[1], pulls[0])
            each = policy.reinforce(now, advantage, row["mask"]) + pull
            parts.append(by_answer(each, row["mask"]))
        return plus(plus(*parts), held(logp, rows))

    def held(logp, rows):
        if not kl:
            return None
        parts = [
            by_answer(kl * policy.kl_loss(now, row["ref"], row["mask"]), row["mask"])
            for now, row in zip(logp, rows, strict=True)
        ]
        return plus(parts[0], parts[1]) if len(parts) > 1 else parts[0]

    loss = {"grpo": grpo, "rloo": rloo, "nft": nft, "score": score}[name]
    return Method(2 if name == "score" else 1, loss)


def by_answer(each: Array, mask: Array) -> LossOut:
    """Mean over answers of each one's mean over its tokens."""
    return aggregate(each, mask, "seq_mean_token_mean")


def plus(one: LossOut, other: LossOut | None) -> LossOut:
    """The sum of two losses of the same answers; None adds nothing."""
    return one if other is None else one._replace(sum=one.sum + other.sum)


def make_loss(score: Callable[..., Array], method: Method) -> Any:
    """``(params, rows, keys) -> LossOut``, as `make_train_step` takes it.

    Args:
      score: ``(params, row) -> log-probabilities [P, G, S]``.
      method: What the loss is of them. "ratio" is reported besides: the mean over
        answers of the largest ``|ratio - 1|`` among an answer's tokens.
    """

    def loss(params, rows, keys):
        logp = [score(params, row) for row in rows]
        out = method.loss(logp, rows)
        gaps = [
            jnp.max(jnp.abs(jnp.expm1(now - row["old"])), axis=-1)
            for now, row in zip(logp, rows, strict=True)
        ]
        gap = jax.lax.stop_gradient(jnp.max(jnp.stack(gaps), axis=0))
        ratio = Mean(jnp.sum(gap), jnp.float32(gap.size))
        return out._replace(aux={**out.aux, "ratio": ratio})

    return loss
