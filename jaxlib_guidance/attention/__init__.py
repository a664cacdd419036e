"""Attention as a function whose edits are data."""

from jaxlib_guidance.attention.control import Edit
from jaxlib_guidance.attention.core import attend
from jaxlib_guidance.attention.edits import (
    attenuate,
    blur,
    borrow,
    combine,
    emphasise,
    identity,
    shift,
    suppress,
    token_mask,
)

__all__ = [
    "Edit",
    "attend",
    "attenuate",
    "blur",
    "borrow",
    "combine",
    "emphasise",
    "identity",
    "shift",
    "suppress",
    "token_mask",
]
