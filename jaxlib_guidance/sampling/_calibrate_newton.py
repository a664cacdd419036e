"""The least squares of a calibration: what each number of the table does to the end.

A step's numbers act on the end through the state that the step makes, so the slope of
each is pushed through the steps that are left and through no other. Slopes go forward:
no activation is kept, and memory is that of one evaluation for as many samples as there
are directions, at most ``2 n + 2`` for each of a batch.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.sampling._calibrate_problem import Problem
from jaxlib_guidance.sampling._calibrated import Calibrated
from jaxlib_guidance.types import Array, PyTree

# Share of the gap to the nearest time over which the slope to a time is taken: networks
# embed the time in waves so short that the derivative itself says little.
STENCIL = 0.1
# A step of least squares is damped by a share of the diagonal: at first by this one, by
# an eighth of it, and by up to 8^(TRIES - 1) times as much; then by more, in ROUNDS.
DAMPING, TRIES, ROUNDS = 1e-3, 3, 2


def numbers(made: Calibrated) -> Array:
    """The table as one vector: times but the last, then the rows.

    A row is ``keep``, the weights, the weights of the cubes.
    """
    rows = [
        jnp.concatenate(
            [made.keep[i, None], made.weights[i, : i + 1], made.cubes[i, : i + 1]]
        )
        for i in range(made.keep.shape[0])
    ]
    return jnp.concatenate([made.grid[:-1], *rows])


class Slopes:
    """Samples, and their derivatives by the numbers of a table."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.start = jax.jit(problem.start)
        self.step = jax.jit(self._step)
        self.turn = jax.jit(self._turn)
        self.push = jax.jit(self._push, static_argnums=0)

    def _step(self, made, rows, state):
        """One step from a state, and the estimate in it."""
        trace = lambda info: info.x0  # noqa: E731
        state, x0 = self.problem.draw(made, rows, state, steps=1, trace=trace)
        return state, x0[0]

    def _turn(self, made, rows, state):
        """The slope of state and estimate to the time of the evaluation."""
        first = state.step == 0
        before = jnp.where(
            first, self.problem.earliest(made.grid), made.grid[state.step - 1]
        )
        here, after = made.grid[state.step], made.grid[state.step + 1]
        h = STENCIL * jnp.minimum(before - here, here - after)

        def estimate(t):
            grid = made.grid.at[state.step].set(t)
            moved = dataclasses.replace(made, grid=grid)
            # The first state is noise at the first level.
            x = jnp.where(first, self.problem.start(moved, rows).x, state.x)
            return x, self._step(moved, rows, state._replace(x=x, t=t))[1]

        late, early = estimate(here + h), estimate(here - h)
        return jax.tree.map(
            lambda a, b: jnp.where(h > 0, (a - b) / (2 * h), 0), late, early
        )

    def _push(self, index, made, rows, x, after, turned):
        """``[K, B, D]``: by the time of step ``index``, and by its row."""
        x0s = jnp.moveaxis(after.state, 1, 0)[: index + 1]
        slope = made.weights[index, index] + 3 * made.cubes[index, index] * x0s[-1] ** 2
        dx, turned = turned
        moved = made.keep[index] * dx + slope * turned
        moves = jnp.concatenate([moved[None], x[None], x0s, x0s**3])
        # An estimate that its time changes is another one for later steps too.
        past = jnp.zeros((len(moves), *after.state.shape), moves.dtype)
        past = past.at[0, :, index].set(turned)

        def end(x, past):
            state = after._replace(x=x, state=past, step=index + 1)
            return self.problem.draw(made, rows, state)[0]

        def pushed(x, past):
            return jax.jvp(end, (after.x, after.state), (x, past))[1]

        if index < made.keep.shape[0] - 1:
            moves = jax.vmap(pushed)(moves, past)
        return moves.reshape(*moves.shape[:2], -1)

    def __call__(self, made: Calibrated, rows: PyTree) -> tuple[np.ndarray, np.ndarray]:
        """Samples ``[B, D]`` and their slopes ``[T, B, D]`` by `numbers`."""
        state, times, others = self.start(made, rows), [], []
        for i in range(made.keep.shape[0]):
            turned = self.turn(made, rows, state)
            after, _ = self.step(made, rows, state)
            found = np.asarray(self.push(i, made, rows, state.x, after, turned))
            times.append(found[:1])
            others.append(found[1:])
            state = after
        x = np.asarray(state.x)
        return x.reshape(len(x), -1), np.concatenate([*times, *others])


