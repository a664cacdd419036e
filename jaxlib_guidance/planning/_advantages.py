"""What chunks of actions are worth: their returns, a critic, and how a policy is told.

An advantage is what a chunk earns beyond what is usual where it begins. A policy may be
told its sign, and asked for good chunks; a critic may lead or choose what is drawn.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.planning._layers import apply_layers, init_layers
from jaxlib_guidance.planning._trajectories import Layout
from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array, Context, PyTree, at_least_float32


def chunk_returns(
    rewards: Array,
    terminated: Array,
    values: Array | None = None,
    *,
    steps: int | None = None,
    gamma: Array | float,
) -> Array:
    """Returns of ``n`` steps from every step of episodes.

    ``G_t = r_t + gamma r_(t+1) + ... + gamma^n V_(t+n)``, where nothing follows a step
    that terminates, and the value at the end of an episode stands for what is not seen.

    Args:
      rewards: Rewards ``[..., T]``.
      terminated: Whether the episode ends at a step, after which nothing follows
        ``[..., T]``.
      values: Values ``V`` of the observations, that after the last step too ``[..., T +
        1]``; None is 0 throughout.
      steps: Number ``n`` of steps, at least 1; None is all that are left.
      gamma: Discount of a step in [0, 1], scalar.

    Returns:
      ``[..., T]``, float32.

    Raises:
      TypeError: ``steps`` that are no whole number.
      ValueError: Shapes that do not fit, no steps, or a discount outside [0, 1].

    Reference: n-step returns of chunks: Li et al., arXiv 2507.07969.
    """
    rewards = at_least_float32(jnp.asarray(rewards))
    if rewards.ndim < 1 or rewards.shape[-1] < 1:
        raise ValueError(
            f"rewards have shape {rewards.shape}; expected [..., T] with T >= 1"
        )
    length = rewards.shape[-1]
    require_shape("terminated", terminated, rewards.shape)
    if steps is not None and not isinstance(steps, int | np.integer):
        raise TypeError(f"steps is {steps!r}; expected a Python integer, or None")
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1, or None")
    require_shape("gamma", gamma, ())
    if known_false(lambda x: (x >= 0) & (x <= 1), gamma):
        raise ValueError(f"gamma is {gamma}; expected a number in [0, 1]")
    wide = (*rewards.shape[:-1], length + 1)
    if values is None:
        values = jnp.zeros(wide, rewards.dtype)
    require_shape("values", values, wide)
    values = jnp.asarray(values, rewards.dtype)
    last = jnp.asarray(terminated, bool)

    def further(_, after):
        # What is kept after an end may be anything, NaN too.
        here = rewards + gamma * jnp.where(last, 0.0, after[..., 1:])
        return jnp.concatenate([here, values[..., -1:]], axis=-1)

    count = length if steps is None else min(int(steps), length)
    return jax.lax.fori_loop(0, count, further, values)[..., :-1]


def init_critic(
    key: Array, layout: Layout, horizon: int, widths: Sequence[int] = (128, 128)
) -> PyTree:
    """New parameters of `apply_critic`.

    Args:
      key: One typed key.
      layout: How actions and observations are scaled.
      horizon: Number ``H`` of actions in a chunk; 0 is a value of observations alone.
      widths: Units of the hidden layers.

    Returns:
      Layers ``{"layer0": {"kernel", "bias"}, ...}``; the last is 0.

    Raises:
      TypeError: A horizon that is no whole number.
      ValueError: A horizon below 0.
    """
    if not isinstance(horizon, int | np.integer):
        raise TypeError(f"horizon is {horizon!r}; expected a Python integer")
    if horizon < 0:
        raise ValueError(f"horizon is {horizon}; expected at least 0")
    return init_layers(key, layout.states + horizon * layout.actions, 1, widths)


def apply_critic(
    params: PyTree, layout: Layout, observation: Array, chunk: Array | None = None
) -> Array:
    """What a chunk is worth where it begins, ``Q(o, a)``, or ``V(o)`` without one.

    Args:
      params: Parameters.
      layout: How actions and observations are scaled.
      observation: What is seen ``[..., S]``, in the units of the world.
      chunk: Actions ``[..., H, A]``; None for parameters of horizon 0.

    Returns:
      Values ``[...]``.

    Raises:
      ValueError: Observations or chunks of another shape than the parameters'.
    """
    # One entry would be broadcast to all of the layout's.
    seen = jnp.shape(observation)
    if seen[-1:] != (layout.states,):
        raise ValueError(
            f"observation has shape {seen}; expected [..., {layout.states}]"
        )
    entries = layout.scale(jnp.asarray(observation))
    if chunk is not None:
        given = jnp.shape(chunk)
        if given[:-2] != seen[:-1] or given[-1:] != (layout.actions,):
            lead = "".join(f"{n}, " for n in seen[:-1])
            raise ValueError(
                f"chunk has shape {given}; expected [{lead}H, {layout.actions}], one "
                "for each observation"
            )
        scaled = layout.scale_actions(jnp.asarray(chunk))
        flat = scaled.reshape(*seen[:-1], math.prod(given[-2:]))
        entries = jnp.concatenate([entries, flat], axis=-1)
    expected = params["layer0"]["kernel"].shape[0]
    if entries.shape[-1] != expected:
        shape = None if chunk is None else jnp.shape(chunk)
        raise ValueError(
            f"observation has shape {jnp.shape(observation)} and chunk {shape}, "
            f"{entries.shape[-1]} entries; expected the {expected} of the parameters"
        )
    return apply_layers(params, entries)[..., 0]


def chunk_value(
    function: Callable[..., Array], layout: Layout, *, params: bool = False
) -> Callable[..., Array]:
    """A critic of chunks as a function of what a sampler estimates.

    It is a reward for `sampling.steering`, `sampling.best_of_n` and `sampling.svdd`;
    its negative is an energy for `guidance.energy`.

    Args:
      function: ``(observation [B, S], chunk [B, H, A]) -> [B]`` in the units of the
        world, or ``(params, observation, chunk) -> [B]``.
      layout: How actions and observations are scaled, as given to `draw_chunk`.
      params: Whether it takes the parameters that the term or potential was given.

    Returns:
      ``(x0, ctx) -> [B]``, or ``(params, x0, ctx) -> [B]``.
    """

    def seen(x0: Array, ctx: Context) -> tuple[Array, Array]:
        return layout.unscale(ctx.cond), layout.unscale_actions(x0)

    def plain(x0: Array, ctx: Context) -> Array:
        return function(*seen(x0, ctx))

    def of_params(params: PyTree, x0: Array, ctx: Context) -> Array:
        return function(params, *seen(x0, ctx))

    return of_params if params else plain


def with_advantage(layout: Layout) -> Layout:
    """The layout of observations that end with an advantage, see `tell_advantage`.

    Args:
      layout: How actions and observations are scaled, ``S`` entries of an observation.

    Returns:
      A layout of ``S + 1``; the last is not scaled.
    """
    mean, std = (
        jnp.append(x, jnp.asarray(end, jnp.result_type(x)))
        for x, end in ((layout.state_mean, 0), (layout.state_std, 1))
    )
    return Layout(layout.action_mean, layout.action_std, mean, std)


def tell_advantage(observation: Array, advantage: Array | float) -> Array:
    """An observation that ends with what the policy is told of its chunk's advantage.

    In training 1 where it is above a threshold, -1 where it is not, and 0 in some rows
    drawn at random, so that 0 means that nothing is told. Ask for 1, and give 0 as the
    ``null`` of `draw_chunk`.

    Args:
      observation: What is seen ``[..., S]``.
      advantage: What is told, scalar or ``[...]``.

    Returns:
      ``[..., S + 1]``, in the layout of `with_advantage`; float32, or float64.

    Raises:
      TypeError: Truth values for an advantage.
      ValueError: An advantage that does not fit the observations.

    Reference: Frans et al., CFGRL, arXiv 2505.23458; as a binary indicator with
      negative examples: pi*0.6, arXiv 2511.14759.
    """
    # Whole numbers would cut what is told, and have no -1 where they have no sign.
    observation = at_least_float32(jnp.asarray(observation))
    if observation.ndim < 1:
        raise ValueError("observation has shape (); expected [..., S]")
    batch = observation.shape[:-1]
    require_shape("advantage", advantage, (), batch)
    if jnp.issubdtype(jnp.result_type(advantage), jnp.bool_):
        raise TypeError(
            "advantage is boolean, and False would be 0, which tells nothing; expected "
            "numbers: 1 where it is good and -1 where it is not"
        )
    told = jnp.broadcast_to(jnp.asarray(advantage, observation.dtype), batch)
    return jnp.concatenate([observation, told[..., None]], axis=-1)
