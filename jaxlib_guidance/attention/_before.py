"""Pairs in a batch: what an edit takes from the sample before."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Before:
    """Source of what is borrowed: the sample before, in batches of pairs.

    Samples 0 and 1 are a pair, then 2 and 3, and so on. The second of a pair takes from
    the first; the first keeps its own.

    Attributes:
      branch: Name of the branch of that sample; None is the edit's own branch.
    """

    branch: str | None = None
