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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/02_samplers_and_schedules.ipynb)
#
# # Samplers and schedules
#
# A diffusion model is a vector field; a *sampler* is a way to follow it from noise to
# data, and a *grid* says where to stop on the way. Which of them you take decides how
# many network evaluations a picture costs. Here you see them at work:
#
# 1. What a noise process is, and what a grid does with it.
# 2. Trajectories of four solvers on a mixture whose answer is known exactly.
# 3. Error against evaluations, on the mixture and on a learned network.
# 4. What noise in the sampler is good for.
# 5. A solver that learns from *your* network.
#
# The solver's equation is the probability flow: with $x_t = \alpha_t x_0 + \sigma_t
# \epsilon$ and a network's estimate $\hat x_0(x, t)$, one step of DDIM goes from $t$ to
# $s$ by $x_s = \alpha_s \hat x_0 + \sigma_s (x_t - \alpha_t \hat x_0) / \sigma_t$.
# Everything else is a better guess of how $\hat x_0$ changes in between.

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
from jaxlib_guidance import testing

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. Processes and grids
#
# A process is three functions of time. All solvers take all of them, since a solver
# works in log signal-to-noise or in the straight coordinates of a rectified flow, and
# not in $t$. A grid is an array of times, from noise down to 0.

# %%
processes = {
    "VPCosine": jg.VPCosine(),
    "VPLinear": jg.VPLinear(),
    "RectifiedFlow": jg.RectifiedFlow(),
}
_, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
for name, process in processes.items():
    t = jnp.linspace(0.002, 0.998, 200)
    left.plot(t, 2 * jnp.log(process.alpha(t) / process.sigma(t)), label=name)
left.set(xlabel="t", ylabel="log signal-to-noise ratio", ylim=(-12, 12))
left.legend(frameon=False)

process, n = jg.VPCosine(), 10
grids = {
    "uniform": jg.uniform_grid(process, n),
    "logsnr": jg.logsnr_grid(process, n),
    "karras": jg.karras_grid(process, n),
    "flow": jg.flow_grid(process, n),
    "recommended": jg.recommended(process, n)[1],
}
for row, (_, times) in enumerate(grids.items()):
    ratio = process.sigma(times[:-1]) / (
        process.alpha(times[:-1]) + process.sigma(times[:-1])
    )
    right.plot(ratio, np.full(n, row), "o", ms=4)
right.set_yticks(range(len(grids)), grids)
right.set(xlabel="sigma / (alpha + sigma): 1 is noise, 0 is data")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 2. Trajectories
#
# The perfect denoiser of a Gaussian mixture has a closed form, so we can follow the
# probability flow as exactly as we like and see how far six steps of each solver are
# from it. All start at the same noise.

# %%
angles = jnp.linspace(0, 2 * jnp.pi, 6)[:-1]
means = 1.5 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
mixture = testing.gaussian_mixture(np.ones(5), means, np.stack([0.01 * np.eye(2)] * 5))
exact = testing.exact_denoiser(mixture, process)
starts = jg.sample_keys(jax.random.key(3), 12)


def follow(solver, grid, keys=starts):
    """End and path of each sample."""
    x, path = jg.sample(keys, exact, solver, grid, (2,), trace=lambda info: info.x)
    return x, jnp.concatenate([path, x[None]]) if len(path) < len(grid) else path


