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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/01_guidance_in_ten_lines.ipynb)
#
# # Guidance in ten lines
#
# A diffusion model draws what it has seen; *guidance* is how you tell it what you want.
# In `jaxlib_guidance` guidance is a list of terms, a sampler is one `lax.scan`, and all
# of it goes under `jit`, `vmap` and `grad`. This notebook takes a minute on a CPU.
#
# 1. Draw digits, plain and guided, in ten lines.
# 2. Sweep the weight of a term with `vmap`: one program, one call.
# 3. Learn the weight of every step with `grad`.
# 4. See that it is right, where the answer is known exactly.

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

import jaxlib_guidance as jg
from jaxlib_guidance.data import grid_of
from jaxlib_guidance.models import load_pretrained

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. Ten lines
#
# The model is a small class-conditional transformer of 8x8 digits that comes with the
# package. `cfg` moves away from the unconditional estimate, `pag` away from the
# estimate of a network whose attention in block 2 sees only itself. Both need an extra
# evaluation of the network; the planner runs them as one batched call.

# %%
model, params = load_pretrained("digits")
keys = jg.sample_keys(jax.random.key(0), 100)  # one key a sample
labels = jnp.repeat(jnp.arange(10), 10)
solver, grid = jg.recommended(model.process, 20, scale=model.data_scale)


@jax.jit
def draw(params, guidance):
    denoiser = model.denoiser(params)
    return jg.sample(
        keys, denoiser, solver, grid, model.shape, labels, guidance=guidance
    )[0]


cfg = 2.0  # @param {type:"slider", min:0, max:6, step:0.5}
pag = 1.0  # @param {type:"slider", min:0, max:4, step:0.5}
plain = draw(params, jg.chain())
guided = draw(params, jg.chain(jg.cfg(cfg, null=10), jg.pag(pag, sites="block2")))


# %%
def show(panels, height=4.2):
    """Grids of digits side by side."""
    _, axes = plt.subplots(1, len(panels), figsize=(height * len(panels), height))
    for axis, (title, images) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        axis.imshow(grid_of(images, columns=10))
        axis.set_title(title)
        axis.axis("off")
    plt.tight_layout()
    plt.show()


show({"no guidance": plain, f"cfg {cfg:g}, pag {pag:g}, the same noise": guided})

# %% [markdown]
# ## 2. Sweep a weight with `vmap`
#
# Weights are leaves of the guidance pytree, so they are arguments: other weights run
# the same program, and `vmap` draws a sample under many of them at once. Each row below
# is one noise; from left to right the weight of `cfg` grows from 0 to 6.

# %%
rows, weights = 8, jnp.linspace(0.0, 6.0, 10)


@jax.jit
def sweep(params, weights):
    def one(weight):
        return jg.sample(
            keys[:rows],
            model.denoiser(params),
            solver,
            grid,
            model.shape,
            jnp.arange(rows) + 1,
            guidance=jg.chain(jg.cfg(weight, null=10)),
        )[0]

    return jax.vmap(one, out_axes=1)(weights)  # [rows, weights, 8, 8, 1]


swept = sweep(params, weights)
show({"cfg weight 0 → 6": swept.reshape(-1, *model.shape)}, height=5)

# %% [markdown]
# ## 3. Learn a schedule with `grad`
#
# `scheduled` gives a term one weight for each step. The whole sampler is differentiable
# with respect to them (`remat=True` keeps the memory of one step), so a schedule can be
# learned. The objective here: samples that a classifier of digits recognises, for
# little weight in total.

# %%
judge, judge_params = load_pretrained("digits_judge")
steps = 12
coarse = jg.recommended(model.process, steps, scale=model.data_scale)
few = 16 if FAST else 64


@jax.jit
def objective(schedule, key):
    wanted = jnp.arange(few) % 10
    images, _ = jg.sample(
        jg.sample_keys(key, few),
        model.denoiser(params),
        *coarse,
        model.shape,
        wanted,
        guidance=jg.scheduled(jg.cfg(1.0, null=10), schedule),
        remat=True,
    )
    chance = jax.nn.log_softmax(judge.logits(judge_params, images))
    surprise = -jnp.mean(jnp.take_along_axis(chance, wanted[:, None], 1))
    return surprise + 0.02 * jnp.mean(schedule**2)


