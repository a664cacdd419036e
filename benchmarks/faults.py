"""Faults of training runs, repeated at random moments, and what became of the runs.

    python benchmarks/faults.py                       # all of them, about 15 minutes
    python benchmarks/faults.py kill --count 60       # kill -9
    python benchmarks/faults.py damage --count 1000 --seed 1

A tiny model of the bundled digits is trained by train/images.py, in processes of its
own where the fault is to a process. A run that was never disturbed says what every line
of metrics.jsonl and the weights in ema.safetensors must be: they are compared bit for
bit. A resume is broken if it disagrees, if it begins anywhere but at the newest step
that is whole, or if a run can no longer be resumed at all. Lost are the steps that were
logged and had to be taken again: those since the last save that was complete. A save is
complete before the next begins, so that these are at most two intervals; the steps
here are so short that many fit into the writing of one save.
"""

import argparse
import ctypes
import dataclasses
import importlib.util
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import jax
import numpy as np
import tyro

from jaxlib_guidance.files import load_weights
from jaxlib_guidance.training import Checkpoints, CorruptCheckpointError
from jaxlib_guidance.types import PyTree

RECIPE = Path(__file__).parents[1] / "train" / "images.py"
INTERVAL = 10
STEPS = 10 * INTERVAL
OPTIONS = {
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "optimiser.steps": STEPS,
    "optimiser.batch": 16,
    "log.every": 1,
    "log.save-every": INTERVAL,
    "log.eval-every": 0,
    "evaluation.solver-steps": 3,
    "evaluation.judge": None,
}
KEY = jax.dtypes.prng_key
RESUMED = re.compile(r"resumed after step (\d+)")


@dataclasses.dataclass
class Tally:
    """What came of one fault, repeated."""

    fault: str
    count: int = 0
    resumed: int = 0
    lost: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)
    message: str = ""
    notes: Counter = dataclasses.field(default_factory=Counter)

    def lose(self, steps: int) -> None:
        self.lost = max(self.lost, steps)
        if steps > 2 * INTERVAL:
            self.broken.append(f"{steps} steps lost")

    def compare(self, folder: Path, whole: "Undisturbed") -> None:
        """Counts a finished run as resumed, or as broken."""
        wrong = whole.differences(folder, finished=True)
        self.broken += wrong
        self.resumed += not wrong

    def row(self) -> str:
        notes = ", ".join(f"{count} {note}" for note, count in self.notes.most_common())
        return (
            f"| {self.fault} | {self.count} | {self.resumed} | {self.lost} | "
            f"{len(self.broken)} | {notes} |"
        )


def flags(folder: Path) -> list[str]:
    """Command-line flags of the recipe."""
    options = {"directory": folder, **OPTIONS}
    return [part for k, v in options.items() for part in (f"--{k}", str(v))]


def train(folder: Path, loop: Callable | None = None) -> None:
    """The recipe in this process, with its own training loop or another."""
    sys.path.append(str(RECIPE.parent))
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = recipe
    spec.loader.exec_module(recipe)
    recipe.fit = loop or recipe.fit
    recipe.train(tyro.cli(recipe.Config, args=flags(folder)))


def live(folder: Path) -> None:
    """One life of a run, as a process; what it says is added to ``folder``.log."""
    with folder.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train(folder)


# Forked from a process that has imported the libraries and done no more, so that a life
# costs a few seconds.
PROCESSES = multiprocessing.get_context("forkserver")


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=live, args=(folder,))
    process.start()
    return process


def end_of(process: multiprocessing.process.BaseProcess) -> int:
    """Waits for it, and gives its exit code or minus its signal."""
    process.join()
    return process.exitcode


def said(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()


def last_words(folder: Path) -> str:
    """The error that a run ended with."""
    lines = [line for line in said(folder).splitlines() if line.strip()]
    found = [line for line in lines if re.match(r"[\w.]+Error: ", line)]
    ours = [line for line in found if line.startswith("jaxlib_guidance.")]
    return (ours or found or [""])[-1]


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Lines of the log by step, less the speed and less a line cut short by a kill."""
    path, found = folder / "metrics.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        values.pop("steps_per_second")
        found[values.pop("step")] = values
    return found


def newest(folder: Path) -> int:
    """The newest complete step, 0 without any."""
    names = [p.name for p in (folder / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


class Undisturbed:
    """A run that nothing happened to, and the comparison with it."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.metrics, self.ema = (
            metrics(folder),
            load_weights(folder / "ema.safetensors")[0],
        )

    def differences(self, folder: Path, finished: bool) -> list[str]:
        found = metrics(folder)
        wrong = [s for s, values in found.items() if self.metrics[s] != values]
        problems = [f"step {step} has other metrics" for step in wrong]
        if finished and found.keys() != self.metrics.keys():
            problems.append(f"{len(self.metrics) - len(found)} steps are not logged")
        if finished:
            same = jax.tree.map(
                np.array_equal, load_weights(folder / "ema.safetensors")[0], self.ema
            )
            if not all(jax.tree.leaves(same)):
                problems.append("ema.safetensors differs")
        return problems


