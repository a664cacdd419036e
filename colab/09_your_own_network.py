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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/09_your_own_network.ipynb)
#
# # Your own network
#
# You have a network; this library has samplers and guidance. Between them stands one
# line, `parametrize`: it says which *noise process* the network was trained on and what
# it *predicts*. Here three networks of three kinds learn the same digits from nothing,
# and one chain of guidance steers all of them:
#
# | network | process | predicts |
# |---|---|---|
# | a bare function with its parameters in a dictionary | a table of betas (DDPM) | noise |
# | a Flax Linen module | VE with EDM's preconditioning | data, by EDM's scalings |
# | a Flax NNX module | a rectified flow | velocity |
#
# The library works on estimates of the data: from noise
# $\hat x_0 = (x - \sigma_t \hat\epsilon) / \alpha_t$, from a flow's velocity
# $\hat x_0 = x - t\, \hat v$. A term is therefore the same for all of them.

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
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jaxlib_guidance as jg
from jaxlib_guidance.data import grid_of, load_digits
from jaxlib_guidance.diffusion import (
    denoising_loss,
    edm_weight,
    linear_betas,
    log_normal_t,
    uniform_t,
)

plt.rcParams["figure.dpi"] = 80
images, labels = map(jnp.asarray, load_digits("train"))
print(images.shape, "in", float(images.min()), "to", float(images.max()))

# %% [markdown]
# ## One training loop for all
#
# `denoising_loss` takes a denoiser and noise; the rest is optax. A tenth of the labels
# become 10, "none": that is what CFG will contrast with.

# %%
WIDTH, NONE = 256, 10
updates = 30 if FAST else 3000


def fit(params, denoiser_of, weighting, times, rate=1e-3):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, updates))
    process = denoiser_of(params).process

    def loss(params, key):
        rows, drop, noise, level = jax.random.split(key, 4)
        at = jax.random.randint(rows, (256,), 0, len(images))
        kept = jax.random.bernoulli(drop, 0.9, (256,))
        label = jnp.where(kept, labels[at], NONE)
        eps = jax.random.normal(noise, (256, 8, 8, 1))
        t = times(process, jax.random.uniform(level, (256,)))
        each = denoising_loss(
            denoiser_of(params), images[at], eps, t, label, weighting=weighting
        )
        return each.mean()

    def update(carry, key):
        params, mean, state = carry
        value, slope = jax.value_and_grad(loss)(params, key)
        change, state = optimizer.update(slope, state)
        params = optax.apply_updates(params, change)
        mean = optax.incremental_update(params, mean, 0.005)
        return (params, mean, state), value

    start = (params, params, optimizer.init(params))
    keys = jax.random.split(jax.random.key(1), updates)
    (_, mean, _), losses = jax.jit(lambda c, k: jax.lax.scan(update, c, k))(start, keys)
    return mean, losses


def features(x, level, label):
    """What all three networks see: pixels, the noise level in waves, the label."""
    waves = level[:, None] * 2.0 ** jnp.arange(6)
    parts = [x.reshape(len(x), -1), jnp.sin(waves), jnp.cos(waves)]
    return jnp.concatenate([*parts, jax.nn.one_hot(label, NONE + 1)], 1)


INPUT = 64 + 12 + NONE + 1

# %% [markdown]
# ## A function, and DDPM's table
#
# `vp_discrete` makes a process of the table. The network receives the table's *index*,
# 0 to 999, as such networks expect.

# %%
table = jg.vp_discrete(linear_betas(1000))


def plain(params, x, index, label):
    h = features(x, index / 1000, label)
    for name in ("a", "b", "c"):
        h = jax.nn.silu(h @ params[name]["w"] + params[name]["b"])
    return (h @ params["out"]["w"] + params["out"]["b"]).reshape(x.shape)


def dense(key, n, m):
    return {"w": jax.random.normal(key, (n, m)) / np.sqrt(n), "b": jnp.zeros(m)}


sizes = {
    "a": (INPUT, WIDTH),
    "b": (WIDTH, WIDTH),
    "c": (WIDTH, WIDTH),
    "out": (WIDTH, 64),
}
first = {
    n: dense(jax.random.key(i), *size) for i, (n, size) in enumerate(sizes.items())
}


def of_function(params):
    return jg.parametrize(partial(plain, params), table, "eps")


# %% [markdown]
# ## A Linen module, and EDM
#
# `precondition=True` puts EDM's scalings around the raw network.


# %%
class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, level, label):
        h = features(x, level, label)
        for _ in range(3):
            h = nn.silu(nn.Dense(WIDTH)(h))
        return nn.Dense(64)(h).reshape(x.shape)


module = Linen()
second = module.init(jax.random.key(2), images[:1], jnp.zeros(1), labels[:1])
sigma_data = float(images.std())


def of_linen(params):
    network = jg.models.from_linen(module, params)
    return jg.parametrize(network, jg.VE(), precondition=True, sigma_data=sigma_data)


