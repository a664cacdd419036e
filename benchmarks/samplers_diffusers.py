"""diffusers' schedulers on the problems of `problems.py`, for `samplers_peers.py`.

Each runs through its own public interface, on the exact noise level at which it stands
(diffusers itself hands the network integer timesteps, which costs it accuracy). Tables
of 1000 steps: DDPM's betas; a cosine one, even in the process's time; and that same one
cut to a log-SNR of 7.5 either way.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

T = 1000
LINEAR = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
TWO = ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SHIFTS = (3.0, 1.0, 0.5, 0.25, 0.12)
# Solvers that are also run on grids of ours, in each form.
PORTABLE = ("Euler", "DPM++ 2M", "DPM++ 3M", "UniPC-2", "UniPC-3", "DEIS-3", "SA-3")


@dataclasses.dataclass(frozen=True)
class Row:
    """A scheduler: how it is made and what its state is.

    Attributes:
      make: Function that makes the scheduler.
      form: Scale of its states: "vp", "ve", "flow", "edm" or "ipndm".
    """

    make: Callable[[], Any]
    form: str


def _cosine(process, low, high):
    import jax.numpy as jnp

    t = np.linspace(low, high, T)
    bar = np.asarray(process.alpha(jnp.asarray(t, jnp.float32)), np.float64) ** 2
    return dict(trained_betas=1 - bar / np.append(1.0, bar[:-1]))


def tables(problem):
    """Tables of betas by name, as keywords of schedulers."""
    if problem.process_name == "linear":
        return {"": LINEAR}
    p = problem.process
    ends = [float(p.t_of_logsnr(np.float32(v))) for v in (7.5, -7.5)]
    cut = _cosine(p, max(ends[0], p.t_min), min(ends[1], p.t_max))
    return {"": _cosine(p, p.t_min, p.t_max), " cut": cut}


def _multistep(options):
    """``name -> make`` of the solvers that take every spacing."""
    import diffusers as d

    o, made = options, {}
    for p in (2, 3):
        made[f"DPM++ {p}M"] = lambda p=p: d.DPMSolverMultistepScheduler(
            **o, solver_order=p, algorithm_type="dpmsolver++"
        )
        made[f"UniPC-{p}"] = lambda p=p: d.UniPCMultistepScheduler(
            **o, solver_order=p, solver_type="bh2"
        )
        made[f"DEIS-{p}"] = lambda p=p: d.DEISMultistepScheduler(**o, solver_order=p)
        made[f"SA-{p}"] = lambda p=p: d.SASolverScheduler(
            **o, predictor_order=p, corrector_order=p, tau_func=lambda t: 0
        )
        single = {k: v for k, v in o.items() if k != "timestep_spacing"}
        made[f"DPM++ {p}S"] = lambda p=p, o=single: d.DPMSolverSinglestepScheduler(
            **o, solver_order=p, algorithm_type="dpmsolver++"
        )
    return made


def _vp_rows(problem):
    import diffusers as d

    spacings = {
        "linspace": dict(timestep_spacing="linspace"),
        "trailing": dict(timestep_spacing="trailing"),
        "Karras": dict(timestep_spacing="linspace", use_karras_sigmas=True),
        "exponential": dict(timestep_spacing="linspace", use_exponential_sigmas=True),
    }
    rows = {}
    for cut, table in tables(problem).items():
        for spacing, more in spacings.items():
            if cut and spacing in ("linspace", "trailing"):
                continue
            o = table | more
            for name, make in _multistep(o).items():
                rows[f"{name} {spacing}{cut}"] = Row(make, "vp")
            rows[f"DPM-Solver 3M {spacing}{cut}"] = Row(
                lambda o=o: d.DPMSolverMultistepScheduler(
                    **o,
                    solver_order=3,
                    algorithm_type="dpmsolver",
                    final_sigmas_type="sigma_min",
                ),
                "vp",
            )
            for name, kind in [
                ("Euler", d.EulerDiscreteScheduler),
                ("Heun", d.HeunDiscreteScheduler),
                ("LMS", d.LMSDiscreteScheduler),
            ]:
                if spacing != "trailing":
                    make = functools.partial(kind, **o)
                    rows[f"{name} {spacing}{cut}"] = Row(make, "ve")
    table = tables(problem)[""]
    rows["DDIM trailing"] = Row(
        lambda: d.DDIMScheduler(
            **table, timestep_spacing="trailing", clip_sample=False
        ),
        "vp",
    )
    plms = dict(table, skip_prk_steps=True, set_alpha_to_one=True)
    rows["PNDM"] = Row(lambda: d.PNDMScheduler(**plms), "vp")
    rows["IPNDM"] = Row(d.IPNDMScheduler, "ipndm")
    return rows


def _flow_rows():
    import diffusers as d

    rows = {}
    for shift in SHIFTS:
        o = dict(
            LINEAR,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
            flow_shift=shift,
        )
        for name, make in _multistep(o).items():
            rows[f"{name} shift {shift:g}"] = Row(make, "flow")
        rows[f"Euler shift {shift:g}"] = Row(
            lambda s=shift: d.FlowMatchEulerDiscreteScheduler(shift=s), "flow"
        )
        rows[f"Heun shift {shift:g}"] = Row(
            lambda s=shift: d.FlowMatchHeunDiscreteScheduler(shift=s), "flow"
        )
    return rows


def _ve_rows():
    import diffusers as d

    rows = {}
    for spacing in ("karras", "exponential"):
        edm = dict(
            sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule=spacing
        )
        rows[f"EDM Euler {spacing}"] = Row(
            lambda o=edm: d.EDMEulerScheduler(**o), "edm"
        )
        for p in (2, 3):
            rows[f"EDM DPM++ {p}M {spacing}"] = Row(
                lambda o=edm, p=p: d.EDMDPMSolverMultistepScheduler(
                    **o, solver_order=p
                ),
                "edm",
            )
    return rows


def rows(problem) -> dict[str, Row]:
    """Every scheduler and spacing that diffusers offers for a problem's process."""
    if problem.process_name == "flow":
        return _flow_rows()
    return _ve_rows() if problem.process_name == "ve" else _vp_rows(problem)


