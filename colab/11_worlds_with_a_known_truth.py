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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxlib-guidance/jaxlib_guidance/blob/main/colab/11_worlds_with_a_known_truth.ipynb)
#
# # Worlds with a known truth
#
# Whether a reward, a bonus or a guide does what its paper says is hard to see where
# nobody knows the right answer. `jg.worlds` has small environments, pure functions of
# `reset` and `step`, in which the right answer can be computed:
#
# 1. A language model writes sums as steps, and each step is checked alone.
# 2. A grid with a key and a door is solved exactly, and rewards that tie fall off a cliff.
# 3. A hand opens a door, and a plan in which the door moves alone is a ghost.
# 4. Plans of a linear system, guided to a goal, are the nearest that its laws allow.

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

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxlib_guidance as jg
from jaxlib_guidance import planning, policy
from jaxlib_guidance.models import generate, load_pretrained
from jaxlib_guidance.worlds import chains, door, key_door, sums, tables

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## 1. Sums whose steps are checked
#
# An answer to `47+58=` goes column by column from the right: `(78051` says that 7 and 8
# without a carry are 5 and carry 1. It ends with `#105.`. The bundled model has 77
# thousand parameters and draws an answer to each of some sums of one and of two digits.

# %%
lm, params = load_pretrained("sums_plain")
COUNT = 32 if FAST else 256


@jax.jit
def answers(key, digits):
    drawn, asked = jax.random.split(key)
    draw = partial(sums.draw, sums.Sums(1, 2))
    problems = jax.vmap(draw)(jax.random.split(drawn, COUNT))
    problems = problems._replace(
        a=problems.a % 10**digits,
        b=problems.b % 10**digits,
        digits=jnp.full(COUNT, digits),
    )
    prompt, mask = jax.vmap(sums.prompt)(problems)
    keys = jg.sample_keys(asked, COUNT)
    ends = {"eos": sums.END, "pad": sums.END}
    out = generate(keys, lm, params, prompt, mask, steps=32, **ends)
    checks = jax.vmap(sums.check)(problems, out.tokens, out.mask)
    return problems, out, checks


for digits in (1, 2):
    problems, out, checks = answers(jax.random.key(digits), digits)
    share = float(checks.right.mean())
    steps = np.arange(checks.step_right.shape[1]) < np.asarray(checks.steps)[:, None]
    good = float(np.asarray(checks.step_right)[steps].mean())
    print(f"{digits} digits: {share:.2f} right, {good:.2f} of the steps")

wrong = int(np.argmin(checks.right))
for i in (int(np.argmax(checks.right)), wrong):
    text = chains.decode(out.tokens[i], out.mask[i])
    a, b = int(problems.a[i]), int(problems.b[i])
    first = int(checks.first_wrong[i])
    told = "all steps right" if bool(checks.right[i]) else f"step {first} is wrong"
    print(f"{a}+{b}={text}   {told}")

# %% [markdown]
# Where the first wrong step stands is what a process reward, a splice or a hint is made
# of, and here it is known, not judged.

# %%
first = np.asarray(checks.first_wrong)[~np.asarray(checks.right)]
plt.figure(figsize=(4, 2.4))
plt.hist(first, bins=np.arange(5) - 0.5, rwidth=0.8)
plt.xlabel("first wrong step of a wrong answer, of two digits")
plt.ylabel("answers")
plt.show()

# %% [markdown]
# ## 2. A key, a door, and the policy cliff
#
# `worlds.key_door` is a table of states and actions, so that value iteration solves it.
# Below, the best policy fetches the key, opens the door and reaches the goal.

# %%
table = key_door.build(7)
solution = tables.solve(table)
state, way = int(np.argmax(table.start)), []
while not bool(table.terminal[state]) and len(way) < 60:
    way.append(state)
    state = int(jnp.argmax(table.transitions[state, solution.policy[state]]))
print(f"value at the start {float(solution.values[way[0]]):.3f}, {len(way)} steps")
fig, axes = plt.subplots(1, 6, figsize=(9, 1.8))
for axis, at in zip(axes, np.linspace(0, len(way) - 1, 6).astype(int), strict=True):
    axis.imshow(key_door.render(jnp.int32(way[at])))
    axis.set_title(f"step {at}", fontsize=8)
    axis.axis("off")
plt.show()

# %% [markdown]
# The map from rewards to the best policy jumps where actions tie: change all rewards by
# a hundredth at random, and somewhere the greedy policy turns over. With entropy of
# weight $\alpha$ in the objective it moves in proportion, below the bound of the Policy
# Cliff (arXiv 2507.20150).

# %%
noise = 0.01 * jax.random.rademacher(
    jax.random.key(0), table.rewards.shape, jnp.float32
)


