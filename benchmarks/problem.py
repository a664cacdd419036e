"""A problem of a solver, for `problems.py`: where it starts and where it should end."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlib_guidance as jg
from jaxlib_guidance.testing import GaussianMixture, exact_flow, posterior_mean64
from jaxlib_guidance.types import Array, Context, Denoiser, Process, expand


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is solved, from where, and the answer.

    Attributes:
      name: Name, one of its half.
      half: "tuning" or "held_out".
      kind: "mixture" or "network".
      process: Noise process; the starts stand at its ``t_max``.
      process_name: Key of `PROCESSES`.
      scale: `data_scale` of the data.
      starts: States ``[B, *S]`` at ``process.t_max``, float32.
      denoiser: Function that makes the denoiser; call it inside what is jitted.
      cond: Condition ``[B]`` of a network, or None.
      guidance: Guidance term, or None.
      mixture: Distribution of a "mixture", or None.
      mark: Name of what the ends depend on: distribution, parameters, condition.
      cache: Folder where ends are kept.
    """

    name: str
    half: str
    kind: str
    process: Process
    process_name: str
    scale: float
    starts: Array
    denoiser: Callable[[], Denoiser]
    cond: Any = None
    guidance: Any = None
    mixture: GaussianMixture | None = None
    mark: str = ""
    cache: Path = Path()

    @property
    def level(self) -> tuple[float, float]:
        """Coefficients ``(alpha, sigma)`` of the starts."""
        t = jnp.float32(self.process.t_max)
        return float(self.process.alpha(t)), float(self.process.sigma(t))

    @property
    def last(self) -> float:
        """``sigma / (alpha + sigma)`` at the process's ``t_min``."""
        t = jnp.float32(self.process.t_min)
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        return sigma / (alpha + sigma)

    @property
    def noise(self) -> np.ndarray:
        """Unit noise of the starts, float64."""
        return np.asarray(self.starts, np.float64) / self.level[1]

    @functools.cached_property
    def _network(self):
        @jax.jit
        def guess(x, ratio):
            p = self.process
            t = jnp.clip(p.t_of_logsnr(-2 * jnp.log(ratio)), p.t_min, p.t_max)
            many = jnp.broadcast_to(t, x.shape[:1])
            alpha, sigma = (expand(f(many), x) for f in (p.alpha, p.sigma))
            keys = jg.sample_keys(jax.random.key(0), len(x))
            x = (alpha + sigma) * x
            ctx = Context(
                x, many, alpha, sigma, self.cond, keys, p, jnp.int32(0), None, t, t
            )
            call = jg.guided(self.denoiser(), self.guidance)
            return call(ctx, call.init(x))[0]

        return guess

    def x0(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        """The estimate ``[B, *S]`` in numpy, guidance included, for any libraries.

        Args:
          x: States ``alpha x0 + sigma eps``, ``[B, *S]``.
          alpha: Scale of the data in ``x``, which need not be the process's at any
            time: only the ratio of the two matters.
          sigma: Standard deviation of the noise in ``x``.
        """
        if self.mixture is not None:
            return posterior_mean64(self.mixture, x, alpha, sigma)
        unit = jnp.asarray(x / (alpha + sigma), jnp.float32)
        guess = self._network(unit, jnp.float32(sigma / max(alpha, 1e-9)))
        return np.asarray(guess, np.float64)

    def ends(self) -> np.ndarray:
        """Ends ``[B, *S]`` of the probability flow from the starts, float64."""
        return self._solved["ends"]

    def state(self, tau: float) -> np.ndarray:
        """State of a network's flow at ``sigma = tau``, ``alpha = 1 - tau``."""
        # Tables in float32 end within some hundredths of the process's own end.
        if abs(tau / self.last - 1) < 0.05:
            return self._solved["last"]
        return runge_kutta(self, 160, tau)[0]

    def floor(self) -> float:
        """Mean L2 error of `ends` themselves; 0 for the exact ones."""
        return float(self._solved["floor"])

    def error(self, samples: Any) -> float:
        """Mean L2 distance of samples ``[B, *S]`` to the ends."""
        gap = np.asarray(samples, np.float64) - self.ends()
        return float(np.mean(np.linalg.norm(gap.reshape(len(gap), -1), axis=1)))

    @functools.cached_property
    def _solved(self):
        path = self.cache / f"ends-{self.name}-{self.mark}.npz"
        if not path.exists():
            solved = self._exact() if self.mixture is not None else self._converged()
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(part, **solved)
            part.rename(path)
        with np.load(path) as file:
            return dict(file)

    def _exact(self):
        ends = exact_flow(self.mixture, self.starts, self.level, rtol=1e-8)
        return {"ends": ends, "floor": 0.0}

    def _converged(self):
        (last, fine), (_, coarse) = (runge_kutta(self, n) for n in (160, 80))
        gap = (fine - coarse).reshape(len(fine), -1)
        floor = np.mean(np.linalg.norm(gap, axis=1))
        return {"ends": fine, "floor": floor, "last": last}


def runge_kutta(
    problem: Problem, n: int, stop: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fourth-order solution of a problem's flow with its own network, ``n`` steps.

    In ``y = x / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)`` the flow reads
    ``dy/dtau = (y - x0) / tau``. Steps are even in ``sqrt(tau)``, finer near the data.

    Args:
      problem: The problem.
      n: Number of steps, of four evaluations each.
      stop: ``tau`` to stop at; None is that of the process's ``t_min``.

    Returns:
      ``(y, x0)``: ``y`` at ``stop``, and the x0 predicted from there.
    """

    def slope(y, tau):
        return (y - problem.x0(y, 1 - tau, tau)) / tau

    alpha, sigma = problem.level
    last = problem.last if stop is None else stop
    ends = np.array([sigma / (alpha + sigma), last])
    y = np.asarray(problem.starts, np.float64) / (alpha + sigma)
    taus = np.linspace(*np.sqrt(ends), n + 1) ** 2
    for a, b in itertools.pairwise(taus):
        h, mid = b - a, (a + b) / 2
        k1 = slope(y, a)
        k2 = slope(y + h / 2 * k1, mid)
        k3 = slope(y + h / 2 * k2, mid)
        k4 = slope(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y, problem.x0(y, 1 - taus[-1], taus[-1])
