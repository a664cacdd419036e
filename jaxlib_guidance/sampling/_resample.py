"""Resampling: which particles go on, from their weights. Pure, each group by itself.

A group holds the ``P`` particles of one sample. A rule maps a group's weights ``W`` to
the ancestors of its new particles, so that each particle has ``P W`` descendants on
average; the rules differ in how far the number of descendants strays from that.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.sampling._checks import require_whole
from jaxlib_guidance.types import Array, at_least_float32

Rule = Literal["systematic", "stratified", "multinomial", "residual", "one", "best"]

# Largest float32 below 1: a place in a group's weights never lies behind the last.
BELOW_ONE = 1 - 2.0**-24


@dataclasses.dataclass(frozen=True)
class Resampling:
    """When a group of particles is resampled, and by which rule; part of the program.

    Attributes:
      rule: Rule of `resample`.
      threshold: Share of ``P`` in [0, 1]: a group is resampled when its effective size
        has fallen below it. 0 never resamples; None always does.
      every: Number of steps between two steps at which resampling may take place, the
        first of the grid being one.

    Raises:
      ValueError: Another rule, a threshold outside [0, 1], or ``every`` below 1.
    """

    rule: Rule = "systematic"
    threshold: float | None = 0.5
    every: int = 1

    def __post_init__(self):
        """Raises unless rule and numbers are possible."""
        _require_rule(self.rule)
        require_whole(self.every, "every", 1)
        known = isinstance(self.threshold, (int, float))
        if self.threshold is not None and not (known and 0 <= self.threshold <= 1):
            raise ValueError(
                f"threshold is {self.threshold!r}; expected a number from 0 to 1, or "
                "None to resample always"
            )


def _require_rule(rule: str) -> None:
    """Raises unless ``rule`` is one of `resample`.

    Raises:
      ValueError: Another rule.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule is {rule!r}; expected one of {get_args(Rule)}")


def normalize_weights(log_weights: Array) -> tuple[Array, Array]:
    """``(log W, log sum_p w_p)`` of each group, with ``W`` of sum 1.

    A weight that is NaN counts as 0. Where all weights of a group are 0, ``W`` is even
    and the logarithm of their sum is ``-inf``.

    Args:
      log_weights: ``log w``, ``[B, P]``.

    Returns:
      Float32 ``[B, P]`` and ``[B]``.
    """
    log_weights = at_least_float32(log_weights)
    known = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    total = jax.nn.logsumexp(known, axis=-1)
    some = jnp.isfinite(total)[..., None]
    even = -jnp.log(jnp.asarray(known.shape[-1], known.dtype))
    safe = jnp.where(some, total[..., None], 0)
    return jnp.where(some, known - safe, even), total


def effective_size(log_weights: Array) -> Array:
    """Effective sample size ``1 / sum_p W_p^2`` of each group: from 1 to ``P``.

    Args:
      log_weights: Logarithms of the weights ``[B, P]``, normalised or not.

    Returns:
      Float32 ``[B]``.

    Reference: Kong et al., 1994; Doucet and Johansen, 2009, section 3.5.
    """
    log_weights, _ = normalize_weights(log_weights)
    return jnp.exp(-jax.nn.logsumexp(2 * log_weights, axis=-1))


def resample(keys: Array, log_weights: Array, rule: Rule = "systematic") -> Array:
    """Draws the ancestors of the next particles, each group by itself.

    Args:
      keys: Typed keys ``[B]``, one for each group.
      log_weights: Logarithms of the weights ``[B, P]``, normalised or not.
      rule: "systematic" takes ``(p + u) / P`` in the cumulative weights with one ``u``:
        the number of descendants is within 1 of ``P W``. "stratified" draws a ``u`` for
        each. "multinomial" draws every ancestor independently. "residual" first gives
        each particle ``floor(P W)`` descendants and draws the rest. "one" draws a
        single ancestor for the whole group, "best" takes the one of largest weight.

    Returns:
      Ancestors ``[B, P]``, int32 in 0, ..., P - 1. For even weights "systematic",
      "stratified" and "residual" leave every particle in its place.

    Raises:
      TypeError: Keys that are not typed keys.
      ValueError: Another rule, or weights that are not one row for each key.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> weights = jnp.array([[0.5, 0.25, 0.25, 0.0]])
      >>> keys = jg.sample_keys(jax.random.key(0), 1)
      >>> jg.sampling.resample(keys, jnp.log(weights)).tolist()
      [[0, 0, 1, 2]]

    Reference: Douc et al., cs/0507025, section 2.
    """
    rng.require_keys(keys)
    _require_rule(rule)
    if jnp.ndim(log_weights) != 2 or log_weights.shape[0] != keys.shape[0]:
        raise ValueError(
            f"log_weights has shape {jnp.shape(log_weights)}; expected "
            f"[{keys.shape[0]}, P], a row for each key"
        )
    weights = jnp.exp(normalize_weights(log_weights)[0])
    count = weights.shape[1]
    slots = jnp.arange(count, dtype=jnp.int32)
    if rule == "best":
        first = jnp.argmax(weights, axis=1).astype(jnp.int32)
        return jnp.broadcast_to(first[:, None], weights.shape)
    if rule == "one":
        drawn = _find(weights, rng.uniform(keys, (1,), weights.dtype))
        return jnp.broadcast_to(drawn, weights.shape)
    if rule == "multinomial":
        return _find(weights, rng.uniform(keys, (count,), weights.dtype))
    if rule == "residual":
        kept = jnp.floor(count * weights)
        total = jnp.cumsum(kept, axis=1)
        copies = jax.vmap(lambda t: jnp.searchsorted(t, slots, side="right"))(
            total.astype(jnp.int32)
        )
        rest = count * weights - kept
        drawn = _find(rest, rng.uniform(keys, (count,), weights.dtype))
        ancestors = jnp.where(slots < total[:, -1:].astype(jnp.int32), copies, drawn)
        return jnp.minimum(ancestors, count - 1).astype(jnp.int32)
    u = rng.uniform(keys, (1,) if rule == "systematic" else (count,), weights.dtype)
    return _find(weights, (slots.astype(weights.dtype) + u) / count)


def _find(weights: Array, places: Array) -> Array:
    """The particles in whose parts of the cumulative weights the places in [0, 1) lie.

    Places ``[B, n]`` give ``[B, n]``. A particle of weight 0 has no part.
    """
    ends = jnp.cumsum(weights, axis=1)
    total = ends[:, -1:]
    ends = ends / jnp.where(total > 0, total, 1)
    places = jnp.minimum(places, BELOW_ONE)
    found = jax.vmap(lambda e, p: jnp.searchsorted(e, p, side="right"))(ends, places)
    return jnp.minimum(found, weights.shape[1] - 1).astype(jnp.int32)
