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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/05_policy_gradients_for_diffusion.ipynb)
#
# # Policy gradients for diffusion
#
# A sampler that adds noise is a *policy*: each of its steps is a Gaussian over the next
# state, whose log-probability is known. So what policy gradients do for language models
# they do for diffusion models, with steps for tokens. Here a model is trained from
# nothing, then tuned for a reward, in a world where the right answer is known:
#
# 1. Train a flow-matching model on a ring of eight blobs.
# 2. Write down what reward tuning should end at.
# 3. DDPO with a pull to the base model, which comes near.
# 4. Without the pull it does not stop.
# 5. The gradient of the reward, if it has one: DRaFT.
#
# The objective is $\max_\theta\; E[r(x_0)] - \beta\, \mathrm{KL}(p_\theta \| p_{base})$
# over whole trajectories. If the noise of the sampler washes out the start (it does for
# DDIM with $\eta = 1$), its optimum has the samples
# $p^*(x_0) \propto p_{base}(x_0)\, e^{r(x_0) / \beta}$.

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

import jaxlib_guidance as jg
from jaxlib_guidance import testing
from jaxlib_guidance.diffusion import prediction_weight
from jaxlib_guidance.finetuning import ddpo, rescore, rollout, step_kl, through_last
from jaxlib_guidance.policy import group_normalize

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. A model from nothing
#
# The network is a bare function of `(x, t, cond)`; `parametrize` says that it predicts
# the velocity of a rectified flow.

# %%
angles = 2 * np.pi * np.arange(8) / 8
means = np.stack([np.cos(angles), np.sin(angles)], 1)
spread = 0.015
covs = np.stack([spread * np.eye(2)] * 8)
data = testing.gaussian_mixture(np.ones(8), means, covs)
process = jg.RectifiedFlow()


def init(key, width=128):
    sizes = [(12, width), (width, width), (width, width), (width, 2)]
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(key, size) / np.sqrt(size[0]), jnp.zeros(size[1]))
        for key, size in zip(keys, sizes, strict=True)
    ]


def denoiser_of(params):
    def network(x, t, cond):
        waves = t[:, None] * jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
        h = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], 1)
        for weight, bias in params[:-1]:
            h = jax.nn.silu(h @ weight + bias)
        return h @ params[-1][0] + params[-1][1]

    return jg.parametrize(network, process, "velocity")


def flow_matching(params, key):
    """Squared error of the velocity at random times."""
    key_x, key_t, key_eps = jax.random.split(key, 3)
    x0 = testing.draw_exact(data, key_x, 512)
    t = jax.random.uniform(key_t, (512,), minval=0.01, maxval=0.999)
    x = jg.perturb(process, x0, jax.random.normal(key_eps, x0.shape), t)
    error = jnp.sum((denoiser_of(params)(x, t).x0 - x0) ** 2, 1)
    return jnp.mean(prediction_weight(process, t, "velocity") * error)


updates = 200 if FAST else 4000
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, updates))


@jax.jit
def train(params, keys):
    def update(carry, key):
        params, state = carry
        loss, slope = jax.value_and_grad(flow_matching)(params, key)
        change, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, change), state), loss

    (params, _), losses = jax.lax.scan(update, (params, optimizer.init(params)), keys)
    return params, losses


base, losses = train(
    init(jax.random.key(0)), jax.random.split(jax.random.key(1), updates)
)
policy = (jg.ddim(1.0), jg.uniform_grid(process, 20))  # Noise in each step.
test_keys = jg.sample_keys(jax.random.key(2), 1500)


@jax.jit
def draw(params):
    return jg.sample(test_keys, denoiser_of(params), *policy, (2,))[0]


side = np.linspace(-1.8, 1.8, 120)
plane = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)


def show(axis, law, points, title):
    density = jnp.exp(testing.log_density(law, plane)).reshape(120, 120)
    axis.contourf(side, side, density, levels=12, cmap="Blues")
    axis.scatter(*np.asarray(points).T, s=1.5, alpha=0.5, color="darkorange")
    axis.set(title=title, aspect="equal", xlim=(-1.8, 1.8), ylim=(-1.8, 1.8))


_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
left.plot(losses, lw=0.4)
left.set(xlabel="update", ylabel="flow-matching loss", ylim=(0, None))
show(right, data, draw(base), "data (blue) and samples")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 2. Where tuning should end
#
# The reward is the first coordinate: go right. A Gaussian blob times $e^{x / \beta}$ is
# the blob moved by $s^2 / \beta$, with weight $e^{\mu / \beta + s^2 / 2 \beta^2}$, so the
# optimum is known.

# %%
beta = 0.5


def reward(x):
    return x[:, 0]


shift = np.array([spread / beta, 0.0])
weights = np.exp(means[:, 0] / beta + spread / (2 * beta**2))
best = testing.gaussian_mixture(weights, means + shift, covs)
best_reward = float(reward(testing.draw_exact(best, jax.random.key(3), 20000)).mean())
print(
    f"reward of the data {float(reward(means).mean()):.2f}, of the optimum {best_reward:.2f}"
)

