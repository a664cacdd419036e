"""Words of a negotiation: about items, and about ranks in a speaker's own order."""

from itertools import permutations

import numpy as np

ASK, TELL, TALK, SILENCE = 8, 9, 12, 13
"""Words: below `ASK` an offer, by the bits of the items that the speaker gets; ``TELL +
i`` that item ``i`` is one's favourite. `SILENCE` is what a replay leaves out."""
WORDS, NONE = 13, 8
ORDERS = np.array(list(permutations(range(3))))
"""Rank of each item, 0 the best, in each of the six orders, ``[6, 3]``."""
HOLDS = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(np.float32)


def _renamed():
    """Words about ranks as words about items, and the other way, ``[6, 14]``."""
    out = np.tile(np.arange(WORDS + 1), (6, 1))
    for order, rank in enumerate(ORDERS):
        item = np.argsort(rank)
        out[order, :8] = HOLDS.astype(int) @ (1 << item)
        out[order, TELL:TALK] = TELL + item
    return out, np.argsort(out, 1)


BY_ITEM, BY_RANK = _renamed()
"""Item words of rank words, and rank words of item words, by order, ``[6, 14]``."""