schedule = jnp.ones(steps)
slope = jax.jit(jax.value_and_grad(objective))
values = []
for _ in range(3 if FAST else 40):
    value, gradient = slope(schedule, jax.random.key(7))
    schedule = jnp.maximum(schedule - 4.0 * gradient, 0)
    values.append(float(value))

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(values)
left.set(xlabel="gradient step", ylabel="objective")
right.bar(np.arange(steps), schedule)
right.axhline(1.0, color="black", linewidth=0.8, linestyle="--", label="start")
right.set(xlabel="sampler step (noise → data)", ylabel="weight of cfg")
right.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# After 40 gradient steps the last five weights are near 0.59, which is what the penalty
# alone leaves of 1 (each step takes off 8 × 0.02 / 12 of a weight), and the first is at
# 0.63: the classifier asks for next to no guidance there. Between them, where the
# weights are largest (up to 0.94), it holds against the penalty. The curve still falls,
# so this is a direction and not an end; it agrees with Kynkäänniemi et al.
# ([2404.07724](https://arxiv.org/abs/2404.07724)), who guide in an interval in the
# middle of the trajectory only.

# %% [markdown]
# ## 4. Is it right?
#
# On a Gaussian mixture every quantity that a diffusion model approximates has a closed
# form, so guidance can be checked and not just admired. We observe one coordinate of a
# two-dimensional sample with noise, and steer by the energy $-\log p(y \mid x_t)$. The
# samples must follow the exact posterior; the contours are its density.

# %%
from jaxlib_guidance import testing

angles = jnp.linspace(0, 2 * jnp.pi, 9)[:-1]
means = 2 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
mixture = testing.gaussian_mixture(np.ones(8), means, np.stack([0.08 * np.eye(2)] * 8))
operator, seen, noise = np.array([[0.0, 1.0]]), np.array([1.4]), 0.3
posterior = testing.given_observation(mixture, operator, seen, noise)
process = jg.VPLinear()


def surprise(x, ctx):
    level = ctx.alpha[:, 0], ctx.sigma[:, 0]
    return -testing.observation_log_prob(mixture, x, operator, seen, noise, *level)


@jax.jit
def steer(weight):
    return jg.sample(
        jg.sample_keys(jax.random.key(1), 500 if FAST else 3000),
        testing.exact_denoiser(mixture, process),
        *jg.recommended(process, 40),
        (2,),
        guidance=jg.chain(jg.energy(surprise, weight, through="noisy")),
    )[0]


# %%
side = jnp.linspace(-3.2, 3.2, 121)
plane = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
panels = {
    "prior": (mixture, steer(0.0)),
    "guided by −log p(y | xₜ): exact": (posterior, steer(1.0)),
    "twice the weight: too sure": (posterior, steer(2.0)),
}
_, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
for axis, (title, (law, points)) in zip(axes, panels.items(), strict=True):
    density = jnp.exp(testing.log_density(law, plane)).reshape(121, 121)
    axis.contourf(side, side, density, levels=12, cmap="Blues")
    axis.scatter(*points.T, s=2, alpha=0.35, color="darkorange", linewidths=0)
    axis.axhline(float(seen[0]), color="black", linewidth=0.6, linestyle=":")
    axis.set(title=title, aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
plt.tight_layout()
plt.show()

# %%
exact = testing.draw_exact(posterior, jax.random.key(2), 20000)
print("posterior mean  exact", np.round(exact.mean(0), 3))
print("               guided", np.round(steer(1.0).mean(0), 3))

# %% [markdown]
# ## Exercise
#
# Put `jg.during(..., 0.3, 0.7)` around the CFG of part 1, or
# `jg.autoguidance(1.0)` beside it with `load_pretrained("digits_weak")` as a second
# network (`jg.sample(keys, (strong, weak), ...)`). Which digits change? Next: samplers in
# notebook 02, terms of your own in 08, your own network in 09.
