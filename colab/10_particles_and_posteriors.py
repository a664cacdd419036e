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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/10_particles_and_posteriors.ipynb)
#
# # Particles and posteriors
#
# Guidance moves one sample at a time and hopes. This notebook is about two ways to know:
# *posteriors*, where what was observed has a likelihood, and *particles*, where several
# samples move together, are weighed, and the better ones go on more often.
#
# 1. CFG does not sample what it claims; weighted particles do.
# 2. Half of a digit is known: four methods for the other half.
# 3. A reward without a gradient steers a text-to-image model.
#
# A particle's weight is multiplied in each step by how much the target asks for it more
# than the proposal did, $W \leftarrow W\, G(x_t, x_{t-1})$; where the effective number
# $1 / \sum W^2$ falls below a threshold, particles are drawn anew by weight.

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
from jaxlib_guidance import guidance as g
from jaxlib_guidance.data import embed_words, grid_of, load_digits

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. The product that CFG claims
#
# The score of CFG with weight $w$ is that of $p_c^{1+w} p_u^{-w}$ at every noise level,
# but the flow along it does not end there. With $p_u = N(0, 1)$, $p_c = N(1, 1/4)$ and
# $w = 1$ the product is $N(8/7, 1/7)$. Feynman-Kac correctors (arXiv 2503.02819) weigh
# the difference.

# %%
process = jg.VE()
grid = jg.karras_grid(process, 30 if FAST else 100)
groups, particles = (4, 64) if FAST else (8, 1024)
keys = jg.sample_keys(jax.random.key(0), groups)


def network(x, t, cond):
    """Exact x0 of N(0, 1) where cond is 0 and of N(1, 1/4) where it is 1."""
    mean, var = cond[:, None], 1 - 0.75 * cond[:, None]
    noise = process.sigma(t)[:, None] ** 2
    return (var * x + noise * mean) / (var + noise)


denoiser = jg.parametrize(network, process)


@jax.jit
def product(potential):
    out = jg.sampling.sample_particles(
        keys,
        denoiser,
        jg.ddpm("middle"),
        grid,
        (1,),
        jnp.ones(groups),
        potential=potential,
        particles=particles,
    )
    return out, jnp.exp(out.log_weights)


many = jg.sample_keys(jax.random.key(1), groups * particles)


@jax.jit
def guided():
    return jg.sample(
        many,
        denoiser,
        jg.ddpm("middle"),
        grid,
        (1,),
        jnp.ones(len(many)),
        guidance=jg.cfg(1.0, null=0.0),
    )[0]


out, weights = product(jg.sampling.cfg_corrector(1.0, null=0.0))
line = np.linspace(-1.5, 3, 200)
density = np.exp(-((line - 8 / 7) ** 2) * 7 / 2) / np.sqrt(2 * np.pi / 7)
_, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
bins = {"bins": 60, "range": (-1.5, 3), "density": True, "histtype": "step"}
left.hist(np.asarray(guided()).ravel(), label="CFG", **bins)
left.hist(out.x.ravel(), weights=weights.ravel(), label="with weights", **bins)
left.plot(line, density, "k:", label="the product")
left.legend(frameon=False, fontsize=8)
right.plot(out.ess.mean(1) / particles)
right.set(xlabel="step", ylabel="effective share of particles", ylim=(0, 1))
plt.tight_layout()
plt.show()
x = np.asarray(guided())
print(f"product    mean {8 / 7:.3f}, variance {1 / 7:.3f}")
print(f"CFG        mean {x.mean():.3f}, variance {x.var():.3f}")
mean = float((weights * out.x[..., 0]).sum(1).mean())
var = float((weights * (out.x[..., 0] - mean) ** 2).sum(1).mean())
print(f"particles  mean {mean:.3f}, variance {var:.3f}")

# %% [markdown]
# ## 2. Half of a digit
#
# The left half is observed, $y = A x_0 + s n$. Each method is a term or a sampler; the
# network was never trained to fill anything in.

# %%
model, params = jg.models.load_pretrained("digits")
count = 10 if FAST else 60
images, truth = (each[:count] for each in load_digits("test"))
source = jnp.asarray(images)
known = jnp.ones(model.shape).at[:, 4:].set(0)
seen = g.measurement(source, g.masking(known), noise=0.05)
keys = jg.sample_keys(jax.random.key(2), count)
none = jnp.full(count, model.classes)
steps = 8 if FAST else 20


