"""The loop that all training recipes share: resume, step, log, save, and leave.

A recipe keeps its own model, loss and data. It hands over a step, a state and a pure
function from the number of a step to its batch, so that a run which was stopped, killed
or moved goes on with the batch that would have come.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxlib_guidance.training._progress import Progress
from jaxlib_guidance.training._run import MetricLog, StopSignal
from jaxlib_guidance.training._writers import Service
from jaxlib_guidance.training.saving._checkpoint import Checkpoints
from jaxlib_guidance.training.saving._savable import require_savable
from jaxlib_guidance.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Log:
    """What to write and when; may be changed when a run is resumed."""

    every: int = 25
    """Steps between lines of metrics.jsonl, which are means over them."""
    save_every: int = 200
    """Steps between checkpoints: the most that a crash can lose."""
    eval_every: int = 0
    """Steps between evaluations (pictures, validation); 0 evaluates at the end only."""
    keep: int = 2
    """How many of the newest checkpoints to keep; the best comes besides, where the
    recipe ranks them."""
    to: tuple[Service, ...] = ()
    """Services that get the metrics besides: "tensorboard" (in the run's folder, needs
    tensorboardX), "wandb" (Weights & Biases)."""

    def __post_init__(self):
        lowest = {"every": 1, "save_every": 1, "eval_every": 0, "keep": 1}
        for name, number in lowest.items():
            if getattr(self, name) < number:
                raise ValueError(
                    f"log.{name} is {getattr(self, name)}; expected at least {number}"
                )


class Fitted(NamedTuple):
    """The last state, and whether it took all steps or was asked to stop."""

    state: PyTree
    finished: bool


def fit(
    step: Callable[[PyTree, PyTree], tuple[PyTree, Mapping[str, Array]]],
    state: PyTree,
    batch_at: Callable[[int], PyTree],
    *,
    steps: int,
    folder: Path,
    log: Log = Log(),
    eval_fn: Callable[[int, PyTree], Mapping[str, float] | None] | None = None,
    best_metric: str | None = None,
    mode: Literal["min", "max"] = "min",
) -> Fitted:
    """Takes a state to ``steps``, from the last good checkpoint in ``folder`` if any.

    Every process of a run calls it; the first one writes logs, and shows a bar on a
    terminal or a line for each of them in a file. SIGTERM or Ctrl-C, on
    whichever process, saves and returns, on all of them after the same step; if that
    is the last one, the next call returns after a step.

    Args:
      step: ``(state, batch) -> (state, metrics)``, such as `make_train_step` gives. Its
        metrics are scalars; "loss" and "grad_norm" must be finite.
      state: The initial state, with a scalar ``step``, placed on its devices; a
        checkpoint is read in its place. It is given up, as the step donates it.
      batch_at: ``number -> batch``, a pure function: it alone makes a resumed run the
        same run.
      steps: Number of steps at which the run is finished, those before a restart
        included.
      folder: Folder of the run, in which "checkpoints" and "metrics.jsonl" are made.
      log: What to write and when; the default is a line every 25 steps and a checkpoint
        every 200.
      eval_fn: ``(steps taken, state) -> metrics or None``, called on every process
        after every ``log.eval_every`` steps and after the last; None evaluates nothing.
      best_metric: Name of one of the metrics that ``eval_fn`` returns. The checkpoint
        that is best by it is kept besides the newest, and ``eval_fn`` is called before
        every save; a value that is not finite is the worst. None keeps the newest only.
      mode: Whether a small ("min") or a large ("max") value of ``best_metric`` is good.

    Returns:
      The state and whether it is of the last step.

    Raises:
      FloatingPointError: "loss" or "grad_norm" is not finite; nothing later is saved.
      ValueError: ``best_metric`` without ``eval_fn``, or not among what it returns; a
        folder that is past ``steps``.
      SaveError: A state that a checkpoint could not hold, before the first step; or a
        checkpoint that could not be written.
    """
    if best_metric is not None and eval_fn is None:
        raise ValueError(
            f"best_metric is {best_metric!r} and eval_fn is None; expected both or "
            "neither"
        )
    require_savable(state)
    folder, chief = Path(folder).expanduser(), jax.process_index() == 0
    with (
        # The outer one: a signal must not cut short the writing of the last save.
        StopSignal() as stop,
        Checkpoints(
            folder / "checkpoints", keep=log.keep, metric=best_metric, mode=mode
        ) as saved,
    ):
        state, recent = _restore(saved, state)
        done = int(state.step)
        if done > steps:
            raise ValueError(
                f"{folder} is at step {done}, and {steps} are wanted; expected another "
                "folder, or no fewer steps than it has taken"
            )
        if chief:
            print(
                f"{jax.device_count()} device(s); "
                + (f"resumed after step {done}" if done else f"new run in {folder}"),
                flush=True,
            )
        with (
            MetricLog(folder / "metrics.jsonl", done, log.to)
            if chief
            else nullcontext() as lines,
            Progress(steps, done, chief) as progress,
        ):
            mark, since, leave = None, done, False
            while done < steps and not leave:
                state, metrics = step(state, batch_at(done))
                # One step ahead keeps a device busy. More would hold their batches,
                # and stall a CPU whose virtual devices share few threads.
                jax.block_until_ready(recent[-1:])
                recent.append(metrics)
                done += 1
                progress.update()
                if mark is None:
                    # The first step compiles, and says nothing of the pace.
                    jax.block_until_ready(metrics)
                    mark, since = time.perf_counter(), done
                saved.check()
                save, line = _due(done, steps, log.save_every), {}
                evaluate = _due(done, steps, log.eval_every) or (best_metric and save)
                if eval_fn is not None and evaluate:
                    jax.block_until_ready(metrics)
                    line = _evaluated(eval_fn(done, state), best_metric)
                ranks = _ranks(line, best_metric, mode)
                if _due(done, steps, log.every):
                    recent = _settle(recent, done, saved)
                    now = time.perf_counter()
                    means = {k: np.mean([m[k] for m in recent]) for k in recent[0]}
                    if done > since:
                        means["steps_per_second"] = (done - since) / (now - mark)
                    line = {**means, **line}
                    mark, since, recent = now, done, []
                if line and lines is not None:
                    lines.write(done, line)
                    shown = {k: line[k] for k in ("loss", best_metric) if k in line}
                    progress.line(shown)
                leave = stop.reached()
                if save or leave:
                    recent = _settle(recent, done, saved)
                    # A copy: it is written while the loop goes on.
                    extra = {"recent": list(recent)}
                    saved.save(done, state, metrics=ranks, extra=extra)
        if leave and done < steps:
            stop.obeyed = True
            if chief:
                print(f"stopped after step {done}; the same command goes on from there")
    return Fitted(state, done >= steps)


def _due(done: int, steps: int, every: int) -> bool:
    """Whether something is done after this step: at the last, and every so many."""
    return done == steps or (every > 0 and done % every == 0)


def _evaluated(metrics, best_metric):
    """What ``eval_fn`` returned as floats, the best checkpoint's metric among them."""
    line = {name: float(value) for name, value in (metrics or {}).items()}
    if best_metric is not None and best_metric not in line:
        raise ValueError(
            f"best_metric is {best_metric!r} and eval_fn returned {sorted(line)}; "
            "expected one of these"
        )
    return line


