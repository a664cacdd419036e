r"""What a CPU cannot say, in one call of under ten minutes and one table.

    python benchmarks/accelerator.py                     # the device that jax finds
    python benchmarks/accelerator.py --only sd15 bits    # these rows
    python benchmarks/accelerator.py --toy               # toy sizes, also on a CPU

Rows are measured one after another, each in a process of its own with a budget of time:
what fails, runs out of memory or out of time is told by name, and the others go on. A
row's shares are of the device's dense bfloat16 peak, by its data sheet (``--peak`` for
one that is not known here), and its operations those of the networks' forward passes as
they are lowered, three of them for a training step: what a method needs, not what a
compiler made of it. Times are the least of several calls after the first; "compiled" is
what came before. Peers are measured where torch and diffusers import, on one GPU.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from accelerator_measure import Figure, line, table_head

# Name: module, function and largest number of seconds. Most wanted first: the last ones
# are what a slow compiler costs.
ROWS = {
    "train": ("accelerator_dit", "training", 90),
    "sample": ("accelerator_dit", "sampling", 90),
    "guided": ("accelerator_dit", "guided_steps", 90),
    "sd15": ("accelerator_text", "sd15", 120),
    "attention": ("accelerator_dit", "attention", 45),
    "token_logp": ("accelerator_others", "token_log_probabilities", 45),
    "sdxl": ("accelerator_text", "sdxl", 120),
    "particles": ("accelerator_others", "resampling", 60),
    "bits": ("accelerator_dit", "same_bits", 90),
    "tsdiff": ("accelerator_others", "tsdiff", 90),
    "sd15_diffusers": ("accelerator_peers", "sd15", 60),
    "sdxl_diffusers": ("accelerator_peers", "sdxl", 60),
}
# Less than this is not worth a start.
LEAST = 15


def figures(name: str, rows, flags: list[str], budget: float) -> Iterator[Figure]:
    """The figures of a row, as they come from its process.

    Raises:
      RuntimeError: It failed, or was not done in time.
    """
    module, function, _ = rows[name]
    command = [sys.executable, __file__, "--child", module, function, *flags]
    # Or jax takes most of the memory, and torch has none.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    options = {"env": environment, "text": True, "start_new_session": True}
    late = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, **options
        ) as process,
    ):

        def stop():
            late.set()
            _kill(process)

        timer = threading.Timer(budget, stop)
        timer.start()
        assert process.stdout is not None
        try:
            for text in process.stdout:
                if text.startswith("{"):
                    yield Figure(**json.loads(text))
            code = process.wait()
        finally:
            timer.cancel()
            _kill(process)
        if late.is_set():
            raise RuntimeError(f"not done in {budget:.0f} s")
        if code:
            errors.seek(0)
            told = [text for text in errors.read().splitlines() if text.strip()]
            raise RuntimeError((told[-1] if told else f"exit status {code}")[:300])


def _kill(process):
    """The row's process, with those that it started itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(rows, names: list[str], flags: list[str], peak: float | None, seconds: float):
    """Prints the table's rows as they come; returns what failed, by name."""
    # The rows' budgets are for ten minutes in all.
    patience = max(1.0, seconds / 600)
    end, failed = time.monotonic() + seconds, {}
    for name in names:
        left = end - time.monotonic()
        if left < LEAST:
            failed[name] = "no time was left"
            continue
        try:
            budget = min(left, patience * rows[name][2])
            for figure in figures(name, rows, flags, budget):
                print(line(figure, peak), flush=True)
        except RuntimeError as error:
            failed[name] = str(error)
    return failed


def main(rows=ROWS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=rows, help="rows to measure")
    parser.add_argument("--toy", action="store_true", help="toy sizes")
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.5,
        help="for all; more of them give each row more",
    )
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in bfloat16")
    given = parser.parse_args()
    began = time.monotonic()
    seconds = 60 * given.minutes
    head, peak = table_head(given.peak, Path(__file__).parent, min(60, seconds))
    print(head, flush=True)
    names = list(dict.fromkeys(given.only or rows))
    left = seconds - (time.monotonic() - began)
    failed = run(rows, names, ["--toy"] * given.toy, peak, left)
    print(f"\nmeasured in {(time.monotonic() - began) / 60:.1f} minutes")
    for name, told in failed.items():
        print(f"NOT MEASURED to the end: {name}: {told}")
    sys.exit(1 if failed else 0)


def child(module: str, function: str, toy: bool) -> None:
    """Measures a row, a line of JSON for each figure."""
    try:
        for figure in getattr(__import__(module), function)(toy):
            print(json.dumps(figure._asdict()), flush=True)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        # What the table tells of it.
        first = str(error).strip().partition("\n")[0]
        sys.exit(f"{type(error).__name__}: {first}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4], toy="--toy" in sys.argv)
    else:
        main()
