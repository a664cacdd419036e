"""Returns and advantages of one sequence ``[T]``; `jax.vmap` gives the batch.

An episode that ends (``terminated``) is worth nothing afterwards. One that is cut off
(``truncated``) is worth what its last observation is worth, which is not the value of
the next element of the buffer: that one is of another episode. So every function takes
both flags and ``next_values``, the values of the observations *before* any reset.

Values are not stopped here; the losses do that.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import hide, mask_like, require_shape
from jaxlib_guidance.types import Array, at_least_float32


class Estimate(NamedTuple):
    """What a critic's values and a sequence's rewards say, each ``[T]``.

    Attributes:
      advantage: Advantage of each action, for the policy's loss.
      target: Target of each value, for the critic's loss.
    """

    advantage: Array
    target: Array


def _sequence(rewards, terminated, truncated, gamma, **others):
    """Float arrays ``[T]``, and what the flags let through: the value and the trace."""
    if jnp.ndim(rewards) != 1:
        raise ValueError(
            f"rewards has shape {jnp.shape(rewards)}; expected [T], one sequence: "
            "use jax.vmap for a batch"
        )
    shape = jnp.shape(rewards)
    arrays = []
    for name, x in others.items():
        require_shape(name, x, shape)
        arrays.append(at_least_float32(x, name))
    ends = _flags("terminated", terminated, rewards)
    cuts = _flags("truncated", truncated, rewards)
    require_shape("gamma", gamma, (), shape)
    require_range("gamma", gamma, 0, 1)
    gamma = jnp.broadcast_to(at_least_float32(gamma, "gamma"), shape)
    bootstrap = jnp.where(ends, 0, gamma)
    trace = jnp.where(ends | cuts, 0, gamma)
    return at_least_float32(rewards, "rewards"), bootstrap, trace, *arrays


def _flags(name, flags, like):
    require_shape(name, flags, jnp.shape(like))
    return jnp.asarray(flags).astype(bool)


def _accumulate(x, decay, last=0.0):
    """``y_t = x_t + decay_t y_{t+1}``."""

    def step(y, now):
        y = now[0] + now[1] * y
        return y, y

    start = jnp.asarray(last, x.dtype)
    return jax.lax.scan(step, start, (x, decay.astype(x.dtype)), reverse=True)[1]


def _shift(x, last):
    return jnp.concatenate([x[1:], jnp.asarray(last, x.dtype)[None]])


def next_valid(
    values: Array,
    mask: Array | None = None,
    *,
    terminated: Array | None = None,
    truncated: Array | None = None,
    end_value: Array | float = 0.0,
) -> Array:
    """The value of the next step that counts: ``next_values`` of a sequence of tokens.

    Masked tokens (padding, a tool's output) are not states of the policy, but an
    episode may end on one: then nothing of the next episode is worth anything here.

    Args:
      values: Values of the tokens, ``[T]``.
      mask: 0 on tokens that are no states of the policy, ``[T]``; None keeps all.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``; None for never.
      truncated: Whether the episode is cut at a step, so that what follows is not in
        the buffer, ``[T]``; None for never.
      end_value: Value after the last step and after each that is truncated, scalar or
        ``[T]``; 0 where the response is over.

    Returns:
      ``[T]``.

    Raises:
      ValueError: Mismatched shapes.
    """
    values = hide(values, mask)
    counts = mask_like(mask, values) > 0
    require_shape("end_value", end_value, (), values.shape)
    last = jnp.broadcast_to(jnp.asarray(end_value, values.dtype), values.shape)
    ends, cuts = (
        jnp.zeros(values.shape, bool) if flags is None else _flags(name, flags, values)
        for name, flags in (("terminated", terminated), ("truncated", truncated))
    )

    def step(following, now):
        value, counts, ends, cuts, last = now
        following = jnp.where(ends, 0, jnp.where(cuts, last, following))
        return jnp.where(counts, value, following), following

    steps = (values, counts, ends, cuts, last)
    return jax.lax.scan(step, last[-1], steps, reverse=True)[1]


def td_targets(
    rewards: Array,
    next_values: Array,
    terminated: Array,
    *,
    gamma: float | Array,
) -> Array:
    """``r_t + gamma (1 - terminated_t) V'_t``, ``[T]``.

    Args:
      rewards: Rewards of the steps of one sequence, ``[T]``.
      next_values: Values ``V'`` of the observations before any reset, ``[T]``.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``.
      gamma: Discount in [0, 1], scalar or ``[T]``.

    Returns:
      Float32 ``[T]``.
    """
    rewards, bootstrap, _, after = _sequence(
        rewards, terminated, terminated, gamma, next_values=next_values
    )
    return rewards + bootstrap * after


def discounted_returns(
    rewards: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float | Array,
) -> Array:
    """``G_t = r_t + gamma G_{t+1}``; after a cut ``V'_t`` stands for ``G_{t+1}``.

    The end of the buffer is a cut. With ``next_values`` 0 these are plain sums.

    Args:
      rewards: Rewards of the steps of one sequence, ``[T]``.
      next_values: Values ``V'`` of the observations before any reset, ``[T]``.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``.
      truncated: Whether the episode is cut at a step, so that what follows is not in
        the buffer, ``[T]``.
      gamma: Discount in [0, 1], scalar or ``[T]``.

    Returns:
      ``[T]``.
    """
    rewards, bootstrap, trace, after = _sequence(
        rewards, terminated, truncated, gamma, next_values=next_values
    )
    trace = trace.at[-1].set(0)
    return _accumulate(rewards + (bootstrap - trace) * after, trace)


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    *,
    gamma: float | Array,
    lam: float | Array,
    mask: Array | None = None,
    hole: Literal["skip", "zero"] = "skip",
) -> Estimate:
    """Generalised advantage estimation.

    ``delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t``, ``A_t = delta_t + gamma lam
    (1 - done_t) A_{t+1}``, target ``A + V``.

    Args:
      rewards: Rewards of the steps of one sequence, ``[T]``.
      values: Values ``V`` of the observations, ``[T]``.
      next_values: Values ``V'`` of the observations before any reset, ``[T]``. For the
        tokens of a response, `next_valid` with the same mask and flags.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``.
      truncated: Whether the episode is cut at a step, so that what follows is not in
        the buffer, ``[T]``.
      gamma: Discount in [0, 1], scalar or ``[T]``.
      lam: Decay ``lambda`` of the trace, scalar in [0, 1].
      mask: 1 on the steps that the policy took, ``[T]``; None for all. An episode that
        ends on a masked step ends.
      hole: Treatment of a masked step between others. "skip" (verl): not a step, time
        stands still. "zero" (OpenRLHF): a step with reward and value 0, which
        discounts; pass ``next_values`` of the values times the mask. They are read
        where the step or the one after it counts, and elsewhere may be NaN.

    Returns:
      Advantages and targets, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown ``hole``.

    Reference: Schulman et al., arXiv 1506.02438, eq. 16.
    """
    if hole not in ("skip", "zero"):
        raise ValueError(f'hole is {hole!r}; expected "skip" or "zero"')
    require_range("lam", lam, 0, 1)
    rewards, bootstrap, trace, values, after = _sequence(
        rewards, terminated, truncated, gamma, values=values, next_values=next_values
    )
    if mask is None:
        delta = rewards + bootstrap * after - values
        advantage = _accumulate(delta, trace * lam)
        return Estimate(advantage, advantage + values)
    rewards, values = hide(rewards, mask), hide(values, mask)
    counts = mask_like(mask, rewards) > 0
    if hole == "skip":
        delta = rewards + bootstrap * hide(after, mask) - values
        delta = jnp.where(counts, delta, 0)
        done = _flags("terminated", terminated, rewards)
        done = done | _flags("truncated", truncated, rewards)
        still = jnp.where(done, 0, 1).astype(trace.dtype)
        running = _accumulate(delta, jnp.where(counts, trace * lam, still))
    else:
        # A step before one that counts has that one's value, also if it is masked.
        after = jnp.where(counts | _shift(counts, False), after, 0)
        running = _accumulate(rewards + bootstrap * after - values, trace * lam)
    advantage = jnp.where(counts, running, 0)
    return Estimate(advantage, advantage + values)


def vtrace(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    rho: Array,
    *,
    gamma: float | Array,
    lam: float | Array = 1.0,
    rho_max: float = 1.0,
    c_max: float = 1.0,
    rho_max_pg: float = 1.0,
) -> Estimate:
    """V-trace: targets and advantages from another policy's actions.

    ``e_t = min(rho_max, rho_t) delta_t + gamma lam min(c_max, rho_t) (1 - done_t)
    e_{t+1}``, target ``v = V + e``, advantage ``min(rho_max_pg, rho_t) (r_t + gamma
    (1 - terminated_t) B_t - V_t)`` with ``B_t = v_{t+1}`` inside an episode and
    ``V'_t`` at its end and at the buffer's.

    Args:
      rewards: Rewards of the steps of one sequence, ``[T]``.
      values: Values ``V`` of the observations, ``[T]``.
      next_values: Values ``V'`` of the observations before any reset, ``[T]``.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``.
      truncated: Whether the episode is cut at a step, so that what follows is not in
        the buffer, ``[T]``.
      rho: Ratio of the action's probability under the policy to that under the
        behaviour, at least 0, ``[T]``.
      gamma: Discount in [0, 1], scalar or ``[T]``.
      lam: Decay ``lambda`` of the trace, scalar in [0, 1].
      rho_max: Largest ratio in the error; it sets the policy whose value is found.
      c_max: Largest ratio in the trace.
      rho_max_pg: Largest ratio in the advantage.

    Returns:
      Advantages and targets, each float32 ``[T]``.

    Reference: Espeholt et al., arXiv 1802.01561, eq. 1.
    """
    require_range("lam", lam, 0, 1)
    require_range("rho", rho, 0)
    flags = terminated, truncated
    rewards, bootstrap, trace, values, after, rho = _sequence(
        rewards, *flags, gamma, values=values, next_values=next_values, rho=rho
    )
    delta = rewards + bootstrap * after - values
    error = _accumulate(
        jnp.minimum(rho_max, rho) * delta, trace * lam * jnp.minimum(c_max, rho)
    )
    target = values + error
    # Where the trace is cut, the next target is of another episode.
    inside = (trace > 0).at[-1].set(False)
    after = jnp.where(inside, _shift(target, 0.0), after)
    advantage = jnp.minimum(rho_max_pg, rho) * (rewards + bootstrap * after - values)
    return Estimate(advantage, target)


def retrace(
    rewards: Array,
    q: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    rho: Array,
    *,
    gamma: float | Array,
    lam: float | Array = 1.0,
) -> Array:
    """Retrace targets of the action values, ``[T]``.

    ``delta_t = r_t + gamma (1 - terminated_t) V'_t - Q_t``, ``e_t = delta_t + gamma lam
    min(1, rho_{t+1}) (1 - done_t) e_{t+1}``, target ``Q + e``.

    Args:
      rewards: Rewards of the steps of one sequence, ``[T]``.
      q: Values ``Q`` of the actions taken, ``[T]``.
      next_values: Values ``V' = E_a Q(s', a)`` under the policy, of the observations
        before any reset, ``[T]``.
      terminated: Whether the episode ends at a step, after which nothing follows,
        ``[T]``.
      truncated: Whether the episode is cut at a step, so that what follows is not in
        the buffer, ``[T]``.
      rho: Ratio of the action's probability under the policy to that under the
        behaviour, at least 0, ``[T]``.
      gamma: Discount in [0, 1], scalar or ``[T]``.
      lam: Decay ``lambda`` of the trace, scalar in [0, 1].

    Returns:
      Float32 ``[T]``.

    Reference: Munos et al., arXiv 1606.02647.
    """
    require_range("lam", lam, 0, 1)
    require_range("rho", rho, 0)
    rewards, bootstrap, trace, q, after, rho = _sequence(
        rewards, terminated, truncated, gamma, q=q, next_values=next_values, rho=rho
    )
    delta = rewards + bootstrap * after - q
    return q + _accumulate(delta, trace * lam * _shift(jnp.minimum(1, rho), 0.0))
