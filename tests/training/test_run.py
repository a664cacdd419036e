"""A run's folder: refusing another configuration, logs that resume, signals."""

import dataclasses
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from jaxlib_guidance.training import (
    FolderInUseError,
    MetricLog,
    OtherRunError,
    StopSignal,
    claim,
    require_effect,
    require_ranges,
)
from jaxlib_guidance.training.saving._lock import Lock

CONFIG = {"seed": 0, "model": {"width": 8, "dims": [1, 2]}, "log": {"every": 5}}


def test_a_folder_takes_back_its_own_run(tmp_path):
    folder = claim(tmp_path / "run", CONFIG, free=("log",))
    claim(folder, CONFIG, free=("log",))
    claim(folder, {**CONFIG, "log": {"every": 1}}, free=("log",))
    held = json.loads((folder / "config.json").read_text())
    assert held["log"] == {"every": 1}


def test_another_configuration_is_refused_by_name(tmp_path):
    folder = claim(tmp_path, CONFIG)
    (folder / "checkpoints" / "2").mkdir(parents=True)
    other = {**CONFIG, "model": {"width": 16, "dims": [1, 2]}}
    with pytest.raises(OtherRunError, match=r"model\.width was 8 and is now 16"):
        claim(folder, other)
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    (folder / "config.json").write_text("{")
    with pytest.raises(OtherRunError, match="is not a configuration"):
        claim(folder, CONFIG)


def test_a_run_that_never_began_does_not_own_its_folder(tmp_path):
    folder = claim(tmp_path, CONFIG)
    # As Orbax leaves a first save that was cut short.
    (folder / "checkpoints" / "5.orbax-checkpoint-tmp-1").mkdir(parents=True)
    other = {**CONFIG, "seed": 1}
    held = Lock(folder / "checkpoints")
    with pytest.raises(FolderInUseError):
        claim(folder, other)
    held.release()
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    claim(folder, other)
    assert json.loads((folder / "config.json").read_text()) == other
    (folder / "ema.safetensors").touch()
    with pytest.raises(OtherRunError, match="seed was 1 and is now 0"):
        claim(folder, CONFIG)