# %% [markdown]
# ## An NNX module, and a flow
#
# Split it once; the state is the argument that is differentiated.


# %%
class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(INPUT, WIDTH, rngs=rngs)
        self.b = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.c = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, 64, rngs=rngs)

    def __call__(self, x, level, label):
        h = features(x, level, label)
        for layer in (self.a, self.b, self.c):
            h = nnx.silu(layer(h))
        return self.out(h).reshape(x.shape)


graph, third = nnx.split(Nnx(nnx.Rngs(3)))


def of_nnx(state):
    network = jg.models.from_nnx(graph, state)
    return jg.parametrize(network, jg.RectifiedFlow(), "velocity")


# %%
edm = partial(edm_weight, sigma_data=sigma_data)
nets = {
    "function, DDPM": (first, of_function, "eps", uniform_t),
    "Linen, EDM": (second, of_linen, edm, log_normal_t),
    "NNX, flow": (third, of_nnx, "velocity", uniform_t),
}
trained, losses = {}, {}
for name, (params, denoiser_of, *how) in nets.items():
    trained[name], losses[name] = fit(params, denoiser_of, *how)
_, axis = plt.subplots(figsize=(6, 2.6))
for name, curve in losses.items():
    few = max(len(curve) // 100, 1)
    axis.semilogy(np.asarray(curve).reshape(-1, few).mean(1), label=name)
axis.set(xlabel=f"update / {few}", ylabel="its own loss")
axis.legend(frameon=False, fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## One chain for all of them
#
# Each denoiser knows its process, and `sample` and `recommended` take it from there. A
# classifier that was trained apart counts how many samples are what their label says.
#
# What predicts noise is unsure of the data at the start, where an error of the noise is
# $\sigma / \alpha$ times as large in $\hat x_0$. `clip_x0` keeps the estimate in the
# range of the data, as DDPM's own code does; all three get it here.

# %%
judge, judge_params = jg.models.load_pretrained("digits_judge")
rows = 10 if FAST else 40
wanted = jnp.tile(jnp.arange(10), rows)
keys = jg.sample_keys(jax.random.key(4), len(wanted))


def left_is_light(x0, ctx):
    """An energy: ink in the three columns on the left."""
    return jnp.mean(x0[:, :, :3] + 1, (1, 2, 3))


chains = {
    "no guidance": jg.clip_x0(),
    "CFG 1": jg.chain(jg.cfg(1.0, null=NONE), jg.clip_x0()),
    "CFG 1 and the energy": jg.chain(
        jg.cfg(1.0, null=NONE), jg.energy(left_is_light, 30.0), jg.clip_x0()
    ),
}
_, axes = plt.subplots(3, 3, figsize=(9, 7.6))
for row, (name, (_, denoiser_of, *_)) in zip(axes, nets.items(), strict=True):

    @jax.jit
    def draw(params, guidance, denoiser_of=denoiser_of):
        net = denoiser_of(params)
        pair = jg.recommended(net.process, 20)
        return jg.sample(keys, net, *pair, (8, 8, 1), wanted, guidance=guidance)[0]

    for axis, (title, guidance) in zip(row, chains.items(), strict=True):
        x = draw(trained[name], guidance)
        right = jnp.mean(judge.logits(judge_params, x).argmax(-1) == wanted)
        ink = float(left_is_light(x, None).mean())
        axis.imshow(grid_of(np.asarray(x[:50]), columns=10))
        axis.set_title(f"{title}: {right:.0%} right, ink left {ink:.2f}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    row[0].set_ylabel(name, fontsize=9)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## A published model
#
# Stable Diffusion, SDXL, DiT-XL, SD3, Flux and PixArt are read from the folders in which
# they are published (`docs/models.md`), every attention site named. Give a folder here.

# %%
FOLDER = ""  # @param {type:"string"}
if FOLDER:
    model, params = jg.models.load_published(FOLDER, dtype=jnp.bfloat16)
    prompt, null = model.prompts(params, ["a red apple"], negative="blurry")

    @jax.jit
    def paint(params, keys, prompt, null):
        guidance = jg.chain(jg.cfg(6.5, null), jg.pag(2.0, "mid"))
        pair = jg.dpmpp_2m(), model.grid(30, "dpm")
        net = model.denoiser(params)
        latent = jg.sample(
            keys, net, *pair, model.latent(512), prompt, guidance=guidance
        )
        return model.decode(params, latent[0])

    plt.imshow(paint(params, jg.sample_keys(jax.random.key(0), 1), prompt, null)[0])
    plt.axis("off")
    plt.show()

# %% [markdown]
# ## Exercise
#
# Say that the flow predicts "eps" instead of "velocity" and look at the samples: a wrong
# word here is the most common mistake, and it does not raise. Then wrap an Equinox or a
# Haiku network: a bare function is all that is needed.
