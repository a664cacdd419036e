"""Classifier guidance: the energy of a label under a classifier's logits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import fix, fixed
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._energy import Energy, energy
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import Array, Context, PyTree, at_least_float32, concrete


def joint_logit(
    logits: Array, y: Array, tau1: Array | float = 1.0, tau2: Array | float = 1.0
) -> Array:
    """``tau1 f_y - log sum_k exp(tau2 f_k)``: a classifier's tempered log-density.

    ``tau1 = tau2 = 1`` is ``log p(y | x)``. A smaller ``tau2`` keeps more of the joint
    ``f_y``, whose gradient does not vanish when the classifier is sure; at ``tau2 = 0``
    it is all that is left.

    Args:
      logits: ``f [B, C]``.
      y: Integer labels ``[B]`` in 0, ..., C - 1. Another number is an error where it
        is known while tracing, and elsewhere gives its sample NaN.
      tau1: Factor of the label's own logit, scalar or ``[B]``.
      tau2: Factor of the logits in the normalisation, scalar or ``[B]``.

    Returns:
      Tempered log-densities ``[B]``, float32.

    Raises:
      TypeError: Labels that are not integers.
      ValueError: Logits that are not ``[B, C]``, labels that are not ``[B]`` or are
        none of the classes.

    Reference: Ma et al., EluCD, arXiv 2310.11311.
    """
    logits, y = at_least_float32(logits), jnp.asarray(y)
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {logits.shape} and y {y.shape}; expected [B, C] and [B]"
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"y has type {y.dtype}; expected integer labels")
    classes, known = logits.shape[1], concrete(y)
    if known is not None and not ((known >= 0) & (known < classes)).all():
        wrong = known[(known < 0) | (known >= classes)][0]
        raise ValueError(f"y has label {wrong}; expected 0, ..., {classes - 1}")
    tau1, tau2 = (jnp.asarray(tau, logits.dtype) for tau in (tau1, tau2))
    valid = (y >= 0) & (y < classes)
    chosen = jnp.take_along_axis(logits, jnp.where(valid, y, 0)[:, None], axis=1)[:, 0]
    chosen = jnp.where(valid, chosen, jnp.nan)
    return tau1 * chosen - jax.nn.logsumexp(tau2[..., None] * logits, axis=1)


@dataclasses.dataclass(frozen=True)
class _NegativeLogDensity:
    """``-joint_logit`` of the label, as an energy's function.

    An object that equals another of the same classifier, so that a term that is built
    anew does not compile anew.
    """

    classifier: Callable[..., Array]

    def __call__(self, params: PyTree, x: Array, ctx: Context) -> Array:
        """``[B]``; 0 where the label is none of the classes."""
        weights, labels, tau1, tau2 = params
        args = (x, ctx.t) if weights is None else (weights, x, ctx.t)
        logits = self.classifier(*args)
        if labels is None:
            labels = ctx.cond
            if not hasattr(labels, "dtype"):
                raise ValueError(
                    "classifier_guidance takes its labels from cond when that is an "
                    f"array of labels [B]; cond is {type(labels).__name__}: give labels"
                )
        labels = jnp.asarray(fixed(labels))
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels have type {labels.dtype}; expected integers")
        if labels.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"labels have shape {labels.shape}; expected () or {x.shape[:1]}"
            )
        if logits.shape[:-1] != x.shape[:1]:
            raise ValueError(
                f"the classifier returned shape {logits.shape}; expected logits [B, C] "
                f"with B = {x.shape[0]}"
            )
        labels = jnp.broadcast_to(labels, x.shape[:1])
        valid = (labels >= 0) & (labels < logits.shape[1])
        log_density = joint_logit(logits, jnp.where(valid, labels, 0), tau1, tau2)
        return jnp.where(valid, -log_density, 0)


@method(
    "energy",
    "D + w c(t) grad log p(y | x)",
    space="gradient",
    evaluations=1,
    source="2105.05233",
    alias="classifier",
    law="test_noisy_classifier_moves_the_mean_by_tweedie",
)
def classifier_guidance(
    classifier: Callable[..., Array],
    weight: Any = 1.0,
    labels: Any = None,
    params: PyTree = None,
    *,
    through: str = "noisy",
    tau1: Any = 1.0,
    tau2: Any = 1.0,
    normalize: str | None = None,
) -> Energy:
    """Guidance by a classifier: the energy ``-log p(label | x)``.

    A classifier that gives a log-probability rather than logits is an `energy`.

    Args:
      classifier: ``(x [B, *S], t [B]) -> logits [B, C]``, or ``(params, x, t)`` with
        ``params``. For "noisy" ``x`` is the state, else the estimate of x0.
      weight: Factor of the log-density's gradient, scalar or ``[B]``; 0 is off.
      labels: Integers, scalar or ``[B]``; None takes the caller's condition. A label
        that is none of the classes, such as a null label, leaves its sample alone.
      params: Parameters of the classifier; None for one that takes none.
      through: What the classifier was trained on: "noisy" for noisy data; "denoised" or
        "network" for clean data, see `energy`.
      tau1: Factor of the label's own logit, scalar or ``[B]``; see `joint_logit`.
      tau2: Factor of the logits in the normalisation, scalar or ``[B]``; below 1 the
        gradient does not vanish when the classifier is sure.
      normalize: None for the gradient itself, or "rms" for one of unit root mean square
        in each sample.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight or temperature that is no number.
      ValueError: Unknown ``through`` or ``normalize``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> classifier = lambda x, t: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
      >>> term = jg.classifier_guidance(classifier, 2.0, labels=1)
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VE())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1.0, 0], (1,), guidance=term)
      >>> bool((x < 0).all())
      True

    Reference: Dhariwal and Nichol, arXiv 2105.05233, section 4; the temperatures and
      the use of a classifier of clean images: Ma et al., EluCD, arXiv 2310.11311.
    """
    require_numbers("classifier_guidance", tau1=tau1, tau2=tau2)
    return energy(
        _NegativeLogDensity(classifier),
        weight,
        (params, fix(labels), tau1, tau2),
        through=through,
        normalize=normalize,
    )
