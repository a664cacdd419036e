"""Several experts' distributions over the same classes, as one.

Modalities, views, classifiers or judges each give logits; a missing one is masked. How
sure an expert is says how much it counts, and nothing is learned: so experts may come
and go between samples. All of it is in log space.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import divide, known_false, mask_like, require_shape
from jaxlib_guidance.types import Array, at_least_float32, require_array

CONFIDENCES = ("probability", "entropy")
POOLS = ("mixture", "product")


def fusion_weights(
    logits: Array,
    mask: Array | None = None,
    *,
    confidence: str = "probability",
    temperature: Array | float = 1.0,
) -> Array:
    """How much each expert counts: ``w_m = softmax_m(c_m / tau + log mask_m)``.

    ``c_m = max_y log p_m(y)`` for "probability", so that at ``tau = 1`` an expert
    counts as its most probable class; for "entropy" ``c_m = sum_y p_m(y) log p_m(y)``.
    The weights serve features too: ``jnp.einsum("...m,...mh->...h", w, h)``.

    Args:
      logits: Logits or log-probabilities of ``M`` experts ``[..., M, C]``; ``-inf`` is
        a class that an expert excludes. An expert whose logits are no distribution
        (NaN, ``inf``, all of them ``-inf``) is missing.
      mask: 0 where an expert is missing, whose logits may be anything, and elsewhere a
        factor of its weight, such as 1, ``[..., M]``; None keeps all.
      confidence: What a sure expert has much of: "probability" or "entropy".
      temperature: Temperature ``tau`` above 0. Towards 0 the surest expert alone is
        left; ``inf`` weighs all alike. Confidences that are compared across experts
        should be calibrated alike.

    Returns:
      Weights ``[..., M]``, float32, which sum to 1; all 0 where no expert is known.
      Gradients go through them; ``jax.lax.stop_gradient`` holds them fixed.

    Raises:
      TypeError: A list of arrays as ``logits``: stack them along axis -2.
      ValueError: Unknown ``confidence``, a temperature that is no number above 0,
        logits without axes of experts and classes, a mask of another shape or a
        negative one.

    Reference: after Shou et al., arXiv 2404.17858, which weighs modalities by the
      probabilities of the labels that they predict.
    """
    if confidence not in CONFIDENCES:
        raise ValueError(f"confidence is {confidence!r}; expected one of {CONFIDENCES}")
    require_array("temperature", temperature, "a number")
    require_shape("temperature", temperature, ())
    if known_false(lambda tau: tau > 0, temperature):
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    log_p, known = _log_probabilities(logits)
    factor = mask_like(mask, known).astype(log_p.dtype)
    known &= factor > 0
    if confidence == "probability":
        sure = jnp.max(log_p, -1)
    else:
        sure = jnp.sum(jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0), -1)
    score = sure / jnp.asarray(temperature, log_p.dtype)
    score += jnp.log(jnp.where(known, factor, 1))
    # Where no expert is known a softmax over nothing would be NaN, its gradient too.
    some = jnp.any(known, -1, keepdims=True)
    score = jnp.where(known, score, jnp.where(some, -jnp.inf, 0))
    return jnp.where(known, jax.nn.softmax(score, -1), 0)


def weighted_experts(logits: Array, weights: Array, *, pool: str = "mixture") -> Array:
    """One distribution of several experts, each of a weight of its own.

    With weights made to sum to 1, "mixture" is ``log sum_m w_m p_m(y)``, which an
    expert that knows nothing flattens, and "product" is ``sum_m w_m log p_m(y)`` made
    to a distribution, to which it adds nothing, and in which one may veto a class.

    Args:
      logits: Logits or log-probabilities ``[..., M, C]``, as in `fusion_weights`.
      weights: Weights ``[..., M]``, not negative; 0 for an expert that is missing.
      pool: How distributions are joined: "mixture" or "product".

    Returns:
      Log-probabilities ``[..., C]``, float32; NaN, of no gradient, where no expert with
      a weight is known, and where the experts of a product exclude every class.

    Raises:
      TypeError: A list of arrays as ``logits``: stack them along axis -2.
      ValueError: Unknown ``pool``, logits without axes of experts and classes, or
        weights of another shape or negative ones.
    """
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; expected one of {POOLS}")
    log_p, known = _log_probabilities(logits)
    weights = mask_like(weights, known, "weights").astype(log_p.dtype)
    known &= weights > 0
    weights = jnp.where(known, weights, 0)
    weights = divide(weights, jnp.sum(weights, -1, keepdims=True))[..., None]
    # Each expert of weight 0 and each excluded class leaves before the formula, whose
    # gradient would be NaN there.
    possible = log_p > -jnp.inf
    terms = jnp.where(possible & known[..., None], log_p, 0)
    if pool == "mixture":
        left = jnp.any(possible & known[..., None], -2)
        share = jnp.where(possible, weights, 0)
        share = jnp.where(left[..., None, :], share, 1)
        fused = jnp.where(left, jax.nn.logsumexp(terms, -2, b=share), -jnp.inf)
    else:
        left = jnp.all(possible | ~known[..., None], -2)
        fused = jnp.where(left, jnp.sum(weights * terms, -2), -jnp.inf)
    some = jnp.any(known, -1, keepdims=True) & jnp.any(left, -1, keepdims=True)
    fused = jnp.where(some, fused, 0)
    return jnp.where(some, jax.nn.log_softmax(fused, -1), jnp.nan)


def probability_fusion(
    logits: Array,
    mask: Array | None = None,
    *,
    confidence: str = "probability",
    temperature: Array | float = 1.0,
    pool: str = "mixture",
) -> Array:
    """One distribution of several experts, each of the weight of its confidence.

    `weighted_experts` with the weights of `fusion_weights`. The result may be given on
    as logits: to a loss, or to `classifier_guidance` as one classifier.

    Args:
      logits: Logits or log-probabilities of ``M`` experts ``[..., M, C]``.
      mask: 0 where an expert is missing, ``[..., M]``; None keeps all.
      confidence: What a sure expert has much of: "probability" or "entropy".
      temperature: Temperature of the weights, above 0; ``inf`` weighs all alike.
      pool: How distributions are joined: "mixture" or "product".

    Returns:
      Log-probabilities ``[..., C]``, float32; NaN where no expert is known.

    Raises:
      TypeError: A list of arrays as ``logits``: stack them along axis -2.
      ValueError: As `fusion_weights` and `weighted_experts` do.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxlib_guidance.models import probability_fusion
      >>> p = jnp.asarray([[0.9, 0.1], [0.4, 0.6]])  # One expert is surer.
      >>> print(jnp.exp(probability_fusion(jnp.log(p))).round(2))
      [0.7 0.3]

    Reference: after Shou et al., arXiv 2404.17858.
    """
    weights = fusion_weights(
        logits, mask, confidence=confidence, temperature=temperature
    )
    return weighted_experts(logits, weights, pool=pool)


def _log_probabilities(logits):
    """Log-probabilities ``[..., M, C]``, and which experts have any ``[..., M]``."""
    require_array("logits", logits)
    if jnp.ndim(logits) < 2 or 0 in jnp.shape(logits)[-2:]:
        raise ValueError(
            f"logits have shape {jnp.shape(logits)}; expected [..., M, C] of experts "
            "and classes"
        )
    logits = at_least_float32(logits)
    known = jnp.isfinite(jax.nn.logsumexp(jax.lax.stop_gradient(logits), -1))
    return jax.nn.log_softmax(jnp.where(known[..., None], logits, 0), -1), known
