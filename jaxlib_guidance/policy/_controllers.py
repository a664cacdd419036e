"""Rewards under a constraint: a multiplier that grows while it is broken."""

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def lagrangian_reward(task: Array, safety: Array, multiplier: float | Array) -> Array:
    """``R_task + lambda R_safety``.

    Args:
      task: Reward of the task, of any shape.
      safety: Reward for safety, of the shape of ``task``: 0 where all is well and
        negative elsewhere, as of a monitor that reads the chain of thought.
      multiplier: Multiplier ``lambda``, scalar, not negative.

    Returns:
      Float32 of the shape of ``task``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: CoT Monitor+, arXiv 2505.18807, eqs. 2 to 4.
    """
    require_shape("safety", safety, jnp.shape(task))
    require_shape("multiplier", multiplier, ())
    require_range("multiplier", multiplier, 0)
    return at_least_float32(task) + multiplier * at_least_float32(safety)


def multiplier_step(
    multiplier: float | Array,
    slack: float | Array,
    *,
    rate: float | Array,
    margin: float | Array = 0.0,
) -> Array:
    """``max(0, lambda - rate (slack + margin))``: holds ``E slack`` above ``-margin``.

    For a safety reward that is never positive the multiplier can only rise unless some
    violation is allowed: that is the margin.

    Args:
      multiplier: Multiplier ``lambda``, scalar, not negative.
      slack: Slack of the constraint, a mean over the batch, scalar: of the safety
        reward, or of `hinf_slack`.
      rate: Step size of the multiplier, at least 0.
      margin: Violation allowed, in the unit of ``slack``.

    Returns:
      Float32 scalar.

    Raises:
      ValueError: A multiplier or slack that is not one number.

    Reference: CoT Monitor+, arXiv 2505.18807.
    """
    require_shape("multiplier", multiplier, ())
    require_shape("slack", slack, ())
    require_range("multiplier", multiplier, 0)
    require_range("rate", rate, 0)
    return jnp.maximum(multiplier - rate * (slack + margin), 0)


def hinf_slack(cost: Array, disturbance: Array, *, eta: float | Array) -> Array:
    """``eta |d|^2 - C``: what a disturber may cost for the effort it makes.

    The constraint that its discounted sum be at least 0 bounds the gain from the
    disturbances to the cost by ``sqrt(eta)``. The actor's advantage is then
    ``aggregate_advantages([task, slack], [1, lambda])`` with the multiplier of
    `multiplier_step`.

    Args:
      cost: Cost ``C``, of any shape: what the reward falls short of its greatest value.
      disturbance: Disturbance ``d``, of the shape of ``cost`` with a last axis of its
        elements.
      eta: Squared attenuation ``eta``, scalar.

    Returns:
      Float32 of the shape of ``cost``.

    Reference: Long et al., arXiv 2404.14405.
    """
    require_shape("cost", cost, jnp.shape(disturbance)[:-1])
    require_shape("eta", eta, ())
    effort = jnp.sum(jnp.square(at_least_float32(disturbance)), -1)
    return eta * effort - at_least_float32(cost)


def adapt_kl_coef(
    coef: Array, kl: Array, *, target: float, horizon: float, samples: int
) -> Array:
    """``coef (1 + clip(kl / target - 1, -0.2, 0.2) samples / horizon)``.

    Args:
      coef: Coefficient of the KL penalty, scalar.
      kl: KL divergence measured since the last call, in nats, scalar.
      target: KL divergence wanted, in nats, positive.
      horizon: Number of samples in which the coefficient may move by a fifth.
      samples: Number of samples since the last call.

    Returns:
      Float32 scalar.

    Reference: Ziegler et al., arXiv 1909.08593.
    """
    require_range("target", target, 0, inside=True)
    require_range("horizon", horizon, 0, inside=True)
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return coef * (1 + error * samples / horizon)


def adapt_entropy_coef(
    coef: Array,
    entropy: Array,
    *,
    target: float = 0.2,
    step: float = 0.005,
    low: float = 0.0,
    high: float = 1.0,
) -> Array:
    """Raises an entropy bonus by ``step`` below the target entropy, else lowers it.

    The bonus itself is to act only below the target, as in Skywork's rule.

    Args:
      coef: Coefficient of the entropy bonus, scalar.
      entropy: Measured entropy in nats, scalar.
      target: Entropy wanted, in nats.
      step: Change of the coefficient at each call, at least 0.
      low: Smallest coefficient.
      high: Largest coefficient; the library's guard, which Skywork's rule does not
        have.

    Returns:
      Float32 scalar.

    Reference: Skywork-OR1, arXiv 2505.22312; TRL's ``use_adaptive_entropy``.
    """
    require_range("step", step, 0)
    if not low <= high:
        raise ValueError(f"low is {low}, high is {high}; expected low <= high")
    return jnp.clip(coef + jnp.where(entropy < target, step, -step), low, high)
