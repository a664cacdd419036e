"""Attention as a function whose edits are data."""

from jaxlib_guidance.attention._activations import add_steering, steering_direction
from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._control import (
    Edit,
    capture_at,
    captured,
    match,
    match_edit,
    match_sites,
    sources,
)
from jaxlib_guidance.attention._core import attend, self_only
from jaxlib_guidance.attention._edits import (
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
from jaxlib_guidance.attention._entmax import entmax15, sparse
from jaxlib_guidance.attention._features import (
    FeatureEdit,
    edit_features,
    inject,
    join_features,
    steer,
)
from jaxlib_guidance.attention._fold import fold_controls
from jaxlib_guidance.attention._layer import enter_layer, leave_layer, shuffle, skip
from jaxlib_guidance.attention._negative import move_away
from jaxlib_guidance.attention._queries import map_distance, queries_and_keys
from jaxlib_guidance.attention._reorder import reorder
from jaxlib_guidance.attention._words import align_words

__all__ = [
    # Edits as data, and the sites that they name
    "Edit",
    "Before",
    "match",
    "match_sites",
    "match_edit",
    "fold_controls",
    "sources",
    # What to capture, and functions of it
    "capture_at",
    "captured",
    "queries_and_keys",
    "map_distance",
    # Attention itself
    "attend",
    "self_only",
    "entmax15",
    # Edits of an attention map
    "identity",
    "blur",
    "suppress",
    "token_mask",
    "emphasise",
    "attenuate",
    "borrow",
    "align_words",
    "shift",
    "reorder",
    "sparse",
    "move_away",
    "combine",
    # Edits of the layer around a site
    "skip",
    "shuffle",
    "enter_layer",
    "leave_layer",
    # Edits of features, and where a U-Net joins two of them
    "FeatureEdit",
    "inject",
    "steer",
    "edit_features",
    "join_features",
    # Steering vectors in a residual stream
    "steering_direction",
    "add_steering",
]
