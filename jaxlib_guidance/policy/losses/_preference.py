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

from jaxlib_guidance.policy._ranges import require_floating, require_range
from jaxlib_guidance.reduce import (
    divide,
    mask_like,
    masked_sum,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32, concrete, require_array

log_sigmoid = jax.nn.log_sigmoid


def sequence_logp(
    logp: Array, mask: Array | None = None, *, mean: bool = False
) -> Array:
    """Sum, or mean, of tokens' log-probabilities: ``[..., T]`` to ``[...]``.

    Args:
      logp: Log-probabilities of the answer's tokens, ``[..., T]``.
      mask: 1 on the answer's tokens, 0 elsewhere, ``[..., T]``; None keeps all.
      mean: Whether to divide by the number of tokens, for SimPO, ORPO and
        length-normalised IPO; the default sums.

    Returns:
      Float32 ``[...]``; 0 for an empty answer.
    """
    require_floating("logp", logp)
    total = masked_sum(logp, mask, -1)
    return divide(total, jnp.sum(mask_like(mask, logp), -1)) if mean else total


def _require_answers(name: str, x: Array) -> None:
    """Raises for a list, or more than one number an answer, such as one a token."""
    require_array(name, x)
    if jnp.ndim(x) > 1:
        raise ValueError(
            f"{name} has shape {jnp.shape(x)}; expected [B], one number an answer: "
            "sequence_logp makes it of [B, T], and jax.vmap takes other axes"
        )


def _pair(
    u_w: Array, u_l: Array, names: tuple[str, str] = ("u_w", "u_l")
) -> tuple[Array, Array]:
    """Both in float32, of one shape ``[B]``."""
    _require_answers(names[0], u_w)
    require_shape(names[1], u_l, jnp.shape(u_w))
    return at_least_float32(u_w), at_least_float32(u_l, names[1])


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
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the pull to the reference, positive.
      noise: Rate of wrong labels, in [0, 0.5); 0 trusts all.
      correct: Whether to undo the noise without bias (robust DPO) rather than smooth
        labels (conservative DPO); without noise the two are equal.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Raises:
      ValueError: Mismatched shapes, more axes than one, a noise outside [0, 0.5).

    Reference: DPO, arXiv 2305.18290, eq. 7; robust DPO, arXiv 2403.00409;
    conservative DPO, Mitchell (2023).
    """
    u_w, u_l = _pair(u_w, u_l)
    return _dpo(u_w - u_l, beta, noise, correct)


def _dpo(
    delta: Array,
    beta: float | Array,
    noise: float | Array = 0.0,
    correct: bool = True,
) -> Array:
    """`dpo` of margins ``Delta`` of any shape, in float32."""
    known = concrete(noise)
    if known is not None and not 0 <= known < 0.5:
        raise ValueError(f"noise is {noise}; expected a rate in [0, 0.5)")
    require_range("beta", beta, 0, inside=True)
    delta = beta * delta
    right, wrong = -log_sigmoid(delta), -log_sigmoid(-delta)
    if correct:
        return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)
    return (1 - noise) * right + noise * wrong


def ipo(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``(Delta - 1 / (2 beta))^2``.

    TRL and EasyDeL give it log-ratios *per token* (``sequence_logp(..., mean=True)``),
    as the authors told TRL; OpenRLHF sums.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the reference, positive; the margin wanted is ``1 / (2 beta)``.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Azar et al., arXiv 2310.12036, eq. 17.
    """
    require_range("beta", beta, 0, inside=True)
    u_w, u_l = _pair(u_w, u_l)
    return jnp.square(u_w - u_l - 1 / (2 * beta))


def hinge(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``relu(1 - beta Delta)``.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the pull to the reference, positive.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: SLiC, arXiv 2305.10425; as in RSO, arXiv 2309.06657.
    """
    require_range("beta", beta, 0, inside=True)
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
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the pull to the reference, positive.
      noise: Rate ``e`` of wrong labels, in (0, 0.5).

    Returns:
      Float32 ``[B]``, one loss a pair.

    Raises:
      ValueError: Mismatched shapes, a noise outside (0, 0.5).

    Reference: Ji et al., arXiv 2402.00856; TRL's ``exo_pair``.
    """
    known = concrete(noise)
    if known is not None and not 0 < known < 0.5:
        raise ValueError(f"noise is {noise}; expected a rate in (0, 0.5)")
    require_range("beta", beta, 0, inside=True)
    u_w, u_l = _pair(u_w, u_l)
    delta = beta * (u_w - u_l)
    right = jax.nn.sigmoid(delta) * (log_sigmoid(delta) - jnp.log1p(-noise))
    return right + jax.nn.sigmoid(-delta) * (log_sigmoid(-delta) - jnp.log(noise))


def nca(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``-log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2`` with ``r = beta u``.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the pull to the reference, positive.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Chen et al., arXiv 2402.05369; TRL's ``nca_pair``.
    """
    require_range("beta", beta, 0, inside=True)
    u_w, u_l = _pair(u_w, u_l)
    r_w, r_l = beta * u_w, beta * u_l
    return -log_sigmoid(r_w) - 0.5 * (log_sigmoid(-r_w) + log_sigmoid(-r_l))


def sppo(u_w: Array, u_l: Array, *, beta: float = 0.1) -> Array:
    """``(u_w - 1 / (2 beta))^2 + (u_l + 1 / (2 beta))^2``: each answer by itself.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the reference, positive; each log-ratio wanted is ``+-1 / (2
        beta)``.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Wu et al., arXiv 2405.00675, with win rates 1 and 0; TRL's
    ``sppo_hard``.
    """
    require_range("beta", beta, 0, inside=True)
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
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      anchor: "zero" for answers better than the policy's, "down" for a policy better
        than the answers.
      beta: Strength of the pull to the reference, positive.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Raises:
      ValueError: Mismatched shapes, an unknown anchor.

    Reference: D'Oosterlinck et al., arXiv 2408.06266.
    """
    if anchor not in ("zero", "down"):
        raise ValueError(f'anchor is {anchor!r}; expected "zero" or "down"')
    require_range("beta", beta, 0, inside=True)
    u_w, u_l = _pair(u_w, u_l)
    if anchor == "zero":
        return jax.nn.sigmoid(-beta * u_w) + jax.nn.sigmoid(beta * u_l)
    return jax.nn.sigmoid(beta * u_w) + jax.nn.sigmoid(-beta * (u_w - u_l))


def discopop(u_w: Array, u_l: Array, *, beta: float = 0.1, tau: float = 0.05) -> Array:
    """``(1 - m) -log s(beta Delta) + m exp(-beta Delta)``, ``m = s(beta Delta / tau)``.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      beta: Strength of the pull to the reference, positive.
      tau: Width of the passage from the one to the other, less than 1: beyond it the
        loss of a wrong pair grows exponentially.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Reference: Lu et al., arXiv 2406.08414 ("log ratio modulated loss").
    """
    require_range("beta", beta, 0, inside=True)
    require_range("tau", tau, 0, inside=True)
    u_w, u_l = _pair(u_w, u_l)
    delta = beta * (u_w - u_l)
    # As one exponential: m underflows where exp(-delta) overflows.
    modulated = jnp.exp(log_sigmoid(delta / tau) - delta)
    return jax.nn.sigmoid(-delta / tau) * -log_sigmoid(delta) + modulated
