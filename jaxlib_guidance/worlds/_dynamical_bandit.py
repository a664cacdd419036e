"""A bandit whose arms act through a hidden linear state, with its exact optimum.

An arm ``u`` pays at once and moves a state that pays later::

    x_{t+1} = A x_t + B u_t + state_noise eps_t
    y_t     = <omega, x_t> + <theta, u_t> + noise eta_t

Held for ever it pays ``<h, u>`` a step with ``h = theta + B' (I - A')^{-1} omega``, so
the best policy holds one arm, that of `solve`; what an arm pays at once may say
nothing of it.

Reference: Mussi, Metelli, Restelli, "Dynamical Linear Bandits", arXiv 2211.08997.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._picture import bars, line, paper


class System(NamedTuple):
    """A dynamical linear bandit of ``N`` hidden states, ``D`` inputs and ``K`` arms.

    Attributes:
      a: State from one step to the next, ``[N, N]``, of spectral radius below 1.
      b: What an input adds to the state, ``[N, D]``.
      omega: Pay of a state, ``[N]``.
      theta: Pay of an input at once, ``[D]``.
      arms: Inputs to choose from, ``[K, D]``.
      state_noise: Standard deviation of each state's noise, scalar.
      noise: Standard deviation of the reward's noise, scalar.
    """

    a: Array
    b: Array
    omega: Array
    theta: Array
    arms: Array
    state_noise: Array
    noise: Array


class Solution(NamedTuple):
    """What each arm is worth.

    Attributes:
      weights: Pay a step of an input that is held for ever, ``h``, ``[D]``.
      values: Pay a step of each arm that is held for ever, ``[K]``.
      best: Index of the best arm, int32 scalar.
    """

    weights: Array
    values: Array
    best: Array


def released(noise: float = 0.1) -> System:
    """The synthetic system of the authors' code, github.com/marcomussi/DLB.

    Three channels share a budget of 1.5, at most 1 each. The channel that pays most
    when held pays nothing at once. The code sums three noisy outputs; here the reward
    has their sum's noise.

    Args:
      noise: Standard deviation of the noise of a state and of an output.

    Returns:
      A system of 3 states, 3 inputs and 6 arms with spectral radius 0.2.
    """
    split = [
        (1, 0.5, 0),
        (1, 0, 0.5),
        (0.5, 1, 0),
        (0.5, 0, 1),
        (0, 1, 0.5),
        (0, 0.5, 1),
    ]
    return _system(
        jnp.diag(jnp.array([0.2, 0.0, 0.1])),
        jnp.diag(jnp.array([0.45, 0.0, 0.1])),
        [1, 0, 0.1],
        [0, 0.5, 0.1],
        split,
        noise,
        noise * 3**0.5,
    )


def delayed(noise: float = 0.1) -> System:
    """A system in which delay decides: the arm best when held pays least at once.

    Steady pay of its three arms is 1, 0.6 and 0.8; at once they pay 0, 0.6 and 0.3, and
    a step later the first has paid 0.1.

    Args:
      noise: Standard deviation of the noise of a state and of the reward.

    Returns:
      A system of 2 states, 2 inputs and 3 arms with spectral radius 0.9.
    """
    return _system(
        jnp.diag(jnp.array([0.9, 0.0])),
        jnp.diag(jnp.array([0.1, 0.0])),
        [1, 0],
        [0, 0.6],
        [(1, 0), (0, 1), (0.5, 0.5)],
        noise,
        noise,
    )


def _system(a, b, *rest):
    return System(a, b, *(jnp.asarray(x, jnp.float32) for x in rest))


def solve(system: System) -> Solution:
    """Steady pay of every arm, and the best arm.

    Args:
      system: The bandit.

    Returns:
      ``h = theta + B' (I - A')^{-1} omega``, ``<h, u>`` and its largest.

    Raises:
      ValueError: Shapes that do not fit together.
    """
    states, inputs = jnp.shape(system.b)
    require_shape("a", system.a, (states, states))
    require_shape("omega", system.omega, (states,))
    require_shape("theta", system.theta, (inputs,))
    require_shape("arms", system.arms, (len(system.arms), inputs))
    carried = jnp.linalg.solve(jnp.eye(states) - system.a.T, system.omega)
    weights = system.theta + system.b.T @ carried
    values = system.arms @ weights
    return Solution(weights, values, jnp.argmax(values).astype(jnp.int32))


def reset(system: System, key: Array) -> tuple[Array, Array]:
    """The state at rest, 0, and an observation of nothing.

    Args:
      system: The bandit.
      key: Typed key; nothing is drawn from it.

    Returns:
      The state ``[N]`` and an empty observation ``[0]``: the state is hidden.
    """
    del key
    return jnp.zeros_like(system.omega), jnp.zeros(0)


def step(
    system: System, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """Plays an arm for one step.

    Args:
      system: The bandit.
      state: State ``[N]``.
      action: Index of the arm, int32 scalar.
      key: Typed key of the step's noise.

    Returns:
      The next state ``[N]``, an empty observation ``[0]``, the reward, and False: it
      never ends.
    """
    state_key, key = jax.random.split(key)
    reward = expected_reward(system, state, action)
    reward += system.noise * jax.random.normal(key)
    after = advance(system, state, action)
    after += system.state_noise * jax.random.normal(state_key, jnp.shape(state))
    return after, jnp.zeros(0), reward, jnp.zeros((), bool)


def advance(system: System, state: Array, action: Array) -> Array:
    """``A x + B u``: the mean of the next state.

    Args:
      system: The bandit.
      state: State ``[N]``.
      action: Index of the arm, int32 scalar.

    Returns:
      The mean of the next state, ``[N]``.
    """
    return system.a @ state + system.b @ jnp.asarray(system.arms)[action]


def expected_reward(system: System, state: Array, action: Array) -> Array:
    """``<omega, x> + <theta, u>``: the mean reward of an arm in a state.

    Followed along the states of `advance` it is the mean over all noise of what a
    sequence of arms pays, so a regret can be computed without noise.

    Args:
      system: The bandit.
      state: State ``[N]``.
      action: Index of the arm, int32 scalar.

    Returns:
      A scalar.
    """
    return system.omega @ state + system.theta @ jnp.asarray(system.arms)[action]


def render(system: System, state: Array, *, size: int = 64) -> Array:
    """A picture: a bar for each arm, what it pays at once in a state.

    The black line upon it is what the arm pays when it is held.

    Args:
      system: The bandit.
      state: State ``[N]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1]; the largest of these pays fills it.
    """
    arms = jnp.arange(len(system.arms))
    now = jax.vmap(lambda arm: expected_reward(system, state, arm))(arms)
    held = solve(system).values
    most = jnp.maximum(jnp.max(jnp.abs(jnp.stack([now, held]))), 1e-9)
    zero = jnp.where(jnp.min(jnp.stack([now, held])) < 0, 0.5, 0.02)
    tall = lambda pay: zero + (0.98 - zero) * pay / most  # noqa: E731
    picture, _, _ = paper(size)
    green = jnp.broadcast_to(jnp.array([0.35, 0.7, 0.4]), (len(arms), 3))
    picture = bars(picture, tall(now), zero, green)
    for arm, height in enumerate(tall(held)):
        left, right = (
            jnp.stack([jnp.float32(x / len(arms)), height])
            for x in (arm + 0.1, arm + 0.9)
        )
        picture = line(picture, left, right, 2 / size, (0.1, 0.1, 0.1))
    return picture
