"""DPO with another divergence, by quantiles, for data of another policy, or by length.

Log-ratios are those of the whole answer to a reference, as `dpo` takes them. TRL has
all of these losses; `wpo_weight` follows the authors' code too.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.losses._preference import _dpo, _require_answers, dpo
from jaxlib_guidance.reduce import hide, mask_like, masked_sum, require_shape
from jaxlib_guidance.types import Array, at_least_float32, concrete

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


def f_dpo(
    u_w: Array,
    u_l: Array,
    *,
    divergence: Divergence,
    alpha: float | Array | None = None,
    beta: float | Array = 0.1,
) -> Array:
    """``-log sigmoid(beta (f'(rho_w) - f'(rho_l)))`` with ``rho = exp(u)``.

    ``f`` generates the divergence ``E_ref f(rho)`` that holds the policy to the
    reference, and constants of its derivative cancel:

    | divergence | ``f'(rho)`` | |
    |---|---|---|
    | reverse_kl | ``u`` | DPO |
    | forward_kl | ``-exp(-u)`` | |
    | js | ``log sigmoid(u)`` | Jensen-Shannon |
    | alpha | ``(1 - exp(-alpha u)) / alpha`` | 0 reverse, 1 forward |

    Exponents end at 80, as in TRL, where the gradient then is 0.

    Args:
      u_w: Log-ratio of the chosen answer to the reference, summed over its tokens,
        ``[B]``.
      u_l: Log-ratio of the rejected answer to the reference, summed over its tokens,
        ``[B]``.
      divergence: Name of the divergence, one of the table's rows.
      alpha: Exponent of the divergence "alpha", in [0, 1]; None for the others. TRL's
        coefficient of 2026 is 1 less this one.
      beta: Strength of the pull to the reference, positive.

    Returns:
      Float32 ``[B]``, one loss a pair.

    Raises:
      ValueError: Mismatched shapes, an unknown divergence, an ``alpha`` that is
        missing, has no effect or is out of range.

    Reference: Wang et al., arXiv 2309.16240; TRL's ``f_divergence_type``.
    """
    if divergence not in get_args(Divergence):
        raise ValueError(
            f"divergence is {divergence!r}; expected one of {get_args(Divergence)}"
        )
    if (alpha is not None) != (divergence == "alpha"):
        raise ValueError(
            f'alpha is for divergence "alpha" only; it is {alpha} for {divergence!r}'
        )
    known = None if alpha is None else concrete(alpha)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number in [0, 1]")
    _require_answers("u_w", u_w)
    require_shape("u_l", u_l, jnp.shape(u_w))

    def slope(u):
        u = at_least_float32(u)
        match divergence:
            case "reverse_kl":
                return u
            case "forward_kl":
                return -jnp.exp(jnp.minimum(-u, 80))
            case "js":
                return jax.nn.log_sigmoid(u)
        a = jnp.asarray(alpha, u.dtype)
        near = jnp.where(a == 0, 1, a)
        return jnp.where(a == 0, u, -jnp.expm1(jnp.minimum(-near * u, 80)) / near)

    return dpo(slope(u_w), slope(u_l), beta=beta)


def aot(
    x: Array,
    y: Array,
    mask: Array | None = None,
    *,
    beta: float | Array = 0.1,
    noise: float | Array = 0.0,
) -> Array:
    """`dpo` of quantiles: the i-th smallest of ``x`` against the i-th of ``y``.

    It asks that ``x`` be the greater in distribution, not pair by pair. Unpaired data
    (TRL's "aot_unpaired", the paper's AOT) have ``x = u_w`` and ``y = u_l``; paired
    ones (TRL's "aot") ``x = log pi(y_w) - log pi(y_l)`` and ``y`` the same of the
    reference. Quantiles are of the elements at hand, so under accumulation and inside a
    map over devices each part matches its own.

    Args:
      x: Values of the sample that is to be the greater, ``[B]``.
      y: Values of the sample that is to be the smaller, ``[B]``.
      mask: 0 for elements that neither sample has, which may be NaN, ``[B]``; None
        keeps all.
      beta: Strength of the pull to the reference, positive.
      noise: Rate of wrong labels, in [0, 0.5), as label smoothing in conservative DPO.

    Returns:
      Float32 ``[B]`` in the order of ``x``, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, more axes than one, a noise out of range.

    Reference: Melnyk et al., arXiv 2406.05882; TRL's ``aot`` and ``aot_unpaired``.
    """
    if jnp.ndim(x) != 1:
        raise ValueError(f"x has shape {jnp.shape(x)}; expected [B]")
    require_shape("y", y, jnp.shape(x))
    # What is masked comes last in both, and so meets only its like.
    rank = jnp.argsort(jnp.argsort(hide(x, mask, jnp.inf)))
    matched = jnp.sort(hide(y, mask, jnp.inf))[rank]
    x, matched = hide(x, mask), hide(matched, mask)
    return hide(dpo(x, matched, beta=beta, noise=noise, correct=False), mask)


def log_collision(logits: Array) -> Array:
    """``log sum_v p_v^2``, the log-probability that two samples agree: ``[..., V]``.

    Args:
      logits: Logits ``[..., V]``; ``-inf`` forbids a token. A row in which nothing is
        allowed has the result 0.

    Returns:
      Float32 ``[...]``.
    """
    logits = at_least_float32(logits, "logits")
    # Where nothing is allowed the value is that of `entropy`, 0, with gradient 0.
    some = jnp.any(logits != -jnp.inf, -1)
    logits = jnp.where(some[..., None], logits, 0)
    whole = jax.nn.logsumexp(logits, -1)
    return jnp.where(some, jax.nn.logsumexp(2 * logits, -1) - 2 * whole, 0)


def wpo_weight(
    mean_w: Array, mean_l: Array, *, max_weight: float | Array | None = 1.0
) -> Array:
    """``min(exp(mean_w + mean_l), max_weight)``: pairs the policy might write.

    It multiplies any loss of pairs, so that data of another policy count as if they
    were the policy's own. For "sampled alignment", which both codes have and under
    which a policy's own token has a weight of 1 on average, the means are of ``logp -
    log_collision(logits)``, by `sequence_logp` with ``mean=True``.

    Args:
      mean_w: Mean log-probability per token of the chosen answer, ``[B]``.
      mean_l: Mean log-probability per token of the rejected answer, ``[B]``.
      max_weight: Largest weight; the authors' code has 1. None for no limit, as in TRL.

    Returns:
      Float32 ``[B]``, gradients stopped.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Zhou et al., arXiv 2406.11827; its ``run_wpo.py``; TRL's
    ``use_weighting``.
    """
    _require_answers("mean_w", mean_w)
    require_shape("mean_l", mean_l, jnp.shape(mean_w))
    weight = jnp.exp(at_least_float32(mean_w) + at_least_float32(mean_l, "mean_l"))
    if max_weight is not None:
        require_range("max_weight", max_weight, 0)
        weight = jnp.minimum(weight, max_weight)
    return jax.lax.stop_gradient(weight)


def ld_dpo(
    ratio_w: Array,
    ratio_l: Array,
    mask_w: Array | None = None,
    mask_l: Array | None = None,
    *,
    alpha: float | Array,
    beta: float | Array = 0.1,
) -> Array:
    """`dpo` in which tokens beyond the length of the shorter answer count ``alpha``.

    ``u = sum_{t <= n} u_t + alpha sum_{t > n} u_t`` with ``n`` the shorter's length: a
    longer answer is not better for its length alone. At ``alpha = 1`` it is `dpo`.

    Args:
      ratio_w: Log-ratios to the reference of the chosen answer's tokens,
        ``[..., T_w]``.
      ratio_l: Log-ratios to the reference of the rejected answer's tokens, ``[...,
        T_l]``.
      mask_w: 1 on the chosen answer's tokens, of the shape of ``ratio_w``; None keeps
        all.
      mask_l: 1 on the rejected answer's tokens, of the shape of ``ratio_l``; None keeps
        all.
      alpha: Weight of the longer answer's tokens beyond the shorter one's length, in
        [0, 1]; 1 is `dpo`.
      beta: Strength of the pull to the reference, positive.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Mismatched shapes, an ``alpha`` out of range.

    Reference: Liu et al., arXiv 2409.06411; TRL's ``ld_alpha``.
    """
    known = concrete(alpha)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number in [0, 1]")
    if jnp.ndim(ratio_w) < 1 or jnp.shape(ratio_w)[:-1] != jnp.shape(ratio_l)[:-1]:
        raise ValueError(
            f"ratio_w has shape {jnp.shape(ratio_w)} and ratio_l "
            f"{jnp.shape(ratio_l)}; expected [..., T_w] and [..., T_l]"
        )
    places = [
        jnp.cumsum(mask_like(mask, ratio, name) > 0, -1, dtype=jnp.int32)
        for mask, ratio, name in (
            (mask_w, ratio_w, "mask_w"),
            (mask_l, ratio_l, "mask_l"),
        )
    ]
    shared = jnp.minimum(places[0][..., -1:], places[1][..., -1:])
    u_w, u_l = (
        masked_sum(hide(ratio, mask) * jnp.where(place <= shared, 1, alpha), mask, -1)
        for ratio, mask, place in zip(
            (ratio_w, ratio_l), (mask_w, mask_l), places, strict=True
        )
    )
    return _dpo(u_w - u_l, beta)
