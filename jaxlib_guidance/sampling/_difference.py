"""Edits beside the picture's own trajectory, which cancels the network's error on it.

The source's states are known; the edit moves as they do, and by what the network says
of the two differently. With the same condition the difference is 0, so the source comes
back, whatever network, guidance and steps: bit for bit where the compiler computes both
rows of a pair alike.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.guidance import join_pairs, split_pairs
from jaxlib_guidance.sampling._checks import require_between
from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._prepare import require_grid
from jaxlib_guidance.sampling._sampler import Sampler, Stepped, stateless
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Process, at_least_float32


def noised_states(keys: Array, process: Process, grid: Any, x: Array) -> Array:
    """The data at each time of the grid, with other noise at each.

    ``x_i = alpha_i x + sigma_i n_i`` with independent ``n_i``, and the data itself at
    the last time.

    Args:
      keys: One typed key for each sample ``[B]``.
      process: Noise process.
      grid: Times ``[N + 1]`` from noise to data.
      x: Data, or the state at the last time, ``[B, *S]``.

    Returns:
      States ``[N + 1, B, *S]``, for `difference` and `noise_maps`.

    Raises:
      ValueError: A grid or keys that do not fit.

    Reference: Huberman-Spiegelglas et al., arXiv 2304.06140, eq. 6.
    """
    rng.require_keys(keys)
    x = at_least_float32(x)
    grid, _ = require_grid(grid, process, reversible=False, x=x)

    def state(_, row):
        index, t = row
        noise = rng.normal(rng.fold(rng.fold(keys, rng.NOISING), index), x.shape[1:])
        return None, perturb(process, x, noise, t)

    rows = jnp.arange(grid.shape[0] - 1), grid[:-1]
    _, states = jax.lax.scan(state, None, rows)
    return jnp.concatenate([states, x[None]])


def difference(states: Array, eta: Any = 0.0, grid: Array | None = None) -> Sampler:
    """DDIM for pairs of a source, whose states are known, and its edit.

    With ``m`` the mean of DDIM's step, sources ``s`` and edits ``e`` go to

      ``s' = states[i + 1]``,  ``e' = s' + m(e, D_e) - m(s, D_s)``.

    Three editors are this step: with states of `invert` it is DDIM with its inversion's
    error taken away; with `noised_states` and ``eta`` 0 FlowEdit, for any process; with
    ``eta`` 1 the edit-friendly DDPM inversion, whose noise maps cancel.

    Args:
      states: States of the sources ``[N + 1, B, *S]`` at all times of the grid.
      eta: Share of the posterior's standard deviation in ``m``, in [0, 1]. No noise is
        drawn: it is in the states.
      grid: Times ``[N + 1]`` that the states belong to, which `sample` then compares
        with its own; None compares nothing.

    Returns:
      The solver for states ``[2 B, *S]``, keys and conditions that `join_pairs` made,
      with one evaluation of each a step.

    Raises:
      ValueError: ``eta`` outside [0, 1], or states of another shape than the sampler's.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> from jaxlib_guidance.guidance import join_pairs, split_pairs
      >>> process, grid = jg.RectifiedFlow(), [1.0, 0.5, 0.0]
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, process, "x0")
      >>> keys, x = jg.sample_keys(jax.random.key(0), 1), jnp.ones((1, 1))
      >>> states = jg.sampling.noised_states(keys, process, grid, x)
      >>> pairs = join_pairs((keys, states[0]), (keys, states[0]))
      >>> cond = jnp.array([[1.0], [3.0]])
      >>> solver = jg.sampling.difference(states)
      >>> moved, _ = jg.sample(pairs[0], denoiser, solver, grid, pairs[1], cond)
      >>> moved.tolist()  # The network tells the conditions apart by 2.
      [[1.0], [3.0]]

    Reference: Kulikov et al., FlowEdit, arXiv 2412.08629, eq. 7; Huberman-Spiegelglas
      et al., arXiv 2304.06140; states of an inversion: Ju et al., arXiv 2310.01506.
    """
    require_between(eta, "eta", 0, 1)
    states = at_least_float32(states)

    def step(denoise, x, state, guidance_state, interval):
        if (2 * states.shape[1], *states.shape[2:]) != x.shape:
            raise ValueError(
                f"difference has states of shape {states.shape}; expected [N + 1, B, "
                f"*S] for pairs [2 B, *S], which are {x.shape}"
            )
        now, after = states[interval.index], states[interval.index + 1]
        x = join_pairs(now, split_pairs(x)[1])
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        source, edited = split_pairs(posterior(x, x0, interval, eta).mean)
        x = join_pairs(after, after + (edited - source))
        still = jnp.zeros_like(interval.end.sigma)
        return Stepped(Transition(x, still), x0, state, guidance_state)

    return Sampler(stateless, step, grid=grid)
