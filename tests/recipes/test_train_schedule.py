"""train/schedule.py: the learned schedule is the optimum that a derivation gives."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxlib_guidance as jg

RECIPE = Path(__file__).parents[2] / "train" / "schedule.py"
N, V, MEANS, TARGET, PRICE = 5, 0.5, (0.0, 1.0), 2.5, 0.2
PROCESS = jg.VPCosine()


def apply(x, t, cond, *, control, capture):
    """Exact for N(mean, V), the mean by the label."""
    alpha, sigma = (f(t)[:, None] for f in (PROCESS.alpha, PROCESS.sigma))
    mean = jnp.asarray(MEANS)[cond][:, None]
    gain = V * alpha / (V * alpha**2 + sigma**2)
    return jg.types.Denoised(mean + gain * (x - alpha * mean))


def test_the_learned_schedule_is_the_optimum_on_gaussians():
    """``d = c - u`` does not depend on the state, so DDIM ends at ``x + k w`` with
    ``k`` known, and ``-(mean - target)^2 - price |w|^2`` is highest at ``k (target -
    mean of x) / (price + |k|^2)``."""
    spec = importlib.util.spec_from_file_location("train_schedule", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    grid = jg.logsnr_grid(PROCESS, N, t_max=0.98)
    keys = jg.sample_keys(jax.random.key(0), 64)

    def ends(w):
        guidance = jg.scheduled(jg.cfg(1.0, 0), w)
        return jg.sample(
            *(keys, jg.Denoiser(apply), jg.ddim(), grid, (1,), jnp.ones(64, int)),
            **{"guidance": guidance, "process": PROCESS},
        )[0]

    def objective(w, key):
        return (ends(w).mean() - TARGET) ** 2 + PRICE * jnp.sum(w**2)

    steps = jax.random.split(jax.random.key(1), 400)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it.
        learned, plain = jax.jit(
            lambda w: (recipe.learn(objective, w, steps, 0.1)[0], ends(0 * w).mean())
        )(jnp.zeros(N))

    alpha, sigma = (
        np.asarray(f(grid), np.float64) for f in (PROCESS.alpha, PROCESS.sigma)
    )
    total = V * alpha**2 + sigma**2
    d = (sigma**2 / total)[:-1] * (MEANS[1] - MEANS[0])
    take = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
    k = np.zeros(N)
    for i in range(N):
        # A step carries a shift on by its factor, and adds its own.
        gain = V * alpha[i] / total[i]
        k *= sigma[i + 1] / sigma[i] + take[i] * gain
        k[i] = take[i] * d[i]
    want = k * (TARGET - float(plain)) / (PRICE + k @ k)
    assert np.abs(np.asarray(learned) - want).max() < 0.02 * np.abs(want).max()
    assert np.ptp(want) > 0.1 * want.max()  # No constant weight is the optimum.


def test_the_kernel_is_unbiased():
    """0 on average for two samples of one distribution, above it for two."""
    spec = importlib.util.spec_from_file_location("train_schedule", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    x = jax.random.normal(jax.random.key(0), (200, 2, 20, 2))
    same = jax.vmap(lambda pair: recipe.kernel(pair[0], pair[1]))(x)
    assert abs(same.mean()) < 3 * same.std() / 200**0.5
    assert recipe.kernel(x[0, 0], x[0, 1] + 2) > 1
