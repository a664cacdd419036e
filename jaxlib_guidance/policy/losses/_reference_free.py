"""Losses of preference pairs without a reference policy, one for each pair ``[B]``.

They take log-probabilities of the policy alone, or rewards of a reward model that is
being trained. For losses against a reference see `dpo` and its like.
"""

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.losses._preference import _pair, log_sigmoid
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def simpo(
    mean_w: Array, mean_l: Array, *, beta: float = 2.0, margin: float = 1.0
) -> Array:
    """``-log s(beta (mean_w - mean_l) - margin)``: per-token means, no reference.

    TRL's defaults are 0.1 and 0.5; the paper's are beta 2 to 2.5 and a margin of about
    half of that.

    Args:
      mean_w: Mean log-probability per token of the chosen answer, ``[B]``.
      mean_l: Mean log-probability per token of the rejected answer, ``[B]``.
      beta: Scale of the margin of log-probabilities, positive.
      margin: Reward margin ``gamma`` that the chosen answer must win by, in nats.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Meng et al., arXiv 2405.14734, eq. 6.
    """
    require_range("beta", beta, 0, inside=True)
    mean_w, mean_l = _pair(mean_w, mean_l, ("mean_w", "mean_l"))
    return -log_sigmoid(beta * (mean_w - mean_l) - margin)


def orpo(mean_w: Array, mean_l: Array, *, weight: float = 0.1) -> Array:
    """``-mean_w - weight log s(log odds_w - log odds_l)``, odds of per-token means.

    Finite up to a probability of 1, where the odds are infinite.

    Args:
      mean_w: Mean log-probability per token of the chosen answer, ``[B]``.
      mean_l: Mean log-probability per token of the rejected answer, ``[B]``.
      weight: Weight ``lambda`` of the odds ratio's term, at least 0.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Hong et al., arXiv 2403.07691, eqs. 6 and 7.
    """
    require_range("weight", weight, 0)
    # A logarithm of nearly 1 may be rounded above 0.
    require_range("mean_w", mean_w, high=1e-4)
    require_range("mean_l", mean_l, high=1e-4)
    mean_w, mean_l = _pair(mean_w, mean_l, ("mean_w", "mean_l"))
    return -mean_w - weight * log_sigmoid(_log_odds(mean_w) - _log_odds(mean_l))


def _log_odds(logp):
    """``log p - log(1 - p)``, with ``p`` kept a rounding error away from 1."""
    nearest = -jnp.finfo(logp.dtype).tiny
    inside = logp < nearest
    logp = jnp.where(inside, logp, nearest)
    return logp - jnp.log(-jnp.expm1(logp))


def cpo(logp_w: Array, logp_l: Array, *, beta: float = 0.1, nll: float = 1.0) -> Array:
    """``-log s(beta (logp_w - logp_l)) - nll logp_w``: DPO against a uniform reference.

    Args:
      logp_w: Log-probability of the chosen answer, ``[B]``.
      logp_l: Log-probability of the rejected answer, ``[B]``.
      beta: Scale of the margin of log-probabilities, positive.
      nll: Weight of the likelihood; TRL takes that per token, the paper's sums.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Xu et al., arXiv 2401.08417.
    """
    require_range("beta", beta, 0, inside=True)
    require_range("nll", nll, 0)
    logp_w, logp_l = _pair(logp_w, logp_l, ("logp_w", "logp_l"))
    return -log_sigmoid(beta * (logp_w - logp_l)) - nll * logp_w


def bradley_terry(
    r_w: Array, r_l: Array, *, margin: Array | float = 0.0, center: float = 0.0
) -> Array:
    """``-log s(r_w - r_l - margin) + center (r_w + r_l)^2``: a reward model's loss.

    Args:
      r_w: Reward of the chosen answer, ``[B]``.
      r_l: Reward of the rejected answer, ``[B]``.
      margin: Margin of reward by which the chosen answer should be better, scalar or
        ``[B]``.
      center: Weight of the term that pulls the sum of both rewards to 0, at least 0; 0
        leaves it free.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Bradley and Terry (1952); margin Llama 2, arXiv 2307.09288, eq. 2; centre
    arXiv 2312.09244.
    """
    require_shape("r_l", r_l, jnp.shape(r_w))
    r_w, r_l = at_least_float32(r_w, "r_w"), at_least_float32(r_l, "r_l")
    require_shape("margin", margin, (), r_w.shape)
    require_range("center", center, 0)
    return -log_sigmoid(r_w - r_l - margin) + center * jnp.square(r_w + r_l)
