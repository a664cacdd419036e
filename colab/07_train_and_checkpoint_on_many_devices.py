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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/07_train_and_checkpoint_on_many_devices.ipynb)
#
# # Train and checkpoint on many devices
#
# The same step on one device, eight, or a pod: the objective is written once, for the
# whole batch, and a mesh only says where it is computed. Here a diffusion transformer
# learns digits from nothing on eight devices, is killed, goes on with two, and draws on
# all of them.
#
# 1. Eight devices, a state split over them.
# 2. Train; stop; go on from the checkpoint, with the batch that came next.
# 3. Go on with another number of devices: the same curve.
# 4. A bit on disk is flipped.
# 5. Draw on all devices, without a word between them.
#
# Row $i$ of step $s$ has the key `fold_in(fold_in(root, i), s)` wherever it lands, and
# the gradient is that of $\sum_i w_i \ell_i / \sum_i w_i$ over the global batch.

# %%
import jax

# A machine without accelerators shows its CPU as eight devices; a GPU or a TPU is what
# it is. This must come before JAX is used for the first time.
jax.config.update("jax_num_cpu_devices", 8)

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
import contextlib
import io
import json
import tempfile
from functools import cache, partial
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.data import Loader, grid_of, load_images
from jaxlib_guidance.diffusion import denoising_loss, edm_weight, log_normal_t
from jaxlib_guidance.models import DiT, drop_condition, from_linen
from jaxlib_guidance.training import (
    Log,
    data_mesh,
    fit,
    init_state,
    make_train_step,
    pmapped,
    replicate,
    restore_weights,
    shard_batch,
    state_sharding,
)

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. Eight devices
#
# `data_mesh` is a line of devices. `state_sharding(..., "fsdp")` splits parameters, their
# average and the optimiser's moments over it; "data" keeps a copy on each.

# %%
data = load_images("digits", "train")
process, shape, NONE = jg.VPCosine(), (8, 8, 1), 10
module = DiT(width=64, depth=2, heads=4, patch=2, classes=NONE)
tx = optax.adam(2e-3)
scale = float(data.images.std())
edm = partial(edm_weight, sigma_data=scale)


def make():
    x = jnp.zeros((1, *shape))
    params = module.init(jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1, int))[
        "params"
    ]
    return init_state(params, tx, jax.random.key(1))


mesh = data_mesh()
sharding = state_sharding(mesh, make, "fsdp")
state = jax.jit(make, out_shardings=sharding)()
numbers = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
one = sum(leaf.addressable_shards[0].data.nbytes for leaf in numbers)
print(f"{mesh.size} devices")
print(
    f"state {sum(leaf.nbytes for leaf in numbers):,} bytes, of which a device holds {one:,}"
)

# %% [markdown]
# ## 2. Train, stop, go on
#
# A loss sees parameters, a batch and one key a row, and returns one number a row.
# `fit` takes a state to a number of steps, from the last good checkpoint if there is
# one. `batch_at(i)` is a pure function, which is all that a resumed run needs to be the
# same run.


# %%
def denoiser_of(params):
    network = from_linen(module, params)
    return jg.parametrize(network, process, precondition=True, sigma_data=scale)


def loss(params, batch, keys):
    x0 = batch["image"]
    eps = rng.normal(rng.fold(keys, 0), shape)
    label = drop_condition(rng.fold(keys, 1), batch["label"], NONE, 0.1)
    t = log_normal_t(process, rng.uniform(rng.fold(keys, 2)))
    return denoising_loss(denoiser_of(params), x0, eps, t, label, weighting=edm), {}


@cache
def compiled(mesh, kind):
    """A new state and the step, compiled once for each arrangement."""
    sharding = state_sharding(mesh, make, kind)
    step = make_train_step(loss, tx, ema_decay=0.99, mesh=mesh, sharding=sharding)
    return jax.jit(make, out_shardings=sharding), step


