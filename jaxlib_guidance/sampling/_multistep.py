"""Multistep solvers: a polynomial through past predictions, integrated exactly.

One predictor and corrector serve DPM-Solver++, UniPC, DEIS, LMS, PNDM and our own
`adams`; they differ only in the space in which the polynomial is taken (see
`multistep`), in its order, and in whether the step is corrected.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.diffusion import require_positive
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero, require_whole
from jaxlib_guidance.sampling._newton import newton, shrinking
from jaxlib_guidance.sampling._sampler import Sampler, Stepped
from jaxlib_guidance.sampling._spaces import (
    Space,
    clock,
    decay,
    eps_of,
    moments,
    predicted,
    require_space,
    stretch,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, concrete, expand


class _History(NamedTuple):
    """What a multistep solver remembers of its past.

    Attributes:
      seen: Number of predictions so far, int32.
      clocks: Clocks of the latest predictions, newest first, each ``[B]``.
      table: Newton's divided differences at the latest, by order, each ``[B, *S]``.
      moments: Moments of the step before, each ``[B]``.
      added: What the polynomial added to the step before ``[B, *S]``.
    """

    seen: Array
    clocks: tuple[Array, ...]
    table: tuple[Array, ...]
    moments: tuple[Array, ...]
    added: Array


def multistep(
    space: Space,
    order: int,
    correct: bool = False,
    *,
    midpoint: bool = False,
    eta: Any = 0.0,
    scale: float = 1.0,
    adaptive: bool = False,
) -> Sampler:
    """Integrates the polynomial through the last ``order`` predictions.

    ``x' = DDIM(x, x0) + sum_k N_k d_k``, where ``d_k`` is the k-th divided difference
    of the predictions ``f`` and ``N_k`` the integral of Newton's k-th polynomial. The
    corrector takes the prediction at ``x'`` into the polynomial and goes over the step
    again: an order gained without an evaluation. The next step takes the correction
    along as DDIM takes a change of ``x``, with the estimate of before. Each of the
    first steps has the order that its history allows.

    Args:
      space: Quantity that the polynomial interpolates, and its clock: "logsnr" (x0 in
        ``log(alpha / sigma)``), "logsigma" (eps in ``log(sigma / alpha)``), "sigma"
        (eps in ``sigma / alpha``), "flow" (velocity in ``sigma / (alpha + sigma)``) or
        "step" (eps in the number of the step).
      order: Number of predictions in the polynomial, 1 to 4.
      correct: Whether every step but the last is corrected.
      midpoint: Whether a straight line is integrated by its value at the middle, as
        DPM-Solver++ 2M and UniPC's ``B_2`` do; for "logsnr" only.
      eta: Level of noise, for "logsnr" only: a scalar, or a function of the time at
        which a step starts. The default 0 is the ODE, 1 the reverse-time SDE.
      scale: Unit in which x0 is measured, for "flow" only.
      adaptive: Whether ``order`` is only the highest: the terms ``N_k d_k`` count, for
        each sample and step apart, as long as they shrink. A smooth prediction keeps
        the full order, a rough one, such as a network's under strong guidance, falls
        back towards the second.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      ValueError: Unknown ``space``, ``order`` or ``scale`` out of range, or
        ``midpoint``, ``eta`` or ``scale`` where they mean nothing.
    """
    require_space(space)
    require_whole(order, "order", 1, 4)
    stochastic = not is_zero(eta)
    if space != "logsnr" and (stochastic or midpoint):
        raise ValueError(f"eta and midpoint need space='logsnr'; got {space!r}")
    require_positive(scale, "scale")
    if space != "flow" and (concrete(scale) is None or scale != 1):
        raise ValueError(f"scale is {scale} in space {space!r}; it needs space='flow'")
    depth = order if correct else order - 1

    def init(x):
        each, whole = jnp.zeros(x.shape[:1], x.dtype), jnp.zeros_like(x)
        return _History(
            jnp.int32(0),
            (each,) * depth,
            (whole,) * depth,
            (each,) * (depth + 1) if correct else (),
            whole if correct else each,
        )

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        # From here on x0 is in units of `scale`: x = (scale alpha) (x0 / scale) + ...
        y0 = x0 / scale
        start, end = (
            level._replace(alpha=scale * level.alpha)
            for level in (interval.start, interval.end)
        )
        eps = eps_of(x, y0, start)
        now = jnp.broadcast_to(clock(space, start), x.shape[:1])
        seen, clocks, table, old_moments, old_added = state

        differences = [predicted(space, y0, eps)]
        for k in range(depth):
            gap = jnp.where(seen > k, now - clocks[k], 1)
            slope = (differences[k] - table[k]) / expand(gap, x)
            differences.append(jnp.where(seen > k, slope, 0))

        # Log-SNR runs away near data: a straight line on the step before the last.
        left = interval.left if space == "logsnr" else 2**30
        shift = jnp.zeros_like(x)
        if correct:
            nodes = (clocks[0], now, *clocks[1:])
            degree = jnp.minimum(seen, jnp.minimum(order, left + 1))
            again = newton(old_moments, nodes, differences, degree)
            again = shrinking(again) if adaptive else sum(again)
            shift = jnp.where(seen > 0, again - old_added, 0)
        level = eta(interval.t) if callable(eta) else eta
        m = moments(space, start, end, depth + 1, level)
        if midpoint:
            h = clock(space, end) - clock(space, start)
            m[0] = jnp.where(end.sigma > 0, m[0] * h / 2, 0)
        elif depth:
            m[0] = m[1]
        m = tuple(jnp.broadcast_to(each, x.shape[:1]) for each in m)
        degree = jnp.minimum(seen, jnp.minimum(order, jnp.maximum(left, 2)) - 1)
        added = jnp.zeros_like(x)
        terms = newton(m, (now, *clocks), differences[:order], degree)
        # A step to data ends on what the network says, and is not averaged by later
        # ones: no slope there that may be the network's error.
        added += shrinking(terms, end.sigma == 0) if adaptive else sum(terms)

        noise_kept = decay(start, end, level)
        mean = expand(end.alpha, x) * y0 + expand(end.sigma * noise_kept, x) * eps
        mean += expand(stretch(space, start, end) * noise_kept, x) * shift + added
        std = end.sigma * sqrt(jnp.maximum(1 - noise_kept**2, 0))
        state = _History(
            seen + 1,
            (now, *clocks)[:depth],
            tuple(differences[:depth]),
            m if correct else (),
            added if correct else old_added,
        )
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(init, step, stochastic=stochastic, reversible=not stochastic)


def adams(
    order: int = 3,
    correct: bool = True,
    scale: float = 1.0,
    *,
    adaptive: bool = False,
) -> Sampler:
    """Adams-Bashforth-Moulton on the rectified flow of any process.

    The flow of every process is that of ``y = x / (s alpha + sigma)`` in
    ``tau = sigma / (s alpha + sigma)``, ``dy/dtau = eps - x0 / s``: the rectified flow
    of data measured in units of s. It is smooth from pure noise to data, so a classical
    multistep method keeps its order on every step, the first and the last included.
    Meant for `flow_grid`; with ``adaptive`` it is the solver of `recommended`, which
    gives the grid with it.

    Args:
      order: Number of predictions in the polynomial, 1 to 4; a corrected step gains one
        order.
      correct: Whether every step but the last is corrected.
      scale: Unit ``s`` of the data, near its standard deviation.
      adaptive: Whether ``order`` is only the highest, from which a sample whose
        prediction is rough falls back; see `multistep`.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.adams(2), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)
    """
    return multistep("flow", order, correct, scale=scale, adaptive=adaptive)


def lms(order: int = 4, correct: bool = False) -> Sampler:
    """Linear multistep in ``sigma / alpha``, as in k-diffusion.

    Adams-Bashforth with variable steps for ``d(x / alpha) / d(sigma / alpha) = eps``;
    also DEIS with the polynomial in rho.

    Args:
      order: Number of predictions in the polynomial, 1 to 4.
      correct: Whether every step but the last is corrected.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.lms(2), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Liu et al., PNDM, arXiv 2202.09778, eq. 9 for the constant-step weights;
    Zhang and Chen, DEIS, arXiv 2204.13902, section 3 (rho-AB).
    """
    return multistep("sigma", order, correct)


def deis(order: int = 3, correct: bool = False) -> Sampler:
    """DEIS: eps as a polynomial in ``log(sigma / alpha)``, integrated exactly.

    Args:
      order: Number of predictions in the polynomial, 1 to 4.
      correct: Whether every step but the last is corrected.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.deis(2), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Zhang and Chen, arXiv 2204.13902, eq. 14 (exponential Adams-Bashforth).
    """
    return multistep("logsigma", order, correct)


def pndm(order: int = 4) -> Sampler:
    """PNDM: Adams-Bashforth weights for equal steps, then DDIM's transfer of eps.

    ``eps* = (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24`` at order 4, whatever the
    spacing of the grid; it is meant for one that is even in time. The start takes lower
    orders instead of Runge-Kutta steps ("skip PRK").

    Args:
      order: Number of predictions in the average, 1 to 4.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.pndm(2), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Liu et al., arXiv 2202.09778, eq. 11 and 12.
    """
    return multistep("step", order)


def unipc(order: int = 2) -> Sampler:
    """UniPC-p with ``B_2``: DPM-Solver++ as predictor, and a corrector for free.

    UniPC's coefficients solve a linear system that makes a step exact for x0 polynomial
    in ``log(alpha / sigma)``; here that polynomial is integrated directly. The numbers
    are the same wherever the system fixes them (there ``B`` drops out); it does not for
    a straight line, which ``B_2`` integrates by its middle.

    Args:
      order: Order of the predictor, 1 to 4; the corrector has one more.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.unipc(2), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Zhao et al., arXiv 2302.04867, algorithms 1 and 2.
    """
    return multistep("logsnr", order, correct=True, midpoint=True)
