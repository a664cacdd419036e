"""Self-attention guidance: away from the estimate blurred where attention looks."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._pixels import to_pixels
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class SelfAttentionGuidance:
    """A contrast with the degraded estimate. Build it with `sag`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      sigma: Standard deviation of the blur in pixels, scalar or ``[B]``.
      threshold: Attention, over the average, above which a token is blurred.
      site: Self-attention site (static).
      worse: Name of the degraded branch (static).
    """

    weight: Array | float
    sigma: Array | float
    threshold: Array | float
    site: str = static(default="mid/attn")
    worse: str = static(default="sag")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, for its map."""
        return {BASE: Branch(ctx.cond, capture=((self.site, _received),))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds what the degraded branch does not bring back."""
        maps, x0 = evals.maps[BASE], evals.x0[BASE]
        if self.site not in maps:
            raise ValueError(
                f"sag's site is {self.site!r}; expected the full name of one site, as "
                f"{sorted(maps)}"
            )
        threshold = per_sample(self.threshold, maps[self.site], "sag's threshold")
        where = to_pixels(maps[self.site] > threshold, x0.shape[1:], "sag's site")
        blurred = jnp.where(where, _blur(x0, self.sigma), x0)
        # The same noise again.
        x = ctx.x + ctx.alpha * (blurred - x0)
        if evals.evaluate is None:
            raise ValueError("sag evaluates the network again; evals has no evaluate")
        again = evals.evaluate({self.worse: Branch(ctx.cond, x=x)}).x0[self.worse]
        weight = per_sample(self.weight, delta, "sag's weight")
        return delta + weight * (blurred - again), state


def _received(probs):
    """Attention that each token receives, 1 on average: ``[B, M]``."""
    if probs.ndim != 4 or probs.shape[2] != probs.shape[3]:
        raise ValueError(
            f"sag's site has a map of shape {probs.shape}; expected self-attention, "
            "[B, H, M, M]"
        )
    return jnp.sum(jnp.mean(probs, axis=1), axis=1)


def _blur(x, sigma):
    """Gaussian blur along all axes but batch and channels; weights sum to 1."""
    sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[:1])
    rate = divide(jnp.ones_like(sigma), sigma)[:, None, None]
    for axis in range(1, x.ndim - 1):
        place = jnp.arange(x.shape[axis])
        square = jnp.square((place[:, None] - place).astype(jnp.float32))
        alone = jnp.eye(x.shape[axis])
        weight = jnp.where(rate > 0, jnp.exp(-0.5 * square * rate**2), alone)
        weight = weight / jnp.sum(weight, -1, keepdims=True)
        moved = jnp.moveaxis(x, axis, 1)
        mixed = jnp.einsum(
            "bij,bj...->bi...", weight, moved, precision=jax.lax.Precision.HIGHEST
        )
        x = jnp.moveaxis(mixed, 1, axis)
    return x


@method(
    "attention",
    "D(x) + w (B - D(x')), B blurred where attention > average, x' with x's noise",
    space="features",
    evaluations=2,
    source="2210.00939",
    law="test_sag_is_its_formula",
    example={"site": "block1/attn"},
    shape=(8, 8, 1),
)
def sag(
    weight: Any,
    site: str,
    sigma: Any = 2.0,
    threshold: Any = 1.0,
    name: str = "sag",
) -> SelfAttentionGuidance:
    """Self-attention guidance: away from an estimate blurred where attention looks.

    Tokens that receive more self-attention than ``threshold`` times the average are
    blurred in the estimate ``x0``, which gives ``B``; with the noise that ``x`` has
    over ``x0`` this is a state ``x' = x + alpha (B - x0)``, and the term adds ``w (B -
    D(x'))``, which is the contrast of the two noise predictions.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The paper's
        scales are from 0.1 to 1.
      site: Full name of a self-attention site, such as "mid/attn".
      sigma: Standard deviation of the blur in pixels, scalar or ``[B]``. Weights at the
        border are renormalised.
      threshold: Attention over the average above which a token is blurred, scalar or
        ``[B]``.
      name: Name of the degraded branch.

    Returns:
      A guidance term for images ``[H, W, C]`` and sequences ``[L, C]``.

    Raises:
      TypeError: A number that is none.
      ValueError: A negative width.

    Reference: Hong et al., arXiv 2210.00939, algorithm 1. Map, estimate and degraded
      estimate are the caller's condition's, where the paper's text-to-image code takes
      the unconditional ones.
    """
    require_numbers("sag", weight=weight, sigma=sigma, threshold=threshold)
    if known_false(lambda a: a >= 0, sigma):
        raise ValueError(f"sigma is {sigma}; expected a width of at least 0")
    return SelfAttentionGuidance(weight, sigma, threshold, site, name)
