"""Optimism for rewards that are linear in the action, now or after a while.

LinUCB believes every reward; DynLin-UCB holds an arm until what earlier arms left
behind has faded, and believes the last reward of the block alone. With ``decay`` 0
every block is one step long and `dynlin_step` is LinUCB.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


class Ridge(NamedTuple):
    """A ridge regression of rewards on actions, as far as it has seen.

    Attributes:
      weights: Estimate ``h``, float32 ``[D]``.
      inverse: ``V^{-1}`` of ``V = ridge I + sum u u'``, float32 ``[D, D]``.
    """

    weights: Array
    inverse: Array


class DynLin(NamedTuple):
    """A linear bandit between two steps.

    Attributes:
      ridge: Estimate from the last rewards of all blocks.
      arm: Index of the arm to play now, int32 scalar.
      block: Number of the block, from 1, int32 scalar.
      left: Steps left of the block, this one included, int32 scalar.
      steps: Steps taken, int32 scalar.
    """

    ridge: Ridge
    arm: Array
    block: Array
    left: Array
    steps: Array


def _require_decay(decay):
    """Refuses what lies outside of [0, 1)."""
    require_range("decay", decay, 0)
    require_range("decay", decay, high=1, inside=True)


def init_ridge(size: int, *, ridge: float | Array = 1.0) -> Ridge:
    """Estimate 0 with ``V = ridge I``.

    Args:
      size: Number ``D`` of elements of an action.
      ridge: Weight of the penalty on the estimate's square, positive.

    Returns:
      The regression that has seen nothing.
    """
    require_range("ridge", ridge, 0, inside=True)
    return Ridge(jnp.zeros(size), jnp.eye(size) / ridge)


def update_ridge(state: Ridge, action: Array, reward: Array) -> Ridge:
    """Takes in one reward, by recursive least squares.

    ``k = V^{-1} u / (1 + u' V^{-1} u)``, ``h + k (y - <h, u>)``, ``V^{-1} - k u'
    V^{-1}``: equal to solving the regression anew, without a solve.

    Args:
      state: Regression so far.
      action: Action ``u``, ``[D]``.
      reward: Reward ``y``, scalar.

    Returns:
      The regression with it.

    Raises:
      ValueError: Mismatched shapes.
    """
    require_shape("action", action, jnp.shape(state.weights))
    require_shape("reward", reward, ())
    action = at_least_float32(action)
    spread = state.inverse @ action
    gain = spread / (1 + action @ spread)
    return Ridge(
        state.weights + gain * (reward - action @ state.weights),
        state.inverse - jnp.outer(gain, spread),
    )


def upper_bounds(state: Ridge, actions: Array, radius: float | Array) -> Array:
    """``<h, u> + radius |u|_{V^{-1}}``: how much an action may be worth.

    Args:
      state: Regression so far.
      actions: Actions ``u``, ``[K, D]``.
      radius: Radius of the confidence ellipsoid, scalar, at least 0, as of
        `dynlin_radius`.

    Returns:
      Float32 ``[K]``.

    Raises:
      ValueError: Mismatched shapes.
    """
    require_shape("actions", actions, (len(actions), *jnp.shape(state.weights)))
    require_range("radius", radius, 0)
    actions = at_least_float32(actions)
    square = jnp.einsum("kd,de,ke->k", actions, state.inverse, actions)
    return actions @ state.weights + radius * jnp.sqrt(jnp.maximum(square, 0))


def dynlin_block(block: int | Array, *, decay: float | Array) -> Array:
    """``1 + floor(log m / log(1 / decay))``: steps of block ``m``.

    Args:
      block: Number ``m`` of the block, from 1; of any shape.
      decay: Bound on the spectral radius of the hidden dynamics, in [0, 1); 0 for
        blocks of one step.

    Returns:
      Int32 of the shape of ``block``.

    Reference: arXiv 2211.08997, algorithm 1.
    """
    require_range("block", block, 1)
    _require_decay(decay)
    known = jnp.where(jnp.asarray(decay) > 0, decay, 0.5)
    length = jnp.log(at_least_float32(jnp.asarray(block))) / -jnp.log(known)
    # Where m is a power of 1 / decay the quotient is whole but for rounding.
    held = 1 + jnp.floor(length + 2e-6)
    return jnp.where(jnp.asarray(decay) > 0, held, 1).astype(jnp.int32)


def dynlin_radius(
    steps: int | Array,
    *,
    horizon: int,
    size: int,
    noise: float | Array,
    action_norm: float | Array,
    theta_norm: float | Array,
    omega_norm: float | Array = 0.0,
    input_norm: float | Array = 0.0,
    decay: float | Array = 0.0,
    growth: float | Array = 1.0,
    ridge: float | Array = 1.0,
    hold: bool = True,
) -> Array:
    """Radius of the confidence ellipsoid after ``steps`` steps, at level 1 / horizon.

    ``c1 sqrt(ridge) + c2 log(e (t + 1)) / sqrt(ridge) + sqrt(2 s^2 (log T + D / 2 log(1
    + t U^2 / (D ridge))))`` with ``c1 = theta + omega b growth / (1 - decay)``, ``c2 =
    U omega growth (U b + U) / (1 - decay)`` and ``s^2 = noise^2 (1 + omega^2 growth^2 /
    (1 - decay^2))``. The middle term pays for what earlier arms left behind. Without
    hidden state (``omega_norm`` 0) it is the radius of LinUCB.

    Args:
      steps: Steps ``t`` taken, of any shape.
      horizon: Steps ``T`` in all.
      size: Number ``D`` of elements of an action.
      noise: Standard deviation of the noise.
      action_norm: Bound ``U`` on the norm of an action.
      theta_norm: Bound on the norm of the pay of an action at once.
      omega_norm: Bound on the norm of the pay of the hidden state; 0 for none.
      input_norm: Bound ``b`` on the norm of the map from actions to the state.
      decay: Bound on the spectral radius of the hidden dynamics, in [0, 1).
      growth: Bound on ``|A^k| / decay^k``, 1 for a normal ``A``.
      ridge: Weight of the regression's penalty, positive.
      hold: Whether arms are held in blocks; without, ``c2`` is left out, as in the
        LinUCB that the authors' code compares.

    Returns:
      Float32 of the shape of ``steps``.

    Reference: arXiv 2211.08997; ``LinearAgent`` of github.com/marcomussi/DLB.
    """
    require_range("steps", steps, 0)
    require_range("horizon", horizon, 1)
    require_range("size", size, 1)
    for name, value in (
        ("noise", noise),
        ("action_norm", action_norm),
        ("theta_norm", theta_norm),
        ("omega_norm", omega_norm),
        ("input_norm", input_norm),
        ("growth", growth),
    ):
        require_range(name, value, 0)
    require_range("ridge", ridge, 0, inside=True)
    _require_decay(decay)
    steps = at_least_float32(jnp.asarray(steps))
    reach = omega_norm * growth / (1 - decay)
    first = (theta_norm + reach * input_norm) * ridge**0.5
    left = action_norm**2 * reach * (input_norm + 1) / ridge**0.5
    spread = noise**2 * (1 + (omega_norm * growth) ** 2 / (1 - decay**2))
    volume = size / 2 * jnp.log1p(steps * action_norm**2 / (size * ridge))
    chance = jnp.sqrt(2 * spread * (jnp.log(float(horizon)) + volume))
    return first + hold * left * (1 + jnp.log1p(steps)) + chance


def init_dynlin(size: int, arm: int | Array, *, ridge: float | Array = 1.0) -> DynLin:
    """A linear bandit that is about to play its first arm.

    Args:
      size: Number ``D`` of elements of an action.
      arm: Index of the arm to play first, drawn at random by the authors' code.
      ridge: Weight of the regression's penalty, positive.

    Returns:
      The state; ``state.arm`` is to be played.

    Raises:
      ValueError: An arm that is no index.
    """
    require_shape("arm", arm, ())
    require_range("arm", arm, 0)
    if not jnp.issubdtype(jnp.result_type(arm), jnp.integer):
        raise ValueError(f"arm is {arm}; expected an integer")
    one = jnp.ones((), jnp.int32)
    arm = jnp.asarray(arm, jnp.int32)
    return DynLin(init_ridge(size, ridge=ridge), arm, one, one, 0 * one)


def dynlin_step(
    state: DynLin,
    reward: Array,
    arms: Array,
    *,
    radius: float | Array,
    decay: float | Array,
) -> DynLin:
    """Takes the reward of ``state.arm``; at the end of a block learns and chooses anew.

    Args:
      state: State in which ``state.arm`` was played.
      reward: Its reward, scalar; believed in the last step of a block alone.
      arms: Arms to choose from, ``[K, D]``.
      radius: Radius of the confidence ellipsoid, scalar; see `dynlin_radius`.
      decay: Bound on the spectral radius of the hidden dynamics, in [0, 1): see
        `dynlin_block`. 0 is LinUCB.

    Returns:
      The next state, whose ``arm`` is to be played.

    Raises:
      ValueError: Mismatched shapes, or a first arm that is not there.

    Reference: arXiv 2211.08997, algorithm 1. The authors' code holds its first arm one
    step longer.
    """
    require_range("state.arm", state.arm, 0, len(arms) - 1)
    # Arms of numpy have no traced index.
    learned = update_ridge(state.ridge, at_least_float32(arms)[state.arm], reward)
    best = jnp.argmax(upper_bounds(learned, arms, radius)).astype(jnp.int32)
    last, block = state.left <= 1, state.block + 1
    ridge = Ridge(
        *(jnp.where(last, a, b) for a, b in zip(learned, state.ridge, strict=True))
    )
    return DynLin(
        ridge,
        jnp.where(last, best, state.arm),
        jnp.where(last, block, state.block),
        jnp.where(last, dynlin_block(block, decay=decay), state.left - 1),
        state.steps + 1,
    )