@jax.jit
def moved(alpha):
    before = tables.solve_soft(table, alpha).policy
    after = tables.solve_soft(table, alpha, table.rewards + noise).policy
    return jax.vmap(policy.total_variation)(before, after).max()


alphas = np.geomspace(0.003, 1, 4 if FAST else 12)
distances = [float(moved(jnp.float32(a))) for a in alphas]
plt.figure(figsize=(4, 2.6))
plt.loglog(alphas, distances, "o-")
plt.xlabel(r"$\alpha$")
plt.ylabel("largest total variation")
plt.show()

# %% [markdown]
# ## 3. A hand opens a door
#
# `worlds.door` binds the door to the hand: it turns only while the hand holds the handle
# and the latch is open. A script that knows this opens it to any angle.

# %%
goal = door.Door(1.2)


def episode(key, length=60):
    state, _ = door.reset(goal, key)

    def step(state, key):
        action = door.expert(goal, state)
        after, _, reward, _ = door.step(goal, state, action, key)
        return after, (action, door.observe(state), reward)

    return jax.lax.scan(step, state, jax.random.split(key, length))[1]


actions, states, rewards = jax.jit(jax.vmap(episode))(
    jax.random.split(jax.random.key(3), 64)
)
made_up = states.at[:, 30:, :2].set(-0.4)  # The hand leaves, the door goes on.
print(f"opened: {float(rewards[:, -1].mean()):.2f}")
print(f"ghost steps: {int(door.ghosts(states).sum())} of the world's, ", end="")
print(f"{int(door.ghosts(made_up).sum())} where the hand was taken away")
frames = door.render(goal, np.asarray(states[0])[::12], 80)
plt.figure(figsize=(9, 2))
plt.imshow(np.concatenate(list(frames), axis=1))
plt.axis("off")
plt.show()

# %% [markdown]
# ## 4. Plans that obey a law
#
# A cart has a place and a speed, and an action pushes it. Plans are drawn from a model
# of windows of actions and states, here noise of unit size, whose denoiser is exact. The
# dynamics, the present state and the goal are observed; `guidance.mmps` steers by them,
# and each plan becomes the nearest that obeys: a constrained least-squares solution.

# %%
HORIZON = 16
F, G = jnp.array([[1.0, 0.2], [0.0, 1.0]]), jnp.array([[0.0], [0.2]])
layout = planning.Layout(jnp.zeros(1), jnp.ones(1), jnp.zeros(2), jnp.ones(2))
process = jg.VPCosine()


def exact(x, t, cond):
    a, s = (f(t)[:, None, None] for f in (process.alpha, process.sigma))
    return a * x / (a**2 + s**2)


def asked(x):
    actions, states = x[..., :1], x[..., 1:]
    off = states[:, 1:] - states[:, :-1] @ F.T - actions[:, :-1] @ G.T
    parts = off, states[:, :1], states[:, -1:]
    return jnp.concatenate([part.reshape(len(x), -1) for part in parts], axis=1)


denoiser = jg.parametrize(exact, process, predicts="x0")
operator = jg.guidance.linear_map(asked, (HORIZON, 3))
keys, now = (
    jg.sample_keys(jax.random.key(0), 5),
    jnp.tile(jnp.array([-1.0, 0.0]), (5, 1)),
)
end = jnp.tile(jnp.array([1.0, 0.0]), (5, 1))
y = jnp.concatenate([jnp.zeros((5, 2 * (HORIZON - 1))), now, end], axis=1)
seen = jg.guidance.measurement(y, operator, 1e-3)
grid = jg.logsnr_grid(process, 8 if FAST else 24)


@jax.jit
def draw(guidance):
    return planning.plan(
        *(keys, denoiser, jg.ddim(), grid, layout, now, HORIZON), guidance=guidance
    )


free, made = draw(None), draw(jg.guidance.mmps(seen, iterations=y.shape[1]))


def law(states, actions):
    return states @ F.T + actions @ G.T


for name, plans in (("free", free), ("guided", made)):
    energy = planning.dynamics_energy(plans, law)
    print(f"{name}: energy of the dynamics {np.round(np.asarray(energy), 4)}")
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
for axis, plans, title in zip(axes, (free, made), ("free", "guided"), strict=True):
    axis.plot(plans.states[..., 0].T)
    axis.plot([HORIZON - 1], [1.0], "k*", ms=10)
    axis.set(title=title, xlabel="step", ylabel="place")
plt.show()

# %% [markdown]
# ## Exercise
#
# Ask in part 4 for the opposite end, or for two way-points: add rows to `asked` and
# entries to `y`. Then give the key-and-door grid a bonus for the key
# (`policy.subgoal_bonus`) and look for the weight at which the best policy forgets the
# goal. Learners in these worlds, with baselines and seeds, are in `docs/control.md`,
# `docs/grids.md`, `docs/continuous.md` and `docs/sums.md`.
