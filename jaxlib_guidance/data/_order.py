"""Which rows form a batch: a function of the seed and of the number of the step."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def _permutation(seed, epoch, total):
    return np.random.default_rng((seed, epoch)).permutation(total)


def batch_indices(seed: int, step: int, batch: int, total: int) -> np.ndarray:
    """Which rows form the batch of a step: an endless reading of shuffled epochs.

    Epochs follow one another without a gap, so every row is used once an epoch even if
    ``batch`` does not divide ``total``; a batch may straddle two, or hold several.

    Args:
      seed: Seed of the shuffling, not negative.
      step: Number of the step, from 0.
      batch: Number of rows in a batch.
      total: Number of rows in the data.

    Returns:
      int64 ``[batch]``, a function of the arguments alone.

    Raises:
      ValueError: A batch or total below 1, or a negative seed or step.
    """
    if batch < 1 or total < 1 or seed < 0 or step < 0:
        raise ValueError(
            f"seed {seed}, step {step}, batch {batch}, total {total}; expected batch "
            "and total of at least 1, seed and step of at least 0"
        )
    place = np.arange(step * batch, (step + 1) * batch)
    epoch, row = place // total, place % total
    out = np.empty(batch, np.int64)
    for e in np.unique(epoch):
        mine = epoch == e
        out[mine] = _permutation(seed, int(e), total)[row[mine]]
    return out
