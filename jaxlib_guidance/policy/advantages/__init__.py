"""Advantages, returns, credit."""

from jaxlib_guidance.policy.advantages._credit import (
    Hindsight,
    hindsight_relabel,
    progress_loss,
    progress_redistribution,
    utterance_attribution,
)
from jaxlib_guidance.policy.advantages._estimators import (
    aggregate_advantages,
    best_of_group,
    gpg,
    opo,
    remax,
)
from jaxlib_guidance.policy.advantages._group_advantages import (
    group_center,
    group_normalize,
    informative,
    leave_one_out,
    multi_reward,
    whiten,
    win_rate,
)
from jaxlib_guidance.policy.advantages._groups import Groups
from jaxlib_guidance.policy.advantages._returns import (
    Estimate,
    discounted_returns,
    gae,
    next_valid,
    retrace,
    td_targets,
    vtrace,
)
from jaxlib_guidance.policy.advantages._reward_stats import (
    RewardStats,
    init_reward_stats,
    running_clip,
    running_meanstd,
    running_minmax,
    update_reward_stats,
)
from jaxlib_guidance.policy.advantages._running import (
    PromptStats,
    init_prompt_stats,
    init_role_ema,
    prompt_norm,
    role_ema,
)

__all__ = [
    # Groups of unequal size
    "Groups",
    # Advantages in a group
    "group_center",
    "group_normalize",
    "leave_one_out",
    "informative",
    "multi_reward",
    "whiten",
    "win_rate",
    # Other estimators
    "remax",
    "opo",
    "best_of_group",
    "gpg",
    "aggregate_advantages",
    # Returns over time
    "Estimate",
    "next_valid",
    "td_targets",
    "discounted_returns",
    "gae",
    "vtrace",
    "retrace",
    # Running statistics of rewards
    "RewardStats",
    "init_reward_stats",
    "update_reward_stats",
    "running_minmax",
    "running_meanstd",
    "running_clip",
    # Running statistics by role and prompt
    "init_role_ema",
    "role_ema",
    "PromptStats",
    "init_prompt_stats",
    "prompt_norm",
    # Credit for single steps
    "progress_redistribution",
    "progress_loss",
    "utterance_attribution",
    "Hindsight",
    "hindsight_relabel",
]
