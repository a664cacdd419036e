"""Stochastic solvers by the distribution of their samples, for `samplers.py --noise`.

The distance is a sliced Wasserstein one: over 64 random directions, the root of the
mean squared distance between 1000 samples' quantiles and those of 20,000 exact samples.
"floor" is that of 1000 exact samples. One draw: another key moves a figure by up to
0.07, and the best of many draws is a lucky one. Ours is
``recommended(..., stochastic=True)``; the peers' best is that of all their stochastic
rows in that cell, kept in the cache folder as their other results are.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import problems
import samplers_diffusers
import samplers_kdiffusion
import samplers_peers
from samplers_diffusers import LINEAR, Row

from jaxlib_guidance.testing import draw_exact

NAMES = {
    "tuning": ("three", "space", "ring", "grid"),
    "held_out": ("five", "space8", "space8-cosine", "swiss-roll", "moons", "thin16"),
}
SAMPLES, EXACT, DIRECTIONS = 1000, 20_000, 64


def distance(samples, exact) -> float:
    """Sliced Wasserstein-2 distance of samples ``[n, D]`` to exact ones ``[m, D]``."""
    rng = np.random.default_rng(0)
    lines = rng.normal(size=(DIRECTIONS, exact.shape[1]))
    lines /= np.linalg.norm(lines, axis=1, keepdims=True)
    middle = (np.arange(len(samples)) + 0.5) / len(samples)
    wanted = np.quantile(exact @ lines.T, middle, axis=0)
    found = np.sort(samples @ lines.T, axis=0)
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


def enlarged(problem):
    """The problem from ``SAMPLES`` starts."""
    z = np.random.default_rng(99).normal(size=(SAMPLES, *problem.starts.shape[1:]))
    starts = jnp.asarray(problem.level[1] * z, jnp.float32)
    return dataclasses.replace(problem, starts=starts)


def exact_samples(problem):
    """``(exact [EXACT, D], distance of other exact samples to them)``."""
    exact, other = (
        np.asarray(draw_exact(problem.mixture, jax.random.key(seed), n), np.float64)
        for seed, n in ((1, EXACT), (2, SAMPLES))
    )
    return exact, distance(other, exact)


def _diffusers_rows(problem):
    import diffusers as d

    if problem.process_name == "ve":
        edm = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        return {
            f"EDM SDE-DPM++ 2M {spacing}": Row(
                lambda s=spacing: d.EDMDPMSolverMultistepScheduler(
                    **edm, sigma_schedule=s, algorithm_type="sde-dpmsolver++"
                ),
                "edm",
            )
            for spacing in ("karras", "exponential")
        }
    rows = {}
    if problem.process_name == "flow":
        form = "flow"
        flow = dict(LINEAR, use_flow_sigmas=True, prediction_type="flow_prediction")
        grids = {f"shift {s:g}": dict(flow, flow_shift=s) for s in (3.0, 1.0, 0.5)}
    else:
        form, table = "vp", samplers_diffusers.tables(problem)[""]
        grids = {
            "linspace": dict(table, timestep_spacing="linspace"),
            "trailing": dict(table, timestep_spacing="trailing"),
            "Karras": dict(table, use_karras_sigmas=True),
            "exponential": dict(table, use_exponential_sigmas=True),
        }
        trailing = dict(table, timestep_spacing="trailing")
        rows["DDPM trailing"] = Row(
            lambda: d.DDPMScheduler(**trailing, clip_sample=False), "vp"
        )
        rows["Euler a trailing"] = Row(
            lambda: d.EulerAncestralDiscreteScheduler(**trailing), "ve"
        )
    for spacing, o in grids.items():
        rows[f"SDE-DPM++ 2M {spacing}"] = Row(
            lambda o=o: d.DPMSolverMultistepScheduler(
                **o, algorithm_type="sde-dpmsolver++"
            ),
            form,
        )
        rows[f"SA-Solver {spacing}"] = Row(lambda o=o: d.SASolverScheduler(**o), form)
    return rows


def _k_rows(problem):
    if problem.process_name == "flow":
        return {}
    import torch

    def noise(x):
        return lambda *_: torch.randn_like(x)

    quiet = dict(disable=True)
    calls = {
        "Euler a": lambda k, m, x, s: k.sample_euler_ancestral(m, x, s, **quiet),
        "2M SDE": lambda k, m, x, s: k.sample_dpmpp_2m_sde(
            m, x, s, noise_sampler=noise(x), **quiet
        ),
        "3M SDE": lambda k, m, x, s: k.sample_dpmpp_3m_sde(
            m, x, s, noise_sampler=noise(x), **quiet
        ),
    }
    two = {
        "2S a": lambda k, m, x, s: k.sample_dpmpp_2s_ancestral(m, x, s, **quiet),
        "DPM++ SDE": lambda k, m, x, s: k.sample_dpmpp_sde(
            m, x, s, noise_sampler=noise(x), **quiet
        ),
    }
    return samplers_kdiffusion.on_grids(problem, calls, two)


def theirs(problem, again=False) -> dict:
    """``{row: {str(count): distance}}`` of the peers' stochastic rows."""
    path = problem.cache / f"noise-{problem.name}-{problem.mark}.json"
    if path.exists() and not again:
        return json.loads(path.read_text())
    have, _ = samplers_peers.available()
    big, (exact, _) = enlarged(problem), exact_samples(problem)
    jobs = {}
    if "diffusers" in have:
        for name, row in _diffusers_rows(problem).items():
            jobs[f"diffusers {name}"] = lambda n, r=row: samplers_diffusers.run(
                big, r, n
            )
    if "k-diffusion" in have:
        for name, run in _k_rows(big).items():
            jobs[f"k-diffusion {name}"] = run
    import torch

    rows = {}
    for name, job in jobs.items():
        for n in problems.COUNTS:
            torch.manual_seed(n)
            value, fault = samplers_peers.attempt(
                lambda n=n, job=job: distance(job(n)[0], exact)
            )
            if fault is None:
                rows.setdefault(name, {})[str(n)] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))
    return rows


def table(half, runner, recommended, peers=True, cache=None) -> str:
    """Markdown of ours beside the peers' best.

    Args:
      half: "tuning" or "held_out".
      runner: `Runner` of `samplers.py`.
      recommended: Function ``(problem, n) -> (sampler, grid)``, stochastic.
      peers: Whether to set the peers' best beside it.
      cache: Cache folder; None is the default.
    """
    lines = ["| problem | evaluations | ours | peer | floor |", "|---" * 5 + "|"]
    for problem in problems.load(half, "mixture", cache):
        if problem.name not in NAMES[half]:
            continue
        big, (exact, floor) = enlarged(problem), exact_samples(problem)
        rows = theirs(problem) if peers else {}
        for n in problems.COUNTS:
            ours = distance(runner.end(big, *recommended(problem, n)), exact)
            found = [(row[str(n)], k) for k, row in rows.items() if str(n) in row]
            beside = "{:.2g} {}".format(*min(found)) if found else ""
            lines.append(
                f"| {problem.name} | {n} | {ours:.2g} | {beside} | {floor:.2g} |"
            )
    return "Sliced Wasserstein distance of stochastic samples:\n\n" + "\n".join(lines)
