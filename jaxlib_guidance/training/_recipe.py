"""What every recipe does between its options and its loop, and after it."""

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxlib_guidance.files import export_weights
from jaxlib_guidance.training._launch import FREE, Scale
from jaxlib_guidance.training._parallel import (
    data_mesh,
    local_rows,
    replicate,
    shard_batch,
    state_sharding,
)
from jaxlib_guidance.training._run import claim
from jaxlib_guidance.training._step import Loss, Step, make_train_step
from jaxlib_guidance.types import PyTree


def settings_of(config: Any) -> dict[str, Any]:
    """A recipe's options as JSON holds them.

    Args:
      config: Dataclass of options, nested ones included; what JSON has no form for,
        such as a path, becomes text.
    """
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a recipe: its folder, its options and its devices.

    Args:
      folder: Folder of the run, made and claimed; see `open_run`.
      settings: Options of the run as JSON holds them, without its folder.
      scale: How the run fits its devices.
      mesh: Devices of the run, from `data_mesh`.
    """

    folder: Path
    settings: dict[str, Any]
    scale: Scale
    mesh: Mesh

    @property
    def chief(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return jax.process_index() == 0

    def place(self, make_state: Callable[[], PyTree]) -> tuple[PyTree, PyTree]:
        """The state before the first step, on its devices, and its sharding.

        Args:
          make_state: Function without arguments that makes the state; it is compiled.

        Returns:
          The state, and a tree of shardings of the same structure.
        """
        sharding = state_sharding(self.mesh, make_state, self.scale.mesh)
        return jax.jit(make_state, out_shardings=sharding)(), sharding

    def step(
        self,
        loss: Loss,
        tx: optax.GradientTransformation,
        sharding: PyTree,
        *,
        ema_decay: float,
        clip: float | None = None,
    ) -> Step:
        """The train step on the run's devices, in its number of micro-batches.

        Args:
          loss: Loss in the form that `make_train_step` takes.
          tx: Optax transformation, without clipping if ``clip`` is given.
          sharding: Sharding of the `TrainState`, from `place`.
          ema_decay: Decay of the exponential moving average of the parameters.
          clip: Largest global norm of the gradient; None does not clip.

        Returns:
          ``(state, batch) -> (state, metrics)``; the state is donated.
        """
        return make_train_step(
            loss,
            tx,
            ema_decay=ema_decay,
            accumulate=self.scale.accumulate,
            clip=clip,
            mesh=self.mesh,
            sharding=sharding,
        )

    def rows(self, n: int) -> slice:
        """Which rows of a global batch of ``n`` this process feeds; see `local_rows`.

        Args:
          n: Rows of the global batch.

        Raises:
          ValueError: Rows that the devices cannot share equally.
        """
        return local_rows(self.mesh, n)

    def shard(self, batch: PyTree) -> PyTree:
        """Puts this process's rows of a batch on its devices; see `shard_batch`.

        Args:
          batch: Arrays with the rows of `rows` first.
        """
        return shard_batch(self.mesh, batch)

    def ids(self, i: int, n: int) -> jax.Array:
        """Numbers ``i n, ..., (i + 1) n - 1`` of the samples of step ``i``.

        Args:
          i: Number of the step, from 0.
          n: Samples of a step.

        Returns:
          ``[n]`` uint32, split over the devices.
        """
        ids = np.arange(i * n, (i + 1) * n, dtype=np.uint32)
        return self.shard(ids[self.rows(n)])

    def gather(self, tree: PyTree) -> PyTree:
        """Whole numpy arrays of what may be split over devices and hosts.

        Args:
          tree: Arrays; every process calls it with its part of the same ones.
        """
        return jax.tree.map(np.asarray, replicate(self.mesh, tree))

    def export(
        self, params: PyTree, about: dict[str, Any], *, store: str = "float32"
    ) -> None:
        """Writes "ema.safetensors" into the folder, by the first process alone.

        Args:
          params: Parameters to keep, whole, from `gather`.
          about: Configuration to store with the weights, which JSON can hold.
          store: Name of the floating-point type in which weights are stored.
        """
        if self.chief:
            path = self.folder / "ema.safetensors"
            export_weights(path, params, about, dtype=jnp.dtype(store))


def open_run(
    config: Any,
    settings: dict[str, Any] | None = None,
    *,
    free: tuple[str, ...] = ("directory", "log"),
) -> Run:
    """Claims the folder of a recipe's run, on all of its devices; see `claim`.

    Args:
      config: Dataclass of options, with ``directory`` (a path) and ``scale`` (a
        `Scale`) among them.
      settings: What the run is, with entries beside its options such as the identity of
        its data; None is `settings_of` the options.
      free: Entries that may differ when the run is resumed, besides `FREE`.

    Raises:
      OtherRunError: The folder has a run with another configuration.
      FolderInUseError: Another run is about to write its first checkpoint there.
      OSError: There can be no such folder.
    """
    settings = settings_of(config) if settings is None else settings
    folder = claim(config.directory, settings, free=(*free, *FREE))
    about = {name: value for name, value in settings.items() if name != "directory"}
    return Run(folder, about, config.scale, data_mesh())


# What values of a wrong type, range or place are told with.
_MISTAKES = (
    *(ValueError, TypeError, RuntimeError, ArithmeticError, ImportError, OSError),
)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Answers a mistake of who runs a program with one line, and exit status 1.

    A mistake is an error that this package or the program raises by a ``raise`` of its
    own, and whatever the system says of files. All others, such as those of jax, are
    bugs and keep their traceback.

    Raises:
      SystemExit: The program's name and the error's message.
    """
    try:
        yield
    except _MISTAKES as error:
        if not isinstance(error, OSError) and not _raised_here(error):
            raise
        # Without the number that Python writes before a message of our own.
        plain = isinstance(error, OSError) and error.filename is None and error.strerror
        sys.exit(f"{Path(sys.argv[0]).name}: {plain or error}")


def _raised_here(error: BaseException) -> bool:
    """Whether a statement ``raise`` of this package or of the program made it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    places = Path(__file__).parents[1], Path(sys.argv[0]).resolve().parent
    ours = any(Path(last.filename).resolve().is_relative_to(at) for at in places)
    return ours and (last.line or "").startswith("raise")
