"""Masked reductions as exact (sum, weight) pairs, so that no split changes a loss.

The mean of means depends on how a batch was cut into micro-batches and devices; a sum
and a weight do not. A loss stays per element until `aggregate`, and its parts meet in
`merge` or over a mesh axis before `finalize` divides, once.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, at_least_float32, concrete, require_array

Aggregation = Literal[
    "token_mean",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_mean_token_scale",
    "sum_over_const",
]


class Mean(NamedTuple):
    """A mean that is not yet divided, ``sum / weight``."""

    sum: Array
    weight: Array


class Peak(NamedTuple):
    """A greatest value; over nothing it is ``-inf``."""

    value: Array


class LossOut(NamedTuple):
    """A loss that is not yet divided, and what to report with it.

    Attributes:
      sum: Float32 scalar; differentiate this one.
      weight: Float32 scalar, free of parameters.
      aux: `Mean` and `Peak` by name.
    """

    sum: Array
    weight: Array
    aux: Mapping[str, Any] = {}


def require_shape(name: str, x: Array | float, *shapes: tuple[int, ...]) -> None:
    """Raises unless ``x`` has one of the shapes, or where it is text."""
    require_array(name, x, "numbers", lists=True)
    if jnp.shape(x) not in shapes:
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"{name} has shape {jnp.shape(x)}; expected {expected}")


def known_false(holds: Callable[..., Any], *values: Any) -> bool:
    """Whether the values are known and what they should fulfil does not hold.

    Args:
      holds: Function of the values as numpy that says where they are as they should be,
        such as ``lambda x: x > 0``, so that NaN fails it too.
      *values: Numbers or arrays, which may be traced.

    Returns:
      False while any of them is traced or lies on other hosts.
    """
    known = [concrete(value) for value in values]
    return all(k is not None for k in known) and not np.all(holds(*known))


def mask_like(mask: Array | None, x: Array, name: str = "mask") -> Array:
    """The mask as weights in float32, ones for None.

    Args:
      mask: Boolean, or numbers that are not negative; of ``x``'s shape, or None.
      x: What it masks.
      name: What to call it in the error.

    Raises:
      TypeError: A list.
      ValueError: Another shape than ``x``'s, or known numbers that are negative,
        infinite or NaN.
    """
    if mask is None:
        return jnp.ones(jnp.shape(x), jnp.float32)
    require_array(name, mask)
    require_shape(name, mask, jnp.shape(x))
    known = concrete(mask)
    # Written so that NaN fails too.
    if known is not None and not ((known >= 0) & (known < np.inf)).all():
        raise ValueError(
            f"{name} has values from {known.min()} to {known.max()}; expected weights, "
            "0 where nothing counts and positive elsewhere"
        )
    return at_least_float32(mask, name)


def hide(x: Array, mask: Array | None, fill: float = 0.0) -> Array:
    """``x`` in float32 with ``fill`` where the mask is 0.

    What is hidden, NaN and infinity too, reaches neither values nor gradients: the
    gradient there is exactly 0. Hide inputs before a formula, not its result.
    """
    x = at_least_float32(x)
    if mask is None:
        return x
    return jnp.where(mask_like(mask, x) > 0, x, jnp.asarray(fill, x.dtype))


def divide(a: Array, b: Array) -> Array:
    """``a / b``, and 0 with gradient 0 where ``b`` is 0.

    Two ``where``, because one is not enough under differentiation: the branch that is
    not taken is differentiated too, and 0 times its infinite slope is NaN. So the
    denominator is made harmless first and the result replaced afterwards. See
    https://docs.jax.dev/en/latest/faq.html, "Gradients contain NaN where using where".
    """
    safe = jnp.where(b == 0, 1, b)
    return jnp.where(b == 0, 0, a / safe)


def sqrt(x: Array) -> Array:
    """``sqrt(x)``, and 0 with gradient 0 where ``x`` is 0; see `divide`."""
    safe = jnp.where(x == 0, 1, x)
    return jnp.where(x == 0, 0, jnp.sqrt(safe))


def masked_sum(x: Array, mask: Array | None = None, axis: Any = None) -> Array:
    """``sum(x m)``, accumulated in float32."""
    return jnp.sum(hide(x, mask) * mask_like(mask, x), axis=axis)


def masked_mean(
    x: Array,
    mask: Array | None = None,
    axis: Any = None,
    *,
    axis_name: str | None = None,
) -> Array:
    """``sum(x m) / sum(m)`` in float32; 0 where everything is masked.

    Args:
      x: Any shape.
      mask: As in `mask_like`.
      axis: Axes to reduce, all for None.
      axis_name: Mapped axis over which to reduce too.
    """
    total, weight = masked_sum(x, mask, axis), jnp.sum(mask_like(mask, x), axis=axis)
    if axis_name is not None:
        total, weight = jax.lax.psum((total, weight), axis_name)
    return divide(total, weight)


def masked_var(
    x: Array,
    mask: Array | None = None,
    *,
    ddof: int = 0,
    axis_name: str | None = None,
) -> Array:
    """``sum((x - mean)^2 m) / (sum(m) - ddof)`` over everything; 0 if that is empty."""
    mean = masked_mean(x, mask, axis_name=axis_name)
    total = masked_sum(jnp.square(hide(x, mask) - mean), mask)
    weight = jnp.sum(mask_like(mask, x))
    if axis_name is not None:
        total, weight = jax.lax.psum((total, weight), axis_name)
    return divide(total, jnp.maximum(weight - ddof, 0))


def aggregate(
    loss: Array,
    mask: Array | None = None,
    how: Aggregation = "token_mean",
    *,
    constant: float | Array | None = None,
    empty_rows: bool = False,
    aux: Mapping[str, Array | Peak] | None = None,
) -> LossOut:
    """Sums a loss over its elements and says what to divide by.

    With ``l`` the loss, ``m`` the mask, ``c`` the constant:

    | how | sum | weight |
    |---|---|---|
    | token_mean | ``sum l m`` | ``sum m`` |
    | seq_mean_token_mean | ``sum_b (sum_t l m / sum_t m)`` | rows |
    | seq_mean_token_sum | ``sum_b sum_t l m`` | rows |
    | seq_mean_token_scale | ``sum_b sum_t l m / c`` | rows |
    | sum_over_const | ``sum l m`` | ``c`` |

    Rows are those with a token in them, so padding rows change nothing. With
    "sum_over_const" ``c`` is of the whole batch: under accumulation and on several
    devices pass each its share, or `merge` adds ``c`` as often as there are parts.

    Args:
      loss: Per-element loss ``[..., T]``, or ``[B]`` for a loss of whole sequences
        with "token_mean" and "sum_over_const".
      mask: As in `mask_like`; what is masked may be NaN.
      how: See the table.
      constant: ``c``; Dr.GRPO's is the longest response allowed. The padded width of
        a batch would make the step depend on padding, so there is no default.
      empty_rows: Count rows without a token too, as TRL does.
      aux: Per-element arrays to report as their mean over the mask, or `Peak` of one
        to report its greatest.

    Raises:
      ValueError: Shapes that do not fit, an unknown aggregation, a constant that is
        missing or has no effect.

    Reference: "token_mean" DAPO, arXiv 2503.14476, eq. 8; "seq_mean_token_mean" GRPO,
    arXiv 2402.03300, eq. 3; "seq_mean_token_scale" Dr.GRPO, arXiv 2503.20783.
    """
    if how not in get_args(Aggregation):
        raise ValueError(f"how is {how!r}; expected one of {get_args(Aggregation)}")
    wants_constant = how in ("seq_mean_token_scale", "sum_over_const")
    if (constant is not None) != wants_constant:
        wanted = "a number" if wants_constant else "None"
        raise ValueError(f"constant is {constant} for {how!r}; expected {wanted}")
    c = 1.0 if constant is None else constant
    by_row = how.startswith("seq_")
    if by_row and jnp.ndim(loss) < 2:
        raise ValueError(
            f"loss has shape {jnp.shape(loss)}; expected [B, T] for {how!r}"
        )
    if empty_rows and not by_row:
        raise ValueError(f"empty_rows has no effect on {how!r}")
    weights = mask_like(mask, loss)
    rows = masked_sum(loss, mask, -1 if by_row else None)
    tokens = jnp.sum(weights, -1 if by_row else None)
    filled = jnp.ones_like(tokens) if empty_rows else (tokens > 0).astype(tokens.dtype)
    match how:
        case "token_mean":
            total, weight = rows, tokens
        case "seq_mean_token_mean":
            total, weight = jnp.sum(divide(rows, tokens)), jnp.sum(filled)
        case "seq_mean_token_sum":
            total, weight = jnp.sum(rows), jnp.sum(filled)
        case "seq_mean_token_scale":
            total, weight = jnp.sum(rows) / c, jnp.sum(filled)
        case "sum_over_const":
            total, weight = rows, jnp.asarray(c, rows.dtype)
    report = {name: _report(x, mask) for name, x in (aux or {}).items()}
    return LossOut(total, weight, report)


def _report(x, mask):
    x, peak = (x.value, True) if isinstance(x, Peak) else (x, False)
    x = jax.lax.stop_gradient(x)
    if peak:
        return Peak(jnp.max(hide(x, mask_like(mask, x), -jnp.inf), initial=-jnp.inf))
    return Mean(masked_sum(x, mask), jnp.sum(mask_like(mask, x)))


def merge(a: LossOut, b: LossOut) -> LossOut:
    """Two parts of a batch as one; parts have the same entries in ``aux``."""
    if set(a.aux) != set(b.aux):
        raise ValueError(f"aux has {sorted(a.aux)} and {sorted(b.aux)}; expected equal")

    def one(x, y):
        if isinstance(x, Peak):
            return Peak(jnp.maximum(x.value, y.value))
        return Mean(x.sum + y.sum, x.weight + y.weight)

    report = {name: one(a.aux[name], b.aux[name]) for name in a.aux}
    return LossOut(a.sum + b.sum, a.weight + b.weight, report)


def finalize(
    out: LossOut, axis_name: str | None = None
) -> tuple[Array, dict[str, Array]]:
    """Divides: the loss, and the reports as numbers.

    Args:
      out: From `aggregate`, perhaps after `merge`.
      axis_name: Mapped axis that holds the other parts. Differentiate outside the map:
        inside it, what the transpose of a sum over devices is depends on
        ``check_vma``. Under a global-view `jax.jit` there is nothing to name.

    Returns:
      The scalar loss and the reports by name. Where nothing counted, a mean is 0 and a
      `Peak` ``-inf``.

    Raises:
      TypeError: Something else than a `LossOut`.
    """
    if not isinstance(out, LossOut):
        raise TypeError(
            f"out is {type(out).__name__}; expected a LossOut, as aggregate gives"
        )

    def total(x):
        return x if axis_name is None else jax.lax.psum(x, axis_name)

    def report(x):
        if isinstance(x, Peak):
            many = axis_name is not None
            return jax.lax.pmax(x.value, axis_name) if many else x.value
        return divide(total(x.sum), total(x.weight))

    loss = divide(total(out.sum), total(out.weight))
    return loss, {name: report(x) for name, x in out.aux.items()}
