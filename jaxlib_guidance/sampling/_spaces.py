"""The probability flow as a quadrature: which quantity to integrate, by which clock.

Between two times the flow moves ``x / n`` by the integral of a predicted quantity ``f``
against a clock ``c``, in whichever pair one likes:

  =========  ==========  ======================  ===============
  space      f           c                       n
  =========  ==========  ======================  ===============
  logsnr     x0          log(alpha / sigma)      sigma
  logsigma   eps         log(sigma / alpha)      alpha
  sigma      eps         sigma / alpha           alpha
  flow       eps - x0    sigma / (alpha+sigma)   alpha + sigma
  step       eps         number of the step      alpha
  =========  ==========  ======================  ===============

With ``f`` constant over the step every one of them is DDIM; they differ in how a slope
of ``f`` in ``c`` corrects it. In "flow" both ends, pure noise and data, have a finite
clock, so no step there need fall back to first order, and for every process the problem
is the rectified flow's.
"""

from typing import Any, Literal, get_args

import jax.numpy as jnp

from jaxlib_guidance.sampling._checks import is_zero
from jaxlib_guidance.sampling._sampler import Level
from jaxlib_guidance.types import Array, expand

Space = Literal["logsnr", "logsigma", "sigma", "flow", "step"]

# Where alpha or sigma is 0 an infinite clock is held here: differences divided by it
# vanish, as they should, without a NaN.
FAR = 1e4


def eps_of(x: Array, x0: Array, level: Level) -> Array:
    """``(x - alpha x0) / sigma``: the noise in ``x`` if the data is ``x0``."""
    return (x - expand(level.alpha, x) * x0) / expand(level.sigma, x)


def require_space(space: str, known: tuple[str, ...] = get_args(Space)) -> None:
    """Raises unless ``space`` is one of ``known``."""
    if space not in known:
        raise ValueError(f"space is {space!r}; expected one of {known}")


def half_logsnr(level: Level) -> Array:
    """``log(alpha / sigma)``, held at a large finite number where either is 0."""
    alpha, sigma, _ = level
    both = (alpha > 0) & (sigma > 0)
    value = jnp.log(jnp.where(both, alpha, 1)) - jnp.log(jnp.where(both, sigma, 1))
    return jnp.where(both, value, jnp.where(alpha > 0, FAR, -FAR))


def _quotient(a, b, otherwise):
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), otherwise)


def clock(space: Space, level: Level) -> Array:
    """``c`` of the table above."""
    alpha, sigma, step = level
    match space:
        case "logsnr":
            return half_logsnr(level)
        case "logsigma":
            return -half_logsnr(level)
        case "sigma":
            return _quotient(sigma, alpha, FAR)
        case "flow":
            return sigma / (alpha + sigma)
        case "step":
            return jnp.asarray(step, jnp.result_type(alpha))


def predicted(space: Space, x0: Array, eps: Array) -> Array:
    """``f`` of the table above."""
    return {"logsnr": x0, "flow": eps - x0}.get(space, eps)


def stretch(space: Space, start: Level, end: Level) -> Array:
    """The factor by which a change of ``x`` at ``start`` grows over the step.

    The estimate that was made before the change is kept, x0 or, where it is what the
    polynomial interpolates, eps; DDIM takes the rest along. In "flow" x0 is kept and
    not the velocity: where data is thin, or guidance strong, the flow contracts as this
    does, and a change that did not shrink would add up.
    """
    if space in ("logsnr", "flow"):
        return _quotient(end.sigma, start.sigma, 0)
    return _quotient(end.alpha, start.alpha, 0)


def decay(start: Level, end: Level, eta: Any) -> Array:
    """``r^eta`` with ``r = alpha sigma' / (alpha' sigma)``, by which noise shrinks."""
    if is_zero(eta):
        return jnp.ones_like(end.alpha)
    ratio = _quotient(start.alpha * end.sigma, end.alpha * start.sigma, 1)
    some = ratio > 0
    return jnp.where(some, jnp.where(some, ratio, 1) ** eta, jnp.where(eta > 0, 0, 1))


def moments(
    space: Space, start: Level, end: Level, count: int, eta: Any = 0.0
) -> list[Array]:
    """``n(end)`` times the integrals of ``(c - c(start))^k``, k = 0, ..., count - 1.

    On a step whose clock is infinite at an end that matters those above the zeroth are
    0, which lowers the solver's order to one.

    Args:
      space: Quadrature, a row of the table above.
      start: Noise level at which the step begins.
      end: Noise level at which the step ends.
      count: Number of integrals.
      eta: Noise of the stochastic flow, for "logsnr", whose kernel decays ``1 + eta``
        times as fast; 0 is the ODE.

    Returns:
      List of ``count`` scalars or arrays ``[B]``.
    """
    h = clock(space, end) - clock(space, start)
    match space:
        case "flow":
            n = end.alpha + end.sigma
            return [n * h ** (k + 1) / (k + 1) for k in range(count)]
        case "logsnr":
            # n(end) exp(c(end)) = alpha(end); integration by parts gives the rest.
            regular = (start.alpha > 0) & (end.sigma > 0)
            kept = decay(start, end, eta) * start.alpha * end.sigma / start.sigma
            m = [end.alpha - kept]
            h = jnp.where(regular, h, 0)
            for k in range(1, count):
                m.append(end.alpha * h**k - k * m[-1] / (1 + eta))
        case _:
            regular = (start.alpha > 0) & (end.alpha > 0)
            carried = end.alpha * _quotient(start.sigma, start.alpha, 0)
            m = [end.sigma - carried]
            if space == "logsigma":
                finite = regular & (end.sigma > 0)
                h = jnp.where(finite, h, 0)
                for k in range(1, count):
                    m.append(end.sigma * h**k - k * m[-1])
            elif space == "sigma":
                m += [m[0] * h**k / (k + 1) for k in range(1, count)]
            else:
                m += [m[0] / (k + 1) for k in range(1, count)]
    return m[:1] + [jnp.where(regular, each, 0) for each in m[1:]]
