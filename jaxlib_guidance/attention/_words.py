"""Which words of one text stand where in another."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np


def align_words(
    source: Sequence[Sequence[int | str]],
    target: Sequence[Sequence[int | str]],
    size: int | None = None,
    *,
    replaced: bool = False,
) -> np.ndarray:
    """Where the words of texts go in other texts: ``words`` of `borrow`.

    ``words[m, n]`` is 1 where word ``n`` of the target is word ``m`` of the source,
    found by the longest common runs. With ``replaced``, a run of words in place of
    another takes its columns too: one by one where there are as many, and else ``1 /
    count`` of each of them. What follows the texts, as padding does, keeps its place.

    Args:
      source: Words or token numbers of each source text, ``B`` sequences.
      target: Those of the target texts.
      size: Number of columns ``M`` of the maps; None is the longest text's length.
      replaced: Whether new words take the columns of those whose place they have, as
        for a replacement, and not none, as for a refinement.

    Returns:
      Float32 ``[B, M, M]``. Columns that are 0 everywhere are of new words, which keep
      their own attention: ``columns`` of `borrow` is ``words.any(1)``.

    Raises:
      ValueError: Another number of texts, or a text longer than ``size``.

    Example:
      >>> from jaxlib_guidance.attention import align_words
      >>> align_words(["a red car".split()], ["a car".split()])[0].tolist()
      [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Reference: Prompt-to-Prompt, arXiv 2208.01626, section 3, and the authors' code,
      which aligns refinements by token and replacements by word.
    """
    if len(source) != len(target):
        raise ValueError(
            f"source has {len(source)} texts and target {len(target)}; expected as many"
        )
    longest = max((len(text) for text in (*source, *target)), default=0)
    size = longest if size is None else size
    if longest > size:
        raise ValueError(f"a text has {longest} words; expected at most {size}")
    words = np.zeros((len(source), size, size), np.float32)
    for each, old, new in zip(words, source, target, strict=True):
        matcher = SequenceMatcher(None, list(old), list(new), autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            if kind == "equal" or (kind == "replace" and replaced and b - a == d - c):
                each[range(a, b), range(c, d)] = 1
            elif kind == "replace" and replaced:
                each[a:b, c:d] = 1 / (d - c)
        rest = range(max(len(old), len(new)), size)
        each[rest, rest] = 1
    return words
