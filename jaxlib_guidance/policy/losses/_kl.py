"""KL divergence to a reference: which estimator, in which place, corrected or not.

The three are separate choices, because an estimator's value and its gradient are
estimates of different things. On policy, with the expectation over tokens,

| in the loss | value | gradient |
|---|---|---|
| k1 | KL(pi, ref) | 0 |
| k2 | a second moment | KL(pi, ref)'s |
| k3 | KL(pi, ref) | KL(ref, pi)'s |
| k1 or k3, ``correction="ratio"`` | KL(pi, ref) | KL(pi, ref)'s |
| k1, ``gradient="k2"`` | KL(pi, ref) | KL(pi, ref)'s |

and in the reward k1 has KL(pi, ref)'s. These are gradients for a given prefix; that the
choice of a token changes the divergence of later ones only the reward can tell.

The table holds only with token sums: "seq_mean_token_sum", "seq_mean_token_scale",
"sum_over_const", and "token_mean" to order ``1 / B``. A mean over each sequence weighs
a prefix by ``1 / |y|``, which the tokens after it decide: k1 then has the gradient of
``E[1 / |y|]``, a pull on lengths that never looks at the reference, and k2 and k3 are
tilted in the same way.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_floating, require_range
from jaxlib_guidance.policy.losses._ratio import importance_ratio, log_ratio
from jaxlib_guidance.reduce import hide, mask_like, require_shape
from jaxlib_guidance.types import Array, require_array

KLEstimator = Literal["k1", "k2", "k3", "abs"]


def kl_estimate(
    logp: Array,
    logp_ref: Array,
    mask: Array | None = None,
    *,
    kind: KLEstimator = "k3",
    limit: float = 20.0,
) -> Array:
    """An estimate of KL(pi, ref) from one sample of pi, ``d = logp - logp_ref``.

    k1 ``d``; k2 ``d^2 / 2``; k3 ``exp(-d) - 1 + d``; abs ``|d|``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, of any
        shape.
      logp_ref: Log-probabilities of the same tokens under the reference, of the shape
        of ``logp``; a constant.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      kind: Estimator of the KL: "k1", "k2", "k3" or "abs", by the formulas above.
      limit: Largest absolute value of ``d``, beyond which it is clipped, as verl does,
        so that k3 stays finite.

    Returns:
      Float32 of the same shape, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown kind.

    Reference: Schulman, "Approximating KL divergence" (2020).
    """
    return _estimate(_log_ratio_to(logp, logp_ref, mask, limit), kind)


def _log_ratio_to(logp, logp_ref, mask, limit):
    require_floating("logp_ref", logp_ref)
    require_shape("logp_ref", logp_ref, jnp.shape(logp))
    return log_ratio(logp, logp_ref, mask, limit=limit)


def _estimate(d: Array, kind: KLEstimator) -> Array:
    """The estimate from a log-ratio ``d`` that was computed."""
    match kind:
        case "k1":
            return d
        case "k2":
            return 0.5 * jnp.square(d)
        case "k3":
            return jnp.expm1(-d) + d
        case "abs":
            return jnp.abs(d)
    raise ValueError(f"kind is {kind!r}; expected one of {get_args(KLEstimator)}")


def _require_kl(kl: KLEstimator | None) -> None:
    """Raises for an estimator that is unknown, or whose gradient in a loss is noise.

    Raises:
      ValueError: None of these.
    """
    if kl == "k1" or kl not in (None, *get_args(KLEstimator)):
        raise ValueError(
            f'kl is {kl!r}; expected "k2", "k3", "abs" or None, and not "k1", whose '
            "gradient in a loss is 0 on average: it belongs in the reward (kl_reward)"
        )


def kl_loss(
    logp: Array,
    logp_ref: Array,
    mask: Array | None = None,
    *,
    kind: KLEstimator = "k3",
    correction: Literal["none", "ratio"] = "none",
    logp_old: Array | None = None,
    gradient: Literal["own", "k2"] = "own",
    limit: float = 20.0,
) -> Array:
    """A KL penalty to add to a loss, of each token. See the table above.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, of any
        shape.
      logp_ref: Log-probabilities of the same tokens under the reference, of the shape
        of ``logp``; a constant.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      kind: Estimator of the KL. GRPO's is k3. Plain k1 raises: its gradient is noise.
      correction: "none", or "ratio" to multiply by the importance ratio, through which
        the gradient goes too (TRL's default since July 2026; DeepSeek-V3.2).
      logp_old: Log-probabilities under the policy that sampled, for "ratio"; None is on
        policy, a ratio of value 1.
      gradient: Whose gradient the penalty has: "own", or "k2" for the value of ``kind``
        with the gradient of k2 (verl's "k3+").
      limit: Largest absolute log-ratio to the reference, which keeps k3 finite.

    Returns:
      Float32 of the same shape, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown or meaningless combination.
    """
    if correction not in ("none", "ratio"):
        raise ValueError(f'correction is {correction!r}; expected "none" or "ratio"')
    if gradient not in ("own", "k2"):
        raise ValueError(f'gradient is {gradient!r}; expected "own" or "k2"')
    if correction == "ratio" and gradient == "k2":
        raise ValueError('correction "ratio" has its own gradient; expected "own"')
    if correction == "none" and logp_old is not None:
        raise ValueError('logp_old has no effect with correction "none"')
    if kind == "k1" and correction == "none" and gradient == "own":
        raise ValueError(
            'kind "k1" in the loss has expected gradient 0; expected another kind, '
            'correction "ratio", gradient "k2", or k1 in the reward (kl_reward)'
        )
    d = _log_ratio_to(logp, logp_ref, mask, limit)
    value = _estimate(d, kind)
    if gradient == "k2":
        through = _estimate(d, "k2")
        return through + jax.lax.stop_gradient(value - through)
    if correction == "ratio":
        old = jax.lax.stop_gradient(logp) if logp_old is None else logp_old
        return value * importance_ratio(logp, old, mask)
    return value


def kl_reward(
    rewards: Array,
    logp: Array,
    logp_ref: Array,
    mask: Array | None = None,
    *,
    beta: float | Array,
    kind: KLEstimator = "k1",
    limit: float = 20.0,
) -> Array:
    """Rewards less ``beta`` times the KL estimate, a constant.

    Per token where ``rewards`` is (before returns are summed, as verl has it; OpenRLHF
    subtracts from advantages after normalising the group). For one reward a sequence
    the sum over its tokens is subtracted, before any baseline, as in TRL's RLOO.

    Args:
      rewards: Rewards of tokens ``[..., T]``, or of sequences ``[...]``.
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_ref: Log-probabilities of the same tokens under the reference, of the shape
        of ``logp``; a constant.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      beta: Coefficient of the KL penalty, at least 0, in the unit of the rewards per
        nat.
      kind: Estimator of the KL: "k1" (unbiased), "k2", "k3" or "abs".
      limit: Largest absolute log-ratio to the reference, which keeps k3 finite.

    Returns:
      Float32 like ``rewards``, gradients stopped.

    Raises:
      ValueError: Mismatched shapes, an unknown kind.
    """
    require_shape("rewards", rewards, jnp.shape(logp), jnp.shape(logp)[:-1])
    require_range("beta", beta, 0)
    penalty = beta * kl_estimate(logp, logp_ref, mask, kind=kind, limit=limit)
    if jnp.shape(rewards) != jnp.shape(logp):
        penalty = jnp.sum(penalty, -1)
        return jax.lax.stop_gradient(hide(rewards, None) - penalty)
    return jax.lax.stop_gradient(hide(rewards, mask) - penalty)


def score_kl(
    logp: Array,
    logp_ref: Array,
    turns: Array,
    beta: Array,
    mask: Array | None = None,
    *,
    kind: KLEstimator = "k2",
) -> Array:
    """A KL penalty with its own coefficient for each turn, of each token.

    SCoRe's first stage holds the first answer with ``beta = (beta_2, 0)`` and lets the
    second learn; its second stage has ``beta_1`` for both. The rewards are
    `score_rewards`.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[B,
        T]``.
      logp_ref: Log-probabilities of the same tokens under the reference, of the shape
        of ``logp``; a constant.
      turns: Turn of each token, integers ``[B, T]`` in ``[0, turns)``.
      beta: Coefficient of each turn, ``[turns]``; the paper has one for both in the
        second stage and 0 for the second answer in the first.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      kind: Estimator of the KL; "k2" has the gradient of the paper's.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Reference: Kumar et al., arXiv 2409.12917.
    """
    require_shape("turns", turns, jnp.shape(logp))
    if jnp.ndim(beta) != 1:
        raise ValueError(f"beta has shape {jnp.shape(beta)}; expected one a turn")
    require_range("beta", beta, 0)
    require_range("turns", turns, 0, jnp.shape(beta)[0] - 1, mask)
    weight = jnp.asarray(beta, jnp.float32)[turns]
    return weight * kl_loss(logp, logp_ref, mask, kind=kind)


def kl_categorical(
    logits: Array,
    logits_ref: Array,
    mask: Array | None = None,
    *,
    direction: Literal["reverse", "forward"] = "reverse",
) -> Array:
    """The divergence itself, a sum over the vocabulary.

    Args:
      logits: Logits of the policy, ``[..., V]``; ``-inf`` forbids a token.
      logits_ref: Logits of the reference, ``[..., V]``; ``-inf`` forbids a token. A
        constant.
      mask: 0 on rows that do not count, which may be NaN, ``[...]``; None keeps all.
      direction: Direction of the divergence: "reverse" KL(pi, ref), "forward" KL(ref,
        pi). The first's support must lie in the second's, else it is infinite.

    Returns:
      Float32 ``[...]``, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown direction.
    """
    if direction not in ("reverse", "forward"):
        raise ValueError(f'direction is {direction!r}; expected "reverse" or "forward"')
    require_shape("logits_ref", logits_ref, jnp.shape(logits))
    logp, legal = _log_softmax(logits, mask)
    ref, legal_ref = _log_softmax(jax.lax.stop_gradient(logits_ref), mask)
    if direction == "forward":
        logp, ref, legal, legal_ref = ref, logp, legal_ref, legal
    each = jnp.where(legal, jnp.exp(logp) * (logp - ref), 0)
    each = jnp.where(legal & ~legal_ref, jnp.inf, each)
    return hide(jnp.sum(each, -1), mask)


def entropy(logits: Array, mask: Array | None = None) -> Array:
    """Entropy in nats, ``-sum p log p``; subtract it from a loss as a bonus.

    Args:
      logits: Logits ``[..., V]``; ``-inf`` forbids a token. A row in which nothing is
        allowed has the result 0.
      mask: 0 on rows that do not count, which may be NaN, ``[...]``; None keeps all.

    Returns:
      Float32 ``[...]``, 0 where masked.
    """
    logp, legal = _log_softmax(logits, mask)
    return hide(-jnp.sum(jnp.where(legal, jnp.exp(logp) * logp, 0), -1), mask)


def _log_softmax(logits: Array, mask: Array | None) -> tuple[Array, Array]:
    """Log-probabilities with 0 for what is forbidden, and what is not forbidden.

    Rows that are masked are those of uniform logits and see no gradient.
    """
    require_array("logits", logits)
    rows = jnp.broadcast_to(
        mask_like(mask, logits[..., 0])[..., None], jnp.shape(logits)
    )
    logits = hide(logits, rows)
    # Not `logits > -inf`, for which NaN would be forbidden and so leave no trace.
    legal = logits != -jnp.inf
    # A row in which nothing is allowed has no distribution: log_softmax never sees it.
    some = jnp.any(legal, -1, keepdims=True)
    logp = jax.nn.log_softmax(jnp.where(some, logits, 0), -1)
    return jnp.where(legal, logp, 0), legal
