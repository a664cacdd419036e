"""Rewards: shaped, voted, designed."""

from jaxlib_guidance.policy.rewards._intervention import (
    Handover,
    handover,
    intervention_rewards,
)
from jaxlib_guidance.policy.rewards._length import (
    inverse_length,
    laser_level,
    laser_targets,
    length_step,
    overlong_penalty,
    shortest_correct,
)
from jaxlib_guidance.policy.rewards._reward_design import (
    Aligned,
    align_reward,
    explicable_step,
    implicit_hypergradient,
    informativeness,
    self_design_step,
)
from jaxlib_guidance.policy.rewards._reward_programs import (
    Designed,
    adapt_reward,
    design_reward,
    select_states,
)
from jaxlib_guidance.policy.rewards._shaping import (
    blend,
    log_sigmoid_centered,
    outcome_reward,
    par_sigmoid,
    potential_shaping,
    rule_reward,
    score_rewards,
    subgoal_bonus,
    verification_reward,
)
from jaxlib_guidance.policy.rewards._social import (
    Punishment,
    belief_shift,
    combine_dimensions,
    punishment,
    reputation_change,
    step_game,
)
from jaxlib_guidance.policy.rewards._transport import (
    Plan,
    advance_progress,
    discount_schedule,
    longest_increasing,
    sinkhorn,
    transport_rewards,
)
from jaxlib_guidance.policy.rewards._votes import (
    Vote,
    cross_view_reward,
    meta_vote,
    naive_vote,
    self_verdict_vote,
    weighted_vote,
)
from jaxlib_guidance.policy.rewards._waypoints import waypoint_index, waypoint_rewards

__all__ = [
    # Shaped and ruled rewards
    "par_sigmoid",
    "log_sigmoid_centered",
    "score_rewards",
    "outcome_reward",
    "verification_reward",
    "rule_reward",
    "blend",
    "potential_shaping",
    "subgoal_bonus",
    # Length
    "overlong_penalty",
    "inverse_length",
    "shortest_correct",
    "length_step",
    "laser_targets",
    "laser_level",
    # Votes and self-verdicts
    "Vote",
    "weighted_vote",
    "self_verdict_vote",
    "cross_view_reward",
    "naive_vote",
    "meta_vote",
    # Transport to a demonstration
    "Plan",
    "sinkhorn",
    "transport_rewards",
    "longest_increasing",
    "discount_schedule",
    "advance_progress",
    # Along waypoints
    "waypoint_index",
    "waypoint_rewards",
    # Interventions
    "intervention_rewards",
    "Handover",
    "handover",
    # Designed rewards
    "informativeness",
    "Designed",
    "design_reward",
    "select_states",
    "adapt_reward",
    "explicable_step",
    "self_design_step",
    "implicit_hypergradient",
    "Aligned",
    "align_reward",
    # Other agents and critics
    "belief_shift",
    "combine_dimensions",
    "step_game",
    "Punishment",
    "punishment",
    "reputation_change",
]
