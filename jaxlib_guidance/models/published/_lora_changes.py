"""Low-rank changes of several files, for the parts that a loader reads."""

from collections.abc import Callable, Collection, Sequence

from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._tensors import Change


def changes_of(
    lora: Sequence[LoRA],
    part: str,
    tensors: Collection[str],
    aliases: Callable[[str], Sequence[str]] = lambda name: (),
) -> Change | None:
    """The change of a part's tensors by several files; None where there is none.

    Args:
      lora: Changes, from `read_lora`.
      part: Name of the part, such as "unet".
      tensors: Names of the part's tensors in its files.
      aliases: Function from a module's name to other names that files may use.
    """
    names = [name.removeprefix("text_model.") for name in tensors]
    found = [each.change(part, names, aliases) for each in lora]
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