def portable(problem) -> dict[str, Row]:
    """Those that are run on a grid of ours."""
    import diffusers as d

    if problem.process_name == "flow":
        o = dict(LINEAR, use_flow_sigmas=True, prediction_type="flow_prediction")
        euler = Row(lambda: d.FlowMatchEulerDiscreteScheduler(), "flow")
        form = "flow"
    else:
        o, form = LINEAR, "vp"
        euler = Row(lambda: d.EulerDiscreteScheduler(**LINEAR), "ve")
    made = {name: Row(make, form) for name, make in _multistep(o).items()}
    made["Euler"] = euler
    return {name: made[name] for name in PORTABLE}


def _level(form, ratio):
    """Coefficients ``(alpha, sigma)`` of a scheduler's states at a noise ratio."""
    if np.isinf(ratio):
        return 0.0, 1.0
    if form in ("ve", "edm"):
        return 1.0, ratio
    if form == "flow":
        return 1 / (1 + ratio), ratio / (1 + ratio)
    return 1 / np.hypot(1, ratio), ratio / np.hypot(1, ratio)


def _ratios(scheduler, form, kind):
    """Noise ratios of the scheduler's steps, and the one where it stops."""
    if kind in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
        bar = scheduler.alphas_cumprod.double().numpy()
        steps = scheduler.timesteps.numpy()
        return np.append(np.sqrt(1 / bar[steps] - 1), 0.0)
    if form == "ipndm":
        return (scheduler.betas / scheduler.alphas).double().numpy()
    sigmas = scheduler.sigmas.double().numpy()
    return sigmas / (1 - sigmas) if form == "flow" else sigmas


def _prepare(row, scheduler, kind, steps, ratios, problem):
    import torch

    if kind == "IPNDMScheduler":
        # Its own grid, even in the angle, from where the problem begins.
        first = np.arctan2(problem.level[1], problem.level[0])
        betas = np.sin(np.linspace(first, 0, steps + 1))
        scheduler.register_to_config(trained_betas=list(betas))
    if kind == "FlowMatchEulerDiscreteScheduler":
        # As the pipelines call it.
        scheduler.set_timesteps(sigmas=list(np.linspace(1, 1 / steps, steps)))
    else:
        scheduler.set_timesteps(steps)
    if ratios is not None:
        own = np.minimum(ratios, 1e6 - 1)
        sigmas = own / (1 + own) if row.form == "flow" else own
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        scheduler.timesteps = torch.arange(steps, 0, -1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def run(problem, row: Row, count: int, ratios=None):
    """One trajectory of at most ``count`` evaluations.

    Args:
      problem: The problem.
      row: The scheduler.
      count: Number of evaluations.
      ratios: Noise ratios ``[count + 1]`` to step on; None is the scheduler's own grid.

    Returns:
      ``(samples, start, stop)``; the last two are noise ratios.
    """
    import torch

    scheduler = row.make()
    kind, form = type(scheduler).__name__, row.form
    steps = (count + 1) // 2 if kind in TWO else count - (kind == "PNDMScheduler")
    _prepare(row, scheduler, kind, steps, ratios, problem)
    own = _ratios(scheduler, form, kind)
    levels = [_level(form, ratio) for ratio in own]
    x = torch.from_numpy(levels[0][1] * problem.noise)
    calls = 0
    for i, t in enumerate(scheduler.timesteps):
        a, s = levels[i]
        state = x.numpy()
        x0 = problem.x0(state, a, s)
        calls += 1
        if form == "edm":
            # EDM's schedulers precondition: undo it to give them exactly x0.
            d = 0.5
            out = (x0 - d**2 / (s**2 + d**2) * state) / (s * d / np.hypot(s, d))
        else:
            eps = (state - a * x0) / s
            out = {"flow": eps - x0, "ipndm": a * eps - s * x0}.get(form, eps)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        out = scheduler.step(torch.from_numpy(out), t, x)
        x = out.prev_sample.to(torch.float64)
    if calls > count:
        raise RuntimeError(f"{kind} used {calls} evaluations of {count}")
    return x.numpy(), own[0], own[-1]
