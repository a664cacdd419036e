# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/06_rewards_and_losses.ipynb)
#
# # Rewards and losses
#
# A policy-gradient loss is a function of arrays: log-probabilities, rewards, masks. Names
# such as GRPO stand for a choice of *advantage*, *ratio* and *aggregation*, and the three
# can be chosen apart. Here each choice is looked at where the truth can be computed:
#
# 1. What an advantage does to easy and hard questions.
# 2. What an aggregation does to short and long answers.
# 3. Reading real digits from "right" and "wrong" alone, from nothing.
# 4. Preferences: where DPO ends, and what wrong labels do.
#
# The gradient wanted is $\nabla E[r] = E[(r - b)\, \nabla \log \pi(y)]$, with any
# baseline $b$ that does not depend on $y$.

# %% tags=["remove-cell"]
# On Colab: installs the library and leaves Colab's JAX as it is. Elsewhere it checks.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("jaxlib_guidance") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("pip install '.[notebooks,timeseries]' in a clone")
    source = (
        "https://github.com/jaxlib-guidance/jaxlib_guidance"  # @param {type:"string"}
    )
    wanted = f"jaxlib-guidance[notebooks,timeseries] @ git+{source}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)

import jax

if os.path.exists("/dev/nvidia0") and jax.default_backend() == "cpu":
    raise RuntimeError("this runtime has a GPU that JAX does not see: restart it")
FAST = bool(os.environ.get("FAST"))  # The tests run fewer steps.
print(jax.devices())

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxlib_guidance import policy
from jaxlib_guidance.data import load_digits
from jaxlib_guidance.reduce import aggregate, finalize

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. Easy and hard questions
#
# Say the policy answers a question right with probability $p = \mathrm{sigmoid}(\theta)$.
# Then $dE[r]/d\theta = p (1 - p)$, exactly. Below is what eight answers a question give
# in its place: the mean of $A\, d \log \pi / d\theta$ over many draws. A mean that
# contains the answer itself is too small by $7/8$; without it the estimate is exact. To
# divide by the group's deviation is another objective: it pays questions that are nearly
# always right, or nearly never, as much as the others.

# %%
G, draws = 8, 200 if FAST else 5000
p = jnp.linspace(0.02, 0.98, 33)
uniform = jax.random.uniform(jax.random.key(0), (draws, len(p), G))
right = (uniform < p[:, None]).astype(jnp.float32)
slope = right - p[:, None]  # d log pi / d theta of each answer

advantages = {
    "r - mean (Dr.GRPO)": policy.group_center,
    "(r - mean) / std (GRPO)": policy.group_normalize,
    "r - mean of the others (RLOO)": policy.leave_one_out,
}
_, axis = plt.subplots(figsize=(6.4, 3.4))
axis.plot(p, p * (1 - p), "k", lw=4, alpha=0.2, label="exact")
for name, advantage in advantages.items():
    axis.plot(p, jnp.mean(advantage(right) * slope, (0, 2)), label=name)
axis.set(xlabel="chance to be right", ylabel="mean gradient")
axis.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 2. Short and long answers
#
# Three answers of 4, 16 and 64 tokens, the same advantage. How much does a token of each
# count, and how much the whole answer? "The mean" is not one thing.

# %%
lengths = jnp.array([4, 16, 64])
mask = (jnp.arange(64) < lengths[:, None]).astype(jnp.float32)
hows = {
    "token_mean": {},
    "seq_mean_token_mean": {},
    "seq_mean_token_sum": {},
    "sum_over_const": {"constant": 100.0},
}
_, (left, middle) = plt.subplots(1, 2, figsize=(10, 3))
for i, (how, options) in enumerate(hows.items()):

    def total(loss, how=how, options=options):
        return finalize(aggregate(loss, mask, how, **options))[0]

    weight = np.asarray(jax.grad(total)(jnp.ones_like(mask)))
    at = np.arange(3) + 0.2 * i - 0.3
    left.bar(at, weight[:, 0], 0.18, label=how)
    middle.bar(at, weight.sum(1), 0.18, label=how)
for axis, title in ((left, "weight of a token"), (middle, "weight of an answer")):
    axis.set_xticks(range(3), [f"{n} tokens" for n in lengths])
    axis.set(title=title, yscale="log")
left.set_ylim(top=30)
left.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 3. Digits, from right and wrong alone
#
# A small network sees a picture and names a digit; it is told "right" or "wrong", never
# which digit it was. The pictures are real (8x8, UCI), the test set is held out, and the
# ceiling is the same network trained on the labels.

# %%
train_x, train_y = map(jnp.asarray, load_digits("train"))
test_x, test_y = map(jnp.asarray, load_digits("test"))
updates, group, batch = (20 if FAST else 1200), 8, 64


def init(key):
    one, two = jax.random.split(key)
    return {
        "a": jax.random.normal(one, (64, 128)) / 8,
        "b": 0.01 * jax.random.normal(two, (128, 10)),
    }


def log_probs(params, x):
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["a"])
    return jax.nn.log_softmax(hidden @ params["b"])


def accuracy(params):
    return jnp.mean(log_probs(params, test_x).argmax(-1) == test_y)


