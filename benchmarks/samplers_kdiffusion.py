"""k-diffusion's samplers on the problems of `problems.py`, for `samplers_peers.py`.

They know sigma and nothing else, so a process with ``alpha`` is run in ``x / alpha``,
as the library's own wrappers of VP networks do. A flow begins at infinite sigma and has
no such form: it is left out.
"""

import contextlib
import importlib.util
import sys
import types

import numpy as np

T = 1000
QUIET = dict(disable=True)
# Of these, those with one evaluation a step also run on grids of ours.
ONE = {
    "Euler": lambda k, m, x, s: k.sample_euler(m, x, s, **QUIET),
    "LMS": lambda k, m, x, s: k.sample_lms(m, x, s, **QUIET),
    "2M": lambda k, m, x, s: k.sample_dpmpp_2m(m, x, s, **QUIET),
    "2M SDE heun eta 0": lambda k, m, x, s: k.sample_dpmpp_2m_sde(
        m, x, s, eta=0, solver_type="heun", noise_sampler=lambda *_: 0, **QUIET
    ),
    "3M SDE eta 0": lambda k, m, x, s: k.sample_dpmpp_3m_sde(
        m, x, s, eta=0, noise_sampler=lambda *_: 0, **QUIET
    ),
}
TWO = {
    "Heun": lambda k, m, x, s: k.sample_heun(m, x, s, **QUIET),
    "DPM-2": lambda k, m, x, s: k.sample_dpm_2(m, x, s, **QUIET),
    "2S a eta 0": lambda k, m, x, s: k.sample_dpmpp_2s_ancestral(
        m, x, s, eta=0, **QUIET
    ),
}
RTOLS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3)


def sampling():
    """The module ``k_diffusion.sampling``, without the rest of the package.

    The package imports at once what its training needs: CLIP, scikit-image, torchvision
    and more. A sampler needs none of it, so the package is entered by its folder, and
    the one such import of its helpers is answered by an empty module if it is missing.

    Raises:
      ImportError: It is not installed, or needs something else that is not.
    """
    if "k_diffusion" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None:
            raise ImportError("k-diffusion is not installed")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["k_diffusion"] = package
    try:
        import torchvision.transforms  # noqa: F401
    except ImportError:
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].functional = None
    return importlib.import_module("k_diffusion.sampling")


def _ranges(problem):
    """Ranges of sigma by name, and the levels of the process's own table or None."""
    p = problem.process

    def ratio(t):
        alpha, sigma = (np.asarray(f(np.float32(t)), float) for f in (p.alpha, p.sigma))
        return sigma / alpha

    if problem.process_name == "ve":
        return {"": (0.002, 80.0)}, None
    ends = (ratio(p.t_min), ratio(p.t_max))

    def table(n):
        return np.array([ratio(t) for t in np.linspace(p.t_max, p.t_min, n)])

    ranges = {"": ends}
    if problem.process_name == "cosine":
        cut = np.exp(-7.5 / 2)
        ranges[" cut"] = (cut, min(1 / cut, ends[1]))
    return ranges, table


def _grids(problem):
    """``name -> (n -> sigmas [n + 1])``."""
    import torch

    k = sampling()
    ranges, table = _ranges(problem)
    grids = {}
    for cut, (low, high) in ranges.items():
        grids[f"Karras{cut}"] = lambda n, a=low, b=high: k.get_sigmas_karras(n, a, b)
        grids[f"exponential{cut}"] = lambda n, a=low, b=high: k.get_sigmas_exponential(
            n, a, b
        )
    if table is not None:
        grids["even t"] = lambda n: torch.tensor(np.append(table(n), 0.0))
    return grids


def _run(problem, call, sigmas, count, stop=0.0):
    import torch

    k, calls = sampling(), [0]

    def model(x, sigma, **_):
        calls[0] += 1
        if calls[0] > count:
            raise RuntimeError(f"more than {count} evaluations")
        return torch.from_numpy(problem.x0(x.numpy(), 1.0, float(sigma[0])))

    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    first = float(sigmas[0])
    with contextlib.redirect_stderr(None):
        end = call(k, model, torch.from_numpy(first * problem.noise), sigmas)
    return end.numpy(), first, stop, calls[0]


def on_grids(problem, one, two):
    """``name -> (count -> (samples, start, stop))`` of samplers on each spacing.

    Args:
      problem: The problem.
      one: Functions ``(module, model, x, sigmas) -> x`` of one evaluation a step.
      two: Those of two.
    """
    made = {}
    for spacing, grid in _grids(problem).items():
        for name, call in (one | two).items():

            def run(count, call=call, grid=grid, half=name in two):
                steps = (count + 1) // 2 if half else count
                return _run(problem, call, grid(steps), count)[:3]

            made[f"{name} {spacing}"] = run
    return made


def rows(problem):
    """``name -> (count -> (samples, start, stop))``; nothing for a flow."""
    if problem.process_name == "flow":
        return {}
    made = on_grids(problem, ONE, TWO)
    for cut, (low, high) in _ranges(problem)[0].items():
        # These two stop at the least noise.
        ends = (high, low)

        def fast(count, a=low, b=high, ends=ends):
            def call(k, m, x, s):
                return k.sample_dpm_fast(m, x, a, b, count, **QUIET)

            return _run(problem, call, ends, count, a)[:3]

        tried = []

        def adaptive(count, a=low, b=high, ends=ends, tried=tried):
            # The tolerance decides the count: each is tried once, for all counts.
            for rtol in RTOLS if not tried else ():

                def call(k, m, x, s, rtol=rtol):
                    return k.sample_dpm_adaptive(m, x, a, b, rtol=rtol, **QUIET)

                try:
                    tried.append(_run(problem, call, ends, 50, a))
                except RuntimeError:
                    break
            inside = [each for each in tried if each[3] <= count]
            if not inside:
                raise RuntimeError(f"no tolerance of {RTOLS} takes {count} evaluations")
            return max(inside, key=lambda each: each[3])[:3]

        made[f"DPM-fast{cut}"] = fast
        made[f"DPM-adaptive{cut}"] = adaptive
    return made


def portable(problem):
    """``name -> ((count, ratios) -> (samples, start, stop))``: those for our grids."""
    if problem.process_name == "flow":
        return {}
    return {
        name: lambda count, ratios, call=call: _run(problem, call, ratios, count)[:3]
        for name, call in ONE.items()
    }