# %% [markdown]
# ## 3. DDPO, held by a divergence
#
# `rollout` draws and keeps states and log-probabilities; `rescore` scores the same
# states under other parameters. The divergence of a step is that of two Gaussians, so
# it is exact; what a trajectory pays for it is part of its return. The gradient has two
# parts: the score function times the return, and the divergence's own.

# %%
rounds, batch = (4, 64) if FAST else (200, 512)


def tune(beta, key, rounds=rounds, rate=5e-4):
    steps = optax.adam(rate)

    def one_round(carry, key):
        params, state = carry
        keys = jg.sample_keys(key, batch)
        path = rollout(keys, denoiser_of(params), *policy, (2,), reduce="sum")
        held = rescore(keys, denoiser_of(base), *policy, path.states, reduce="sum")
        paid = jnp.sum(step_kl(path.transition, held.transition, "sum"), 1)
        gain = reward(path.states[:, -1])
        advantage = group_normalize(gain - beta * paid, jnp.zeros(batch, int), 1)
        unit = jnp.std(gain - beta * paid)

        def loss(params):
            now = rescore(keys, denoiser_of(params), *policy, path.states, reduce="sum")
            pull = jnp.sum(step_kl(now.transition, held.transition, "sum"), 1)
            push = jnp.sum(ddpo(now.logp, None, advantage, now.mask), 1)
            return jnp.mean(push) + beta / unit * jnp.mean(pull)

        change, state = steps.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, change)
        return (params, state), (gain.mean(), paid.mean())

    run = jax.jit(lambda keys: jax.lax.scan(one_round, (base, steps.init(base)), keys))
    (params, _), curves = run(jax.random.split(key, rounds))
    return params, np.asarray(curves)


held, held_curve = tune(beta, jax.random.key(4))

# %% [markdown]
# ## 4. Without the pull
#
# The same with $\beta = 0$ and a quarter of the rounds: the reward goes on rising, past
# anything that the data hold, and what the model was is forgotten.

# %%
free, free_curve = tune(0.0, jax.random.key(4), rounds // 4)
_, axes = plt.subplots(1, 3, figsize=(13, 3.8))
axes[0].plot(held_curve[0], label="DDPO, β = 0.5")
axes[0].plot(free_curve[0], label="DDPO, no pull")
axes[0].axhline(best_reward, color="black", ls=":", label="the optimum's reward")
axes[0].set(xlabel="round", ylabel="reward")
axes[0].set_ylim(-0.2, 2.5)
axes[0].legend(frameon=False, fontsize=8)
show(axes[1], best, draw(held), "optimum (blue), DDPO with the pull")
show(axes[2], best, draw(free), "without it")
plt.tight_layout()
plt.show()
for name, params in {"base": base, "held": held, "free": free}.items():
    x = draw(params)
    log_ratio = testing.log_density(best, x)
    print(
        f"{name:5} reward {float(reward(x).mean()):.2f}, "
        f"mean log-density of the optimum {float(log_ratio.mean()):.2f}"
    )
exact = testing.draw_exact(best, jax.random.key(5), 5000)
print(f"exact reward {best_reward:.2f}, ", end="")
print(f"mean log-density {float(testing.log_density(best, exact).mean()):.2f}")

# %% [markdown]
# ## 5. With the reward's own gradient
#
# This reward is differentiable, so the gradient can go through the sampler instead.
# `through_last(solver, k)` lets it through the last $k$ steps only (DRaFT-K). It needs
# no baseline and an order of magnitude fewer samples, and it has no pull: it is stopped
# by hand.

# %%
draft_rounds = 3 if FAST else 40


@jax.jit
def draft(params, keys):
    steps = optax.adam(5e-4)
    solver = through_last(policy[0], 5)

    def one_round(carry, key):
        params, state = carry

        def loss(params):
            keys = jg.sample_keys(key, 64)
            x, _ = jg.sample(keys, denoiser_of(params), solver, policy[1], (2,))
            return -jnp.mean(reward(x))

        value, slope = jax.value_and_grad(loss)(params)
        change, state = steps.update(slope, state)
        return (optax.apply_updates(params, change), state), -value

    (params, _), rewards = jax.lax.scan(one_round, (params, steps.init(params)), keys)
    return params, rewards


drafted, draft_curve = draft(base, jax.random.split(jax.random.key(6), draft_rounds))
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
left.plot(np.arange(draft_rounds) * 64, draft_curve, label="DRaFT-5")
left.plot(np.arange(rounds // 4) * batch, free_curve[0], label="DDPO, no pull")
left.set(xlabel="samples", ylabel="reward", xscale="symlog", ylim=(-0.2, 2.5))
left.legend(frameon=False)
show(right, best, draw(drafted), "DRaFT: it pushes, and does not choose")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Exercise
#
# Make the reward one that has no gradient, `x[:, 0] > 0`, and tune for it. What is the
# optimum now? `docs/finetuning.md` has the same on pictures, with Flow-GRPO and
# DiffusionNFT, and says what each costs.
