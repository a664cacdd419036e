"""The recommended sampler beside diffusers' and k-diffusion's, on held-out problems.

    python benchmarks/samplers.py                  # held-out half; ours, and the peers'
    python benchmarks/samplers.py --fast           # a third of it, 3 minutes
    python benchmarks/samplers.py --half tuning    # what rows are chosen on
    python benchmarks/samplers.py --out table.md --noise

The problems are those of `problems.py`; a figure is the mean L2 distance to the exact
or converged end of the probability flow, so it is pure solver error. Ours is one
sampler, `jaxlib_guidance.recommended`, in float32. The peers run every solver and
spacing that they offer (`samplers_peers.py`), in float64 outside learned networks;
their results are computed once, in about 20 minutes, and kept, so that a second run
takes one or two. In a table, for each problem and number of evaluations,

- ours: the recommended sampler on its grid;
- peer: the best of all rows of both peers, on their own grids, *in that cell*;
- chosen: the peers' row that is best on the tuning half, for this process and number;
- peer, our grid: the best of the peers' solvers on our grid, which leaves the solver;
- ours, their grid: our solver on the best of their grids.

It ends with an error where ours is worse than 1.1 times the peers' best on a held-out
problem. ``--noise`` adds stochastic solvers, by the sliced Wasserstein distance to
exact samples (`samplers_noise.py`).
"""

import argparse
import functools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import samplers_peers
from samplers_tables import cells_table, compact_table, rows_chosen, summary

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import adams, sa_solver, sample
from jaxlib_guidance.testing import exact_denoiser

# One problem of each kind for --fast.
FEW = (
    *("three", "thin2", "ring", "grid", "thin8-ve", "digits", "five", "needles"),
    *("thin16", "swiss-roll-flow", "moons", "checkerboard-ve", "modes16"),
    "digits-labels",
)


def recommended(problem, n, stochastic=False):
    """The sampler that is on trial: ``(sampler, times [n + 1])``, and nothing else."""
    if hasattr(jg, "recommended"):
        return jg.recommended(
            problem.process, n, scale=problem.scale, stochastic=stochastic
        )
    if stochastic:
        return sa_solver(), diffusion.flow_grid(problem.process, n, problem.scale)
    order = 2 if n < 10 else 3 if n < 20 else 4
    grid = diffusion.flow_grid(problem.process, n, shift=0.7 * problem.scale)
    return adams(order, scale=0.7 * problem.scale), grid


def their_grids(problem, n):
    """The peers' spacings by name, as times of the problem's process."""
    p = problem.process
    if problem.process_name == "flow":
        even = diffusion.uniform_grid(p, n)
        return {
            f"shift {s:g}": diffusion.shift_grid(even, s) for s in (3.0, 1.0, 0.5, 0.25)
        }
    grids = {
        "exponential": diffusion.logsnr_grid(p, n),
        "Karras": diffusion.karras_grid(p, n),
    }
    if problem.process_name != "ve":
        grids["even t"] = diffusion.uniform_grid(p, n)
    if problem.process_name == "cosine":
        ends = p.t_of_logsnr(jnp.array([7.5, -7.5]))
        cut = dict(t_min=max(float(ends[0]), p.t_min))
        grids["exponential cut"] = diffusion.logsnr_grid(p, n, **cut)
        grids["Karras cut"] = diffusion.karras_grid(p, n, **cut)
    return grids


def ratios(problem, grid):
    """Noise ratios ``sigma / alpha`` of times."""
    p, t = problem.process, jnp.asarray(grid, jnp.float32)
    with np.errstate(divide="ignore"):
        return np.asarray(p.sigma(t), np.float64) / np.asarray(p.alpha(t), np.float64)


