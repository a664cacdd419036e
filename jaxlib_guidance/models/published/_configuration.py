"""A network from its published configuration, no key of which is overlooked.

The attributes of a network have the names and the defaults of the published keys, so
the configuration is the list of attributes. A key that the network does not have must
have its neutral value, since one that is silently ignored is a wrong picture.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn

T = TypeVar("T", bound=nn.Module)
# Allowed values of a key that does not change what a network computes.
ANY = object()


def configured(
    kind: type[T],
    config: Mapping[str, Any],
    neutral: Mapping[str, Any],
    where: str,
    **own: Any,
) -> T:
    """A module whose attributes are the keys of a configuration.

    Args:
      kind: Class of the module, whose attributes are named as the published keys are.
      config: The configuration; keys that begin with "_" are the writer's own.
      neutral: For each key that the module does not have the value that it must have,
        or a tuple of such values, or `ANY` for one without effect. Keys that are not
        named here either must be None or False.
      where: What to call the configuration in errors.
      **own: Attributes that do not come from the configuration, such as ``dtype``.

    Returns:
      The module.

    Raises:
      ValueError: A key that is not known, or a value that is not supported.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    fields -= {"parent", "name", *own}
    hints, found = typing.get_type_hints(kind), {}
    for key, value in config.items():
        if key.startswith("_"):
            continue
        if key in fields:
            found[key] = _fixed(value)
            if not _is_of(found[key], hints[key]):
                raise ValueError(
                    f"{where}: {key!r} is {value!r:.80}; expected {hints[key]}"
                )
            continue
        allowed = neutral.get(key, (None, False))
        if allowed is ANY:
            continue
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        if not any(_fixed(value) == each for each in allowed):
            known = " or ".join(map(repr, allowed))
            raise ValueError(
                f"{where}: {key!r} is {value!r:.80}, which {kind.__name__} does not "
                f"compute; expected {known}"
            )
    return kind(**found, **own)


def _is_of(value, hint):
    """Whether a value of JSON is of the type that an attribute has."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_of(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        first, *rest = typing.get_args(hint)
        same = rest in ([], [...]) or len(rest) + 1 == len(value)
        return same and all(_is_of(each, first) for each in value)
    if isinstance(value, bool) and hint in (int, float):
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _fixed(value):
    """Lists as tuples, which are static attributes."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


def for_each(value: Any, count: int, name: str) -> tuple[Any, ...]:
    """A value for each of ``count`` stages, from one or from as many.

    Args:
      value: One value, or a tuple of as many as there are stages.
      count: Number of stages.
      name: Key of the configuration, for the error.

    Raises:
      ValueError: A tuple of another length.
    """
    values = value if isinstance(value, tuple) else (value,) * count
    if len(values) != count:
        raise ValueError(f"{name} is {value}; expected one value or {count}")
    return values
