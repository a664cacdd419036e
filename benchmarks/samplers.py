"""Error against network evaluations, every solver on every grid, beside the peers'.

    python benchmarks/samplers.py            # 13 to 32 minutes on two loaded cores
    python benchmarks/samplers.py --fast     # 10, 20 and 50 evaluations, fewer rows
    python benchmarks/samplers.py --out table.md

Two Gaussian mixtures (2-D and 16-D), three processes (VP with DDPM's betas, EDM's VE,
rectified flow), 256 starts. A figure is the mean L2 distance to the exact solution of
the probability-flow ODE from the sampler's own first state to zero noise (DOP853 in
float64), so it is pure solver error. Ours runs in float32. diffusers and k-diffusion
are run beside it, in float64, when they are installed; a method with two evaluations a
step takes half as many steps.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import samplers_peers

from jaxlib_guidance import diffusion
from jaxlib_guidance.diffusion import VE, RectifiedFlow, linear_betas, vp_discrete
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
from jaxlib_guidance.types import Array, pytree_dataclass, static

SOLVERS = {
    "DDIM": ddim(),
    "Heun (flow)": heun(),
    "Heun (sigma)": heun("sigma"),
    "DPM++ 2S": dpmpp_2s(),
    "DPM++ 2M": dpmpp_2m(),
    "DPM++ 3M": dpmpp_3m(),
    "UniPC-2": unipc(2),
    "UniPC-3": unipc(3),
    "DEIS-3": deis(3),
    "LMS-4": lms(4),
    "PNDM": pndm(4),
    "Adams-2": adams(2, scale=0.7),
    "Adams-3": adams(3, scale=0.7),
    "Adams-4": adams(4, scale=0.7),
}
FAST = ("DDIM", "DPM++ 2M", "UniPC-3", "Adams-2", "Adams-3", "Adams-4")
GRIDS = {
    "even flow": diffusion.flow_grid,
    "even flow .7": functools.partial(diffusion.flow_grid, shift=0.7),
    "even t": diffusion.uniform_grid,
    "even log-SNR": diffusion.logsnr_grid,
    "Karras 7": diffusion.karras_grid,
}
PROCESSES = {
    "VP": vp_discrete(linear_betas()),
    "VE": VE(),
    "flow": RectifiedFlow(),
}
MIXTURES = {"2-D": plane_mixture, "16-D": space_mixture}
STARTS = 256


@pytree_dataclass
class AnyOf:
    """One of several processes by a traced number: one compilation serves all."""

    which: Array
    members: tuple
    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)

    def alpha(self, t):
        return jnp.stack([p.alpha(t) for p in self.members])[self.which]

    def sigma(self, t):
        return jnp.stack([p.sigma(t) for p in self.members])[self.which]

    def t_of_logsnr(self, logsnr):
        return jnp.stack([p.t_of_logsnr(logsnr) for p in self.members])[self.which]


def error(end, exact):
    return float(np.mean(np.linalg.norm(np.asarray(end, np.float64) - exact, axis=-1)))


def ours(solvers, counts):
    """``{(dim, process): {"solver, grid": {count: error}}}``."""
    keys = sample_keys(jax.random.key(0), STARTS)
    members = tuple(PROCESSES.values())
    table = {}
    for dim, make in MIXTURES.items():
        mixture = make()
        z = np.random.default_rng(1).normal(size=(STARTS, mixture.means.shape[1]))
        starts, exact = {}, {}
        for name, p in PROCESSES.items():
            level = [float(c(jnp.float32(p.t_max))) for c in (p.alpha, p.sigma)]
            starts[name] = jnp.asarray(level[1] * z, jnp.float32)
            exact[name] = exact_flow(mixture, starts[name], tuple(level))
        for solver in solvers:
            sampler = SOLVERS[solver]

            @jax.jit
            def run(which, grid, x, mixture, sampler=sampler):
                process = AnyOf(which, members)
                denoiser = exact_denoiser(mixture, process)
                return sample(keys, denoiser, sampler, grid, x)[0]

            for count in counts:
                steps = count // sampler.evaluations
                for which, (name, p) in enumerate(PROCESSES.items()):
                    for spacing, grid in GRIDS.items():
                        times = grid(p, steps)
                        end = run(jnp.int32(which), times, starts[name], mixture)
                        row = table.setdefault((dim, name), {}).setdefault(
                            f"{solver}, {spacing}", {}
                        )
                        row[count] = error(end, exact[name])
    return table


def recommended(count):
    """The row that docs/samplers.md recommends for this many evaluations."""
    return f"Adams-{2 if count < 10 else 3 if count < 20 else 4}, even flow .7"


def show(table, counts, best_of=None):
    """Markdown tables of the rows, or of those among the ``best_of`` best somewhere."""
    lines = []
    for (dim, process), rows in table.items():
        keep = set(rows)
        if best_of:
            ranked = [
                sorted(rows, key=lambda row, n=n: rows[row].get(n, np.inf))
                for n in counts
            ]
            keep = {row for each in ranked for row in each[:best_of]}
        lines.append(f"\n**{dim}, {process}**\n")
        lines.append("| sampler, grid | " + " | ".join(map(str, counts)) + " |")
        lines.append("|---" * (len(counts) + 1) + "|")
        for row in (row for row in rows if row in keep):
            cells = [f"{rows[row][n]:.2g}" if n in rows[row] else "" for n in counts]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(mine, peers, counts):
    """A table of the recommended row, our best and the best of theirs; all won?"""
    lines = [
        "| problem | evaluations | recommended | our best | best of theirs | better |",
        "|---" * 6 + "|",
    ]
    won = True
    for problem, rows in mine.items():
        for n in counts:
            a, b = (
                min((row[n], name) for name, row in table.items() if n in row)
                for table in (rows, peers[problem])
            )
            won &= a[0] <= b[0]
            lines.append(
                f"| {', '.join(problem)} | {n} | {rows[recommended(n)][n]:.2g} "
                f"| {a[0]:.2g} {a[1]} | {b[0]:.2g} {b[1]} "
                f"| {'ours' if a[0] <= b[0] else 'THEIRS'} {b[0] / a[0]:.1f}x |"
            )
    return "\n".join(lines), won


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="fewer rows and counts")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--out", help="write all rows to this file")
    args = parser.parse_args()
    counts = (10, 20, 50) if args.fast else (5, 10, 20, 50, 100)
    begun = time.time()
    mine = ours(FAST if args.fast else SOLVERS, counts)
    print(f"ours: {time.time() - begun:.0f} s", flush=True)
    both, closing, won = mine, "", True
    if not args.no_peers and (found := samplers_peers.available()):
        peers = {}
        for dim, make in MIXTURES.items():
            mixture = make()
            z = np.random.default_rng(1).normal(size=(STARTS, mixture.means.shape[1]))
            for name in PROCESSES:
                rows, faults = samplers_peers.theirs(mixture, z, name, counts)
                peers[dim, name] = rows
                if dim == "2-D":
                    for fault in faults:
                        print(f"crashed under {name}: {fault}"[:160])
        print(f"with {' and '.join(found)}: {time.time() - begun:.0f} s", flush=True)
        both = {problem: mine[problem] | peers[problem] for problem in mine}
        closing, won = verdict(mine, peers, counts)
    print(show(both, counts, best_of=6))
    print("\n" + closing)
    if args.out:
        with open(args.out, "w") as file:
            file.write(show(both, counts) + "\n\n" + closing + "\n")
    if not won:
        raise SystemExit("a peer is better somewhere")


if __name__ == "__main__":
    main()
