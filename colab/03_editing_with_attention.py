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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/03_editing_with_attention.ipynb)
#
# # Editing with attention
#
# An attention map says where a token looks. To *edit* a picture is mostly to decide whose
# maps are used: the picture's own, so that its layout stays, or those of the new words,
# so that something changes. Here real emoji are changed by words, and since the set has
# the same emoji in other colours, the right answer is known.
#
# 1. Look at the maps: which word went where?
# 2. Invert a picture: the noise from which the sampler draws it.
# 3. Six editors, one picture, the truth beside them.
# 4. How much of each: the curve between "nothing happened" and "another picture".
# 5. A layer that sees only itself: perturbed attention.
# 6. A picture of your own, from a file: changed in words, and rid of a thing.
#
# In this library a map is edited by data: `control` maps a site, such as
# "block2/cross", to an edit. No hooks, and without an edit the program is unchanged.

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
from jaxlib_guidance import editing
from jaxlib_guidance.data import embed_words, load_emoji
from jaxlib_guidance.guidance import like_cond

plt.rcParams["figure.dpi"] = 70
model, params = jg.models.load_pretrained("emoji")
pictures = {}
for split in ("train", "test"):
    found = load_emoji(split)
    pictures |= dict(zip(found.captions, found.images, strict=True))


def words(*texts):
    """A condition of captions, without categories."""
    text, text_mask = embed_words(list(texts))
    return {
        "label": jnp.full(len(texts), model.classes),
        "text": text,
        "text_mask": text_mask,
    }


def show(rows, titles=None, size=1.1):
    """Rows of pictures in [-1, 1], by name."""
    count = max(map(len, rows.values()))
    _, axes = plt.subplots(
        len(rows), count, figsize=(size * count + 1.5, size * len(rows))
    )
    axes = np.asarray(axes).reshape(len(rows), count)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, np.asarray(images), strict=False):
            axis.imshow(np.clip((image + 1) / 2, 0, 1), interpolation="nearest")
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], titles or (), strict=False):
        axis.set_title(title, fontsize=9)
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## 1. Which word went where
#
# `capture` names maps to return. We noise a real picture a little, ask the network about
# it, and draw the attention that its 64 tokens pay to each word, the mean over blocks.

# %%
caption = "woman singer" if "woman singer" in pictures else "red heart"
shown = ["red heart", "flag japan", caption]
cond = words(*shown)
x0 = jnp.stack([jnp.asarray(pictures[c]) for c in shown])
eps = jax.random.normal(jax.random.key(0), x0.shape)
t = model.process.t_of_logsnr(jnp.float32(1.0))
sites = [f"block{i}/cross" for i in range(6)]


@jax.jit
def look(params, x0):
    x = jg.perturb(model.process, x0, eps, t)
    maps = model.denoiser(params)(x, t, cond, capture=sites).maps
    return jnp.mean(jnp.stack([maps[site].mean(1) for site in sites]), 0)  # [B, 64, M]


maps = look(params, x0)
_, axes = plt.subplots(3, 3, figsize=(5.4, 5.4))
for row, name, image, each in zip(axes, shown, x0, maps, strict=True):
    row[0].imshow(np.clip((image + 1) / 2, 0, 1))
    for axis, word, column in zip(row[1:], name.split(), each.T, strict=False):
        axis.imshow(column.reshape(8, 8), cmap="magma")
        axis.set_title(word, fontsize=9)
    for axis in row:
        axis.axis("off")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## 2. The way back
#
# `invert` runs the probability flow from the picture to noise. What is drawn from that
# noise under the same words is the picture again, up to the error of the steps.

# %%
steps = 4 if FAST else 25
grid = jg.uniform_grid(model.process, steps)
names = [
    "red heart",
    "red circle",
    "blue square" if "blue square" in pictures else "blue circle",
]
x = jnp.stack([jnp.asarray(pictures[c]) for c in names])
source = words(*names)
keys = jg.sample_keys(jax.random.key(1), len(names))


@jax.jit
def there_and_back(params, x, cond):
    net = model.denoiser(params)
    noise = jg.invert(keys, net, grid, x, cond).x
    return noise, jg.sample(keys, net, jg.ddim(), grid, noise, cond)[0]


noise, back = there_and_back(params, x, source)
show({"picture": x, "noise": noise / 3, "and back": back}, names)
print(
    f"mean distance of a pixel {float(jnp.abs(back - x).mean()):.3f}, of a range of 2"
)

# %% [markdown]
# ## 3. Six editors
#
# Red becomes blue, and the set has the blue one too. Each is a function of keys, network,
# grid, picture, and the words before and after; what differs is what it holds on to.

# %%
kinds = ["heart", "circle", "square"]
kinds = [k for k in kinds if {f"red {k}", f"blue {k}"} <= set(pictures)]
before, after = [[f"{c} {k}" for k in kinds] for c in ("red", "blue")]
x = jnp.stack([jnp.asarray(pictures[c]) for c in before])
truth = jnp.stack([jnp.asarray(pictures[c]) for c in after])
source, target = words(*before), words(*after)
keys = jg.sample_keys(jax.random.key(2), len(kinds))


def by_inversion(keys, net, grid, x, source, target, null, weight):
    noise = jg.invert(keys, net, grid, x, source).x
    cfg = jg.cfg(weight, null=null)
    return jg.sample(keys, net, jg.ddim(), grid, noise, target, guidance=cfg)[0]


