"""Training-free guidance: one smoothed loss, stepped along on state and estimate."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._step import step_grid, step_kernel
from jaxlib_guidance.guidance.posterior._smoothing import require_loss, smooth_loss
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)

Growth = Literal["increase", "decrease", "constant"]


@pytree_dataclass
class TrainingFree:
    """Steps on state and estimate by one smoothed loss. Build it with `tfg`.

    Attributes:
      weight: Factor of the whole correction, scalar or ``[B]``; 0 is off.
      rho: Size of the step through the network.
      mu: Size of the steps on the estimate.
      smoothing: Standard deviation of the smoothing at pure noise.
      params: First argument of ``function`` when not None.
      function: ``([params,] x0, ctx) -> [B]`` (static).
      iterations: Number of steps on the estimate (static).
      samples: Number of draws of the smoothing (static).
      schedules: How ``rho`` and ``mu`` change over the steps (static).
      through: What the first step differentiates (static).
    """

    weight: Array | float
    rho: Array | float
    mu: Array | float
    smoothing: Array | float
    params: PyTree = None
    function: Callable[..., Array] = static(default=None)
    iterations: int = static(default=1)
    samples: int = static(default=4)
    schedules: tuple[str, str] = static(default=("increase", "increase"))
    through: str = static(default="network")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, differentiated."""
        return {BASE: Branch(ctx.cond, grad=True)}

    def _energy(self, x0: Array, ctx: Context) -> Array:
        std = per_sample(self.smoothing, x0, "tfg's smoothing") * ctx.sigma
        return smooth_loss(self.function, self.params, x0, ctx, std, self.samples)

    def energy(self, evals: Evals, ctx: Context) -> Array:
        """The smoothed loss of the estimate ``[B]``."""
        return self._energy(evals.x0[BASE], ctx)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The change of x0 that moves the step's mean as published."""
        x0 = evals.x0[BASE]
        rho, mu = (
            per_sample(size, x0, f"tfg's {name}") * _growth(ctx, schedule)
            for name, size, schedule in zip(
                ("rho", "mu"), (self.rho, self.mu), self.schedules, strict=True
            )
        )
        near = x0
        for _ in range(self.iterations):
            slope = jax.grad(lambda x: jnp.sum(self._energy(x, ctx)))(near)
            near = near - mu * slope
        later = ctx.process.alpha(ctx.t_next)
        kernel = step_kernel(ctx, "tfg")
        # How much of the estimate the step's mean takes.
        take = kernel(jnp.ones_like(x0)).mean - kernel(jnp.zeros_like(x0)).mean
        on_state = -rho * evals.grad * divide(per_sample(later, x0), ctx.alpha)
        move = divide(on_state + per_sample(later, x0) * (near - x0), take)
        weight = per_sample(self.weight, delta, "tfg's weight")
        return delta + weight * move, state


def _growth(ctx: Context, schedule: str) -> Array:
    """The schedule at this step, of mean 1 over the grid."""
    if schedule == "constant":
        return jnp.ones(())
    grid = step_grid(ctx, "tfg")
    alpha = ctx.process.alpha(grid)
    kept = (alpha[:-1] / alpha[1:]) ** 2
    values = kept if schedule == "increase" else 1 - kept
    return values[ctx.step] / jnp.mean(values)


@method(
    "posterior",
    "the step's mean - rho J' grad E a'/a + a' (m steps of - mu grad E from D - D), E "
    "smoothed",
    space="gradient",
    evaluations=1,
    source="2409.15761",
    example={"rho": 0.3, "mu": 0.3},
    law="test_tfg_moves_the_mean_as_published",
)
def tfg(
    function: Callable[..., Array],
    rho: Any = 1.0,
    mu: Any = 1.0,
    smoothing: Any = 0.1,
    params: PyTree = None,
    *,
    weight: Any = 1.0,
    iterations: int = 1,
    samples: int = 4,
    schedules: tuple[Growth, Growth] = ("increase", "increase"),
) -> TrainingFree:
    """Training-free guidance, of which DPS, LGD-MC, MPGD and FreeDoM are cases.

    With ``E`` smoothed by noise of ``smoothing sigma``, as in `lgd_mc`: ``m`` steps
    ``x <- x - mu_t grad E(x)`` from the estimate ``D`` to ``x0``, and the mean of the
    solver's step moves by ``-rho_t (alpha' / alpha) J^T grad E(D) + alpha' (x0 - D)``.
    ``rho_t`` and ``mu_t`` have mean ``rho`` and ``mu`` over the grid and follow
    ``(alpha / alpha')^2``, one minus that, or nothing. Its recurrence is
    `sampling.with_recurrence`. At ``mu = 0`` and no smoothing it is DPS, at ``rho = 0``
    MPGD.

    Args:
      function: Energy ``(x0 [B, *S], ctx) -> [B]``, or ``(params, x0, ctx)`` with
        ``params``, to be lowered.
      rho: Size of the step through the network, scalar or ``[B]``.
      mu: Size of the steps on the estimate, scalar or ``[B]``.
      smoothing: Standard deviation of the smoothing over ``sigma``, scalar or ``[B]``,
        at least 0.
      params: Pytree that ``function`` receives first; None for one without.
      weight: Factor of the whole correction, scalar or ``[B]``; 0 is off.
      iterations: Number ``m`` of steps on the estimate.
      samples: Number of draws of the smoothing.
      schedules: How ``rho`` and ``mu`` change: "increase", "decrease" or "constant".

    Returns:
      A guidance term for solvers of one evaluation a step.

    Raises:
      TypeError: A number that is none, or a function that cannot be called.
      ValueError: Settings outside their ranges; while sampling, a solver of several
        evaluations a step.

    Reference: Ye et al., arXiv 2409.15761, algorithm 1, as a public port of its code
      has it; that clips gradients by their size, which this does not.
    """
    require_loss("tfg", function, params, samples)
    require_loss("tfg", function, params, iterations)
    require_numbers("tfg", rho=rho, mu=mu, smoothing=smoothing, weight=weight)
    if known_false(lambda s: s >= 0, smoothing):
        raise ValueError(f"smoothing is {smoothing}; expected at least 0")
    known = ("increase", "decrease", "constant")
    if len(schedules) != 2 or any(each not in known for each in schedules):
        raise ValueError(f"schedules are {schedules}; expected two of {known}")
    return TrainingFree(
        weight,
        rho,
        mu,
        smoothing,
        params,
        function,
        iterations,
        samples,
        tuple(schedules),
    )