def restore(sampler_of=lambda solver: solver, guidance=None):
    @jax.jit
    def run(params, seen):
        solver, grid = jg.recommended(model.process, steps, scale=model.data_scale)
        net = model.denoiser(params)
        return jg.sample(
            keys, net, sampler_of(solver), grid, model.shape, none, guidance=guidance
        )[0]

    return run(params, seen)


methods = {
    "nothing known": restore(),
    "DPS": restore(guidance=jg.energy(g.norm_energy, 1.0, seen)),
    "PiGDM": restore(guidance=g.pigdm(seen)),
    "MMPS": restore(guidance=g.mmps(seen)),
}
judge, judge_params = jg.models.load_pretrained("digits_judge")
rows = {"what is known": jnp.where(known > 0, source, 0), **methods, "truth": source}
_, axes = plt.subplots(len(rows), 1, figsize=(9, 0.95 * len(rows)))
for axis, (name, x) in zip(axes, rows.items(), strict=True):
    axis.imshow(grid_of(np.asarray(x[:10]), columns=10))
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)
plt.tight_layout()
plt.show()
for name, x in methods.items():
    right = float(jnp.mean(judge.logits(judge_params, x).argmax(-1) == truth))
    off = float(jnp.abs((x - source) * known).sum() / (known.sum() * count))
    print(f"{name:14} the digit is read right {right:.0%}, off where known {off:.3f}")

# %% [markdown]
# ## 3. A reward without a gradient
#
# How many JPEG bytes a picture needs has no gradient. Steering (arXiv 2501.06848)
# weighs eight particles of each prompt by it on the way and keeps one of them; best of
# eight waits for the end. The reward is called on the host, in the middle of a compiled
# sampler.

# %%
import io

from PIL import Image

emoji, emoji_params = jg.models.load_pretrained("emoji")
prompts = ["smiling face", "red heart", "flag japan", "woman singer"]
text, text_mask = embed_words(prompts)
cond = {"label": jnp.full(4, emoji.classes), "text": text, "text_mask": text_mask}


def jpeg_bytes(images):
    """Kilobytes of each picture, on the host."""
    sizes = []
    for image in np.clip(127.5 * (np.asarray(images) + 1), 0, 255).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=80)
        sizes.append(len(file.getvalue()) / 1000)
    return np.array(sizes, np.float32)


def small(x0, ctx):
    shape = jax.ShapeDtypeStruct(x0.shape[:1], jnp.float32)
    return -jax.pure_callback(jpeg_bytes, shape, x0)


def particles_of(potential):
    @jax.jit
    def run(params, potential):
        out = jg.sampling.sample_particles(
            jg.sample_keys(jax.random.key(3), 4),
            emoji.denoiser(params),
            jg.ddpm(),
            jg.logsnr_grid(emoji.process, 6 if FAST else 16),
            emoji.shape,
            cond,
            potential=potential,
            particles=4 if FAST else 8,
            guidance=jg.cfg(2.0, null=emoji.null),
        )
        return out, jg.sampling.best_particle(out)

    return run(emoji_params, potential)


found = {}
for name, potential in {
    "as they come": jg.sampling.steering(small, 0.0),
    "best of 8": jg.sampling.best_of_n(small),
    "steered": jg.sampling.steering(small, 60.0),
}.items():
    out, best = particles_of(potential)
    found[name] = (out.x[:, 0] if name == "as they come" else best, out)
_, axes = plt.subplots(3, 1, figsize=(6, 4.4))
for axis, (name, (x, _)) in zip(axes, found.items(), strict=True):
    axis.imshow(grid_of(np.asarray(x), columns=4))
    axis.set_ylabel(f"{name}\n{jpeg_bytes(x).mean():.2f} kB", rotation=0, ha="right")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)
plt.tight_layout()
plt.show()
print(
    "effective particles at each step:",
    np.round(np.asarray(found["steered"][1].ess.mean(1), float), 1),
)

# %% [markdown]
# Steering and the best of eight end alike here: there is little to save in a kilobyte.
# `docs/particles.md` has rewards for which it pays.
#
# ## Exercise
#
# In part 1 raise the weight to 3. The effective share falls: how many particles does the
# variance need now? (`docs/particles.md` measures it.) In part 2 let the *noise* be .5:
# which method still believes the observation too much?
