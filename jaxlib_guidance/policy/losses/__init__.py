"""Losses of tokens, sequences and preferences."""

from jaxlib_guidance.policy.losses._algorithms import dapo, dr_grpo, grpo, gspo, rloo
from jaxlib_guidance.policy.losses._corrections import (
    effective_sample_size,
    entropy_quantile_mask,
    mixed_policy_weight,
    off_policy_mask,
    rollout_weight,
    truncation_mask,
)
from jaxlib_guidance.policy.losses._dpo_variants import (
    aot,
    f_dpo,
    ld_dpo,
    log_collision,
    wpo_weight,
)
from jaxlib_guidance.policy.losses._kl import (
    entropy,
    kl_categorical,
    kl_estimate,
    kl_loss,
    kl_reward,
    score_kl,
)
from jaxlib_guidance.policy.losses._policy_gradient import (
    cispo,
    gmpo,
    nft,
    ppo_clip,
    reinforce,
    sapo,
)
from jaxlib_guidance.policy.losses._preference import (
    apo,
    discopop,
    dpo,
    exo,
    hinge,
    ipo,
    log_sigmoid,
    nca,
    sequence_logp,
    sppo,
)
from jaxlib_guidance.policy.losses._ratio import (
    importance_ratio,
    like_tokens,
    log_ratio,
    ratio_stats,
)
from jaxlib_guidance.policy.losses._reference_free import (
    bradley_terry,
    cpo,
    orpo,
    simpo,
)
from jaxlib_guidance.policy.losses._single_answers import kto, kto_reference
from jaxlib_guidance.policy.losses._supervised import focal_nll, nll
from jaxlib_guidance.policy.losses._token_logp import token_logp, token_logp_and_entropy
from jaxlib_guidance.policy.losses._value import value_clip

__all__ = [
    # Policy gradients
    "reinforce",
    "ppo_clip",
    "cispo",
    "sapo",
    "gmpo",
    "nft",
    "value_clip",
    # Supervised
    "nll",
    "focal_nll",
    # Preferences
    "log_sigmoid",
    "sequence_logp",
    "dpo",
    "ipo",
    "hinge",
    "exo",
    "nca",
    "sppo",
    "apo",
    "discopop",
    "simpo",
    "orpo",
    "cpo",
    "bradley_terry",
    "kto",
    "kto_reference",
    # Variants of DPO
    "f_dpo",
    "aot",
    "log_collision",
    "wpo_weight",
    "ld_dpo",
    # Divergence and entropy
    "kl_estimate",
    "kl_loss",
    "kl_reward",
    "score_kl",
    "kl_categorical",
    "entropy",
    # Importance ratios
    "log_ratio",
    "importance_ratio",
    "ratio_stats",
    "like_tokens",
    # Corrections of off-policy data
    "rollout_weight",
    "off_policy_mask",
    "entropy_quantile_mask",
    "truncation_mask",
    "mixed_policy_weight",
    "effective_sample_size",
    # Log-probabilities of tokens
    "token_logp",
    "token_logp_and_entropy",
    # Whole algorithms
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "rloo",
]