def by_noise(keys, net, grid, x, source, target, null, weight):
    cfg = jg.cfg(weight, null=null)
    return editing.sdedit(keys, net, grid, x, target, strength=0.75, guidance=cfg)


def edited_by(function, **settings):
    @jax.jit
    def run(params, weight):
        net = model.denoiser(params)
        made = function(
            keys, net, grid, x, source, target, model.null, weight=weight, **settings
        )
        return getattr(made, "x", made)

    return run


editors = {
    "SDEdit": edited_by(by_noise),
    "inversion, CFG": edited_by(by_inversion),
    "Guide-and-Rescale": edited_by(editing.guide_and_rescale),
    "Prompt-to-Prompt": edited_by(editing.prompt_to_prompt),
    "FlowEdit": edited_by(editing.flow_edit),
    "edit-friendly": edited_by(editing.edit_friendly),
}


def distance(a, b):
    return float(jnp.sqrt(jnp.mean((a - b) ** 2)))


rows = {"picture": x}
for name, edit in editors.items():
    rows[name] = edit(params, 4.0)
    print(
        f"{name:18} from the truth {distance(rows[name], truth):.2f}, "
        f"from the picture {distance(rows[name], x):.2f}"
    )
show(rows | {"truth": truth}, after)

# %% [markdown]
# ## 4. How much
#
# The weight of guidance moves an editor along a curve: from the picture (left) towards
# something that the words ask for. A good editor comes near the truth (low) on the way.
# Weights are arguments, so the whole curve is one compiled program for each editor.

# %%
weights = (1.0, 4.0) if FAST else (0.0, 1.0, 2.0, 4.0, 8.0, 12.0)
_, axis = plt.subplots(figsize=(6, 3.6))
for name, edit in editors.items():
    made = [edit(params, weight) for weight in weights]
    axis.plot(
        [distance(each, x) for each in made],
        [distance(each, truth) for each in made],
        "o-",
        ms=3,
        label=name,
    )
axis.axhline(distance(x, truth), color="0.7", ls=":", label="nothing done")
axis.set(xlabel="distance from the picture", ylabel="distance from the truth")
axis.legend(frameon=False, fontsize=7)
plt.tight_layout()
plt.show()

# %% [markdown]
# Three pictures decide nothing; `docs/editing.md` has the same on 28 pairs, three seeds
# and searched settings.
#
# ## 5. Perturbed attention
#
# `pag` moves away from what a network says whose attention in one block is the identity:
# each token sees only itself. No condition is needed. Which block matters.

# %%
many = jg.sample_keys(jax.random.key(5), 8)
nothing = like_cond(model.null, words(*["red heart"] * 8))


@jax.jit
def draw(params, guidance):
    pair = jg.recommended(model.process, 8, scale=model.data_scale)
    net = model.denoiser(params)
    return jg.sample(many, net, *pair, model.shape, nothing, guidance=guidance)[0]


blocks = ("block2",) if FAST else ("block0", "block2", "block3", "block5")
rows = {"no guidance": draw(params, None)}
for block in blocks:
    rows[f"pag 1.5, {block}"] = draw(params, jg.pag(1.5, block))
show(rows)

# %% [markdown]
# ## 6. A picture of your own
#
# The recipes `sample/edit.py` and `sample/erase.py` are command lines, and functions that
# a notebook calls. They read files: of any size, grey or transparent too, cropped to what
# the model takes. Give the path of yours and its words, from the emoji's vocabulary;
# without a path we paint a file: a red square with a dark spot, on nothing.

# %%
import tempfile
from pathlib import Path

from PIL import Image

from jaxlib_guidance.__main__ import recipe_folder

sys.path.insert(0, str(recipe_folder() / "sample"))
import edit as edit_recipe
import erase as erase_recipe

my_picture = ""  # @param {type:"string"}
what_it_shows, what_it_becomes = "red square", "blue square"
out = Path(tempfile.mkdtemp())
if not my_picture:
    my_picture = str(out / "mine.png")
    painted = np.zeros((200, 260, 4), np.uint8)
    painted[30:170, 60:200] = 225, 45, 60, 255
    painted[75:115, 105:145] = 60, 60, 60, 255
    Image.fromarray(painted).save(my_picture)
height, width = np.asarray(Image.open(my_picture)).shape[:2]
mask = np.zeros((height, width), np.uint8)
mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255  # White goes.
Image.fromarray(mask).save(out / "mask.png")

few = 4 if FAST else 25
config = edit_recipe.Config(
    source=what_it_shows,
    target=(what_it_becomes,),
    picture=Path(my_picture),
    method="prompt-to-prompt",
    weight=4.0,
    steps=few,
)
mine, changed = edit_recipe.edit(config)
config = erase_recipe.Config(picture=Path(my_picture), mask=out / "mask.png", steps=few)
_, hidden, without = erase_recipe.remove(config)
hidden = np.broadcast_to(hidden[..., None], mine.shape)
show(
    {"": [mine, *changed, 1 - 2.0 * hidden, *without]},
    ["your picture", what_it_becomes, "black goes", "without it"],
    size=1.5,
)

# %% [markdown]
# ## Exercise
#
# Prompt-to-Prompt keeps the source's self-attention in the first `self_share` of the
# steps. Set it to 0 and to 1 and look at the shape. With a published model, section 6
# takes photographs: `weights=FOLDER` in the first `Config`, `model=FOLDER` in the second,
# or `python sample/edit.py --model FOLDER --picture photo.png --source "..." --target
# "..."`.