def finish(folder: Path, whole: Undisturbed, tally: Tally, expected: int) -> None:
    """Restarts a run, which must go on from ``expected`` and end as undisturbed."""
    begun = len(said(folder)) if folder.with_suffix(".log").exists() else 0
    code = end_of(start(folder))
    found = RESUMED.search(said(folder)[begun:])
    if code:
        tally.broken.append(f"restart failed: {last_words(folder)}")
    elif (int(found[1]) if found else 0) != expected:
        tally.broken.append(f"resumed after {found and found[1]}, not {expected}")
    else:
        tally.compare(folder, whole)


def wait_for_saving(process, folder: Path, which: int) -> None:
    """Until the ``which``-th folder of an unfinished checkpoint, or the end."""
    seen: set[str] = set()
    while process.is_alive() and len(seen) < which:
        seen |= {p.name for p in (folder / "checkpoints").glob("*tmp*")}
        time.sleep(0.0005)


def kill(work: Path, whole: Undisturbed, count: int, seed: int) -> Tally:
    """Kill -9 in a run's whole life, start-up and end included; half aimed at saving.

    A run is killed over and over until one of its lives reaches the end.
    """
    tally, draw = Tally("kill -9"), random.Random(seed)
    while tally.count < count:
        folder = work / f"kill{tally.count}"
        pending, expected, begun = 0, 0, 0
        while True:
            process = start(folder)
            if draw.random() < 0.5:
                wait_for_saving(process, folder, draw.randint(1, 6))
                moment = draw.uniform(0, 0.05)
            else:
                moment = draw.uniform(0, whole.seconds)
            process.join(moment if tally.count < count else None)
            process.kill()
            code = end_of(process)
            life, begun = said(folder)[begun:], len(said(folder))
            found = RESUMED.search(life)
            if "device(s)" in life:
                # It got as far as reading a checkpoint, and says which.
                if (int(found[1]) if found else 0) == expected:
                    tally.resumed += pending
                    tally.message = found[0] if found else tally.message
                else:
                    tally.broken.append(f"resumed elsewhere than {expected}")
                pending = 0
            tally.broken += whole.differences(folder, finished=code == 0)
            if code != -signal.SIGKILL:
                if code:
                    tally.broken.append(f"ended with {code}: {last_words(folder)}")
                break
            logged, expected = max(metrics(folder), default=0), newest(folder)
            tally.count += 1
            pending += 1
            tally.lose(logged - expected)
            saving = any((folder / "checkpoints").glob("*tmp*"))
            tally.notes[
                "while saving"
                if saving
                else "before the first step of a life"
                if "device(s)" not in life
                else "after the last step"
                if logged == STEPS
                else "between saves"
            ] += 1
        shutil.rmtree(folder)
    return tally


def term(work: Path, whole: Undisturbed, count: int, seed: int) -> Tally:
    """SIGTERM in a run's whole life: it saves and leaves, and loses nothing."""
    tally, draw = Tally("SIGTERM"), random.Random(seed)
    for i in range(count):
        folder = work / f"term{i}"
        process = start(folder)
        process.join(draw.uniform(0, whole.seconds))
        process.terminate()
        code = end_of(process)
        logged, expected = max(metrics(folder), default=0), newest(folder)
        tally.count += 1
        tally.lose(logged - expected)
        stopped = re.search("stopped after step.*", said(folder))
        if stopped:
            tally.message = stopped[0]
        if code not in (0, -signal.SIGTERM) or (stopped and code):
            tally.broken.append(f"ended with {code}: {last_words(folder)}")
        where = "in training" if stopped else "before" if not logged else "after it"
        tally.notes[where] += 1
        finish(folder, whole, tally, expected)
    return tally


