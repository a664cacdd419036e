"""Rules by which an attention output moves away from a negative one."""

import jax.numpy as jnp

from jaxlib_guidance.attention._control import Edit
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array, at_least_float32, expand


def _number(edit, name, like):
    value = getattr(edit, name)
    value = jnp.asarray(0.0 if value is None else value, jnp.float32)
    if value.shape not in ((), like.shape[:1]):
        raise ValueError(
            f"edit.{name} has shape {value.shape}; expected () or {like.shape[:1]}"
        )
    return expand(value, like)


def _norm(a):
    """Sum of absolute values of each token, over heads and their features."""
    return jnp.sum(jnp.abs(a), axis=(-2, -1), keepdims=True)


def _wide(rule):
    """The rule in float32, its result in the output's type."""

    def wide(own, other, edit):
        moved = rule(at_least_float32(own), at_least_float32(other), edit)
        return moved.astype(own.dtype)

    return wide


def _nag(own, other, edit):
    """``f z - (f - 1) z'``, as long as ``limit`` times ``z`` at most."""
    scale = _number(edit, "negative_scale", own)
    limit = _number(edit, "negative_limit", own)
    moved = own + (scale - 1) * (own - other)
    growth = divide(_norm(moved), _norm(own))
    over = growth > limit
    return moved * jnp.where(over, divide(limit, jnp.where(over, growth, 1)), 1)


def _nasa(own, other, edit):
    """``z - s z'``."""
    return own - _number(edit, "negative_scale", own) * other


def _orthogonal(own, other, edit):
    """``z - s`` times the part of ``z'`` perpendicular to ``z``."""
    inner = jnp.sum(own * other, axis=(-2, -1), keepdims=True)
    along = divide(inner, jnp.sum(own**2, axis=(-2, -1), keepdims=True)) * own
    return own - _number(edit, "negative_scale", own) * (other - along)


RULES = {"nag": _wide(_nag), "nasa": _wide(_nasa), "orthogonal": _wide(_orthogonal)}
# The rule under which negative keys join the softmax, which is no function of outputs.
FLIP = "flip"


def move_away(
    branch: str,
    rule: str,
    scale: Array | float,
    *,
    limit: Array | float | None = None,
    bias: Array | float | None = None,
    mix: Array | float = 1.0,
) -> Edit:
    """Moves an attention output ``z`` away from one to another branch's keys.

    With ``z'`` the attention of the same queries to the keys and values of ``branch``:
    "nag" makes ``s z - (s - 1) z'``, of norm ``limit`` times that of ``z`` at most;
    "nasa" ``z - s z'``; "orthogonal" ``z - s (z' - the part of z' along z)``. Norms
    (sums of absolute values) and inner products are those of each token. "flip" is one
    attention to both sets of keys, with values ``-s v'`` and ``bias`` added to the
    logits of the negative ones.

    Args:
      branch: Name of the branch of the same call whose keys and values are negative,
        such as "uncond".
      rule: One of "nag", "nasa", "orthogonal" and "flip".
      scale: Factor ``s``, scalar or ``[B]``.
      limit: Largest growth of the norm, for "nag" alone, scalar or ``[B]``.
      bias: Number that is added to the logits of negative keys, for "flip" alone,
        scalar or ``[B]``.
      mix: Share of the moved output, scalar or ``[B]``; 0 keeps ``z``.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: Another rule; a limit or a bias that is missing or has no effect.

    Reference: normalised attention guidance, arXiv 2505.21179, section 4; NASA, arXiv
      2412.02687; value sign flip, github.com/weathon/VSF.
    """
    if rule not in (*RULES, FLIP):
        raise ValueError(f"rule is {rule!r}; expected one of {(*RULES, FLIP)}")
    if (rule == FLIP) != (bias is not None):
        raise ValueError(f"bias is {bias}; expected a number for 'flip' and None else")
    if (rule == "nag") != (limit is not None):
        raise ValueError(f"limit is {limit}; expected a number for 'nag' and None else")
    return Edit(
        negative=((rule, branch),),
        negative_scale=scale,
        negative_limit=limit,
        negative_bias=bias,
        negative_mix=mix,
    )
