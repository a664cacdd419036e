"""Laws that every policy loss obeys, per element and whole algorithms."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import policy
from jaxlib_guidance.testing import check_loss

bind = functools.partial
ACTED = ("logp_old", "advantage")
REFERENCE = ("logp_ref",)
RNG = np.random.default_rng(1)
RATIOS = {
    "ratio_w": RNG.normal(size=(8, 5)).astype(np.float32),
    "ratio_l": RNG.normal(size=(8, 5)).astype(np.float32),
}
JUDGED = {
    "constants": ("logp_old",),
    "inputs": {
        "correct": jnp.arange(8) % 2 == 0,
        "success_rate": jnp.full(8, 0.5),
    },
}
WEIGHT_STOPPED = {"gradient": "the ratio is a weight, a constant to the gradient"}

TOKENS = {
    "reinforce": (policy.reinforce, {"constants": ("advantage",)}),
    "ppo_clip": (policy.ppo_clip, {"constants": ACTED}),
    "ppo_clip, a sequence's advantage": (
        policy.ppo_clip,
        {"constants": ACTED, "inputs": {"advantage": RNG.normal(size=8)}},
    ),
    "ppo_clip, dual": (bind(policy.ppo_clip, dual_clip=3.0), {"constants": ACTED}),
    "ppo_clip, seq": (bind(policy.ppo_clip, level="seq"), {"constants": ACTED}),
    "ppo_clip, seq_sum": (bind(policy.ppo_clip, level="seq_sum"), {"constants": ACTED}),
    "ppo_clip, seq_token": (
        bind(policy.ppo_clip, level="seq_token"),
        {
            "constants": ACTED,
            "skip": {"gradient": "the sequence's value has the token's gradient"},
        },
    ),
    "cispo": (policy.cispo, {"constants": ACTED, "skip": WEIGHT_STOPPED}),
    "sapo": (policy.sapo, {"constants": ACTED}),
    "gmpo": (policy.gmpo, {"constants": ACTED}),
    "nft": (
        policy.nft,
        JUDGED | {"skip": {"gradient": "what is floored keeps its gradient"}},
    ),
    "nft, no floor": (bind(policy.nft, floor_neg=1e-6), JUDGED),
    "value_clip": (policy.value_clip, {"constants": ("values_old", "targets")}),
    "nll": (policy.nll, {}),
    "nll, weighted": (policy.nll, {"inputs": {"weight": RNG.uniform(size=8)}}),
    "focal_nll": (bind(policy.focal_nll, gamma=2.0), {}),
    "kl_estimate": (policy.kl_estimate, {"constants": REFERENCE}),
    "kl_loss": (policy.kl_loss, {"constants": REFERENCE}),
    "kl_loss, k2": (bind(policy.kl_loss, kind="k2"), {"constants": REFERENCE}),
    "kl_loss, abs": (bind(policy.kl_loss, kind="abs"), {"constants": REFERENCE}),
    "kl_loss, k3+": (
        bind(policy.kl_loss, gradient="k2"),
        {
            "constants": REFERENCE,
            "skip": {"gradient": "k3's value has k2's gradient"},
        },
    ),
    "kl_loss, ratio": (
        bind(policy.kl_loss, kind="k1", correction="ratio"),
        {
            "constants": (*REFERENCE, "logp_old"),
            "inputs": {"logp_old": -RNG.uniform(0.1, 2, (8, 5))},
        },
    ),
    "score_kl": (
        policy.score_kl,
        {
            "constants": REFERENCE,
            "inputs": {
                "turns": jnp.arange(40).reshape(8, 5) % 2,
                "beta": jnp.array([0.1, 0.3]),
            },
            "skip": {
                "split": "beta has an entry a turn, not a row",
                "permutation": "beta has an entry a turn, not a row",
                "shapes": "one more turn than there are is none too many",
            },
        },
    ),
    "kl_categorical": (policy.kl_categorical, {"constants": ("logits_ref",)}),
    "kl_categorical, forward": (
        bind(policy.kl_categorical, direction="forward"),
        {"constants": ("logits_ref",)},
    ),
    "entropy": (policy.entropy, {}),
}
PREFERENCES = {
    "dpo": (policy.dpo, {}),
    "dpo, robust": (bind(policy.dpo, noise=0.1), {}),
    "dpo, conservative": (bind(policy.dpo, noise=0.1, correct=False), {}),
    "ipo": (policy.ipo, {}),
    "hinge": (policy.hinge, {}),
    "exo": (policy.exo, {}),
    "nca": (policy.nca, {}),
    "sppo": (policy.sppo, {}),
    "apo": (policy.apo, {}),
    "apo, down": (bind(policy.apo, anchor="down"), {}),
    "discopop": (policy.discopop, {}),
    "simpo": (policy.simpo, {}),
    "orpo": (policy.orpo, {}),
    "cpo": (policy.cpo, {}),
    "bradley_terry": (policy.bradley_terry, {}),
    "kto": (
        bind(policy.kto, z=0.1),
        {"inputs": {"desirable": jnp.arange(8) % 2 == 0}},
    ),
    "f_dpo": (bind(policy.f_dpo, divergence="js"), {}),
    "aot": (
        policy.aot,
        {
            "inputs": {"mask": jnp.ones(8).at[3].set(0)},
            "skip": {
                "split": "it sorts the whole batch",
            },
        },
    ),
    "ld_dpo": (bind(policy.ld_dpo, alpha=0.5), {"inputs": RATIOS}),
}
ALGORITHMS = {
    "grpo": (policy.grpo, {}),
    "grpo, with a reference": (
        policy.grpo,
        {"inputs": {"logp_ref": -RNG.uniform(0.1, 2, (8, 5)).astype(np.float32)}},
    ),
    "dr_grpo": (bind(policy.dr_grpo, max_length=6), {}),
    "dapo": (policy.dapo, {}),
    "gspo": (policy.gspo, {}),
    "rloo": (policy.rloo, {}),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("name", TOKENS)
def test_losses_of_tokens(name):
    loss, options = TOKENS[name]
    check_loss(loss, **options)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", PREFERENCES)
def test_losses_of_preferences(name):
    loss, options = PREFERENCES[name]
    check_loss(loss, **options)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(name):
    loss, options = ALGORITHMS[name]
    check_loss(loss, constants=("logp_old", "rewards"), **options)