def full(work: Path, whole: Undisturbed, count: int, seed: int) -> Tally:
    """A disk that fills up after a random step, to a random rest; then there is room.

    Needs root, for a file system in memory of a few MB.
    """
    tally, draw = Tally("disk full"), random.Random(seed)
    disk = work / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=8m"):
        tally.notes["not run: mounting a tmpfs needs root"] += 1
        return tally
    try:
        for i in range(count):
            # A link, so that what the run says is not on the disk that fills up.
            folder, there = work / f"run{i}", disk / f"run{i}"
            there.mkdir()
            folder.symlink_to(there)
            process = start(folder)
            at = draw.randrange(STEPS - INTERVAL)
            while process.is_alive() and len(metrics(folder)) <= at:
                time.sleep(0.005)
            rest = draw.randrange(0, 100_000)
            # The run may take the last of it at the same moment.
            with suppress(OSError), (disk / "filler").open("wb") as filler:
                filler.write(b"0" * max(0, shutil.disk_usage(disk).free - rest))
            code = end_of(process)
            tally.count += 1
            logged, expected = max(metrics(folder), default=0), newest(folder)
            tally.lose(logged - expected)
            tally.notes["noticed" if code else "ended before it"] += 1
            if code:
                tally.message = last_words(folder)
                if not re.search("No space left|last good step", tally.message):
                    tally.broken.append(f"unclear: {said(folder)[-300:]}")
            (disk / "filler").unlink()
            finish(folder, whole, tally, expected)
            shutil.rmtree(there)
    finally:
        libc.umount2(bytes(disk), 2)
    return tally


def twice(work: Path, whole: Undisturbed, count: int, seed: int) -> Tally:
    """A second run on a folder in use: it is refused, the first goes on unharmed."""
    tally, draw = Tally("two runs on one directory"), random.Random(seed)
    for i in range(count):
        folder = work / f"twice{i}"
        first = start(folder)
        time.sleep(draw.uniform(0, 0.3) * whole.seconds)
        second = start(folder)
        codes = sorted([end_of(first), end_of(second)])
        tally.count += 1
        tally.message = last_words(folder)
        # At the very beginning either may be first, and later the second may find
        # that the other has finished: then it changes nothing. Two that had both
        # trained would end well too, and write the same.
        refused = codes == [0, 1] and "in use" in tally.message
        after = codes == [0, 0] and f"resumed after step {STEPS}" in said(folder)
        if not (refused or after):
            tally.broken.append(f"ended with {codes}: {tally.message}")
        tally.notes["refused" if codes == [0, 1] else "after it"] += 1
        tally.compare(folder, whole)
    return tally


class _Begun(Exception):  # noqa: N818
    pass


def state_of_recipe(folder: Path) -> PyTree:
    """The recipe makes its state; stopped at its loop it hands it over."""

    def stop(step, state, *_, **__):
        raise _Begun(state)

    try:
        with redirect_stdout(None):
            train(folder, stop)
    except _Begun as begun:
        return begun.args[0]


