"""Reading checkpoints: verified, on any topology, whole or the weights alone.

Every process reads by itself and then asks the others, so that a step which one of them
cannot read is given up by all.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlib_guidance.training.saving._digests import describe
from jaxlib_guidance.training.saving._errors import (
    CorruptCheckpointError,
)
from jaxlib_guidance.types import PyTree

FORMAT = "jaxlib_guidance.checkpoint.1"


class Restored(NamedTuple):
    """What came back: the state, its step, and the caller's own JSON."""

    state: PyTree
    step: int
    extra: dict[str, Any]


def brief(error: BaseException) -> str:
    """The first cause in one line, without the middle of Orbax's long messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    text = text if len(text) < 300 else f"{text[:120]} ... {text[-160:]}"
    return f"{type(error).__name__}: {text}"


def _checksum(contents):
    return zlib.crc32(json.dumps(contents, sort_keys=True).encode())


def seal(contents: dict[str, Any]) -> dict[str, Any]:
    """JSON with its format and its own checksum."""
    contents = json.loads(json.dumps({"format": FORMAT, **contents}))
    return {**contents, "crc32": _checksum(contents)}


def agree(problem: Exception | None, elsewhere: Exception) -> None:
    """Raises on every process if there is a problem on one of them.

    Args:
      problem: Error of this process, or None.
      elsewhere: Error to raise where the problem is another process's.
    """
    fine = problem is None
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        fine = bool(np.all(multihost_utils.process_allgather(np.array(fine))))
    if not fine:
        raise problem or elsewhere


def require_shared(path: Path, tries: int = 10) -> None:
    """Raises unless all processes find the same file there.

    Orbax would wait for ten minutes before it says that some do not.

    Args:
      path: File that one process has just written, on a disk of its own or not.
      tries: Number of looks, a second apart: a network file system may show it late.

    Raises:
      FileNotFoundError: Some find none, or another.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    for _ in range(tries):
        text = path.read_bytes() if path.exists() else None
        seen = np.uint32(0 if text is None else zlib.crc32(text) | 1)
        found = np.asarray(multihost_utils.process_allgather(seen)).ravel()
        if found[0] and (found == found[0]).all():
            return
        time.sleep(1)
    other = np.flatnonzero(found != found[0]).tolist()
    raise FileNotFoundError(
        f"{path.parent} is not a folder that all processes share: what process 0 wrote "
        f"there, the processes {other} do not find. Expected a directory on a file "
        "system that all hosts mount"
    )


def _read(place, part, handler, **how):
    try:
        return handler.restore(place / part, **how)
    # A device that is full says nothing about the file.
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    # Orbax fails in many ways on a damaged folder, none of them documented.
    except Exception as error:
        raise CorruptCheckpointError(
            f"checkpoint {place} cannot be read ({brief(error)})"
        ) from error


def read_about(place: Path) -> dict[str, Any]:
    """What `seal` made of a step's leaves, extra and metrics.

    Args:
      place: Folder of the step.

    Raises:
      CorruptCheckpointError: It cannot be read or has changed.
      ValueError: It has another format.
    """
    import orbax.checkpoint as ocp

    about = _read(place, "about", ocp.JsonCheckpointHandler())
    if not isinstance(about, dict) or not {"format", "crc32"} <= about.keys():
        raise CorruptCheckpointError(
            f"checkpoint {place} was not written by jaxlib_guidance"
        )
    contents = {name: value for name, value in about.items() if name != "crc32"}
    if _checksum(contents) != about["crc32"]:
        raise CorruptCheckpointError(
            f"checkpoint {place}: its description has changed since it was saved"
        )
    if about["format"] != FORMAT:
        raise ValueError(
            f"checkpoint {place} has format {about['format']!r}; this version reads "
            f"{FORMAT!r}"
        )
    return contents


def metrics_are_whole(place: Path) -> bool:
    """Whether the numbers that Orbax ranks a step by are those that were saved."""
    import orbax.checkpoint as ocp

    try:
        kept = read_about(place)["metrics"]
        found = kept and _read(place, "metrics", ocp.JsonCheckpointHandler("metrics"))
    except CorruptCheckpointError:
        return False
    return json.dumps(found) == json.dumps(kept)


def _is_array(leaf):
    return isinstance(leaf, (jax.Array, np.ndarray))


def restore(
    directory: Path,
    step: int,
    choose: Callable[[dict[str, Any], str], tuple[dict[str, Any], PyTree]],
    *,
    local: bool = False,
) -> Restored:
    """Reads what ``choose`` wants of one step and verifies it.

    Args:
      directory: Folder of the steps.
      step: Number of the step.
      choose: ``(saved leaves, place) -> (those wanted, their structure)``.
      local: Whether to read into numpy arrays, asking no other process.

    Raises:
      CorruptCheckpointError: It cannot be read, here or on another process, or a
        checksum fails.
    """
    import orbax.checkpoint as ocp

    place, problem, read = directory / str(step), None, None
    wanted: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    try:
        about = read_about(place)
        extra = about["extra"]
        wanted, like = choose(about["leaves"], f"checkpoint {place}")
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
            ),
            like,
        )
        how = (
            jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
            if local
            else ocp.checkpoint_utils.construct_restore_args(target)
        )
        args = ocp.args.PyTreeRestore(target, how, partial_restore=True)
        # A handler and not a checkpointer: that one waits at the end for all
        # processes, also for those that failed.
        read = _read(place, "state", ocp.PyTreeCheckpointHandler(), args=args)
        # Where the names are damaged Orbax leaves out, or leaves what was asked for.
        held = jax.tree_util.tree_leaves_with_path(read)
        whole = [jax.tree_util.keystr(path) for path, leaf in held if _is_array(leaf)]
        if sorted(whole) != sorted(wanted):
            raise CorruptCheckpointError(
                f"checkpoint {place} cannot be read (it holds {len(whole)} of "
                f"{len(wanted)} arrays)"
            )
    except CorruptCheckpointError as error:
        problem = error
    if local and problem is not None:
        raise problem
    if not local:
        other = f"checkpoint {place} cannot be read by another process"
        agree(problem, CorruptCheckpointError(other))
    for name, found in describe(read, checksum=True).items():
        if wanted[name]["digest"] != found["digest"]:
            raise CorruptCheckpointError(
                f"checkpoint {place}: the bytes of {name} have changed since they "
                "were saved"
            )
    return Restored(read, step, extra)


def newest_whole(
    steps: Iterable[int], directory: Path, read: Callable[[int], Restored]
) -> tuple[Restored | None, dict[int, CorruptCheckpointError]]:
    """The newest step that can be read, and what is wrong with those that cannot.

    Args:
      steps: Numbers of the steps; without any the result is None.
      directory: Folder of the steps, for the message.
      read: ``number -> restored``, which reads one step.

    Raises:
      CorruptCheckpointError: There are steps and none can be read.
    """
    bad: dict[int, CorruptCheckpointError] = {}
    for step in sorted(steps, reverse=True):
        try:
            return read(step), bad
        except CorruptCheckpointError as error:
            bad[step] = error
    if bad:
        raise CorruptCheckpointError(
            f"none of the steps {sorted(bad)} in {directory} can be read: "
            f"{'; '.join(map(str, bad.values()))}. Put back a copy of the folder, or "
            "start again in another directory"
        )
    return None, bad
