"""Reward for diffusion models: a sampler's steps, or its estimates, under a loss."""

from jaxlib_guidance.finetuning._ddpo import ddpo, dpok, prediction_gap
from jaxlib_guidance.finetuning._nft import nft_loss, old_decay, optimality
from jaxlib_guidance.finetuning._preference import diffusion_dpo
from jaxlib_guidance.finetuning._reward_gradient import (
    draft_lv,
    refl_loss,
    through_last,
    through_step,
)
from jaxlib_guidance.finetuning._rollout import (
    Trajectory,
    rescore,
    rollout,
    step_kl,
    step_log_prob,
)

__all__ = [
    # Trajectories of a sampler as a policy
    "Trajectory",
    "rollout",
    "rescore",
    "step_log_prob",
    "step_kl",
    # Policy gradients
    "ddpo",
    "dpok",
    "prediction_gap",
    # Negative-aware fine-tuning
    "optimality",
    "nft_loss",
    "old_decay",
    # Preferences
    "diffusion_dpo",
    # Gradients of a differentiable reward
    "through_last",
    "through_step",
    "refl_loss",
    "draft_lv",
]