def run(folder, steps, mesh, kind="fsdp"):
    """What a script does: of earlier calls it knows the folder and nothing else."""
    new, step = compiled(mesh, kind)
    loader = Loader(data, 128, 0)
    with contextlib.redirect_stdout(io.StringIO()):  # A line every five steps.
        fitted = fit(
            step,
            new(),
            lambda i: shard_batch(mesh, loader(i)),
            steps=steps,
            folder=Path(folder),
            log=Log(every=5, save_every=first),
        )
    return fitted.state


first, total = (5, 10) if FAST else (50, 150)
here = Path(tempfile.mkdtemp())
run(here / "cut", first, mesh)
run(here / "cut", total, mesh)  # As after a crash: the folder is all there is.
run(here / "whole", total, mesh)


def curve(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return np.array(
        [(line["step"], line["loss"]) for line in lines if "loss" in line]
    ).T


off = np.abs(curve(here / "cut")[1] - curve(here / "whole")[1]).max()
print(f"largest difference between a run in two pieces and one in one: {off:.1e}")

# %% [markdown]
# ## 3. On two devices
#
# A checkpoint is read into whatever arrangement there is. The curve goes on as it would
# have, to the rounding of sums in another order.

# %%
fewer = data_mesh(jax.devices()[: min(2, len(jax.devices()))])
run(here / "moved", first, mesh)
run(here / "moved", total, fewer, "data")
_, axis = plt.subplots(figsize=(7, 3))
for (name, folder), style in zip(
    {
        "eight devices": "whole",
        "stopped, gone on": "cut",
        "eight, then two": "moved",
    }.items(),
    ("-", "--", ":"),
    strict=True,
):
    axis.plot(*curve(here / folder), style, label=name)
axis.axvline(first, color="0.7", lw=0.8)
axis.set(xlabel="step", ylabel="loss")
axis.legend(frameon=False)
plt.tight_layout()
plt.show()
off = np.abs(curve(here / "moved")[1] - curve(here / "whole")[1]).max()
print(f"largest difference: {off:.1e}")

# %% [markdown]
# ## 4. A flipped bit
#
# Every array has a checksum. A damaged checkpoint is not trained on: the one before it
# is taken, and if there is none you are told.

# %%
newest = max((here / "cut" / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
for victim in newest.rglob("d/*"):  # What holds the arrays.
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
print("flipped bits in step", newest.name)
print("read step", restore_weights(here / "cut").step, "instead")
try:
    restore_weights(here / "cut", step=int(newest.name))
except ValueError as error:
    print(type(error).__name__, str(error).partition(" in ")[0])

# %% [markdown]
# ## 5. Draw on all devices
#
# `pmapped` gives each device its rows. A sample depends on its key alone, so nothing is
# sent: the compiled program has no collective, which we look up. Before that the model
# learns on for a while, on all of them.

# %%
more = 2 * total if FAST else 800
ema = run(here / "whole", more, mesh).ema
labels = jnp.repeat(jnp.arange(10), 8)
keys = jg.sample_keys(jax.random.key(2), len(labels))


def draw(params, keys, labels):
    pair = jg.recommended(process, 20)
    guidance = jg.cfg(1.5, null=NONE)
    return jg.sample(
        keys, denoiser_of(params), *pair, shape, labels, guidance=guidance
    )[0]


mapped = pmapped(draw, mesh, (None, 0, 0))
inputs = replicate(mesh, (ema, keys, labels))
images = np.asarray(mapped(*inputs))
text = jax.jit(mapped).lower(*inputs).compile().as_text()
words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
print({word: text.count(word + "(") for word in words})
_, axis = plt.subplots(figsize=(7, 5.6))
axis.imshow(grid_of(images, columns=8 if FAST else 16))
axis.set_title(f"after {more} steps from nothing, CFG 1.5")
axis.axis("off")
plt.show()

# %% [markdown]
# ## Exercise
#
# Give `make_train_step` `accumulate=2` on one device: the curve must not change. Then
# read `docs/launch.md` for the same on Slurm and on a TPU pod, where the command is the
# same on every host.
