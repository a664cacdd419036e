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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/08_write_your_own_term.ipynb)
#
# # Write your own term
#
# A guidance term is a small frozen dataclass with two methods: it asks for *branches*
# (evaluations of the network), and it edits the *correction*, what is added to the
# network's estimate $\hat x_0$. Everything else, such as batching, schedules, `vmap`
# over weights and gradients, comes with the loop. Here four are written:
#
# 1. An energy in one line: pictures of a wanted colour.
# 2. A combination of two predictions in three lines, beside CFG.
# 3. A term with a memory, as a class.
# 4. A term that edits attention.
# 5. The laws that a term must obey, checked by one call, and one that it breaks.

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
from jaxlib_guidance.attention import blur
from jaxlib_guidance.data import embed_words, grid_of
from jaxlib_guidance.guidance import BASE, combine, like_cond
from jaxlib_guidance.types import Array, Branch, per_sample, pytree_dataclass, static

plt.rcParams["figure.dpi"] = 60

# %% [markdown]
# The model is the small text-to-image model of emoji that comes with the package, trained
# on a CPU (`docs/emoji.md`). Faces, hearts and flags it knows; most objects it does not.

# %%
model, params = jg.models.load_pretrained("emoji")
texts = ["red heart", "smiling face", "sleeping face", "thumbs up"]
texts += ["flag japan", "woman singer", "panda", "blue circle"]
text, text_mask = embed_words(texts)
cond = {"label": jnp.full(8, model.classes), "text": text, "text_mask": text_mask}
keys = jg.sample_keys(jax.random.key(0), 8)
solver, grid = jg.recommended(model.process, 6 if FAST else 12, scale=model.data_scale)


@jax.jit
def draw(guidance=None):
    denoiser = model.denoiser(params)
    return jg.sample(
        keys, denoiser, solver, grid, model.shape, cond, guidance=guidance
    )[0]


def show(rows):
    _, axes = plt.subplots(len(rows), 1, figsize=(10, 1.35 * len(rows)))
    for axis, (title, images) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        axis.imshow(grid_of(np.asarray(images), columns=8), interpolation="nearest")
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## 1. An energy
#
# An energy is a function of the estimate, `[B, H, W, C] -> [B]`; guidance follows
# $-w \nabla_x E(\hat x_0)$. How far is what is not white from the colour we want?


# %%
def far_from(colour):
    def energy(x0, ctx):
        ink = jax.nn.sigmoid(8 * (0.6 - x0.min(-1)))[..., None]  # 1 where not white
        return jnp.sum(ink * (x0 - colour) ** 2, (1, 2, 3)) / 32

    return energy


blue = jnp.array([-0.8, -0.2, 0.9])
cfg = jg.cfg(2.0, null=model.null)
plain = draw(jg.chain(cfg))
coloured = draw(jg.chain(cfg, jg.energy(far_from(blue), 0.1)))
show({"CFG 2": plain, "and blue": coloured})
for name, images in {"CFG 2": plain, "and blue": coloured}.items():
    print(f"{name:9} energy {float(far_from(blue)(images, None).mean()):.2f}")

# %% [markdown]
# ## 2. Two predictions
#
# What is a function of the conditional prediction $c$ and another one, here the
# unconditional $u$, needs no class: `combine` makes a term of it. This one is CFG whose
# contrast is bounded in each pixel, so that no colour burns out.


# %%
def bounded(c, u, weight, ctx, limit):
    return weight * jnp.clip(c - u, -limit, limit)


gentle = combine(bounded, 8.0, null=model.null, limit=0.1)
show({"CFG 8": draw(jg.cfg(8.0, null=model.null)), "bounded 8": draw(gentle)})

# %% [markdown]
# ## 3. A memory
#
# A term with `init` has a state, which leads with the batch and travels in the loop.
# This one adds what is new in the contrast since the last step. The weight is a leaf:
# sweep it, learn it.


# %%
@pytree_dataclass
class Fresh:
    """``delta += w (d_t - beta d_{t-1})`` with ``d = c - u``."""

    weight: Array | float
    beta: Array | float = 0.5
    null: object = None  # A condition without the batch, as `model.null`.

    def branches(self, ctx):
        return {"uncond": Branch(like_cond(self.null, ctx.cond))}

    def init(self, x):
        return jnp.zeros_like(x)

    def update(self, delta, evals, state, ctx):
        d = evals.x0[BASE] - evals.x0["uncond"]
        new = d - per_sample(self.beta, d) * state
        return delta + per_sample(self.weight, d) * new, d


fresh = Fresh(2.0, null=model.null)
show({"CFG 2": plain, "fresh 2": draw(fresh)})

# %% [markdown]
# The term knows nothing of `vmap`, and goes under it: one program, four weights.

# %%
weights = jnp.array([0.0, 2.0, 4.0, 8.0])
swept = jax.jit(jax.vmap(lambda w: draw(Fresh(w, null=model.null))))(weights)
show({f"w = {w:.0f}": images for w, images in zip(weights, swept, strict=True)})

# %% [markdown]
# ## 4. Attention
#
# A branch may run with edited attention. Edits are data: a mapping from sites to edits.
# This term moves away from the estimate of a network whose self-attention in one block
# is blurred (SEG, arXiv 2408.00760).


# %%
@pytree_dataclass
class AwayFromBlur:
    weight: Array | float
    site: str = static(default="block3/attn")

    def branches(self, ctx):
        return {"blurred": Branch(ctx.cond, control={self.site: blur(jnp.inf)})}

    def update(self, delta, evals, state, ctx):
        d = evals.x0[BASE] - evals.x0["blurred"]
        return delta + per_sample(self.weight, d) * d, state


show(
    {
        "CFG 2": plain,
        "and away": draw(jg.chain(cfg, AwayFromBlur(1.0))),
        "jg.seg": draw(jg.chain(cfg, jg.seg(1.0, "block3"))),
    }
)

# %% [markdown]
# ## 5. The laws
#
# `check_term` tries what a term must obey: weight 0 is off bit for bit, samples do not
# see each other, `jit`, `vmap` and `grad` agree, one compilation serves all weights,
# and a sharded batch communicates nothing. Below, a term that takes a mean over the
# batch: it looks well, and makes each sample depend on its neighbours.

# %%
from jaxlib_guidance import testing


@pytree_dataclass
class Centred:
    weight: Array | float

    def branches(self, ctx):
        return {}

    def update(self, delta, evals, state, ctx):
        x0 = evals.x0[BASE] + delta
        mean = jnp.mean(x0, axis=0, keepdims=True)  # over the batch!
        return delta - per_sample(self.weight, x0) * mean, state


@pytree_dataclass
class Shrink:
    weight: Array | float

    def branches(self, ctx):
        return {}

    def update(self, delta, evals, state, ctx):
        x0 = evals.x0[BASE] + delta
        return delta - per_sample(self.weight, x0) * x0, state


testing.check_term(Shrink(0.5))
print("Shrink obeys the laws")
try:
    testing.check_term(Centred(0.5))
except AssertionError as error:
    print("Centred does not:", str(error).splitlines()[0])

# %% [markdown]
# ## Exercise
#
# Write the energy of a picture that is its own mirror image, and draw faces and flags
# with it. Then put it into a window: `jg.during(jg.energy(...), 0.2, 0.8)`.
# `docs/guidance.md` has the whole catalogue and what a term may ask for.