class Checked:
    """Checkpoints of an undisturbed run, to be copied, damaged and restored."""

    def __init__(self, run: Path, like: PyTree, work: Path):
        self.run, self.like, self.copy = run, like, work / "copy"
        with Checkpoints(run / "checkpoints") as saved:
            self.states = {s: saved.restore(s, like) for s in saved.steps()}
        self.newest = max(self.states)

    def renew(self) -> Path:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.run, self.copy)
        return self.copy / "checkpoints" / str(self.newest)

    def restore(self, meanwhile: Callable[[], None] | None = None) -> int:
        """Restores the newest whole step; its number if all of it is right, or -1."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Checkpoints(self.copy / "checkpoints") as saved:
                other = threading.Thread(target=meanwhile or (lambda: None))
                other.start()
                try:
                    got = saved.restore_latest(self.like)
                finally:
                    other.join()
        want = self.states[got.step]
        plain = lambda x: (  # noqa: E731
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, KEY) else x
        )
        same = jax.tree.map(
            lambda a, b: np.array_equal(plain(a), plain(b)), got.state, want.state
        )
        right = all(jax.tree.leaves(same)) and got.extra == want.extra
        return got.step if right else -1


def damage(work: Path, whole: Undisturbed, count: int, seed: int) -> list[Tally]:
    """One file of the newest checkpoint: a bit flipped, cut short, emptied, deleted.

    Restored in this process; the first three times that it matters, and the first that
    it does not, the run is restarted as well.
    """
    draw = random.Random(seed)
    checked = Checked(whole.folder, state_of_recipe(work / "begun"), work)

    def flip(path):
        data = bytearray(path.read_bytes())
        if data:
            bit = draw.randrange(8 * len(data))
            data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)

    def cut(path):
        data = path.read_bytes()
        path.write_bytes(data[: draw.randrange(len(data))] if data else b"")

    tallies = []
    for name, harm in {
        "flipped bit": flip,
        "truncated file": cut,
        "deleted file": Path.unlink,
    }.items():
        tally, restarts = Tally(name), Counter()
        for i in range(count):
            files = sorted(p for p in checked.renew().rglob("*") if p.is_file())
            victim = files[i % len(files)]
            harm(victim)
            again = shutil.copytree(checked.copy, work / "again" / str(i))
            tally.count += 1
            try:
                step = checked.restore()
            except Exception as error:
                tally.broken.append(f"{victim.name}: {error}"[:300])
                continue
            if step < 0:
                tally.broken.append(f"{victim.name}: wrong values, not noticed")
                continue
            tally.lose(STEPS - step)
            noticed = step < STEPS
            tally.notes["noticed" if noticed else "in bytes not needed"] += 1
            restarts[noticed] += 1
            if restarts[noticed] > (3 if noticed else 1):
                tally.resumed += 1
            else:
                finish(again, whole, tally, step)
                if noticed:
                    tally.message = re.search("UserWarning: (.*)", said(again))[1]
            shutil.rmtree(again)
        tallies.append(tally)
    return tallies


def gone(work: Path, whole: Undisturbed, count: int, seed: int) -> Tally:
    """A directory deleted while it is restored: one step, or all."""
    like = state_of_recipe(work / "begun")
    return delete_meanwhile(Checked(whole.folder, like, work), count, seed)


def delete_meanwhile(checked: Checked, count: int, seed: int) -> Tally:
    tally, draw = Tally("directory deleted during restore"), random.Random(seed)
    checked.renew()
    begun = time.perf_counter()
    checked.restore()
    takes = time.perf_counter() - begun
    for _ in range(count):
        step = checked.renew()
        everything = draw.random() < 0.3
        moment = draw.uniform(0, takes)

        def delete(target=step.parent if everything else step, moment=moment):
            time.sleep(moment)
            shutil.rmtree(target, ignore_errors=True)

        tally.count += 1
        try:
            found = checked.restore(delete)
        except CorruptCheckpointError as error:
            tally.message = str(error)
            tally.notes["refused: all steps were deleted"] += 1
            if not everything:
                tally.broken.append(str(error))
        except Exception as error:
            tally.broken.append(f"{type(error).__name__}: {error}"[:300])
        else:
            if found < 0:
                tally.broken.append("wrong values, not noticed")
                continue
            tally.resumed += 1
            tally.lose(checked.newest - found)
            tally.notes[
                "restored before it" if found == checked.newest else "fell back"
            ] += 1
    return tally


FAULTS = {
    "kill": (kill, 60),
    "term": (term, 10),
    "full": (full, 10),
    "twice": (twice, 3),
    "damage": (damage, 300),
    "gone": (gone, 100),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fault", nargs="?", choices=[*FAULTS, "all"], default="all")
    parser.add_argument("--count", type=int, help="repetitions")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    # What Orbax thinks of damaged files fills pages.
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    PROCESSES.set_forkserver_preload(
        ["jax", "flax.linen", "optax", "orbax.checkpoint", "tyro", "tqdm", "PIL.Image"]
    )
    broken = 0
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        work = Path(name)
        begun = time.perf_counter()
        if end_of(start(work / "undisturbed")):
            raise SystemExit(said(work / "undisturbed"))
        whole = Undisturbed(work / "undisturbed", time.perf_counter() - begun)
        print(f"one run: {STEPS} steps, {whole.seconds:.0f} s; a save every {INTERVAL}")
        print("\n| fault | count | resumed | steps lost, at most | broken | moments |")
        print("| --- | ---: | ---: | ---: | ---: | --- |", flush=True)
        messages = []
        for fault in FAULTS if args.fault == "all" else [args.fault]:
            run, count = FAULTS[fault]
            place = work / fault
            place.mkdir()
            done = run(place, whole, args.count or count, args.seed)
            for tally in done if isinstance(done, list) else [done]:
                print(tally.row(), flush=True)
                broken += len(tally.broken)
                messages += [f"- {tally.fault}: `{tally.message}`"] * bool(
                    tally.message
                )
                messages += [f"- BROKEN {tally.fault}: {b}" for b in tally.broken]
        print("\n" + "\n".join(messages).replace(name, "..."))
    if broken:
        raise SystemExit(f"{broken} broken")


if __name__ == "__main__":
    main()