def descend(
    problem: Problem,
    zero: Array,
    build: Callable[[Array], Calibrated],
    ids: np.ndarray,
    iterations: int,
) -> Iterator[tuple[float, Calibrated]]:
    """Levenberg and Marquardt's least squares of the mean distance, reweighted.

    A mean of distances is least squares in which each start has the inverse of its
    distance as weight.

    Args:
      problem: Starts and their ends.
      zero: Parameters at the beginning.
      build: Function that makes a solver of parameters.
      ids: Numbers of the starts to train on.
      iterations: Number of steps of least squares.

    Yields:
      The mean distance and the solver after each step that lowered it.
    """
    made_of, slopes = jax.jit(build), Slopes(problem)
    chain = jax.jit(jax.jacfwd(lambda learned: numbers(build(learned))))
    learned, damping = zero, DAMPING
    error = problem.error(made_of(learned), ids)
    # Slopes of half of the starts say as much, where they are more than the numbers to
    # learn; of fewer, the half is learned by heart. The halves take turns, and the end
    # is when neither helps.
    many = len(ids) // 2 > max(problem.batch, len(zero))
    halves = 2 if many else 1
    failed = 0
    for done in range(iterations):
        if error == 0 or failed == halves:
            return
        made, size = made_of(learned), len(numbers(made_of(learned)))
        square, slope = np.zeros((size, size)), np.zeros(size)
        for part in problem.batches(ids[done % halves :: halves]):
            x, jac = slopes(made, problem.some(part))
            off = x - problem.ends[part].reshape(x.shape)
            distance = np.linalg.norm(off, axis=1)
            weight = 1 / np.maximum(distance, 1e-3 * error)
            flat = jac.reshape(size, -1).astype(np.float64)
            weighed = (jac * weight[:, None]).reshape(size, -1)
            square += weighed @ flat.T
            slope += weighed @ off.reshape(-1)
        if not np.isfinite(square).all():
            raise FloatingPointError(
                "slopes of the samples to the solver's coefficients are not finite; "
                "another solver to start from, or one of more steps, may help"
            )
        by = np.asarray(chain(learned), np.float64)
        square, slope = by.T @ square @ by, by.T @ slope
        scale = np.diag(square) + 1e-9 * np.trace(square)
        tried = [(error, learned, damping)]
        # Errors cost little beside slopes: many steps are tried, and the best is taken.
        # Some leave the times, whose slopes say the least. Where none of a round lowers
        # the error, slopes reach less far than that, and the next round is damped more.
        rows_alone = slice(len(made.grid) - 1, None)
        for powers in np.arange(ROUNDS * (TRIES + 1)).reshape(ROUNDS, -1) - 1:
            shares = damping * 8.0**powers
            for free, share in itertools.product((slice(None), rows_alone), shares):
                change = np.zeros_like(slope)
                damped = square + share * np.diag(scale)
                change[free] = np.linalg.solve(damped[free, free], slope[free])
                step = learned - jnp.asarray(change, learned.dtype)
                found = problem.error(made_of(step), ids)
                # Written so that NaN is not taken.
                if found < error:
                    tried.append((found, step, share))
            if len(tried) > 1:
                break
        found, learned, damping = min(tried, key=lambda each: each[0])
        failed = 0 if found < error else failed + 1
        if not failed:
            error = found
            yield error, made_of(learned)
