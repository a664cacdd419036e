"""Learning by predicting latents of what is hidden, or of what a known motion shows.

A teacher, an average of the network (`ema_update`), sees the whole; the network sees a
part, and predicts what the teacher makes of the rest. With ``t = latent_targets(h)`` of
the teacher's ``h [B, P, D]`` for ``P`` patches, masked prediction is
``masked_mean(latent_loss(patches, t), hidden)``, and prediction of another view
``latent_loss(view, t_other.mean(1))``.
"""

import jax
import jax.numpy as jnp
import optax

from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array, at_least_float32, require_array


def latent_targets(latents: Array) -> Array:
    """What is to be predicted: ``(h - mean h) / sqrt(var h + 1e-5)``, held fixed.

    Mean and variance are over the features, so that a teacher cannot make its latents
    easy by making them small.

    Args:
      latents: Latents of the teacher ``[..., D]``.

    Returns:
      Float32 ``[..., D]``, of no gradient.

    Reference: the released code of I-JEPA, arXiv 2301.08243.
    """
    latents = at_least_float32(latents)
    middle = latents - jnp.mean(latents, -1, keepdims=True)
    spread = jnp.mean(middle**2, -1, keepdims=True)
    return jax.lax.stop_gradient(middle / jnp.sqrt(spread + 1e-5))


def latent_loss(predicted: Array, targets: Array) -> Array:
    """Smooth L1: ``mean_d (e^2 / 2 if |e| < 1 else |e| - 1/2)``.

    Args:
      predicted: Predicted latents ``[..., D]``, whatever they are of.
      targets: What they should be, as `latent_targets` gives it.

    Returns:
      Loss of each latent ``[...]``, float32; no gradient goes to ``targets``.

    Raises:
      ValueError: Two shapes.

    Reference: I-JEPA's released code, which says "smooth L1" for masked patches; Yue et
    al., arXiv 2504.13065, for latents of a view after a known motion as well.
    """
    predicted = at_least_float32(predicted)
    require_shape("targets", targets, predicted.shape)
    targets = jax.lax.stop_gradient(at_least_float32(targets))
    return jnp.mean(optax.huber_loss(predicted, targets, delta=1.0), -1)


def contrastive_loss(a: Array, b: Array, *, temperature: Array | float = 0.1) -> Array:
    """Each of a pair has to find the other among all rows of both.

    ``-log exp(s(a_i, b_i) / tau) / sum_k exp(s(a_i, k) / tau)``, the sum over all rows
    but ``a_i`` itself, ``s`` the cosine; the mean of this and of the same for ``b_i``.

    Args:
      a: One of each pair ``[N, D]``, such as predictions.
      b: The other ``[N, D]``, such as what came; gradients go to both.
      temperature: Temperature ``tau`` above 0.

    Returns:
      Loss of each pair ``[N]``, float32.

    Raises:
      ValueError: Two shapes, another number of axes, or a temperature that is no number
        above 0.

    Reference: Chen et al., SimCLR, arXiv 2002.05709, eq. 1.
    """
    require_array("a", a)
    require_array("b", b)
    if jnp.ndim(a) != 2:
        raise ValueError(f"a has shape {jnp.shape(a)}; expected [N, D]")
    require_shape("b", b, jnp.shape(a))
    require_shape("temperature", temperature, ())
    if known_false(lambda tau: tau > 0, temperature):
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    count = len(a)
    rows = at_least_float32(jnp.concatenate([a, b]))
    rows /= jnp.sqrt(jnp.sum(rows**2, -1, keepdims=True) + 1e-12)
    logits = rows @ rows.T / temperature
    logits = jnp.where(jnp.eye(2 * count, dtype=bool), -jnp.inf, logits)
    other = jnp.roll(jnp.arange(2 * count), count)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, other)
    return jnp.mean(each.reshape(2, count), 0)
