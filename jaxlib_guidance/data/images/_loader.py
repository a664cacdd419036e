"""Batches by number: ``loader(step)`` is the batch of a step, whatever came before.

The order is an index function, `batch_indices`, and the data are anything that can be
indexed, so a batch is a pure function of the step: a run that is stopped, moved to
other hosts or asked for an old batch needs only the number in its checkpoint. Threads
read the next batches ahead; that changes when rows are read, never which.

There is no grain here, though its `MapDataset` is a source like any other. It would
bring its own order, and then a set would be trained on in another one when it is
streamed than when it is in memory; what is left are two thread pools, since image
decoders release Python's lock. The order keeps 8 bytes for each row of the set.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from jaxlib_guidance.data._order import batch_indices
from jaxlib_guidance.data.images._folder import Images


class Source(Protocol):
    """A set whose rows are read one at a time, by several threads at once.

    `open_images` gives one; a `tensorflow_datasets` data source, a grain `MapDataset`
    or a list is one.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Mapping[str, Any]: ...


class Loader:
    """Calls give batches: ``loader(step) -> {name: [rows, ...]}``, numpy arrays.

    The stream has no end and nothing is dropped: each epoch is another permutation of
    all rows, epochs follow without a gap, and a batch may straddle two. Hosts cut the
    same global batch into parts, so other hosts, or more of them, see the same batches.

    A set in memory is indexed at the call. Any other is read by ``workers`` threads up
    to ``ahead`` batches ahead of the last call, which is all that it keeps in memory.
    Use it as a context manager, or `close` it.

    Args:
      data: Rows to make batches of: `Images`, arrays of equal length by name, or a
        `Source`.
      batch: Number of rows of the global batch.
      seed: Seed of the order of rows.
      part: Rows of each batch that this process reads, from `training.local_rows`; all
        by default.
      workers: Number of threads that read rows; None is what Python's pools have, a few
        more than cores.
      ahead: Number of batches to read ahead; 0 reads when called.

    Attributes:
      total: Number of rows of the set.

    Raises:
      ValueError: No rows, arrays of different lengths, or numbers out of range.
    """

    def __init__(
        self,
        data: Images | Mapping[str, np.ndarray] | Source,
        batch: int,
        seed: int = 0,
        *,
        part: slice = slice(None),
        workers: int | None = None,
        ahead: int = 2,
    ):
        if ahead < 0:
            raise ValueError(f"ahead is {ahead}; expected at least 0")
        self._identity = getattr(data, "identity", None)
        if isinstance(data, Images):
            data = {"image": data.images, "label": data.labels}
        self._arrays: Any = None
        lengths = {len(data)}
        if isinstance(data, Mapping):
            self._arrays, lengths = data, {len(array) for array in data.values()}
        if len(lengths) != 1:
            raise ValueError(f"arrays have lengths {sorted(lengths)}; expected one")
        self._data, (self.total,) = data, lengths
        self._batch, self._seed, self._part = batch, seed, part
        if not len(self.rows(0)):
            raise ValueError(f"part {part} of a batch of {batch} is empty")
        self._ahead, self._coming = ahead, dict[int, Future]()
        if self._arrays is None:
            # Apart, so that a batch that waits for its rows takes no thread from them.
            self._readers = ThreadPoolExecutor(workers, "read-row")
            self._assembler = ThreadPoolExecutor(1, "read-batch")

    def rows(self, step: int) -> np.ndarray:
        """Which rows this process reads for a step.

        Args:
          step: Number of the step, from 0.

        Returns:
          int64 ``[rows]``.
        """
        return batch_indices(self._seed, step, self._batch, self.total)[self._part]

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, or this process's part of it.

        Args:
          step: Number of the step, from 0.

        Returns:
          ``{name: [rows, ...]}``, numpy arrays.

        Raises:
          ValueError: Rows that do not fit together.
          Exception: Whatever reading a row raised, with a note of which row.
        """
        if self._arrays is not None:
            rows = self.rows(step)
            return {name: array[rows] for name, array in self._arrays.items()}
        wanted = range(step, step + 1 + self._ahead)
        for other in self._coming.keys() - set(wanted):
            self._coming.pop(other).cancel()
        for number in wanted:
            if number not in self._coming:
                self._coming[number] = self._assembler.submit(self._read, number)
        return self._coming.pop(step).result()

    def _read(self, step):
        rows = self.rows(step)
        return _stack(rows, list(self._readers.map(self._row, rows.tolist())))

    def _row(self, row):
        try:
            example = self._data[row]
        except Exception as error:
            error.add_note(f"while reading row {row} of {self.total}")
            raise
        if not isinstance(example, Mapping):
            raise TypeError(
                f"row {row} is {type(example).__name__}; expected a dict of arrays"
            )
        return example

    def state(self, step: int) -> dict[str, Any]:
        """Position and order as JSON: for the ``extra`` of a checkpoint, and `resume`.

        Args:
          step: Number of the step whose batch comes next.

        Returns:
          A dictionary of numbers and text.
        """
        return {
            "step": step,
            "seed": self._seed,
            "batch": self._batch,
            "rows": self.total,
            "identity": self._identity,
        }

    def resume(self, state: Mapping[str, Any]) -> int:
        """The step to go on with, if its batch is the one that would have come.

        Args:
          state: What `state` returned before.

        Returns:
          Number of the step.

        Raises:
          ValueError: Another seed, batch or set.
        """
        here = self.state(state["step"])
        changed = [
            f"{name} was {state.get(name)!r} and is {value!r}"
            for name, value in here.items()
            if state.get(name) != value
        ]
        if changed:
            raise ValueError(f"not the batches of before: {', '.join(changed)}")
        return state["step"]

    def close(self) -> None:
        """Ends the threads, once each is through with the row it is reading."""
        if self._arrays is None:
            self._assembler.shutdown(wait=False, cancel_futures=True)
            self._readers.shutdown(cancel_futures=True)
            self._assembler.shutdown()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stack(rows, examples):
    shapes = [{k: np.shape(value) for k, value in e.items()} for e in examples]
    for row, shape in zip(rows, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(f"row {row} has {shape} and row {rows[0]} {shapes[0]}")
    return {name: np.stack([e[name] for e in examples]) for name in shapes[0]}
