"""The folder of a training run: whose it is, its metrics, and leaving it in order."""

import json
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxlib_guidance.training._writers import open_writer
from jaxlib_guidance.training.saving._lock import FolderInUseError, Lock, make_folder
from jaxlib_guidance.training.saving._restore import agree


class OtherRunError(ValueError):
    """A folder that belongs to a run with another configuration."""


def _differences(old, new, path=""):
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            where = f"{path}.{name}" if path else name
            yield from _differences(old.get(name), new.get(name), where)
    elif old != new:
        yield path, f"{path} was {old!r} and is now {new!r}"


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader finds the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def claim(
    directory: str | os.PathLike,
    config: dict[str, Any],
    free: tuple[str, ...] = (),
) -> Path:
    """Makes a folder for a run, or comes back to it with the same configuration.

    A folder without checkpoints or weights, which a run left that never began, may be
    claimed for any. Every process of a run calls it.

    Args:
      directory: Folder of the run; "~" is the home folder.
      config: Options of the run, anything JSON can hold; stored as "config.json".
      free: Names of entries that may differ, since they do not say what is computed:
        at the top, or further down with dots between, such as "scale.mesh".

    Returns:
      Path of the folder.

    Raises:
      OtherRunError: The folder has a run with another configuration.
      FolderInUseError: Or such a run is about to write its first checkpoint.
      OSError: There can be no such folder.
    """
    folder, problem = Path(directory).expanduser(), None
    config = json.loads(json.dumps(config))
    try:
        make_folder(folder)
        _require_same(folder, config, free)
    except (OSError, OtherRunError, FolderInUseError) as error:
        problem = error
    # No process writes before all have read.
    agree(problem, OtherRunError(f"{folder} is refused by another process"))
    if jax.process_index() == 0:
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def _require_same(folder, config, free):
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        held = json.loads(path.read_text())
    except ValueError as error:
        raise OtherRunError(f"{path} is not a configuration: {error}") from error
    found = [
        what
        for where, what in _differences(held, config)
        if not any(f"{where}.".startswith(f"{name}.") for name in free)
    ]
    saved = folder / "checkpoints"
    weights = any(folder.glob("*.safetensors"))
    begun = weights or any(p.name.isdigit() for p in saved.glob("*"))
    if found and begun:
        raise OtherRunError(
            f"{folder} holds a run with another configuration: {'; '.join(found)}. "
            "Choose another directory, or delete this one to start again"
        )
    # Only one may try, or processes of one run would find each other there.
    if found and saved.is_dir() and jax.process_index() == 0:
        Lock(saved).release()


def require_effect(config: Any, options: dict[str, tuple[bool, str]]) -> None:
    """Raises for options that were chosen and would change nothing.

    Args:
      config: Dataclass with a default for every field.
      options: Pairs by name of the option, with dots between the names of parts:
        whether the option has an effect, and what it has none on otherwise.

    Raises:
      ValueError: One that has none is not at its default.
    """
    for name, (used, by) in options.items():
        value, default = (attrgetter(name)(each) for each in (config, type(config)()))
        if not used and value != default:
            raise ValueError(f"{name} is {value}, which has no effect on {by}")


class MetricLog:
    """Metrics as JSON lines, and for the services that are wanted.

    Lines of steps that a resumed run is about to repeat are dropped first.

    Args:
      path: File of JSON lines, in the folder of the run; if it is there, lines are
        added.
      step: Number of steps already taken; lines of later steps are dropped.
      to: Services that get them as well: "tensorboard" (files beside ``path``, in
        "events"), which needs tensorboardX, and "wandb", Weights & Biases.

    Raises:
      ValueError: Another service.
      ModuleNotFoundError: The package of a service is not installed.
    """

    def __init__(self, path: Path, step: int = 0, to: Sequence[str] = ()):
        path = path.expanduser()
        if path.exists():
            kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))
        # First: what is not installed must not leave a file open.
        self._writers = [open_writer(name, path.parent, step) for name in to]
        self._path, self._file = path, path.open("a")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line, on disk at once.

        Args:
          step: Number of the step.
          metrics: Numbers by name.

        Raises:
          OSError: The line cannot be written, for example on a full disk.
        """
        values = {name: float(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}, the metrics of step {step} are not written. Mend "
                "this and start again with the same arguments to go on from the last "
                "checkpoint",
                str(self._path),
            ) from None
        for writer in self._writers:
            writer.write(step, values)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        # What could not be written has been raised by `write`.
        with suppress(OSError):
            self._file.close()
        for writer in self._writers:
            writer.close()


def _lines(path):
    """Whole lines: a kill can leave half of the last one."""
    for line in path.read_text().splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        yield line


class StopSignal:
    """Notes SIGTERM and SIGINT, so that a loop can save and leave between two steps.

    With several processes the SIGTERM of one stops all after the same step: jax carries
    the word, and SIGINT is passed on as SIGTERM.

    A second signal does what it would have done without this. A signal that the process
    ignores, as SIGINT is in a script's background, stays ignored. Outside the main
    thread, where Python takes no signals, nothing is noted.

    A loop that leaves because of it sets ``obeyed``. One that ends by itself does not,
    and then the next loop of the process stops instead.
    """

    # Of the process: jax agrees on a step that is still to come, perhaps in another
    # loop, and must not meet a number twice.
    _steps = 0
    _owed = False

    def __init__(self) -> None:
        self.requested = self.obeyed = self._due = False
        self._before: dict[int, Any] = {}

    def reached(self) -> bool:
        """Whether to leave after this step; call it after each, on every process."""
        StopSignal._steps += 1
        if jax.process_count() > 1:
            number = StopSignal._steps
            self._due |= multihost_utils.reached_preemption_sync_point(number)
        else:
            self._due |= self.requested
        return self._due

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._note(number, frame)
        signal.raise_signal(signal.SIGTERM)

    def __enter__(self) -> "StopSignal":
        # jax.distributed has its own handler of SIGTERM, which must stay.
        several = jax.process_count() > 1
        handlers = (
            {signal.SIGINT: self._pass_on}
            if several
            else {signal.SIGTERM: self._note, signal.SIGINT: self._note}
        )
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                # None is a handler that is not Python's and could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, handler)
        self._due, StopSignal._owed = StopSignal._owed, False
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # With several processes jax still has what it has not yet agreed on.
        asked = self._due or (self.requested and jax.process_count() == 1)
        StopSignal._owed = asked and not self.obeyed and failure is None
