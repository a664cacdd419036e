"""Checkpoints that survive a kill, a full disk and a flipped bit.

A thin layer over Orbax, which writes asynchronously and atomically and restores onto
other topologies. Added here: a checksum of every leaf, because Orbax restores a damaged
array silently; a check of types, which it casts silently; and the way back to an older
step when the newest cannot be read.
"""

import os
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.models.weights import export_weights, load_weights
from jaxlib_guidance.types import PyTree

__all__ = [
    "Checkpoints",
    "CorruptCheckpointError",
    "Restored",
    "export_weights",
    "load_weights",
]


class CorruptCheckpointError(ValueError):
    """A checkpoint that cannot be read, or whose contents are not what was saved."""


class Restored(NamedTuple):
    """What came back: the state, its step, and the caller's own JSON."""

    state: PyTree
    step: int
    extra: dict[str, Any]


def _plain(leaf):
    """Typed keys as the integers they are made of."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _describe(state, checksum):
    """``{path: {shape, dtype, crc32}}``; no checksum of what other hosts hold."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        about: dict[str, Any] = {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
        }
        if checksum:
            data = _plain(leaf)
            whole = getattr(data, "is_fully_addressable", True)
            if not whole and data.is_fully_replicated:
                data, whole = data.addressable_data(0), True
            if whole:
                about["crc32"] = zlib.crc32(np.asarray(data).tobytes())
        found[jax.tree_util.keystr(path)] = about
    return found


def _require_like(saved, like, where):
    """Raises unless the saved leaves have the names, shapes and types of ``like``."""
    want = _describe(like, checksum=False)
    problems = [f"{name} is missing" for name in want if name not in saved]
    problems += [f"{name} is not expected" for name in saved if name not in want]
    for name in want.keys() & saved.keys():
        for what in ("shape", "dtype"):
            if saved[name][what] != want[name][what]:
                problems.append(
                    f"{name} has {what} {saved[name][what]}; expected "
                    f"{want[name][what]}"
                )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{where} is of another model or optimiser: "
            f"{'; '.join(sorted(problems)[:5])}{more}"
        )


class Checkpoints:
    """A folder of numbered checkpoints. Use it as a context manager, or `close` it.

    Keeps the newest ``keep`` and, with ``metric``, the ``best`` ones by that metric.

    Args:
      directory: The folder; made if absent.
      keep: How many of the newest to keep.
      metric: Name of a metric given to `save`, or None.
      best: How many of the best by ``metric`` to keep besides.
      mode: Whether a small ("min") or a large ("max") value is good.

    Raises:
      ValueError: ``keep`` below 1, or an unknown mode.
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
        self.directory = Path(directory).absolute()
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
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=manage.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                **options,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written and lets go of the folder."""
        self._manager.close()

    def wait(self) -> None:
        """Waits until the last `save` is on disk."""
        self._manager.wait_until_finished()

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

        The state may be donated to the next step at once.

        Args:
          step: Its number, above those saved before.
          state: Pytree of arrays, typed keys included.
          metrics: Numbers, among them the metric that ranks checkpoints.
          extra: Anything JSON can hold, given back by `restore`.

        Raises:
          ValueError: The ranking metric is missing or not finite, or ``step`` exists.
        """
        args = self._ocp.args
        if self._metric is not None:
            value = (metrics or {}).get(self._metric)
            if value is None or not np.isfinite(value):
                raise ValueError(
                    f"metrics has {self._metric} = {value}; checkpoints are ranked by "
                    "it, so expected a finite number"
                )
        if step in self._manager.all_steps():
            raise ValueError(f"step {step} is already saved in {self.directory}")
        about = {"leaves": _describe(state, checksum=True), "extra": extra or {}}
        self._manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(state), about=args.JsonSave(about)
            ),
            metrics=metrics,
            force=True,
        )

    def restore(self, step: int, like: PyTree) -> Restored:
        """Reads one step and verifies it.

        Args:
          step: Which.
          like: The state's structure: arrays, or `jax.ShapeDtypeStruct` with a
            ``sharding`` to place it; it need not be the topology it was saved on.

        Raises:
          ValueError: The checkpoint holds another structure, shapes or types.
          CorruptCheckpointError: It cannot be read, or a checksum fails.
        """
        args, where = self._ocp.args, f"checkpoint {self.directory / str(step)}"
        about = self._read(step, where, about=args.JsonRestore())["about"]
        try:
            leaves, extra = about["leaves"], about["extra"]
        except (KeyError, TypeError) as error:
            raise CorruptCheckpointError(
                f"{where} was not written by jaxlib_guidance"
            ) from error
        _require_like(leaves, like, where)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
            ),
            like,
        )
        read = self._read(step, where, state=args.StandardRestore(target))
        for name, found in _describe(read["state"], checksum=True).items():
            sums = leaves[name].get("crc32"), found.get("crc32")
            if None not in sums and sums[0] != sums[1]:
                raise CorruptCheckpointError(
                    f"{where}: the bytes of {name} have changed since they were saved"
                )
        return Restored(read["state"], step, extra)

    def _read(self, step, where, **items):
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        # Orbax fails in many ways on a damaged folder, none of them documented.
        except Exception as error:
            raise CorruptCheckpointError(
                f"{where} cannot be read ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''})"
            ) from error

    def restore_latest(self, like: PyTree) -> Restored | None:
        """Reads the newest step that is whole, or gives None if there are no steps.

        Damaged steps newer than that are set aside in a folder "damaged" with a
        warning, so that training can pass them again.

        Args:
          like: See `restore`.

        Raises:
          ValueError: The checkpoint holds another structure, shapes or types.
          CorruptCheckpointError: There are steps and none can be read.
        """
        bad: dict[int, CorruptCheckpointError] = {}
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like)
            except CorruptCheckpointError as error:
                bad[step] = error
                continue
            if bad:
                self._set_aside(bad)
                reasons = "; ".join(map(str, bad.values()))
                warnings.warn(
                    f"{reasons}. The last good step is {step}, restored instead; the "
                    f"damaged are now in {self.directory / 'damaged'}",
                    stacklevel=2,
                )
            return restored
        if bad:
            raise CorruptCheckpointError(
                f"none of the steps {sorted(bad)} in {self.directory} can be read: "
                + "; ".join(map(str, bad.values()))
            )
        return None

    def _set_aside(self, steps):
        if jax.process_index() == 0:
            place = self.directory / "damaged"
            place.mkdir(exist_ok=True)
            for step in steps:
                name, count = str(step), 1
                while (place / name).exists():
                    name, count = f"{step}.{count}", count + 1
                (self.directory / str(step)).rename(place / name)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()
