"""One run at a time: a held folder is refused by name, a dead holder's is free."""

import os
import signal
import subprocess
import sys

import pytest

from jaxlib_guidance.training import FolderInUseError
from jaxlib_guidance.training.saving import _lock as lock
from jaxlib_guidance.training.saving._lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from jaxlib_guidance.training.saving._lock import Lock
held = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_is_told_who_holds_it(tmp_path):
    first = Lock(tmp_path)
    with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()} on"):
        Lock(tmp_path)
    first.release()
    Lock(tmp_path).release()


def test_kill_9_leaves_no_lock(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=f"process {other.pid}"):
            Lock(tmp_path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert (tmp_path / "lock").exists()
    Lock(tmp_path).release()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .*not implemented"):
        Lock(tmp_path).release()


def test_a_lock_that_was_deleted_is_noticed(tmp_path):
    first = Lock(tmp_path)
    first.check()
    (tmp_path / "lock").unlink()
    with pytest.raises(FolderInUseError, match="was deleted while this run held it"):
        first.check()
    second = Lock(tmp_path)
    with pytest.raises(FolderInUseError, match="was deleted"):
        first.check()
    second.check()
    for each in (first, second):
        each.release()
