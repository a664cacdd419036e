"""How far a run is: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

# Seconds after which the pace is believed, and above which a run is called long.
SETTLED, LONG = 10.0, 3600.0


class Progress:
    """Says how far a run is, and once if it will take hours.

    Args:
      steps: Number of steps of the whole run.
      done: Number of steps already taken.
      show: Whether this process is the one that prints.
    """

    def __init__(self, steps: int, done: int, show: bool):
        self._steps, self._show, self._warned = steps, show, False
        self._terminal = show and sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=done,
            dynamic_ncols=True,
            # The mean pace: that of the last steps jumps with every evaluation.
            smoothing=0,
            miniters=1,
            disable=not self._terminal,
        )
        self._done = done
        self._mark: tuple[int, float] | None = None

    def update(self) -> None:
        """Counts a step; a run that will take hours is told as soon as that shows."""
        self._bar.update()
        self._done += 1
        now = time.perf_counter()
        if self._mark is None:
            # The first step compiles, and says nothing of the pace.
            self._mark = self._done, now
            self._bar.initial, self._bar.start_t = self._done, time.time()
            return
        if self._warned or now - self._mark[1] < SETTLED:
            return
        self._warned = True
        left = self._left(now)
        if left > LONG:
            self._say(
                f"about {duration(left)} to go at this pace. Stop it as you like: the "
                "same command goes on. Fewer steps, a smaller network, a smaller size "
                "or larger patches take less"
            )

    def _left(self, now):
        """Seconds to go at the mean pace since the first step, evaluations included.

        0 where nothing is left, or no second step has been taken.
        """
        first, since = self._mark or (self._done, now)
        taken = self._done - first
        return (self._steps - self._done) * (now - since) / taken if taken else 0.0

    def line(self, shown: Mapping[str, float]) -> None:
        """Shows numbers: beside the bar, or as a line of a log file.

        Args:
          shown: Numbers by name.
        """
        text = {name: f"{value:.4g}" for name, value in shown.items()}
        if self._terminal:
            self._bar.set_postfix(text)
            return
        parts = [f"step {self._done}/{self._steps}"]
        parts += [f"{name} {value}" for name, value in text.items()]
        left = self._left(time.perf_counter())
        if left > 0:
            parts.append(f"{duration(left)} to go")
        self._say("  ".join(parts))

    def _say(self, text):
        if self._terminal:
            self._bar.write(text)
        elif self._show:
            print(text, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    """A time as one reads it: "40 s", "12 min", "3.5 h".

    Args:
      seconds: Length of the time.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
