"""Which data to train on, which answer to take."""

from jaxlib_guidance.policy.select._balance import (
    balance_score,
    behaviour_rate,
    best_configuration,
)
from jaxlib_guidance.policy.select._best_of import (
    best_of_n,
    first_success,
    lookahead_select,
    reject_seen,
)
from jaxlib_guidance.policy.select._corruption import Corrupted, corrupt
from jaxlib_guidance.policy.select._masks import (
    Brake,
    brake_point,
    overthink_score,
    step_mask,
)
from jaxlib_guidance.policy.select._pairs import (
    Pairs,
    hindsight_score,
    pair_from_scores,
)
from jaxlib_guidance.policy.select._splices import Splice, splice
from jaxlib_guidance.policy.select._tree_search import quality_values, uct_scores
from jaxlib_guidance.policy.select._value_tree import ValueTree, value_tree

__all__ = [
    # Which tokens train
    "step_mask",
    "overthink_score",
    "Brake",
    "brake_point",
    # Damaged trajectories
    "Corrupted",
    "corrupt",
    # Spliced trajectories
    "Splice",
    "splice",
    # Pairs for preference losses
    "Pairs",
    "pair_from_scores",
    "hindsight_score",
    # Best of several
    "first_success",
    "best_of_n",
    "lookahead_select",
    "reject_seen",
    # Tree search
    "quality_values",
    "uct_scores",
    "ValueTree",
    "value_tree",
    # Settings of the next round
    "behaviour_rate",
    "balance_score",
    "best_configuration",
]
