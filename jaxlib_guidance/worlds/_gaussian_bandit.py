"""A safe arm and an unknown one: the smallest world in which exploring is worth it.

Arm 0 pays 0. Arm 1 pays ``mean + noise eps``, with a mean drawn from ``N(prior_mean,
prior_std^2)`` once an episode; if the world has no structure it is drawn again at each
pull, and there is nothing to learn. With a prior mean below 0 whoever looks no further
than the next pull never tries arm 1, and the best player does, in an episode that is
long enough.

The best player goes on with arm 1 while the posterior mean is above a threshold and
never returns to it after (Bradt, Johnson and Karlin 1956), so the belief is the
posterior mean after ``n = t`` pulls, and dynamic programming over it is exact up to the
grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32
from jaxlib_guidance.worlds._checks import require_index, require_number
from jaxlib_guidance.worlds._picture import line, paper

SAFE, UNKNOWN = 0, 1
"""The two arms."""


class Bandit(NamedTuple):
    """The two arms.

    Attributes:
      prior_mean: Mean of the unknown arm's mean, scalar.
      prior_std: Its standard deviation, positive scalar.
      noise: Standard deviation of a pull, positive scalar.
      structured: Whether the mean stays for an episode, bool scalar.
    """

    prior_mean: Array | float = -0.25
    prior_std: Array | float = 1.0
    noise: Array | float = 1.0
    structured: Array | bool = True


class Solution(NamedTuple):
    """The Bayes-optimal player of ``T`` pulls.

    Attributes:
      thresholds: Posterior mean from which arm 1 is pulled, after each number of pulls,
        ``[T]``.
      value: Discounted return, scalar.
      total: Return without discount of the same player, scalar.
    """

    thresholds: Array
    value: Array
    total: Array


def reset(bandit: Bandit, key: Array) -> tuple[Array, Array]:
    """Draws the unknown arm's mean.

    Args:
      bandit: The world.
      key: A typed key.

    Returns:
      The mean, a scalar, and an empty observation ``[0]``: it is hidden.

    Raises:
      ValueError: A bandit whose known numbers are NaN or out of range.
    """
    _require(bandit)
    mean = bandit.prior_mean + bandit.prior_std * jax.random.normal(key)
    return mean, jnp.zeros(0)


def step(
    bandit: Bandit, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """Pulls an arm.

    Args:
      bandit: The world.
      state: The unknown arm's mean, scalar.
      action: Number of the arm, 0 or 1.
      key: A typed key of the pull's noise, and of the next mean without structure.

    Returns:
      The next mean, an empty observation ``[0]``, the reward, and False: it never ends.

    Raises:
      ValueError: Another arm, a bandit whose known numbers are out of range.
    """
    require_shape("state", state, ())
    require_shape("action", action, ())
    require_index("action", action, 2)
    noise_key, key = jax.random.split(key)
    reward = state + bandit.noise * jax.random.normal(noise_key)
    again, nothing = reset(bandit, key)
    after = jnp.where(bandit.structured, state, again)
    return (
        after,
        nothing,
        jnp.where(action == UNKNOWN, reward, 0.0),
        jnp.zeros((), bool),
    )


def posterior(
    bandit: Bandit, pulls: Array, total: Array | float
) -> tuple[Array, Array]:
    """Mean and variance of the unknown arm's mean after some pulls of it.

    Args:
      bandit: The world, taken to have structure.
      pulls: Number of pulls of arm 1, of any shape.
      total: Sum of what they paid, of the shape of ``pulls``.

    Returns:
      Two arrays of the shape of ``pulls``.

    Raises:
      ValueError: Fewer than 0 pulls, a bandit whose known numbers are out of range.
    """
    _require(bandit)
    require_number("pulls", pulls, 0)
    known, told = (
        at_least_float32(jnp.asarray(x)) ** -2.0
        for x in (bandit.prior_std, bandit.noise)
    )
    precision = known + at_least_float32(pulls) * told
    mean = bandit.prior_mean * known + at_least_float32(jnp.asarray(total)) * told
    return mean / precision, 1 / precision


def solve(
    bandit: Bandit,
    horizon: int,
    *,
    gamma: float | Array = 1.0,
    points: int = 801,
    nodes: int = 241,
) -> Solution:
    """The best player of an episode, by dynamic programming over the posterior mean.

    ``V_n(m) = max(0, m + gamma E V_{n+1}(m'))`` with ``m' ~ N(m, v_n - v_{n+1})`` and
    ``v_n`` the posterior variance after ``n`` pulls; ``V_T = 0``. Without structure the
    better arm's mean counts, ``max(0, prior_mean)``.

    Args:
      bandit: The world.
      horizon: Number of pulls ``T``, at least 1.
      gamma: Discount of the player, in [0, 1].
      points: Points of the grid, over six standard deviations of the prior each way.
      nodes: Points of the sum that stands for an expectation, over six standard
        deviations each way.

    Returns:
      Thresholds and values.

    Raises:
      ValueError: A horizon below 1, fewer than 2 points or nodes, a known discount
        outside [0, 1], a bandit whose known numbers are out of range.
    """
    _require(bandit)
    for name, value, least in (
        ("horizon", horizon, 1),
        ("points", points, 2),
        ("nodes", nodes, 2),
    ):
        require_number(name, value, least)
    require_number("gamma", gamma, 0, 1)
    # The value has a kink, on which Gauss-Hermite nodes converge slowly.
    x = jnp.linspace(-6, 6, nodes)
    w = jax.nn.softmax(-0.5 * x**2)
    grid = bandit.prior_mean + bandit.prior_std * jnp.linspace(-6, 6, points)

    def back(carry, n):
        value, total = carry
        _, now = posterior(bandit, n, 0.0)
        _, then = posterior(bandit, n + 1, 0.0)
        spread = jnp.where(bandit.structured, jnp.sqrt(now - then), 0.0)
        after = grid[:, None] + spread * x
        expect = lambda v: jnp.interp(after, grid, v) @ w  # noqa: E731
        worth = grid + gamma * expect(value)
        pull = worth > 0
        total = jnp.where(pull, grid + expect(total), 0.0)
        # Between the last point that stops and the first that pulls it is linear.
        i = jnp.clip(jnp.sum(~pull), 1, points - 1)
        low, high = worth[i - 1], worth[i]
        share = jnp.where(high > low, -low / (high - low), 0.0)
        threshold = grid[i - 1] + share * (grid[i] - grid[i - 1])
        return (jnp.where(pull, worth, 0.0), total), threshold

    zeros = jnp.zeros_like(grid)
    pulls = jnp.arange(horizon, dtype=grid.dtype)
    (value, total), thresholds = jax.lax.scan(back, (zeros, zeros), pulls, reverse=True)
    at = lambda v: jnp.interp(bandit.prior_mean, grid, v)  # noqa: E731
    return Solution(thresholds, at(value), at(total))


def _require(bandit):
    """Raises where a bandit's known numbers are NaN or out of range."""
    require_number("prior_mean", bandit.prior_mean)
    require_number("prior_std", bandit.prior_std, 0, above=True)
    require_number("noise", bandit.noise, 0, above=True)


def render(bandit: Bandit, state: Array, *, size: int = 64) -> Array:
    """A picture: the prior of the unknown arm's mean as a grey hill.

    Four standard deviations to either side; the safe arm's 0 in black, and the mean
    that was drawn in blue.

    Args:
      bandit: The world.
      state: The unknown arm's mean, scalar.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1].
    """
    _require(bandit)
    picture, x, y = paper(size)
    hill = 0.05 + 0.8 * jnp.exp(-0.5 * (8 * x - 4) ** 2)
    inside = (y >= 0.05) & (y <= hill)
    picture = jnp.where(inside[..., None], 0.8, picture)
    for mean, color in ((0.0, (0.1, 0.1, 0.1)), (state, (0.2, 0.3, 0.9))):
        at = 0.5 + (jnp.float32(mean) - bandit.prior_mean) / (8 * bandit.prior_std)
        low, high = (jnp.stack([at, jnp.float32(y)]) for y in (0.05, 0.95))
        picture = line(picture, low, high, 2 / size, color)
    return picture