def labels(params, x, y, key):
    logp = jnp.take_along_axis(log_probs(params, x), y[:, None], 1)
    return finalize(aggregate(policy.nll(logp), None))[0]


def rewarded(loss):
    def objective(params, x, y, key):
        logp = log_probs(params, x)
        answers = jax.random.categorical(key, logp[:, None], shape=(len(x), group))
        rewards = (answers == y[:, None]).astype(jnp.float32)
        taken = jnp.take_along_axis(logp, answers, 1)[..., None]  # [P, G, T = 1]
        return finalize(loss(taken, jax.lax.stop_gradient(taken), rewards))[0]

    return objective


def one_bit(params, x, y, key):
    """A single answer for each picture, and a constant baseline: plain REINFORCE."""
    logp = log_probs(params, x)
    answer = jax.random.categorical(key, logp)
    taken = jnp.take_along_axis(logp, answer[:, None], 1)
    gain = (answer == y).astype(jnp.float32) - 0.5
    return finalize(aggregate(policy.reinforce(taken, gain[:, None]), None))[0]


def dr_grpo(*arrays):
    return policy.dr_grpo(*arrays, max_length=1)


def learn(objective, seed=0):
    tx = optax.adam(1e-3)

    def update(carry, key):
        params, state = carry
        rows, draw = jax.random.split(key)
        at = jax.random.randint(rows, (batch,), 0, len(train_x))
        grads = jax.grad(objective)(params, train_x[at], train_y[at], draw)
        change, state = tx.update(grads, state)
        params = optax.apply_updates(params, change)
        return (params, state), accuracy(params)

    params = init(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 10), updates)
    return jax.lax.scan(update, (params, tx.init(params)), keys)[1]


objectives = {
    "labels (ceiling)": labels,
    "GRPO, 8 answers": rewarded(policy.grpo),
    "Dr.GRPO, 8 answers": rewarded(dr_grpo),
    "RLOO, 8 answers": rewarded(policy.rloo),
    "REINFORCE, 1 answer": one_bit,
}
_, axis = plt.subplots(figsize=(7, 3.4))
for name, objective in objectives.items():
    seeds = jnp.arange(1 if FAST else 3)
    curves = jax.jit(jax.vmap(lambda seed, f=objective: learn(f, seed)))(seeds)
    axis.plot(curves.mean(0), label=f"{name}: {float(curves[:, -1].mean()):.3f}")
axis.set(xlabel="update of 64 pictures", ylabel="held-out accuracy", ylim=(0, 1))
axis.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 4. Preferences
#
# Six answers, a reference policy, a reward. Somebody prefers answer $i$ to $j$ with
# probability $\sigma(r_i - r_j)$. With all pairs at hand DPO must end at
# $\pi^* \propto \pi_{ref}\, e^{r / \beta}$. With one label in five flipped it is too
# unsure; "robust" DPO, which is told the rate, is not. IPO has another target.

# %%
reward = jnp.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
reference = jax.nn.log_softmax(jnp.array([0.5, 1.0, 0.0, 0.5, -0.5, -1.0]))
beta, flip = 1.0, 0.2
first, second = map(jnp.asarray, np.triu_indices(6, 1))
prefers = jax.nn.sigmoid(reward[first] - reward[second])
flipped = (1 - flip) * prefers + flip * (1 - prefers)


def fit(loss, share):
    """All pairs, each in both orders, weighted by how often it is seen so."""

    def objective(logits):
        u = jax.nn.log_softmax(logits) - reference
        a, b = u[first], u[second]
        return jnp.sum(share * loss(a, b) + (1 - share) * loss(b, a))

    tx = optax.adam(0.05)

    def update(carry, _):
        logits, state = carry
        change, state = tx.update(jax.grad(objective)(logits), state)
        return (optax.apply_updates(logits, change), state), None

    steps = 100 if FAST else 1500
    start = (reference, tx.init(reference))
    (logits, _), _ = jax.jit(lambda c: jax.lax.scan(update, c, None, steps))(start)
    return jax.nn.softmax(logits)


policies = {
    "reference": jnp.exp(reference),
    "exact": jax.nn.softmax(reference + reward / beta),
    "DPO": fit(lambda a, b: policy.dpo(a, b, beta=beta), prefers),
    "DPO, 1 in 5 flipped": fit(lambda a, b: policy.dpo(a, b, beta=beta), flipped),
    "robust DPO, the same": fit(
        lambda a, b: policy.dpo(a, b, beta=beta, noise=flip), flipped
    ),
    "IPO": fit(lambda a, b: policy.ipo(a, b, beta=beta), prefers),
}
_, axis = plt.subplots(figsize=(8, 3))
for i, (name, found) in enumerate(policies.items()):
    axis.bar(np.arange(6) + 0.13 * i - 0.33, found, 0.12, label=name)
    print(f"{name:22}", np.round(np.asarray(found, float), 3))
axis.set(xlabel="answer, by reward", ylabel="probability")
axis.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Exercise
#
# In part 3 take two answers a picture instead of eight and the same number of answers in
# all (`batch = 256`): which baseline suffers most? `docs/policy.md` says where TRL, verl
# and others disagree, and which names mean what.
