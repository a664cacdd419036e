"""Ranges of the numbers among a recipe's options, refused before anything is done."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

Range = tuple[Callable[[float], bool], str]

# Written so that NaN fails each of them.
_COUNT: Range = (lambda x: x >= 1, "at least 1")
_FROM_0: Range = (lambda x: 0 <= x < math.inf, "a finite number from 0")
_RATE: Range = (lambda x: 0 < x < math.inf, "a finite number above 0")
# An infinite bound is how one says that there is none.
_BOUND: Range = (lambda x: x > 0, "a number above 0")
_SHARE: Range = (lambda x: 0 <= x <= 1, "0 to 1")
_DECAY: Range = (lambda x: 0 <= x < 1, "0 to below 1")

# By the option's own name, which means the same in every recipe.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("steps", "batch", "updates", "rounds", "games"), _COUNT),
    **dict.fromkeys(("width", "depth", "heads", "patch", "hidden"), _COUNT),
    **dict.fromkeys(("blocks", "levels", "frames", "state", "view"), _COUNT),
    **dict.fromkeys(("widths", "multipliers", "experts", "rank"), _COUNT),
    **dict.fromkeys(("count", "clips", "samples", "solver_steps", "size"), _COUNT),
    **dict.fromkeys(("prompts", "group", "tests", "rolls", "tries"), _COUNT),
    **dict.fromkeys(("wanted", "lora_rank"), _COUNT),
    **dict.fromkeys(("seed", "seeds", "warmup", "weak", "shortest"), _FROM_0),
    **dict.fromkeys(("weight_decay", "level_std", "kl", "entropy"), _FROM_0),
    **dict.fromkeys(("scale", "scales"), _FROM_0),
    **dict.fromkeys(("learning_rate", "temperature", "time_scale"), _RATE),
    **dict.fromkeys(("clip", "min_snr_gamma"), _BOUND),
    **dict.fromkeys(("label_dropout", "drop", "drop_both"), _SHARE),
    **dict.fromkeys(("drop_text", "drop_label", "decay", "smoothing"), _SHARE),
    "ema": _DECAY,
}
_FINITE: Range = (math.isfinite, "a finite number")


def require_ranges(config: Any) -> None:
    """Raises for numbers among a recipe's options that are out of range.

    Counts such as ``steps``, ``batch`` and ``width`` are at least 1, ``warmup`` and
    ``weight_decay`` at least 0, ``learning_rate`` and ``clip`` above 0, ``ema`` in
    [0, 1) and shares of samples to leave out in [0, 1], wherever a recipe has them. All
    other numbers are finite; those that are None are not looked at.

    Args:
      config: Dataclass of options, nested ones included.

    Raises:
      ValueError: A number out of range, by the name of its option, with dots between
        the names of parts.
    """
    for where, value in _numbers(config):
        holds, expected = RANGES.get(where.rpartition(".")[2], _FINITE)
        if not holds(value):
            raise ValueError(f"{where} is {value}; expected {expected}")


def _numbers(config: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a configuration, those of a tuple one by one, with their names."""
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), path + field.name
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{where}.")
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, (int, float)) and not isinstance(each, bool):
                yield where, each
