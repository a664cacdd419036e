"""The peers' results on `problems.py`, computed once and kept, for `samplers.py`.

    python benchmarks/samplers_peers.py               # all problems; about 15 minutes
    python benchmarks/samplers_peers.py moons digits  # these

diffusers and k-diffusion do not change from one run of ours to the next, so their
errors are written to ``peers-NAME-MARK.json`` in the cache folder, a file a problem. A
figure is the distance to the exact solution from the row's *own* first state to its own
last noise. Of the many rows, those that are not among the 40 best at the count before
are not run at 20 and 50 evaluations.
"""

import argparse
import hashlib
import json
import os
import time
import warnings

import numpy as np
import problems
import samplers_diffusers
import samplers_kdiffusion

from jaxlib_guidance.testing import exact_flow

KEPT = 40


def available() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the libraries that can be imported, and why the others cannot."""
    from importlib.metadata import version

    found, missing = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import diffusers
            import torch

            torch.set_num_threads(1)
            diffusers.utils.logging.set_verbosity(50)
            found["diffusers"] = diffusers.__version__
        except Exception as error:
            missing["diffusers"] = f"{type(error).__name__}: {error}"
        try:
            samplers_kdiffusion.sampling()
            found["k-diffusion"] = version("k-diffusion")
        except Exception as error:
            missing["k-diffusion"] = f"{type(error).__name__}: {error}"
    return found, missing


class Reference:
    """Ends of a problem's flow from any noise ratio to any other."""

    def __init__(self, problem):
        self.problem, self.known = problem, {}

    def error(self, samples, start, stop):
        """Mean L2 distance of samples to the flow from ``start`` to ``stop``."""
        gap = samples - self._ends(start, stop)
        return float(np.mean(np.linalg.norm(gap.reshape(len(gap), -1), axis=1)))

    def _ends(self, start, stop):
        problem = self.problem
        alpha, sigma = problem.level
        # sigma / (alpha + sigma); tables in float32 are off by some millionths.
        first = 1.0 if np.isinf(start) else start / (1 + start)
        near = abs(first - sigma / (alpha + sigma)) < 2e-5
        if near and stop == 0:
            return problem.ends()
        last = stop / (1 + stop)
        if problem.mixture is None and not near:
            raise ValueError(f"a network has no reference from {start}")
        key = round(first, 5), round(last, 4 if problem.mixture is None else 6)
        if key not in self.known and problem.mixture is None:
            self.known[key] = problem.state(last) * (1 + stop)
        elif key not in self.known:
            ends = (1.0, stop)
            begin = (1 - first, first)
            x = first * problem.noise
            self.known[key] = exact_flow(problem.mixture, x, begin, ends, rtol=1e-8)
        return self.known[key]


def _jobs(problem, have):
    """``row -> (count -> (samples, start, stop))`` on the peers' own grids."""
    jobs = {}
    if "diffusers" in have:
        for name, row in samplers_diffusers.rows(problem).items():
            jobs[f"diffusers {name}"] = lambda n, r=row: samplers_diffusers.run(
                problem, r, n
            )
    if "k-diffusion" in have:
        for name, run in samplers_kdiffusion.rows(problem).items():
            jobs[f"k-diffusion {name}"] = run
    return jobs


def _our_jobs(problem, have):
    """``row -> ((count, ratios) -> (samples, start, stop))`` for grids of ours."""
    jobs = {}
    if "diffusers" in have:
        for name, row in samplers_diffusers.portable(problem).items():
            jobs[f"diffusers {name}"] = lambda n, ratios, r=row: samplers_diffusers.run(
                problem, r, n, ratios
            )
    if "k-diffusion" in have:
        for name, run in samplers_kdiffusion.portable(problem).items():
            jobs[f"k-diffusion {name}"] = run
    return jobs


