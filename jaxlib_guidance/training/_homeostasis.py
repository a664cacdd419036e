"""A learning rate that follows a need: it moves only where moving would have helped.

The network's own answer says which way the rate would go (for digits, up for a 5 or
more), a trial of both rates on what was seen last says whether it goes, and the truth
says which way it goes then. A network that answers wrongly moves its rate wrongly.
"""

import jax.numpy as jnp

from jaxlib_guidance.types import Array, at_least_float32, concrete


def shifted_rate(
    rate: float | Array, up: bool | Array, *, step: float, floor: float = 1e-8
) -> Array:
    """``max(rate + step, floor)`` where ``up``, else ``max(rate - step, floor)``.

    Args:
      rate: Learning rate, scalar.
      up: Whether the need is for a larger rate, scalar: by the predicted class for the
        rate to try, by the true class for the rate to keep.
      step: How far the rate moves, positive; a tenth of the first rate in the paper's
        code.
      floor: Smallest rate, positive.

    Returns:
      Float32 scalar.

    Raises:
      ValueError: ``step`` or ``floor`` that is known and not positive.
    """
    for name, value in (("step", step), ("floor", floor)):
        known = concrete(value)
        if known is not None and not (known > 0).all():
            raise ValueError(f"{name} is {value}; expected a positive number")
    rate = at_least_float32(jnp.asarray(rate))
    return jnp.maximum(jnp.where(up, rate + step, rate - step), floor)


def homeostatic_rate(
    rate: float | Array,
    kept: float | Array,
    tried: float | Array,
    up: bool | Array,
    *,
    step: float,
    floor: float = 1e-8,
) -> Array:
    """The rate after a decision: `shifted_rate` where the trial was better.

    Args:
      rate: Learning rate ``eta``, scalar.
      kept: Accuracy on what was seen last after a trial step with ``eta``, scalar.
      tried: Accuracy there after a trial step with `shifted_rate` of ``eta`` by the
        *predicted* class, scalar; only a strictly better one moves the rate.
      up: Whether the *true* class asks for a larger rate, scalar.
      step: How far the rate moves, positive.
      floor: Smallest rate, positive.

    Returns:
      Float32 scalar.

    Raises:
      ValueError: ``step`` or ``floor`` that is known and not positive.

    Reference: Man, Damasio, Neven, arXiv 2205.08645; ``lrh.py`` of
    github.com/kingsonman/homeostatic-neural-networks.
    """
    moved = shifted_rate(rate, up, step=step, floor=floor)
    return jnp.where(tried > kept, moved, at_least_float32(jnp.asarray(rate)))
