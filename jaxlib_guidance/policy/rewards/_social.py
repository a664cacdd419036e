"""Rewards that other agents or critics give: beliefs, games about steps, dimensions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import (
    divide,
    hide,
    known_false,
    mask_like,
    masked_sum,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32


def belief_shift(
    beliefs: Array, speaker_sign: Array, alive: Array | None = None
) -> Array:
    """``sign_t (B_t - B_{t-1})``: a message is worth what it does to the others.

    ``B`` is the sum over living crew members of the probability they give to the true
    impostor. The rewards of a meeting sum to its change, and a silent turn has 0.

    Args:
      beliefs: Probabilities that listeners give the true impostor before the meeting
        and after each turn, ``[T + 1, N]``.
      speaker_sign: +1 where a crew member spoke, -1 for an impostor, ``[T]``.
      alive: 1 for listeners who count, those who live through the whole meeting,
        ``[N]``; None for all.

    Returns:
      Float32 ``[T]``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Sarkar et al., arXiv 2502.06060; its ``string_env.py``.
    """
    if jnp.ndim(beliefs) != 2:
        raise ValueError(f"beliefs has shape {jnp.shape(beliefs)}; expected [T + 1, N]")
    steps, listeners = jnp.shape(beliefs)
    require_shape("speaker_sign", speaker_sign, (steps - 1,))
    require_range("speaker_sign", speaker_sign, -1, 1)
    if alive is not None:
        require_shape("alive", alive, (listeners,))
        alive = jnp.broadcast_to(at_least_float32(alive), (steps, listeners))
    pool = masked_sum(beliefs, alive, -1)
    return at_least_float32(speaker_sign) * jnp.diff(pool)


def step_game(fooled: Array, lowered: Array | None = None) -> Array:
    """Rewards of a sneaky generator and a critic over one step: they sum to 0.

    The generator has +1 if the critic takes its wrong step for a right one, else -1.

    Args:
      fooled: 1 where the critic takes the wrong step for a right one, of any shape.
      lowered: 1 where the step lowers the chance of success, of the shape of
        ``fooled``; a step that does not is no game, and both get 0. None for all.

    Returns:
      Float32 of the shape of ``fooled`` with a last axis of 2: generator, critic.

    Reference: SPC, Chen et al., arXiv 2504.19162. Its loss is ``ppo_clip(level=
    "seq")`` with the reference as the old policy, plus 0.15 times `nll`.
    """
    require_range("fooled", fooled, 0, 1)
    gain = 2 * at_least_float32(fooled) - 1
    if lowered is not None:
        require_shape("lowered", lowered, jnp.shape(fooled))
        gain = gain * at_least_float32(lowered)
    return jnp.stack([gain, -gain], -1)


class Punishment(NamedTuple):
    """What a punishment pays.

    Attributes:
      victim: Reward of who was punished or spared, float32.
      punisher: Reward of who decided, float32.
    """

    victim: Array
    punisher: Array


def punishment(
    punish: Array,
    defected: Array,
    *,
    penalty: float | Array = 3.0,
    just: float | Array = 2.0,
    unjust: float | Array = -10.0,
) -> Punishment:
    """A victim's loss, and a punisher's pay by whether the victim had defected.

    Added to a game's payoffs: it is direct where the punisher is the other player, and
    third-party where it is someone else. Where nobody punishes all is 0.

    Args:
      punish: 1 where the punisher punishes, of any shape.
      defected: 1 where the victim had defected, of the shape of ``punish``.
      penalty: Loss of who is punished, at least 0.
      just: Pay of who punishes a defection; a negative one makes punishing costly.
      unjust: Pay of who punishes a cooperation.

    Returns:
      Both rewards, of the shape of ``punish``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Dasgupta and Musolesi, arXiv 2301.08278; ``Mechanisms/Punishment.py`` of
    github.com/nayanadasgupta/Understanding_Punishment_In_MAS_With_RL.
    """
    require_shape("defected", defected, jnp.shape(punish))
    require_range("punish", punish, 0, 1)
    require_range("defected", defected, 0, 1)
    require_range("penalty", penalty, 0)
    punish, defected = at_least_float32(punish), at_least_float32(defected)
    pay = jnp.where(defected > 0, just, unjust)
    return Punishment(-penalty * punish, pay * punish)


def reputation_change(
    defected: Array,
    punish: Array | None = None,
    *,
    just: float | Array = 2.0,
    unjust: float | Array = -3.0,
) -> Array:
    """``+1`` or ``-1`` for play; ``just`` or ``unjust`` for having punished it.

    Args:
      defected: 1 where the action was a defection, of any shape.
      punish: 1 where it was punished, for the change of the *punisher's* reputation, of
        the shape of ``defected``; None for the change of the player's own.
      just: Change of who punishes a defection.
      unjust: Change of who punishes a cooperation.

    Returns:
      Float32 of the shape of ``defected``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: arXiv 2301.08278; ``Mechanisms/Reputation.py`` of the authors' code.
    """
    require_range("defected", defected, 0, 1)
    if punish is None:
        return 1 - 2 * at_least_float32(defected)
    require_shape("punish", punish, jnp.shape(defected))
    require_range("punish", punish, 0, 1)
    change = jnp.where(at_least_float32(defected) > 0, just, unjust)
    return change * at_least_float32(punish)


def combine_dimensions(
    rewards: Array,
    mask: Array | None = None,
    *,
    low: Array | None = None,
    high: Array | None = None,
    scale: float = 10.0,
) -> Array:
    """``scale mean_k (r_k - low_k) / (high_k - low_k)``: several rewards in one unit.

    Args:
      rewards: Rewards of utterances or of episodes, by dimension, ``[..., K]``; what is
        left out is no part of the mean.
      mask: 0 on samples that do not count, ``[...]``; None keeps all.
      low: Smallest reward of each dimension in the data, ``[K]``; None for that of
        ``rewards``. What lies below it is extrapolated.
      high: Largest reward of each dimension, ``[K]``; given or left out as ``low`` is.
      scale: Largest result, 10 in the released code.

    Returns:
      Float32 ``[...]``, 0 where masked; a dimension without any spread adds 0.

    Raises:
      ValueError: Mismatched shapes, ``high`` below ``low``, or one without the other.

    Reference: Sotopia-RL, Yu et al., arXiv 2508.03905; its ``merge_rewards.ipynb``,
    which keeps goal, relationship and knowledge. For other weights see `blend`.
    """
    shape = jnp.shape(rewards)
    if len(shape) < 2 or not shape[-1]:
        raise ValueError(f"rewards has shape {shape}; expected [..., K], K at least 1")
    if (low is None) != (high is None):
        given = "low" if high is None else "high"
        raise ValueError(f"{given} is given alone; expected both low and high, or none")
    require_range("scale", scale, 0, inside=True)
    counts = mask_like(mask, jnp.empty(shape[:-1]))
    every = jnp.broadcast_to(counts[..., None], shape)
    r = hide(rewards, every)
    if low is None or high is None:
        axes = tuple(range(len(shape) - 1))
        low = jnp.min(jnp.where(every > 0, r, jnp.inf), axes, initial=jnp.inf)
        high = jnp.max(jnp.where(every > 0, r, -jnp.inf), axes, initial=-jnp.inf)
    else:
        for name, bound in (("low", low), ("high", high)):
            require_shape(name, bound, shape[-1:])
        if known_false(lambda a, b: (a <= b) & (abs(a) + abs(b) < jnp.inf), low, high):
            raise ValueError(
                f"high is {high} and low {low}; expected low at most high, and finite"
            )
    low, high = jax.lax.stop_gradient((at_least_float32(low), at_least_float32(high)))
    return hide(scale * jnp.mean(divide(r - low, high - low), -1), counts)
