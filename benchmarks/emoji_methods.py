"""The guidance methods that are measured on the emoji model, with what is tried."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import METHODS, Chain

BLOCKS = tuple(f"block{i}" for i in range(6))
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
LARGER = (1.0, 2.0, 4.0, 8.0)
SMALLER = (0.25, 0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
      method: Name of the row of `guidance.METHODS`.
      settings: Weights that are tried: as many for every method.
      make: Function ``(weight, block, null) -> chain``.
      off: Effective scale at weight 0.
      unconditional: Whether the unconditional branch is evaluated anyway.
      block: Whether it acts in a block, to be found first.
      evaluations: Network evaluations of a step; 0 takes the catalogue's.
    """

    method: str
    settings: tuple[float, ...]
    make: Callable[[Any, str, Any], Chain]
    off: float = 1.0
    unconditional: bool = True
    block: bool = False
    evaluations: float = 0

    @property
    def cost(self) -> float:
        """Network evaluations of a step."""
        return self.evaluations or METHODS[self.method].evaluations or 0


def _combined(method: str, settings: tuple[float, ...]) -> Entry:
    make = METHODS[method].make
    return Entry(method, settings, lambda w, block, null: jg.chain(make(w, null)))


def _perturbed(method: str, settings: tuple[float, ...]) -> Entry:
    make = METHODS[method].make
    return Entry(
        *(method, settings, lambda w, block, null: jg.chain(make(w, block))),
        unconditional=False,
        block=True,
    )


def _alone(method: str, settings: tuple[float, ...], **options: Any) -> Entry:
    make = METHODS[method].make
    return Entry(
        *(method, settings, lambda w, block, null: jg.chain(make(w, **options))),
        unconditional=False,
    )


# In the order in which they are measured.
ENTRIES: dict[str, Entry] = {
    "CFG": _combined("cfg", WEIGHTS),
    "CFG, steps 20-80 %": Entry(
        *("during", LARGER, lambda w, b, n: jg.during(jg.cfg(w, n), 0.2, 0.8)),
        evaluations=1 + 5 / 8,  # Steps 1 to 5 of 0, ..., 7.
    ),
    "autoguidance": _alone("autoguidance", WEIGHTS),
    "APG": _combined("apg", LARGER),
    "CFG++": dataclasses.replace(_combined("cfg_pp", (0.25, 0.5, 0.75, 1.0)), off=0.0),
    "CFG, rescaled by .7": Entry(
        "rescale_std",
        WEIGHTS,
        lambda w, b, n: jg.chain(jg.cfg(w, n), jg.rescale_std(0.7)),
        evaluations=2,
    ),
    "CFG-Zero*": _combined("cfg_zero", WEIGHTS),
    "PAG": _perturbed("pag", SMALLER),
    "CFG w, PAG w / 2": Entry(
        "pag",
        WEIGHTS,
        lambda w, b, n: jg.chain(jg.cfg(w, n), jg.pag(w / 2, b)),
        block=True,
        evaluations=3,
    ),
    "SEG": _perturbed("seg", SMALLER),
    "TPG": _perturbed("tpg", SMALLER),
    "PLADIS": _alone("pladis", SMALLER),
    "self-guidance": _alone("self_guidance", LARGER, shift=0.1),
}
