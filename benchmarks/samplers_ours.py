"""Our solvers on our grids: the table of docs/samplers.md from which none is chosen.

    python benchmarks/samplers_ours.py          # 10 to 20 minutes on two loaded cores
    python benchmarks/samplers_ours.py --fast   # fewer rows

The mean L2 distance to the exact end of the probability flow over 256 starts, for two
easy Gaussian mixtures (2-D / 16-D) under DDPM's betas. What they are worth beside other
libraries, and on harder problems, is `samplers.py`.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import diffusion
from jaxlib_guidance.diffusion import linear_betas, vp_discrete
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import (
    adams,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    heun,
    lms,
    pndm,
    sample,
    unipc,
)
from jaxlib_guidance.testing import (
    exact_denoiser,
    exact_flow,
    plane_mixture,
    space_mixture,
)

SOLVERS = {
    "ddim": ddim(),
    "heun": heun(),
    'heun("sigma")': heun("sigma"),
    "dpmpp_2s": dpmpp_2s(),
    "dpmpp_2m": dpmpp_2m(),
    "dpmpp_3m": dpmpp_3m(),
    "unipc(2)": unipc(2),
    "unipc(3)": unipc(3),
    "deis(3)": deis(3),
    "lms(4)": lms(4),
    "pndm(4)": pndm(4),
    "adams(2)": adams(2, scale=0.7),
    "adams(3)": adams(3, scale=0.7),
    "adams(4)": adams(4, scale=0.7),
}
FAST = ("ddim", "dpmpp_2m", "unipc(3)", "adams(3)")
GRIDS = {
    "flow_grid, shift .7": functools.partial(diffusion.flow_grid, shift=0.7),
    "logsnr_grid": diffusion.logsnr_grid,
    "karras_grid": diffusion.karras_grid,
}
PROCESS = vp_discrete(linear_betas())
COUNTS, STARTS = (10, 20, 50), 256


def errors(solvers):
    """``{(solver, grid, count): [2-D error, 16-D error]}``."""
    keys, table = sample_keys(jax.random.key(0), STARTS), {}
    level = [
        float(c(jnp.float32(PROCESS.t_max))) for c in (PROCESS.alpha, PROCESS.sigma)
    ]
    for mixture in (plane_mixture(), space_mixture()):
        z = np.random.default_rng(1).normal(size=(STARTS, mixture.means.shape[1]))
        x = jnp.asarray(level[1] * z, jnp.float32)
        exact = exact_flow(mixture, x, tuple(level))
        denoiser = exact_denoiser(mixture, PROCESS)
        for name in solvers:
            sampler = SOLVERS[name]

            @jax.jit
            def run(grid, x, denoiser=denoiser, sampler=sampler):
                return sample(keys, denoiser, sampler, grid, x)[0]

            for count in COUNTS:
                for spacing, grid in GRIDS.items():
                    end = run(grid(PROCESS, count // sampler.evaluations), x)
                    gap = np.linalg.norm(np.asarray(end, np.float64) - exact, axis=-1)
                    row = table.setdefault((name, spacing, count), [])
                    row.append(float(np.mean(gap)))
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="fewer rows")
    args = parser.parse_args()
    solvers = FAST if args.fast else tuple(SOLVERS)
    table = errors(solvers)
    print("| solver | " + " | ".join(GRIDS) + " |\n" + "|---" * (len(GRIDS) + 1) + "|")
    for name in solvers:
        cells = [
            " ".join(
                "/".join(f"{e:.2g}" for e in table[name, spacing, n]) for n in COUNTS
            )
            for spacing in GRIDS
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