def _ranks(line, best_metric, mode):
    """The number by which a checkpoint is ranked, or None.

    A state that is saved in a hurry is not evaluated, and not the best.
    """
    if best_metric is None:
        return None
    worst = sys.float_info.max * (1 if mode == "min" else -1)
    value = line.get(best_metric, worst)
    return {best_metric: value if np.isfinite(value) else worst}


def _restore(saved: Checkpoints, state: PyTree) -> tuple[PyTree, list[Any]]:
    """The newest good state, and the metrics since its last line; or ``state``."""
    if not saved.steps():
        return state, []
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        state,
    )
    # A state that fills the memory makes room for the one that is read.
    jax.tree.map(lambda leaf: leaf.delete(), state)
    restored = saved.restore_latest(like)
    assert restored is not None
    return restored.state, restored.extra.get("recent", [])


def _settle(recent, done, saved):
    """Metrics of the last steps as floats, which must be finite."""
    recent = [jax.tree.map(float, metrics) for metrics in jax.device_get(recent)]
    for at, metrics in enumerate(recent, done - len(recent) + 1):
        for name in ("loss", "grad_norm"):
            if name in metrics and not np.isfinite(metrics[name]):
                saved.wait()
                good = saved.steps()
                raise FloatingPointError(
                    f"{name} is {metrics[name]} at step {at}. The last good checkpoint "
                    f"in {saved.directory} is of step {good[-1] if good else 0}: go on "
                    "from a copy of the folder with a lower learning rate, in its "
                    "config.json and on the command line, or find the batch with "
                    "jax_debug_nans"
                )
    return recent
