"""Weights out of a checkpoint, without the rest of the state."""

import os
import re
import warnings
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.training.saving._digests import require_like
from jaxlib_guidance.training.saving._restore import Restored, newest_whole, restore
from jaxlib_guidance.types import PyTree


def restore_weights(
    directory: str | os.PathLike,
    part: str = "ema",
    *,
    step: int | None = None,
    like: PyTree = None,
) -> Restored:
    """Reads and verifies one part of a saved state; of the rest nothing is read.

    It changes nothing in the folder, so the run may be going on.

    Args:
      directory: Folder of a run, or of its checkpoints.
      part: Field of the state, such as "ema" or "params"; with dots where it is a field
        of a field, such as "train.ema" in runs of train/ddpo.py.
      step: Number of the step; None is the newest that is whole.
      like: Structure of the part: arrays, or `jax.ShapeDtypeStruct` with a ``sharding``
        to place it. None gives nested dicts of numpy arrays.

    Returns:
      The part as ``state``, and the ``step`` and ``extra`` of its checkpoint.

    Raises:
      FileNotFoundError: No checkpoints.
      ValueError: No such step or part, another structure, shapes or types than
        ``like``, or without it a part that is not nested dicts.
      CorruptCheckpointError: It cannot be read, or a checksum fails.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).expanduser().absolute()
    if (directory / "checkpoints").is_dir():
        directory /= "checkpoints"
    found = ocp.utils.checkpoint_steps(directory) if directory.is_dir() else []
    steps = sorted(found)
    if not steps:
        raise FileNotFoundError(f"no checkpoints in {directory}")
    if step is not None and step not in steps:
        raise ValueError(f"step {step} is not in {directory}; expected one of {steps}")

    path = part.split(".")

    def partly(leaves, where):
        # A field of a tuple and a key of a dict are one to Orbax.
        names = (rf"(\.{name}|\['{name}'\])" for name in map(re.escape, path))
        pattern = re.compile(rf"{''.join(names)}(?=[.\[]|$)")
        saved = {
            pattern.sub("", name, count=1): about
            for name, about in leaves.items()
            if pattern.match(name)
        }
        if not saved:
            raise ValueError(
                f"{where} has no part {part!r}; expected one of {_parts(leaves)}"
            )
        if like is not None:
            require_like(saved, like, where)
        target = _dicts_of(saved, part) if like is None else like
        for name in reversed(path):
            target = {name: target}
        place = "".join(f"['{name}']" for name in path)
        return {f"{place}{name}": v for name, v in saved.items()}, target

    restored, bad = newest_whole(
        steps if step is None else [step],
        directory,
        lambda step: restore(directory, step, partly, local=like is None),
    )
    assert restored is not None
    if bad:
        warnings.warn(
            f"{'; '.join(map(str, bad.values()))}. The last good step is "
            f"{restored.step}, read instead",
            stacklevel=2,
        )
    return restored._replace(state=reduce(getitem, path, restored.state))


def _parts(leaves):
    """Names of a state's fields, and of the fields of these."""
    found = [re.match(r"(\.\w+)+|\['[^']*'\]", name) for name in leaves]
    return sorted({match[0].strip(".[']") for match in found if match})


def _dicts_of(saved, part):
    """Nested dicts of shapes and types from their names, such as ``['a']['b']``."""
    tree: dict[str, Any] = {}
    for name, about in saved.items():
        if not re.fullmatch(r"(\['[^']*'\])+", name):
            raise ValueError(f"{part!r} is not nested dicts of arrays: pass like")
        *parents, last = re.findall(r"\['([^']*)'\]", name)
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = jax.ShapeDtypeStruct(
            tuple(about["shape"]), jnp.dtype(about["dtype"])
        )
    return tree
