"""Losses of preference pairs, one number for each pair ``[B]``, to be *minimised*.

``u_w``, ``u_l`` are log-ratios of the chosen and the rejected answer to a reference,
``log pi(y) - log pi_ref(y)`` summed over tokens (`sequence_logp`). Losses of a margin
take ``u_w`` and ``u_l``; those without a reference take log-probabilities. Aggregate
with ``reduce.aggregate(loss, pair_mask)``; log-ratios of dropped pairs that may be NaN
go through ``reduce.hide`` first, or their gradients are NaN too.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import (
    divide,
    mask_like,
    masked_mean,
    masked_sum,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32, concrete

log_sigmoid = jax.nn.log_sigmoid
stop = jax.lax.stop_gradient


def sequence_logp(
    logp: Array, mask: Array | None = None, *, mean: bool = False
) -> Array:
    """Sum, or mean, of tokens' log-probabilities: ``[..., T]`` to ``[...]``.

    Args:
      logp: ``[..., T]``.
      mask: Likewise, 1 on the answer.
      mean: Per token, for SimPO, ORPO and length-normalised IPO.

    Returns:
      Float32 ``[...]``; 0 for an empty answer.
    """
    total = masked_sum(logp, mask, -1)
    return divide(total, jnp.sum(mask_like(mask, logp), -1)) if mean else total


def _pair(u_w, u_l):
    require_shape("u_l", u_l, jnp.shape(u_w))
    return at_least_float32(u_w), at_least_float32(u_l)


def dpo(
    u_w: Array,
    u_l: Array,
    *,
    beta: float | Array = 0.1,
    noise: float | Array = 0.0,
    correct: bool = True,
) -> Array:
    """``-log sigmoid(beta Delta)`` with ``Delta = u_w - u_l``.

    With labels that are wrong at a rate ``noise = e``: ``l = -(1 - e) log sigmoid(beta
    Delta) + s e log sigmoid(-beta Delta)``. "Robust" DPO (``correct``) has ``s = 1``
    and divides by ``1 - 2 e``, which is unbiased; conservative DPO, which is label
    smoothing, has ``s = -1``.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Strength of the reference.
      noise: In [0, 0.5).
      correct: See above; with no noise it has no effect.

    Raises:
      ValueError: Shapes that do not fit, a noise outside [0, 0.5).

    Reference: DPO, arXiv 2305.18290, eq. 7; robust DPO, arXiv 2403.00409;
    conservative DPO, Mitchell (2023).
    """
    known = concrete(noise)
    if known is not None and not 0 <= known < 0.5:
        raise ValueError(f"noise is {noise}; expected a rate in [0, 0.5)")
    u_w, u_l = _pair(u_w, u_l)
    delta = beta * (u_w - u_l)
    right, wrong = -log_sigmoid(delta), -log_sigmoid(-delta)
    if correct:
        return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)
    return (1 - noise) * right + noise * wrong


def ipo(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``(Delta - 1 / (2 beta))^2``.

    TRL and EasyDeL give it log-ratios *per token* (``sequence_logp(..., mean=True)``),
    as the authors told TRL; OpenRLHF sums.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: The margin wanted is ``1 / (2 beta)``.

    Reference: Azar et al., arXiv 2310.12036, eq. 17.
    """
    u_w, u_l = _pair(u_w, u_l)
    return jnp.square(u_w - u_l - 1 / (2 * beta))


