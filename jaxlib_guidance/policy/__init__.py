"""Policy gradients as functions of arrays: no model, no environment, no trainer."""

from jaxlib_guidance.policy import advantages, explore, losses, rewards, select
from jaxlib_guidance.policy._controllers import (
    adapt_entropy_coef,
    adapt_kl_coef,
    hinf_slack,
    lagrangian_reward,
    multiplier_step,
)
from jaxlib_guidance.policy._metrics import (
    Friction,
    Rate,
    Verdicts,
    best_of_k,
    calibration_error,
    deception_rate,
    friction,
    mastered,
    pass_at_k,
    rate,
    self_prediction_gap,
    sensitivity_bound,
    soft_policy,
    total_variation,
    verdict_scores,
)
from jaxlib_guidance.policy._persistence import persistence, rate_difference
from jaxlib_guidance.policy.advantages import *
from jaxlib_guidance.policy.explore import *
from jaxlib_guidance.policy.losses import *
from jaxlib_guidance.policy.rewards import *
from jaxlib_guidance.policy.select import *

__all__ = [
    # Controllers of a coefficient
    "lagrangian_reward",
    "multiplier_step",
    "hinf_slack",
    "adapt_kl_coef",
    "adapt_entropy_coef",
    # Metrics of behaviour and judgement
    "Rate",
    "rate",
    "rate_difference",
    "deception_rate",
    "persistence",
    "self_prediction_gap",
    "calibration_error",
    "Friction",
    "friction",
    "pass_at_k",
    "best_of_k",
    "Verdicts",
    "verdict_scores",
    "mastered",
    "soft_policy",
    "total_variation",
    "sensitivity_bound",
]
__all__ += losses.__all__
__all__ += advantages.__all__
__all__ += rewards.__all__
__all__ += select.__all__
__all__ += explore.__all__