fine = jax.jit(lambda: follow(jg.unipc(3), jg.logsnr_grid(process, 200)))()
solvers = {
    "Euler / DDIM": lambda n: (jg.ddim(), jg.logsnr_grid(process, n)),
    "Heun": lambda n: (jg.heun(), jg.karras_grid(process, max(n // 2, 1))),
    "DPM-Solver++ 2M": lambda n: (jg.dpmpp_2m(), jg.logsnr_grid(process, n)),
    "recommended": lambda n: jg.recommended(process, n),
}

_, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharex=True, sharey=True)
for axis, (name, make) in zip(axes, solvers.items(), strict=True):
    ends, path = jax.jit(lambda make=make: follow(*make(6)))()
    axis.scatter(*means.T, s=120, color="0.85")
    axis.plot(*np.moveaxis(np.asarray(fine[1]), 2, 0), color="C0", lw=0.7, alpha=0.6)
    axis.plot(*np.moveaxis(np.asarray(path), 2, 0), "o-", color="C3", ms=2, lw=0.6)
    error = jnp.mean(jnp.linalg.norm(ends - fine[0], axis=1))
    axis.set(
        title=f"{name}: {error:.3f}", aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6)
    )
plt.suptitle(
    "six evaluations (red) and the exact path (blue); mean distance of the ends"
)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 3. Error against evaluations
#
# Left the mixture, right the digits network that comes with the package, whose exact
# answer is its own path in very many steps. A perfect network rewards high order; a
# learned one is rough on the scale of long steps, and there order has to be earned.
# `recommended` finds the order for each sample and step.

# %%
model, params = jg.models.load_pretrained("digits")
labels = jnp.arange(32) % 10
keys = jg.sample_keys(jax.random.key(4), 32)
net = model.denoiser(params)


def ends_of(denoiser, shape, cond=None):
    def run(solver, grid):
        draw = jax.jit(lambda: jg.sample(keys, denoiser, solver, grid, shape, cond)[0])
        return np.asarray(draw()).reshape(len(keys), -1)

    return run


counts = (6,) if FAST else (5, 10, 20)
problems = {
    "mixture": ends_of(exact, (2,)),
    "digits": ends_of(net, model.shape, labels),
}
_, axes = plt.subplots(1, 2, figsize=(11, 3.4))
for axis, (title, run) in zip(axes, problems.items(), strict=True):
    truth = run(jg.unipc(3), jg.logsnr_grid(process, 40 if FAST else 150))
    for name, make in solvers.items():
        errors = [np.linalg.norm(run(*make(n)) - truth, axis=1).mean() for n in counts]
        axis.loglog(counts, errors, "o-", ms=3, label=name)
    axis.set(
        title=title, xlabel="network evaluations", ylabel="distance to the exact end"
    )
    axis.set_xticks(counts, counts)
    axis.minorticks_off()
axes[0].legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 4. Noise
#
# A stochastic solver adds noise in each step and takes it out again. It needs more
# steps, forgets its errors, and it is a *policy*: each step is a Gaussian whose
# log-probability is known, which is what reward fine-tuning needs (notebook 05). Below,
# the distance between the samples and exact draws from the mixture, as the mean over
# directions of the distance of sorted projections (sliced Wasserstein).

# %%
count = 500 if FAST else 4000
many = jg.sample_keys(jax.random.key(5), count)
truth = np.asarray(testing.draw_exact(mixture, jax.random.key(6), count))
directions = np.stack(
    [np.cos(np.linspace(0, np.pi, 32)), np.sin(np.linspace(0, np.pi, 32))]
)


def distance(points):
    a, b = np.sort(np.asarray(points) @ directions, 0), np.sort(truth @ directions, 0)
    return np.abs(a - b).mean()


noisy = {
    "DDPM": lambda n: (jg.ddpm(), jg.logsnr_grid(process, n)),
    "DPM-Solver++ SDE 2M": lambda n: (jg.dpmpp_2m(1.0), jg.flow_grid(process, n)),
    "recommended, stochastic": lambda n: jg.recommended(process, n, stochastic=True),
}
floor = np.mean(
    [distance(testing.draw_exact(mixture, jax.random.key(k), count)) for k in (7, 8)]
)
_, axis = plt.subplots(figsize=(6, 3.2))
for name, make in noisy.items():
    draws = [jax.jit(lambda n=n, make=make: follow(*make(n), many)[0]) for n in counts]
    found = [distance(draw()) for draw in draws]
    axis.loglog(counts, found, "o-", ms=3, label=name)
axis.axhline(floor, color="0.6", ls=":", label="exact draws")
axis.set_xticks(counts, counts)
axis.minorticks_off()
axis.set(xlabel="network evaluations", ylabel="sliced Wasserstein distance")
axis.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 5. A solver for one network
#
# The sampler is differentiable, so its times and coefficients can be learned: from a
# few starts and their exact ends, by least squares through the sampler. The result is a
# small pytree, to be saved and used like any solver. Here for the mixture and four
# evaluations, drawn from starts that were not used to learn; for the digits, with and
# without guidance, see `docs/calibration.md`.

# %%
own, report = jg.calibrate(
    jg.sample_keys(jax.random.key(8), 64), exact, 4, (2,), steps=1 if FAST else 6
)
tests = jg.sample_keys(jax.random.key(9), 300)
truth = jax.jit(lambda: follow(jg.unipc(3), jg.logsnr_grid(process, 60), tests)[0])()
four = {
    "DDIM": (jg.ddim(), jg.logsnr_grid(process, 4)),
    "DPM-Solver++ 2M": (jg.dpmpp_2m(), jg.logsnr_grid(process, 4)),
    "recommended": jg.recommended(process, 4),
    "calibrated": (own.sampler, own.grid),
}
_, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharex=True, sharey=True)
for axis, (name, pair) in zip(axes, four.items(), strict=True):
    ends = jax.jit(lambda pair=pair: follow(*pair, tests)[0])()
    error = jnp.linalg.norm(ends - truth, axis=1).mean()
    axis.scatter(*truth.T, s=8, color="C0", alpha=0.3)
    axis.scatter(*ends.T, s=4, color="C3")
    axis.set(title=f"{name}: {error:.3f}", aspect="equal")
plt.suptitle("ends after four evaluations (red) and exact ends (blue)")
plt.tight_layout()
plt.show()
print(f"learned in {report.seconds:.0f} s")

# %% [markdown]
# ## Exercise
#
# `jg.VE()` is the process of EDM. Draw its line in part 1, and repeat part 3's left
# panel with it: which solver gains, which loses? Then read `docs/samplers.md`, where
# twenty problems are solved beside diffusers and k-diffusion.