def test_a_folder_that_cannot_be_says_so(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        with pytest.raises(OSError, match=r"directory is '.*file.*no folder can be"):
            claim(tmp_path / place, CONFIG)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for place in ("link", "link/run"):
        with pytest.raises(OSError, match=r"link is a link to .*gone, which is not"):
            claim(tmp_path / place, CONFIG)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = claim("~/run", CONFIG)
    assert folder == tmp_path / "home" / "run"
    MetricLog(Path("~/run/metrics.jsonl")).close()
    assert {p.name for p in folder.iterdir()} == {"config.json", "metrics.jsonl"}
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_processes_claim_together(tmp_path, monkeypatch):
    """None writes before all have read, and what one refuses none accepts."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    fine = [True]
    gather = lambda mine: np.array([mine, *fine])  # noqa: E731
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    claim(tmp_path / "run", CONFIG)
    fine[0] = False
    with pytest.raises(OtherRunError, match="refused by another process"):
        claim(tmp_path / "other", CONFIG)
    assert not (tmp_path / "other" / "config.json").exists()


@dataclasses.dataclass(frozen=True)
class Part:
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Options:
    clip: float = 0.2
    part: Part = Part()


def test_options_without_effect_are_named():
    unused = {"part.rate": (False, "method 'x'"), "clip": (True, "method 'y'")}
    require_effect(Options(clip=0.3), unused)
    with pytest.raises(ValueError, match=r"part\.rate is 0\.1.* effect on method 'x'"):
        require_effect(Options(part=Part(0.1)), unused)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_that_will_be_repeated_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    for step in range(1, 6):
        log.write(step, {"loss": 1 / step})
    log.close()
    # As a kill in the middle of a line leaves it.
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    log = MetricLog(path, step=3)
    log.write(4, {"loss": 0.5})
    log.close()
    assert steps(path) == [1, 2, 3, 4]


def test_a_full_disk_says_what_to_do(tmp_path):
    log = MetricLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 1.0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        with pytest.raises(OSError, match=r"step 2 .* start again .*metrics.jsonl"):
            log.write(2, {"loss": 0.5})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    MetricLog(tmp_path / "metrics.jsonl", step=1).close()
    assert steps(tmp_path / "metrics.jsonl") == [1]


@pytest.mark.parametrize("to", ["tensorboard", "wandb"])
def test_a_service_that_is_not_installed_is_named(tmp_path, monkeypatch, to):
    package = {"tensorboard": "tensorboardX"}.get(to, to)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        MetricLog(tmp_path / "m.jsonl", to=(to,))
    with pytest.raises(ValueError, match=r"log.to is 'mlflow'; expected one of"):
        MetricLog(tmp_path / "m.jsonl", to=("mlflow",))


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricLog(tmp_path / "m.jsonl", to=("tensorboard",)) as log:
        log.write(1, {"loss": 1.0})
    (events,) = (tmp_path / "events").iterdir()
    assert b"loss" in events.read_bytes()


def test_wandb_goes_on_with_the_run(tmp_path, monkeypatch):
    """By a stand-in, which says what it was given."""
    got = []

    class Run:
        def log(self, values, step):
            got.append((step, values))

        def finish(self):
            got.append("end")

    module = ModuleType("wandb")
    module.init = lambda **options: got.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    (tmp_path / "config.json").write_text('{"seed": 3}')
    for step in (1, 2):
        with MetricLog(tmp_path / "m.jsonl", step - 1, to=("wandb",)) as log:
            log.write(step, {"loss": 0.5})
    first, *_, second = (each for each in got if "id" in each)
    assert first["id"] == second["id"]
    assert first["config"] == {"seed": 3}
    assert [each for each in got if isinstance(each, tuple)] == [
        (1, {"loss": 0.5}),
        (2, {"loss": 0.5}),
    ]


@pytest.mark.slow
def test_wandb_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with MetricLog(tmp_path / "m.jsonl", to=("wandb",)) as log:
        log.write(1, {"loss": 1.0})
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def interrupts():
    """Python's own handler, which a suite in the background is started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_first_signal_is_noted_and_a_second_obeyed(interrupts):
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop.obeyed = True
    assert signal.getsignal(signal.SIGINT) is interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_process_ignores_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            assert not stop.requested
            assert not stop.reached()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_step_that_processes_agree_on_may_be_of_the_next_loop(monkeypatch):
    """Told in the last step of a loop, jax chooses one that this loop never takes."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    first, asked = StopSignal._steps, []
    name = "reached_preemption_sync_point"
    agreed = lambda n: asked.append(n) or n == first + 5  # noqa: E731
    monkeypatch.setattr(multihost_utils, name, agreed)
    found = []
    for _ in range(2):
        with StopSignal() as stop:
            found.append([stop.reached() for _ in range(4)])
            stop.obeyed = True
    assert asked == list(range(first + 1, first + 9))
    assert found == [[False] * 4, [True] * 4]


def test_what_one_loop_could_not_obey_the_next_does():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    for obeys in (False, True):
        with StopSignal() as stop:
            assert stop.reached()
            stop.obeyed = obeys
    with StopSignal() as stop:
        assert not stop.reached()
    # A loop that failed has ended the run, and owes nothing.
    with suppress(KeyError), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError
    with StopSignal() as stop:
        assert not stop.reached()


@dataclasses.dataclass(frozen=True)
class Numbers:
    steps: int = 3
    ema: float = 0.9
    bias: float = -1.0
    scan: bool = False
    widths: tuple[int, ...] = (8, 16)
    lags: tuple[int | str, ...] = (-1, "7D")
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class Nested:
    clip: float = float("inf")
    part: Numbers = Numbers()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"steps": 0}, "part.steps is 0; expected at least 1"),
        ({"ema": 1.0}, "part.ema is 1.0; expected 0 to below 1"),
        ({"ema": float("nan")}, "part.ema is nan; expected 0 to below 1"),
        ({"bias": float("inf")}, "part.bias is inf; expected a finite number"),
        ({"widths": (8, 0)}, "part.widths is 0; expected at least 1"),
        ({"size": 0}, "part.size is 0; expected at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(changed, told):
    require_ranges(Nested())
    with pytest.raises(ValueError, match=rf"^{told}$"):
        require_ranges(Nested(part=Numbers(**changed)))