def hinge(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``relu(1 - beta Delta)``.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Strength of the reference.

    Reference: SLiC, arXiv 2305.10425; as in RSO, arXiv 2309.06657.
    """
    u_w, u_l = _pair(u_w, u_l)
    return jax.nn.relu(1 - beta * (u_w - u_l))


def exo(
    u_w: Array,
    u_l: Array,
    *,
    beta: float | Array = 0.1,
    noise: float | Array = 1e-3,
) -> Array:
    """KL from ``(sigmoid(beta Delta), sigmoid(-beta Delta))`` to smoothed labels.

    ``p log(p / (1 - e)) + (1 - p) log((1 - p) / e)`` with ``p = sigmoid(beta Delta)``:
    the reverse of the divergence that DPO with label smoothing minimises.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Strength of the reference.
      noise: ``e``, in (0, 0.5).

    Raises:
      ValueError: Shapes that do not fit, a noise outside (0, 0.5).

    Reference: Ji et al., arXiv 2402.00856; TRL's ``exo_pair``.
    """
    known = concrete(noise)
    if known is not None and not 0 < known < 0.5:
        raise ValueError(f"noise is {noise}; expected a rate in (0, 0.5)")
    u_w, u_l = _pair(u_w, u_l)
    delta = beta * (u_w - u_l)
    right = jax.nn.sigmoid(delta) * (log_sigmoid(delta) - jnp.log1p(-noise))
    return right + jax.nn.sigmoid(-delta) * (log_sigmoid(-delta) - jnp.log(noise))


def nca(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2`` with ``r = beta u``.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Strength of the reference.

    Reference: Chen et al., arXiv 2402.05369; TRL's ``nca_pair``.
    """
    u_w, u_l = _pair(u_w, u_l)
    r_w, r_l = beta * u_w, beta * u_l
    return -log_sigmoid(r_w) - 0.5 * (log_sigmoid(-r_w) + log_sigmoid(-r_l))


def sppo(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``(u_w - 1 / (2 beta))^2 + (u_l + 1 / (2 beta))^2``: each answer by itself.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Each log-ratio wanted is ``+-1 / (2 beta)``.

    Reference: Wu et al., arXiv 2405.00675, with win rates 1 and 0; TRL's
    ``sppo_hard``.
    """
    u_w, u_l = _pair(u_w, u_l)
    goal = 1 / (2 * beta)
    return jnp.square(u_w - goal) + jnp.square(u_l + goal)


def apo(
    u_w: Array,
    u_l: Array,
    *,
    anchor: Literal["zero", "down"] = "zero",
    beta: float = 0.1,
) -> Array:
    """Preference with an anchor: where the chosen answer itself should go.

    "zero" ``(1 - s(beta u_w)) + s(beta u_l)``: chosen up, rejected down, for answers
    better than the policy's. "down" ``s(beta u_w) + (1 - s(beta Delta))``: both down,
    for a policy better than the answers.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      anchor: See above.
      beta: Strength of the reference.

    Raises:
      ValueError: Shapes that do not fit, an unknown anchor.

    Reference: D'Oosterlinck et al., arXiv 2408.06266.
    """
    if anchor not in ("zero", "down"):
        raise ValueError(f'anchor is {anchor!r}; expected "zero" or "down"')
    u_w, u_l = _pair(u_w, u_l)
    if anchor == "zero":
        return jax.nn.sigmoid(-beta * u_w) + jax.nn.sigmoid(beta * u_l)
    return jax.nn.sigmoid(beta * u_w) + jax.nn.sigmoid(-beta * (u_w - u_l))


def discopop(u_w: Array, u_l: Array, *, beta: float = 0.1, tau: float = 0.05) -> Array:
    """``(1 - m) -log s(beta Delta) + m exp(-beta Delta)``, ``m = s(beta Delta / tau)``.

    Args:
      u_w: ``[B]``.
      u_l: Likewise.
      beta: Strength of the reference.
      tau: Width of the passage from the one to the other, less than 1: beyond it the
        loss of a wrong pair grows exponentially.

    Reference: Lu et al., arXiv 2406.08414 ("log ratio modulated loss").
    """
    u_w, u_l = _pair(u_w, u_l)
    delta = beta * (u_w - u_l)
    # As one exponential: m underflows where exp(-delta) overflows.
    modulated = jnp.exp(log_sigmoid(delta / tau) - delta)
    return jax.nn.sigmoid(-delta / tau) * -log_sigmoid(delta) + modulated


def simpo(
    mean_w: Array, mean_l: Array, *, beta: float = 2.0, margin: float = 1.0
) -> Array:
    """``-log s(beta (mean_w - mean_l) - margin)``: per-token means, no reference.

    TRL's defaults are 0.1 and 0.5; the paper's are beta 2 to 2.5 and a margin of about
    half of that (from memory, unverified).

    Args:
      mean_w: Mean log-probability per token of the chosen answer, ``[B]``.
      mean_l: Of the rejected one.
      beta: Scale.
      margin: ``gamma``.

    Reference: Meng et al., arXiv 2405.14734, eq. 6.
    """
    mean_w, mean_l = _pair(mean_w, mean_l)
    return -log_sigmoid(beta * (mean_w - mean_l) - margin)


def orpo(mean_w: Array, mean_l: Array, *, weight: float = 0.1) -> Array:
    """``-mean_w - weight log s(log odds_w - log odds_l)``, odds of per-token means.

    Finite up to a probability of 1, where the odds are infinite.

    Args:
      mean_w: Mean log-probability per token of the chosen answer, ``[B]``.
      mean_l: Of the rejected one.
      weight: ``lambda``.

    Reference: Hong et al., arXiv 2403.07691, eqs. 6 and 7.
    """
    mean_w, mean_l = _pair(mean_w, mean_l)
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
      logp_l: Of the rejected one.
      beta: Scale.
      nll: Weight of the likelihood; TRL takes that per token, the paper's sums.

    Reference: Xu et al., arXiv 2401.08417.
    """
    logp_w, logp_l = _pair(logp_w, logp_l)
    return -log_sigmoid(beta * (logp_w - logp_l)) - nll * logp_w


def bradley_terry(
    r_w: Array, r_l: Array, *, margin: Array | float = 0.0, center: float = 0.0
) -> Array:
    """``-log s(r_w - r_l - margin) + center (r_w + r_l)^2``: a reward model's loss.

    Args:
      r_w: Reward of the chosen answer, ``[B]``.
      r_l: Of the rejected one.
      margin: By how much the one should be better, scalar or ``[B]``.
      center: Holds the rewards near 0, which the first term does not.

    Raises:
      ValueError: Shapes that do not fit.

    Reference: Bradley and Terry (1952); margin Llama 2, arXiv 2307.09288, eq. 2; centre
    arXiv 2312.09244.
    """
    r_w, r_l = _pair(r_w, r_l)
    require_shape("margin", margin, (), r_w.shape)
    return -log_sigmoid(r_w - r_l - margin) + center * jnp.square(r_w + r_l)


def kto(
    u: Array,
    desirable: Array,
    z: float | Array,
    *,
    beta: float = 0.1,
    weight_desirable: float = 1.0,
    weight_undesirable: float = 1.0,
) -> Array:
    """Answers judged one by one: ``w (1 - s(beta (u - z)))``, or ``z - u`` if not good.

    Args:
      u: Log-ratio of each answer to the reference, ``[B]``.
      desirable: 0 or 1, ``[B]``.
      z: The reference point, from `kto_reference`: scalar, or ``[B]``; a constant.
      beta: Strength of the reference.
      weight_desirable: Weight of desirable answers.
      weight_undesirable: Of the others.

    Raises:
      ValueError: Shapes that do not fit.

    Reference: Ethayarajh et al., arXiv 2402.01306, eq. 8.
    """
    require_shape("desirable", desirable, jnp.shape(u))
    require_shape("z", z, (), jnp.shape(u))
    u, good = at_least_float32(u), jnp.asarray(desirable).astype(bool)
    sign = jnp.where(good, 1.0, -1.0)
    weight = jnp.where(good, weight_desirable, weight_undesirable)
    return weight * jax.nn.sigmoid(-beta * sign * (u - stop(z)))


def kto_reference(
    u_mismatched: Array, mask: Array | None = None, *, axis_name: str | None = None
) -> Array:
    """``max(0, mean u)`` over prompts paired with answers to others: KL(pi, ref).

    Args:
      u_mismatched: Log-ratios of such pairs, ``[B]``.
      mask: Likewise.
      axis_name: Mapped axis over which to average too.

    Returns:
      Scalar, gradients stopped.

    Reference: Ethayarajh et al., arXiv 2402.01306.
    """
    return stop(jnp.maximum(masked_mean(u_mismatched, mask, axis_name=axis_name), 0))
