"""Checkpoints that survive a kill, a full disk and a flipped bit.

A thin layer over Orbax, which writes asynchronously and atomically and restores onto
other topologies. Added here: a checksum of every leaf, because Orbax restores a damaged
array silently; a check of types, which it casts silently; the way back to an older step
when the newest cannot be read; and a lock, because two runs in one folder delete each
other's work.
"""

import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxlib_guidance.training.saving._digests import describe, require_like
from jaxlib_guidance.training.saving._errors import (
    CorruptCheckpointError,
    FolderInUseError,
    SaveError,
)
from jaxlib_guidance.training.saving._lock import Lock, make_folder
from jaxlib_guidance.training.saving._restore import (
    Restored,
    agree,
    brief,
    metrics_are_whole,
    newest_whole,
    require_shared,
    restore,
    seal,
)
from jaxlib_guidance.training.saving._savable import require_savable
from jaxlib_guidance.types import PyTree


class Checkpoints:
    """A folder of numbered checkpoints. Use it as a context manager, or `close` it.

    Keeps the newest ``keep`` and, with ``metric``, the ``best`` ones by that metric.
    While it is open no other run can open the folder (see ``_lock.Lock``). With several
    processes, all of them make it and call its methods, in the same order.

    Args:
      directory: Folder on a file system that all processes share; made if absent.
      keep: Number of the newest checkpoints to keep.
      metric: Name of a metric given to `save`, by which checkpoints are ranked; None
        ranks none.
      best: Number of the best checkpoints by ``metric`` to keep besides the newest.
      mode: Whether a small ("min") or a large ("max") value is good.

    Raises:
      ValueError: ``keep`` below 1, an unknown mode, or the address of a bucket.
      FolderInUseError: Another run has the folder open.
      OSError: There can be no such folder, or processes find different ones there.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        metric: str | None = None,
        best: int = 1,
        mode: Literal["min", "max"] = "min",
    ):
        # Here and not above: importing Orbax takes seconds and most of the library
        # does without.
        import orbax.checkpoint as ocp

        if keep < 1:
            raise ValueError(f"keep is {keep}; expected at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; expected 'min' or 'max'")
        # pathlib would make a local folder of that name.
        if ":/" in os.fspath(directory):
            raise ValueError(
                f"directory is {os.fspath(directory)!r}; expected a folder: mount the "
                "bucket, for example with Cloud Storage FUSE"
            )
        self.directory = Path(directory).expanduser().absolute()
        self._ocp, self._metric = ocp, metric
        manage = ocp.checkpoint_managers
        policies: list[Any] = [manage.LatestN(keep)]
        options: dict[str, Any] = {}
        if metric is not None:
            # Both: a policy alone calls the newest the best, and `best_fn` alone
            # deletes the newest when it is not among the best.
            score = lambda metrics: float(metrics[metric])  # noqa: E731
            policies.append(
                manage.BestN(n=best, get_metric_fn=score, reverse=mode == "min")
            )
            options = {"best_fn": score, "best_mode": mode}
        self._lock = self._take()
        try:
            if metric is not None:
                self._require_metrics()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=manage.AnyPreservationPolicy(policies),
                    cleanup_tmp_directories=True,
                    **options,
                ),
            )
        except BaseException:
            self._release()
            raise

    def _take(self) -> Lock | None:
        lock = problem = None
        if jax.process_index() == 0:
            try:
                make_folder(self.directory)
                lock = Lock(self.directory)
            except (FolderInUseError, OSError) as error:
                problem = error
        agree(problem, FolderInUseError(f"{self.directory} is in use by another run"))
        try:
            require_shared(self.directory / "lock")
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return lock

    def _require_lock(self):
        problem = None
        try:
            if self._lock is not None:
                self._lock.check()
        except FolderInUseError as error:
            problem = error
        agree(problem, FolderInUseError(f"{self.directory} has lost its lock"))

    def _release(self):
        if self._lock is not None:
            self._lock.release()

    def _require_metrics(self):
        """Sets steps aside whose metrics would fail or mislead the ranking."""
        steps = self._ocp.utils.checkpoint_steps(self.directory)
        bad = [s for s in steps if not metrics_are_whole(self.directory / str(s))]
        if bad:
            warnings.warn(
                f"the descriptions or metrics of the steps {bad} in {self.directory} "
                f"are damaged; the steps are now in {self.directory / 'damaged'}",
                stacklevel=3,
            )
        self._set_aside(bad)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written and lets go of the folder.

        Raises:
          SaveError: It could not be written.
        """
        try:
            self._write(self._manager.close)
        finally:
            self._release()

    def wait(self) -> None:
        """Waits until the last `save` is on disk.

        Raises:
          SaveError: It could not be written.
        """
        self._write(self._manager.wait_until_finished)

    def check(self) -> None:
        """Raises if the last `save` has failed by now; never waits, so call it often.

        Raises:
          SaveError: It could not be written.
        """
        # Orbax's own `check_for_errors` is silent once its background thread has ended.
        if not self._manager.is_saving_in_progress():
            self.wait()

    def _write(self, action):
        try:
            action()
        except Exception as error:
            # The manager has forgotten what it would have deleted next.
            self._manager.reload()
            steps = self.steps()
            good = f"The last good step is {steps[-1]}" if steps else "None is saved"
            free = shutil.disk_usage(self.directory).free / 2**20
            # Orbax has logged the whole of it by now.
            raise SaveError(
                f"a checkpoint in {self.directory} could not be written "
                f"({brief(error)}). {good}; {free:.1f} MiB are free on the disk. "
                "Mend this and start again with the same arguments to go on from there"
            ) from None

    def steps(self) -> list[int]:
        """Steps that are complete, in order."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The best step by the metric, or None without one."""
        return None if self._metric is None else self._manager.best_step()

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        metrics: dict[str, float] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Begins to write; returns as soon as the arrays have been copied.

        The state may be donated to the next step at once. A failure to write is raised
        by the next `check`, `save`, `wait` or `close`.

        Args:
          step: Number of the step, above those saved before.
          state: Pytree of jax arrays, typed keys included.
          metrics: Numbers by name, the metric that ranks checkpoints among them.
          extra: Anything JSON can hold, given back by `restore`.

        Raises:
          ValueError: The ranking metric is missing or not finite, or ``step`` exists.
          TypeError: Leaves that are not jax arrays, or ``extra`` that is not JSON.
          SaveError: A state that could not be read back (two leaves of one name, an
            array of no elements, a type that the files cannot hold); or this
            checkpoint, or the one before, could not be written.
          FolderInUseError: The lock was deleted, so that another run may have begun.
        """
        args = self._ocp.args
        ranked = None
        if self._metric is not None:
            ranked = metrics or {}
            value = ranked.get(self._metric)
            if value is None or not np.isfinite(value):
                raise ValueError(
                    f"metrics has {self._metric} = {value}; checkpoints are ranked by "
                    "it, so expected a finite number"
                )
        if step in self._manager.all_steps():
            raise ValueError(f"step {step} is already saved in {self.directory}")
        require_savable(state)
        self._require_lock()
        leaves = describe(state, checksum=True)
        about = seal({"leaves": leaves, "extra": extra or {}, "metrics": ranked})
        items = args.Composite(
            state=args.StandardSave(state), about=args.JsonSave(about)
        )
        self._write(
            lambda: self._manager.save(step, args=items, metrics=ranked, force=True)
        )

    def restore(self, step: int, like: PyTree) -> Restored:
        """Reads one step and verifies it.

        Args:
          step: Number of the step.
          like: Structure of the state: arrays, or `jax.ShapeDtypeStruct` with a
            ``sharding`` to place it, which may be of another topology than the saved.

        Raises:
          ValueError: No such step, or it holds another structure, shapes or types.
          CorruptCheckpointError: It cannot be read, or a checksum fails.
        """
        self.wait()
        if step not in self.steps():
            raise ValueError(
                f"step {step} is not in {self.directory}; expected one of "
                f"{self.steps()}"
            )

        def whole(leaves, where):
            require_like(leaves, like, where)
            return leaves, like

        return restore(self.directory, step, whole)

    def restore_latest(self, like: PyTree) -> Restored | None:
        """Reads the newest step that is whole, or gives None if there are no steps.

        Damaged steps newer than that are set aside in a folder "damaged" with a
        warning, so that training can pass them again.

        Args:
          like: Structure of the state, as `restore` takes it.

        Raises:
          ValueError: The checkpoint holds another structure, shapes or types.
          CorruptCheckpointError: There are steps and none can be read.
        """
        restored, bad = newest_whole(
            self.steps(), self.directory, lambda step: self.restore(step, like)
        )
        if bad and restored is not None:
            self._set_aside(bad)
            self._manager.reload()
            warnings.warn(
                f"{'; '.join(map(str, bad.values()))}. The last good step is "
                f"{restored.step}, restored instead; the damaged are now in "
                f"{self.directory / 'damaged'}",
                stacklevel=2,
            )
        return restored

    def _set_aside(self, steps):
        if jax.process_index() == 0:
            place = self.directory / "damaged"
            place.mkdir(exist_ok=True)
            for step in steps:
                name, count = str(step), 1
                while (place / name).exists():
                    name, count = f"{step}.{count}", count + 1
                # It may have been deleted, and not just damaged.
                with suppress(FileNotFoundError):
                    (self.directory / str(step)).rename(place / name)
        agree(None, CorruptCheckpointError("damaged steps cannot be set aside"))
