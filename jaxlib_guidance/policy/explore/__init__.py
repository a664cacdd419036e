"""Exploration."""

from jaxlib_guidance.policy.explore._bandits import (
    DynLin,
    Ridge,
    dynlin_block,
    dynlin_radius,
    dynlin_step,
    init_dynlin,
    init_ridge,
    update_ridge,
    upper_bounds,
)
from jaxlib_guidance.policy.explore._counts import count_bonus
from jaxlib_guidance.policy.explore._mating import choose_mate, tournament
from jaxlib_guidance.policy.explore._novelty import emitter_gain, knn_novelty
from jaxlib_guidance.policy.explore._plasticity import (
    dormant_ratio,
    dormant_std,
    expert_gate,
    perturb_factor,
    perturb_toward,
)
from jaxlib_guidance.policy.explore._skills import skill_reward
from jaxlib_guidance.policy.explore._targets import ensemble_min, sac_target

__all__ = [
    # Visit counts
    "count_bonus",
    # Linear bandits
    "Ridge",
    "init_ridge",
    "update_ridge",
    "upper_bounds",
    "DynLin",
    "init_dynlin",
    "dynlin_step",
    "dynlin_block",
    "dynlin_radius",
    # Targets of critics
    "ensemble_min",
    "sac_target",
    # Networks that stop learning
    "dormant_ratio",
    "dormant_std",
    "perturb_factor",
    "perturb_toward",
    "expert_gate",
    # Skills
    "skill_reward",
    # Novelty
    "knn_novelty",
    "emitter_gain",
    # Mates
    "tournament",
    "choose_mate",
]
