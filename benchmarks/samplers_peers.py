"""diffusers and k-diffusion on the same problems, for `samplers.py`.

Each runs in float64 through its own public interface, with every spacing it offers that
makes sense, on the exact network: told the noise level the solver itself stands at, and
also ("rounded") told the integer timestep that diffusers passes on.
"""

import contextlib
import sys
import types
import warnings

import numpy as np

from jaxlib_guidance.testing import exact_flow, posterior_mean64

T = 1000


def available():
    """Those of the two libraries that can be imported."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            import diffusers

            diffusers.utils.logging.set_verbosity(50)
            found.append("diffusers")
        # k-diffusion imports CLIP for its metrics; a sampler does not need it.
        for name in ("clip", "cleanfid", "cleanfid.inception_torchscript"):
            try:
                __import__(name)
            except Exception:
                stub = types.ModuleType(name)
                stub.InceptionV3W = object
                sys.modules[name] = stub
        with contextlib.suppress(ImportError):
            import k_diffusion.sampling  # noqa: F401

            found.append("k-diffusion")
    return found


def _vp_levels():
    log_bar = np.concatenate([[0], np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, T)))])
    knots = np.arange(T + 1) - 1.0

    def level(timestep):
        bar = np.interp(timestep, knots, log_bar)
        return np.exp(0.5 * bar), np.sqrt(-np.expm1(bar))

    return level


class Problem:
    """A mixture with its exact network and a cache of exact end points."""

    def __init__(self, mixture, z):
        self.mixture, self.z, self.cache = mixture, z, {}

    def x0(self, x, alpha, sigma):
        return posterior_mean64(self.mixture, x, alpha, sigma)

    def error(self, end, x, start, stop=(1.0, 0.0)):
        key = round(x[0, 0], 9), *np.round(start, 9), *np.round(stop, 9)
        if key not in self.cache:
            self.cache[key] = exact_flow(self.mixture, x, start, stop)
        return float(np.mean(np.linalg.norm(end - self.cache[key], axis=-1)))


def _diffusers_rows(process):
    """``name -> (make, evaluations a step, scaled by alpha or not)``."""
    import diffusers as d

    vp = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    rows = {}
    if process == "VP":
        for spacing in ("trailing", "leading", "linspace"):
            more = dict(vp, timestep_spacing=spacing)
            rows[f"DDIM {spacing}"] = lambda m=more: d.DDIMScheduler(
                **m, clip_sample=False, set_alpha_to_one=True
            )
        for name, kind in [
            ("Euler", d.EulerDiscreteScheduler),
            ("Heun", d.HeunDiscreteScheduler),
            ("KDPM2", d.KDPM2DiscreteScheduler),
            ("LMS", d.LMSDiscreteScheduler),
        ]:
            for karras in (False, True):
                rows[f"{name}{' Karras' * karras}"] = lambda k=kind, c=karras: k(
                    **vp, timestep_spacing="linspace", use_karras_sigmas=c
                )
        rows["PNDM"] = lambda: d.PNDMScheduler(
            **vp, skip_prk_steps=True, set_alpha_to_one=True
        )
        rows["IPNDM"] = lambda: d.IPNDMScheduler()
    spacings = {
        "VP": {
            "linspace": dict(timestep_spacing="linspace"),
            "trailing": dict(timestep_spacing="trailing"),
            "Karras": dict(use_karras_sigmas=True),
            "exponential": dict(use_exponential_sigmas=True),
        },
        "flow": {
            f"shift {shift:g}": dict(
                use_flow_sigmas=True,
                prediction_type="flow_prediction",
                flow_shift=shift,
            )
            for shift in (1.0, 0.7, 0.5)
        },
    }.get(process, {})
    for spacing, options in spacings.items():
        o = dict(vp, **options)
        if "timestep_spacing" not in o and process == "VP":
            o["timestep_spacing"] = "linspace"
        for order in (2, 3):
            rows[f"DPM++ {order}M {spacing}"] = lambda o=o, p=order: (
                d.DPMSolverMultistepScheduler(
                    **o, solver_order=p, algorithm_type="dpmsolver++"
                )
            )
            rows[f"UniPC-{order} {spacing}"] = lambda o=o, p=order: (
                d.UniPCMultistepScheduler(**o, solver_order=p, solver_type="bh2")
            )
            rows[f"DEIS-{order} {spacing}"] = lambda o=o, p=order: (
                d.DEISMultistepScheduler(**o, solver_order=p)
            )
            rows[f"SA-Solver-{order} tau 0 {spacing}"] = lambda o=o, p=order: (
                d.SASolverScheduler(
                    **o, predictor_order=p, corrector_order=p, tau_func=lambda t: 0
                )
            )
            single = {k: v for k, v in o.items() if k != "timestep_spacing"}
            rows[f"DPM++ {order}S {spacing}"] = lambda o=single, p=order: (
                d.DPMSolverSinglestepScheduler(
                    **o, solver_order=p, algorithm_type="dpmsolver++"
                )
            )
        if process == "VP":
            rows[f"DPM-Solver 3M {spacing}"] = lambda o=o: (
                d.DPMSolverMultistepScheduler(
                    **o,
                    solver_order=3,
                    algorithm_type="dpmsolver",
                    final_sigmas_type="sigma_min",
                )
            )
    if process == "VP":
        o = dict(vp, timestep_spacing="linspace", use_lu_lambdas=True)
        for order in (2, 3):
            rows[f"DPM++ {order}M Lu"] = lambda p=order: d.DPMSolverMultistepScheduler(
                **o, solver_order=p, algorithm_type="dpmsolver++"
            )
    if process == "flow":
        for shift in (1.0, 0.7, 0.5):
            rows[f"Euler shift {shift:g}"] = lambda s=shift: (
                d.FlowMatchEulerDiscreteScheduler(shift=s)
            )
            rows[f"Heun shift {shift:g}"] = lambda s=shift: (
                d.FlowMatchHeunDiscreteScheduler(shift=s)
            )
    if process == "VE":
        edm = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        rows["EDM Euler"] = lambda: d.EDMEulerScheduler(**edm)
        for order in (2, 3):
            rows[f"EDM DPM++ {order}M"] = lambda p=order: (
                d.EDMDPMSolverMultistepScheduler(**edm, solver_order=p)
            )
    return rows


def _run_diffusers(problem, process, make, count, rounded):
    import torch

    scheduler = make()
    two = type(scheduler).__name__ in (
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    )
    name = type(scheduler).__name__
    rounded |= name == "KDPM2DiscreteScheduler"  # its table of levels is interleaved
    steps = (count + 1) // 2 if two else count - (name == "PNDMScheduler")
    if name == "FlowMatchEulerDiscreteScheduler":
        # As the pipelines call it.
        scheduler.set_timesteps(sigmas=list(np.linspace(1, 1 / steps, steps)))
    else:
        scheduler.set_timesteps(steps)
    level_of = _vp_levels()
    sigmas = getattr(scheduler, "sigmas", None)
    ve = name.startswith(("Euler", "Heun", "KDPM2", "LMS", "EDM"))
    flow = process == "flow"

    def level(i, t):
        t = float(t)
        own = (
            None if sigmas is None or name in ("IPNDMScheduler",) else float(sigmas[i])
        )
        if name == "IPNDMScheduler":
            a, s = float(scheduler.alphas[i]), float(scheduler.betas[i])
            return a, s
        if flow:
            s = t / T if rounded or own is None else own
            return 1 - s, s
        if process == "VE":
            return 1.0, own
        if rounded or own is None:
            a, s = level_of(t)
            return (1.0, s / a) if ve else (a, s)
        return (1.0, own) if ve else (1 / np.hypot(1, own), own / np.hypot(1, own))

    times = scheduler.timesteps
    i0 = 0
    alpha, sigma = level(i0, times[0])
    if sigmas is not None and name != "IPNDMScheduler":
        own = float(sigmas[0])
        if flow:
            alpha, sigma = 1 - own, own
        elif ve:
            alpha, sigma = 1.0, own
        else:
            alpha, sigma = 1 / np.hypot(1, own), own / np.hypot(1, own)
    first = sigma * problem.z
    x = torch.from_numpy(first.copy())
    calls = 0
    for i, t in enumerate(times):
        a, s = level(i, t)
        state = x.numpy()
        x0 = problem.x0(state, a, s)
        calls += 1
        eps = (state - a * x0) / s
        if name == "IPNDMScheduler":
            out = a * eps - s * x0
        elif flow:
            out = eps - x0
        elif process == "VE":
            # EDM's schedulers precondition: undo it to give them exactly x0.
            d = 0.5
            skip, scale = d**2 / (s**2 + d**2), s * d / np.hypot(s, d)
            out = (x0 - skip * state) / scale
            x_in = x
        else:
            out = eps
        if process == "VE":
            # Sets the scheduler's step index; the scaled input is not needed.
            scheduler.scale_model_input(x_in, t)
        elif ve:
            scheduler.scale_model_input(x, t)
        out = scheduler.step(torch.from_numpy(out), t, x)
        x = out.prev_sample.to(torch.float64)
    if calls > count:
        raise RuntimeError(f"{name} used {calls} evaluations of {count}")
    stop = (1.0, 0.0)
    if sigmas is not None and not flow and name != "IPNDMScheduler":
        # Some of them stop at their least noise.
        left = float(sigmas[-1])
        stop = (1.0, left) if ve else (1 / np.hypot(1, left), left / np.hypot(1, left))
    return problem.error(x.numpy(), first, (alpha, sigma), stop)


def _run_k(problem, sampler, sigmas, count, left=0.0):
    import torch

    x = torch.from_numpy(float(sigmas[0]) * problem.z)
    first = x.numpy().copy()
    calls = [0]

    def model(x, sigma, **_):
        calls[0] += 1
        return torch.from_numpy(problem.x0(x.numpy(), 1.0, float(sigma[0])))

    with contextlib.redirect_stderr(None):
        end = sampler(model, x, sigmas)
    if calls[0] > count:
        raise RuntimeError(f"{calls[0]} evaluations of {count}")
    return problem.error(end.numpy(), first, (1.0, float(sigmas[0])), (1.0, left))


def _k_rows(process):
    import k_diffusion.sampling as k
    import torch

    low, high = (0.002, 80.0) if process == "VE" else (None, None)
    if process == "VP":
        level_of = _vp_levels()
        low, high = (level_of(t)[1] / level_of(t)[0] for t in (0, T - 1))

    def in_time(n):
        a, s = level_of(np.linspace(T - 1, 0, n))
        return torch.tensor(np.append(s / a, 0.0))

    spacings = {
        "Karras": lambda n: k.get_sigmas_karras(n, low, high).double(),
        "exponential": lambda n: k.get_sigmas_exponential(n, low, high).double(),
    }
    if process == "VP":
        spacings["even t"] = in_time
    quiet = dict(disable=True)
    solvers = {
        "Euler": (1, lambda m, x, s: k.sample_euler(m, x, s, **quiet)),
        "Heun": (2, lambda m, x, s: k.sample_heun(m, x, s, **quiet)),
        "DPM-2": (2, lambda m, x, s: k.sample_dpm_2(m, x, s, **quiet)),
        "LMS": (1, lambda m, x, s: k.sample_lms(m, x, s, **quiet)),
        "2S a eta 0": (
            2,
            lambda m, x, s: k.sample_dpmpp_2s_ancestral(m, x, s, eta=0, **quiet),
        ),
        "2M": (1, lambda m, x, s: k.sample_dpmpp_2m(m, x, s, **quiet)),
        "2M SDE heun eta 0": (
            1,
            lambda m, x, s: k.sample_dpmpp_2m_sde(
                m, x, s, eta=0, solver_type="heun", noise_sampler=lambda *_: 0, **quiet
            ),
        ),
        "3M SDE eta 0": (
            1,
            lambda m, x, s: k.sample_dpmpp_3m_sde(
                m, x, s, eta=0, noise_sampler=lambda *_: 0, **quiet
            ),
        ),
    }

    def run(problem, solver, spacing, count):
        evaluations, call = solvers[solver]
        steps = (count + 1) // 2 if evaluations == 2 else count
        return _run_k(problem, call, spacings[spacing](steps), count)

    rows = {
        f"{solver} {spacing}": lambda p, n, a=solver, b=spacing: run(p, a, b, n)
        for solver in solvers
        for spacing in spacings
    }

    # These two stop at the least noise.
    ends = torch.tensor([high, low], dtype=torch.float64)

    def fast(problem, n):
        def call(m, x, s):
            return k.sample_dpm_fast(m, x, low, high, n, **quiet)

        return _run_k(problem, call, ends, n, low)

    def adaptive(problem, n):
        best = np.inf
        for rtol in (0.2, 0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3):

            def call(m, x, s, rtol=rtol):
                return k.sample_dpm_adaptive(m, x, low, high, rtol=rtol, **quiet)

            with contextlib.suppress(RuntimeError):
                best = min(best, _run_k(problem, call, ends, n, low))
        return best

    rows["DPM-fast"] = fast
    rows["DPM-adaptive"] = adaptive
    return rows


def theirs(mixture, z, process, counts):
    """``{sampler: {count: error}}`` for one problem, and what crashed."""
    problem = Problem(mixture, z)
    table, faults = {}, []
    have = available()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jobs = {}
        if "diffusers" in have:
            for name, make in _diffusers_rows(process).items():
                for rounded in (False, True):
                    jobs[f"diffusers {name}{' rounded' * rounded}"] = (
                        lambda n, m=make, r=rounded: _run_diffusers(
                            problem, process, m, n, r
                        )
                    )
        if "k-diffusion" in have and process != "flow":
            for name, run in _k_rows(process).items():
                jobs[f"k-diffusion {name}"] = lambda n, r=run: r(problem, n)
        for name, job in jobs.items():
            for n in counts:
                try:
                    value = job(n)
                except Exception as fault:
                    faults.append(f"{name} at {n}: {type(fault).__name__}: {fault}")
                    continue
                if np.isfinite(value):
                    table.setdefault(name, {})[n] = value
    same = [row for row in table if table[row] == table.get(f"{row} rounded")]
    return {k: v for k, v in table.items() if k[: -len(" rounded")] not in same}, faults
