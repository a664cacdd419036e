"""Classifiers that are experts of a range of noise, stacked in one program."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, PyTree, at_least_float32


def expert_index(t: Any, horizon: Any, experts: int) -> Array:
    """``clip(floor(t N / T), 0, N - 1)``: the expert of each time.

    Expert ``n`` has the half-open slice ``[n T / N, (n + 1) T / N)``, the last one
    ``T`` itself too.

    Args:
      t: Times, scalar or ``[B]``.
      horizon: Largest time ``T``, above 0, such as 1 or 1000.
      experts: Number of experts ``N``, at least 1.

    Returns:
      Indices int32, of the shape of ``t``.

    Raises:
      ValueError: No expert.

    Reference: PPAP, arXiv 2212.05973, section 4. Its released code gives the time at a
      border to both slices and looks at the first sample's time alone.
    """
    if experts < 1:
        raise ValueError(f"experts is {experts}; expected at least 1")
    index = jnp.floor(jnp.asarray(t, jnp.float32) * experts / horizon)
    return jnp.clip(index, 0, experts - 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Experts:
    """Stacked experts as one classifier. Build it with `experts`.

    Attributes:
      classifier: ``(params, x [B, *S], t [B]) -> logits [B, C]`` of one expert.
      horizon: Largest time.
      merge: ``(shared, own) -> params``, or None.
      shared: Whether all samples have one time.
    """

    classifier: Callable[..., Array]
    horizon: float = 1.0
    merge: Callable[..., PyTree] | None = None
    shared: bool = False

    def __call__(self, params: PyTree, x: Array, t: Array) -> Array:
        """Logits of each sample's expert.

        Args:
          params: Parameters of the experts, stacked: leaves lead with their number
            ``N``; with ``merge`` the pair of what they share and their own, stacked.
          x: Samples ``[B, *S]``.
          t: Times, scalar for all samples, which runs one expert, or ``[B]``.

        Returns:
          Logits ``[B, C]``.
        """
        stacked = params if self.merge is None else params[1]
        count = jax.tree.leaves(stacked)[0].shape[0]
        index = expert_index(t, self.horizon, count)

        def chosen(i):
            own = jax.tree.map(lambda leaf: leaf[i], stacked)
            return own if self.merge is None else self.merge(params[0], own)

        if self.shared or index.ndim == 0:
            return self.classifier(chosen(index.reshape(-1)[0]), x, t)

        def one(i, x, t):
            return self.classifier(chosen(i), x[None], t[None])[0]

        return jax.vmap(one)(index, x, jnp.asarray(t))


def experts(
    classifier: Callable[..., Array],
    horizon: float = 1.0,
    merge: Callable[..., PyTree] | None = None,
    shared: bool = False,
) -> Experts:
    """Makes one classifier of experts, for `classifier_guidance` with ``params``.

    One gather a sample and one program, whatever the number of experts. Stack them by
    ``jax.tree.map(lambda *leaves: jnp.stack(leaves), *list_of_params)``.

    Args:
      classifier: ``(params, x [B, *S], t [B]) -> logits [B, C]`` of one expert; a
        function of a module, so that a term that is built anew does not compile anew.
      horizon: Largest time ``T`` of the slices ``[n T / N, (n + 1) T / N)``.
      merge: Function ``(shared, own) -> params`` for small experts, such as
        `lora_merge`; None for experts that share nothing.
      shared: Whether all samples have one time, as in `sample` with any solver that is
        not adaptive. The first sample's time then chooses for all, and no parameters
        are gathered by sample, which for convolutions on a CPU is much faster.

    Returns:
      A function ``(params, x, t) -> logits``.

    Raises:
      ValueError: A largest time of 0 or less.

    Reference: PPAP, arXiv 2212.05973.
    """
    if not horizon > 0:
        raise ValueError(f"horizon is {horizon}; expected above 0")
    return Experts(classifier, horizon, merge, shared)


def transfer_kl(student: Array, teacher: Array, temperature: Any = 0.25) -> Array:
    """``mean_k p_k log(p_k / q_k)``, ``p = softmax(f_T / tau)``, ``q = softmax(f_S)``.

    The loss of a student that learns a clean classifier's view of noisy samples without
    labels. The divergence is divided by the number of classes.

    Args:
      student: Logits ``f_S [B, C]`` of noisy samples.
      teacher: Logits ``f_T [B, C]`` of the same samples without noise; no gradient goes
        through them.
      temperature: Temperature ``tau`` of the teacher, above 0; below 1 sharpens it.

    Returns:
      Losses ``[B]``, float32.

    Raises:
      ValueError: Logits of different shapes.

    Reference: PPAP, arXiv 2212.05973, and its released code.
    """
    if jnp.shape(student) != jnp.shape(teacher) or jnp.ndim(student) != 2:
        raise ValueError(
            f"student and teacher have shapes {jnp.shape(student)} and "
            f"{jnp.shape(teacher)}; expected [B, C] for both"
        )
    target = jax.lax.stop_gradient(at_least_float32(teacher)) / temperature
    log_p = jax.nn.log_softmax(target)
    log_q = jax.nn.log_softmax(at_least_float32(student))
    return jnp.mean(jnp.exp(log_p) * (log_p - log_q), axis=-1)
