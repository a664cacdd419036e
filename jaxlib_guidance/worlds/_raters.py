"""Raters who rank options differently: what the crowd prefers may go in circles.

Each rater has a ranking; asked about two options, a rater drawn at random names the one
that it ranks higher. The chance that the crowd prefers ``i`` to ``j`` is a matrix ``P``
with ``P + P^T = 1``, and the policy that no option beats more than half of the time,
the minimax winner, is the exact solution of a symmetric game.

Reference: Swamy et al., "A Minimaximalist Approach to Reinforcement Learning from Human
Feedback", arXiv 2401.04056.
"""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_chance, require_number


def crowd(
    rankings: Array | np.ndarray, weights: Array | np.ndarray | None = None
) -> np.ndarray:
    """Chance that a rater prefers the row's option to the column's.

    Args:
      rankings: Each rater's score of each option, ``[M, A]``; more is better, and of
        two equal ones either is named.
      weights: How often each rater is asked, ``[M]``, at least 0; None for all alike.

    Returns:
      Float64 ``[A, A]`` with ``P + P^T = 1``.

    Raises:
      ValueError: Other shapes, weights that are negative or sum to 0.
    """
    scores = np.asarray(rankings, np.float64)
    if scores.ndim != 2:
        raise ValueError(f"rankings has shape {scores.shape}; expected [M, A]")
    if np.isnan(scores).any():
        raise ValueError("rankings has NaN; expected a score of each option")
    odds = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    if odds.shape != (len(scores),):
        raise ValueError(f"weights has shape {odds.shape}; expected {(len(scores),)}")
    if not ((odds >= 0).all() and odds.sum() > 0):
        raise ValueError(f"weights is {odds}; expected at least 0, not all of them 0")
    apart = np.sign(scores[:, :, None] - scores[:, None])
    return np.tensordot(odds / odds.sum(), (1 + apart) / 2, 1)


def circle(first: float = 0.4, second: float = 0.35) -> np.ndarray:
    """Three raters whose rankings are each other's turned: A > B > C > A.

    Args:
      first: Share of raters who rank A > B > C, in [0, 1].
      second: Share who rank B > C > A; the rest rank C > A > B.

    Returns:
      Float64 ``[3, 3]``.

    Raises:
      ValueError: Shares that are negative or sum to more than 1.
    """
    # Written so that NaN fails too.
    if not (first >= 0 and second >= 0 and first + second <= 1):
        raise ValueError(
            f"first is {first} and second {second}; expected shares of a whole"
        )
    rankings = np.array([[3, 2, 1], [1, 3, 2], [2, 1, 3]])
    return crowd(rankings, np.array([first, second, max(1 - first - second, 0.0)]))


def solve(preference: Array) -> np.ndarray:
    """The minimax winner: ``p`` with ``p P >= 1/2`` everywhere.

    By enumeration of the options that it mixes, so for a dozen of them at most; of
    several winners the one with the fewest options.

    Args:
      preference: Chance that the row beats the column, ``[A, A]``, ``P + P^T = 1``.

    Returns:
      Probabilities, float64 ``[A]``.

    Raises:
      ValueError: Not square, or ``P + P^T`` is not 1.
    """
    p = np.asarray(preference, np.float64)
    if p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise ValueError(f"preference has shape {p.shape}; expected [A, A]")
    if not np.allclose(p + p.T, 1, atol=1e-5):
        raise ValueError("preference and its transpose do not add up to 1")
    game, count = p - 0.5, len(p)
    for size in range(1, count + 1):
        for mixed in combinations(range(count), size):
            rows = list(mixed)
            # Every option of the mixture ties with it, and the chances sum to 1.
            system = np.vstack([game[np.ix_(rows, rows)].T, np.ones(size)])
            wanted = np.append(np.zeros(size), 1.0)
            chances, *_ = np.linalg.lstsq(system, wanted, rcond=None)
            full = np.zeros(count)
            full[rows] = chances
            ties = np.abs(system @ chances - wanted).max() < 1e-8
            if ties and (full >= -1e-9).all() and (full @ game >= -1e-8).all():
                full = np.maximum(full, 0)
                return full / full.sum()
    raise AssertionError("a symmetric game has a solution")


def exploitability(preference: Array, policy: Array) -> Array:
    """``1/2 - min_j (p^T P)_j``: what the best option wins beyond half.

    Args:
      preference: Chance that the row beats the column, ``[A, A]``.
      policy: Probabilities, ``[..., A]``.

    Returns:
      ``[...]``, at least 0, and 0 for a minimax winner alone.
    """
    won = jnp.asarray(policy) @ jnp.asarray(preference, jnp.float32)
    return 0.5 - jnp.min(won, -1)


def compare(preference: Array, first: Array, second: Array, key: Array) -> Array:
    """What raters drawn at random say: 1 where the first option is preferred.

    Args:
      preference: Chance that the row beats the column, ``[A, A]``.
      first: Options, integers ``[N]``.
      second: Options to compare with, integers ``[N]``.
      key: Typed key.

    Returns:
      Float32 ``[N]`` of 0 and 1.
    """
    odds = jnp.asarray(preference, jnp.float32)[first, second]
    return (jax.random.uniform(key, odds.shape) < odds).astype(jnp.float32)


def render(preference: Array | np.ndarray, *, scale: int = 12) -> Array:
    """Chances that the row beats the column: blue does, red is beaten, white is even.

    Args:
      preference: ``[A, A]``, the first option on top.
      scale: Pixels of a cell.

    Returns:
      Float32 ``[A scale, A scale, 3]`` in [0, 1].

    Raises:
      ValueError: Another shape, chances outside [0, 1], ``scale`` below 1.
    """
    p = jnp.asarray(preference, jnp.float32)
    require_shape("preference", p, (len(p), len(p)))
    require_chance("preference", p)
    require_number("scale", scale, 1)
    blue, red = jnp.array([0.2, 0.3, 0.9]), jnp.array([0.85, 0.25, 0.2])
    far = jnp.abs(2 * p - 1)[..., None]
    cells = 1 - far * (1 - jnp.where(p[..., None] > 0.5, blue, red))
    return jnp.kron(cells, jnp.ones((scale, scale, 1)))