class Runner:
    """Runs solvers of ours, with one compiled function for all mixtures of a shape."""

    def __init__(self):
        self.made = {}

    def error(self, problem, sampler, grid):
        """Mean L2 distance of `end` to the exact ends."""
        return problem.error(self.end(problem, sampler, grid))

    def end(self, problem, sampler, grid):
        """Samples of a solver that `recommended` gave for this scale and count."""
        keys = sample_keys(jax.random.key(0), len(problem.starts))
        if problem.mixture is None:
            mark = (problem.name, len(grid))
            if mark not in self.made:
                self.made[mark] = jax.jit(
                    lambda grid, x: sample(
                        keys,
                        problem.denoiser(),
                        sampler,
                        grid,
                        x,
                        problem.cond,
                        guidance=problem.guidance,
                    )[0]
                )
            return np.asarray(self.made[mark](grid, problem.starts))
        # What a recommended solver depends on, beside the shape: scale and count.
        mark = (problem.scale, len(grid), sampler.stochastic)
        if mark not in self.made:

            @jax.jit
            def run(keys, which, grid, x, mixture):
                denoiser = exact_denoiser(mixture, problems.AnyOf(which))
                return sample(keys, denoiser, sampler, grid, x)[0]

            self.made[mark] = run
        mixture, x = problems.padded(problem)
        which = jnp.int32(list(problems.PROCESSES).index(problem.process_name))
        end = self.made[mark](keys, which, jnp.asarray(grid), x, mixture)
        return np.asarray(end[:, : problem.starts.shape[1]])


def best(rows, n):
    """``(error, row)`` of the best row at a count."""
    return min((row[str(n)], name) for name, row in rows.items() if str(n) in row)


def measure(problem, counts, runner, peers=True):
    """``{count: cell}`` of one problem, a cell as `samplers_tables` wants it."""
    cells = {}
    for n in counts:
        sampler, grid = recommended(problem, n)
        cell = {"ours": runner.error(problem, sampler, grid), "floor": problem.floor()}
        moved = [
            (runner.error(problem, sampler, g), name)
            for name, g in their_grids(problem, n).items()
        ]
        cell["ours, their grid"] = min(moved)
        if peers:
            result = samplers_peers.own_grids(problem)
            cell["peer"] = best(result["rows"], n)
            cell["rows"] = {
                name: row[str(n)]
                for name, row in result["rows"].items()
                if str(n) in row
            }
            same = samplers_peers.on_our_grid(problem, ratios(problem, grid))
            cell["peer, our grid"] = min((v, k) for k, v in same.items())
        cells[n] = cell
    return cells


def report_missing():
    """Says loudly which peer is not there; stops if none is."""
    found, missing = samplers_peers.available()
    for name, why in missing.items():
        print(f"*** MISSING: {name} cannot be imported: {why} ***", flush=True)
    if not found:
        raise SystemExit("no peer to compare with: pip install diffusers k-diffusion")
    print("peers: " + ", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
    return not missing


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--half", default="held_out", choices=("held_out", "tuning"))
    parser.add_argument("--kind", choices=("mixture", "network"), help="of problems")
    parser.add_argument("--only", help="names of problems, separated by commas")
    parser.add_argument("--fast", action="store_true", help="a third of the problems")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--noise", action="store_true", help="stochastic solvers, too")
    parser.add_argument("--cache", help="folder of references and peers' results")
    parser.add_argument("--out", help="file to write the tables to")
    args = parser.parse_args()
    peers, complete = not args.no_peers, True
    if peers:
        complete = report_missing()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = str(problems.cache_folder(args.cache) / "jax")
        jax.config.update("jax_compilation_cache_dir", folder)
    counts = (5, 10, 20) if args.fast else problems.COUNTS
    only = args.only.split(",") if args.only else FEW if args.fast else None
    runner, begun, cells = Runner(), time.time(), {}
    load = functools.partial(problems.load, kind=args.kind, cache=args.cache)
    for problem in load(args.half):
        if only is None or problem.name in only:
            cells[problem] = measure(problem, counts, runner, peers)
            took = time.time() - begun
            print(f"{took:4.0f} s  {problem.name}", flush=True)
    chosen = {}
    if peers:
        kept = (
            (p, samplers_peers.read(p))
            for p in problems.load("tuning", cache=args.cache)
        )
        chosen = rows_chosen([(p, r) for p, r in kept if r is not None], counts)
    text = cells_table(cells, chosen)
    closing, worse = summary(cells, counts)
    text += "\n\n" + compact_table(cells) + "\n\n" + closing
    if args.noise:
        import samplers_noise

        noisy = functools.partial(recommended, stochastic=True)
        text += "\n\n" + samplers_noise.table(
            args.half, runner, noisy, peers, args.cache
        )
    print("\n" + text)
    if args.out:
        Path(args.out).write_text(text + "\n")
    if not complete:
        raise SystemExit("a peer is missing: the verdict is not whole")
    if worse and args.half == "held_out":
        raise SystemExit(f"worse than 1.1 times the best peer in {worse} cells")


if __name__ == "__main__":
    main()
