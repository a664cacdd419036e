"""Low-rank changes of several files, for the parts that a loader reads."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._tensors import Change


def changes_of(
    lora: Sequence[LoRA],
    part: str,
    tensors: Mapping[str, np.ndarray],
    aliases: Callable[[str], Sequence[str]] = lambda name: (),
) -> Change | None:
    """The change of a part's tensors by several files; None where there is none.

    Args:
      lora: Changes, from `read_lora`.
      part: Name of the part, such as "unet".
      tensors: The part's tensors by their names in its files.
      aliases: Function from a module's name to other names that files may use.
    """
    shapes = {n.removeprefix("text_model."): a.shape for n, a in tensors.items()}
    found = [each.change(part, shapes, aliases) for each in lora]
    given = [change for change in found if change is not None]

    def change(name, index, value):
        for each in given:
            value = each(name, index, value)
        return value

    return change if given else None


def require_loaded(lora: Sequence[LoRA], parts: Collection[str]) -> None:
    """Raises unless the parts that are changed are among those that are loaded.

    Raises:
      ValueError: A part that is changed and not loaded, or not changed here.
    """
    for each in lora:
        for part in set(each.layers) - set(parts):
            raise ValueError(
                f"lora {each.path} changes the part {part!r}, which is not loaded, or "
                f"has no change here; expected some of {sorted(parts)}"
            )
