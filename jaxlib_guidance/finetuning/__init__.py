"""Reward for diffusion models: a sampler's steps, or its estimates, under a loss."""

from jaxlib_guidance.finetuning.ddpo import ddpo, dpok, prediction_gap
from jaxlib_guidance.finetuning.flow_grpo import flow_sde
from jaxlib_guidance.finetuning.nft import nft_loss, old_decay, optimality
from jaxlib_guidance.finetuning.preference import diffusion_dpo
from jaxlib_guidance.finetuning.reward_gradient import (
    draft_lv,
    refl_loss,
    through_last,
    through_step,
)
from jaxlib_guidance.finetuning.rollout import (
    Trajectory,
    rescore,
    rollout,
    step_kl,
    step_log_prob,
)

__all__ = [
    "Trajectory",
    "ddpo",
    "diffusion_dpo",
    "dpok",
    "draft_lv",
    "flow_sde",
    "nft_loss",
    "old_decay",
    "optimality",
    "prediction_gap",
    "refl_loss",
    "rescore",
    "rollout",
    "step_kl",
    "step_log_prob",
    "through_last",
    "through_step",
]
