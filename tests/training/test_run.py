"""A run's folder: refusing another configuration, logs that resume, signals."""

import json
import os
import resource
import signal
import sys

import pytest

from jaxlib_guidance.training.run import MetricLog, OtherRunError, StopSignal, claim

CONFIG = {"seed": 0, "model": {"width": 8, "dims": [1, 2]}, "log": {"every": 5}}


def test_a_folder_takes_back_its_own_run(tmp_path):
    folder = claim(tmp_path / "run", CONFIG, free=("log",))
    claim(folder, CONFIG, free=("log",))
    claim(folder, {**CONFIG, "log": {"every": 1}}, free=("log",))
    held = json.loads((folder / "config.json").read_text())
    assert held["log"] == {"every": 1}


def test_another_configuration_is_refused_by_name(tmp_path):
    folder = claim(tmp_path, CONFIG)
    other = {**CONFIG, "model": {"width": 16, "dims": [1, 2]}}
    with pytest.raises(OtherRunError, match=r"model\.width was 8 and is now 16"):
        claim(folder, other)
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    (folder / "config.json").write_text("{")
    with pytest.raises(OtherRunError, match="is not a configuration"):
        claim(folder, CONFIG)


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


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboardX"):
        MetricLog(tmp_path / "m.jsonl", tensorboard=tmp_path)


def test_a_first_signal_is_noted_and_a_second_obeyed():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
