"""Runs recipes as the processes of one run, each with virtual devices of its own."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def spawned(commands, outputs, devices=1, extra=None):
    """Processes with ``devices`` each, killed at the latest on leaving.

    ``extra(i)`` are variables of the environment of process ``i``.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    if len(commands) > 1:
        # The first process alone would find its programs there, and gloo waits half a
        # minute for the others and no longer.
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    children = []
    try:
        for i, (command, output) in enumerate(zip(commands, outputs, strict=True)):
            with output.open("w") as file:
                child = subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    cwd=ROOT,
                    env=environment | (extra(i) if extra else {}),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            children.append(child)
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def finish(children, outputs, timeout=300):
    """Waits for processes that should all end well."""
    for child, output in zip(children, outputs, strict=True):
        if child.wait(timeout):
            pytest.fail(f"{child.args} failed:\n{output.read_text()[-3000:]}")


def said(folder, processes):
    """Where the processes of a run write what they say."""
    return [folder.with_name(f"{folder.name}.{i}") for i in range(processes)]


def started(recipe, flags, folder, processes=1, devices=1):
    """The processes of a run of ``train/{recipe}.py`` in ``folder``."""
    command = [f"train/{recipe}.py", "--directory", folder, *flags.split()]
    hosts = ["--coordinator", address(), "--processes", processes, "--process"]
    commands = [
        command + ([*hosts, i] if processes > 1 else []) for i in range(processes)
    ]
    return spawned(commands, said(folder, processes), devices)


def losses(folder, name="loss"):
    """``{step: loss}`` of a run so far, or another of its metrics."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {line["step"]: line[name] for line in found if name in line}


def curve(recipe, flags, folder, processes=1, devices=1):
    """The losses of a whole run on a topology."""
    with started(recipe, flags, folder, processes, devices) as children:
        finish(children, said(folder, processes))
    return losses(folder)


@pytest.fixture(scope="session")
def runs():
    """The functions above, as test modules do not import one another."""
    return SimpleNamespace(**globals())