def attempt(job):
    """``(job(), None)``, or ``(None, what went wrong)`` also where it is not finite."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = job()
    except Exception as fault:
        return None, f"{type(fault).__name__}: {fault}"[:120]
    return (value, None) if np.isfinite(value) else (None, "not finite")


def _path(problem):
    return problem.cache / f"peers-{problem.name}-{problem.mark}.json"


def read(problem) -> dict | None:
    """A problem's results as they were kept, or None."""
    path = _path(problem)
    return json.loads(path.read_text()) if path.exists() else None


def _write(problem, result):
    path = _path(problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(result, indent=1))
    part.rename(path)


def own_grids(problem, counts=problems.COUNTS, again=False, fill=False) -> dict:
    """Results on the peers' own grids, from the cache or computed now.

    Args:
      problem: The problem.
      counts: Numbers of evaluations.
      again: Whether to compute what is there already.
      fill: Whether to try rows that are there without a figure.

    Returns:
      ``{"versions", "rows": {row: {str(count): error}}, "faults": {row: why},
      "ours": {...}}``.
    """
    have, _ = available()
    result = read(problem)
    if result is not None and not again and not fill:
        return result
    reference = Reference(problem)
    jobs = _jobs(problem, have)
    kept = result["rows"] if result is not None and fill else {}
    done = {row for row, figures in kept.items() if figures}
    table, faults, before = {row: kept.get(row, {}) for row in jobs}, {}, None
    for count in counts:
        keep = list(jobs)
        if count >= 20 and before is not None:
            ranked = sorted(jobs, key=lambda row: table[row].get(str(before), np.inf))
            keep = ranked[:KEPT]
        for row in (row for row in keep if row not in done):
            value, fault = attempt(
                lambda job=jobs[row], n=count: reference.error(*job(n))
            )
            if fault is None:
                table[row][str(count)] = value
            else:
                faults[f"{row} at {count}"] = fault
        before = count
    ours = {} if result is None else result["ours"]
    result = {"versions": have, "rows": table, "faults": faults, "ours": ours}
    _write(problem, result)
    return result


def on_our_grid(problem, ratios) -> dict[str, float]:
    """Errors of the peers' solvers on one grid of ours, from the cache or now.

    Args:
      problem: The problem.
      ratios: Noise ratios ``sigma / alpha`` of the grid, ``[N + 1]``, the last 0.
    """
    ratios = np.asarray(ratios, np.float64)
    mark = hashlib.sha256(np.float32(ratios).tobytes()).hexdigest()[:12]
    result = own_grids(problem)
    if mark not in result["ours"]:
        have, _ = available()
        reference, rows = Reference(problem), {}
        for row, job in _our_jobs(problem, have).items():
            value, fault = attempt(
                lambda job=job: reference.error(*job(len(ratios) - 1, ratios))
            )
            if fault is None:
                rows[row] = value
        result["ours"][mark] = rows
        _write(problem, result)
    return result["ours"][mark]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="problems; all of them by default")
    parser.add_argument("--cache", help="folder of the results")
    parser.add_argument("--again", action="store_true", help="though they are there")
    parser.add_argument("--fill", action="store_true", help="rows without a figure")
    args = parser.parse_args()
    _, missing = available()
    for name, why in missing.items():
        print(f"MISSING {name}: {why}", flush=True)
    if missing:
        raise SystemExit("install what is missing: pip install diffusers k-diffusion")
    for half in ("tuning", "held_out"):
        for problem in problems.load(half, cache=args.cache):
            if args.names and problem.name not in args.names:
                continue
            begun = time.time()
            result = own_grids(problem, again=args.again, fill=args.fill)
            rows = result["rows"]
            best = [
                min((rows[r][str(n)], r) for r in rows if str(n) in rows[r])
                for n in problems.COUNTS
            ]
            took = time.time() - begun
            print(f"{problem.name}: {len(rows)} rows, {took:.0f} s", flush=True)
            for n, (value, row) in zip(problems.COUNTS, best, strict=True):
                print(f"  {n}: {value:.3g} {row}", flush=True)


if __name__ == "__main__":
    main()
