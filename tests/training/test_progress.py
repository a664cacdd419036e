"""Progress: a bar on a terminal, plain lines in a file, and a word on long runs."""

import io
import sys

import pytest

from jaxlib_guidance.training import _progress
from jaxlib_guidance.training._progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_has_lines_and_no_bar(capsys):
    with Progress(20, 10, True) as progress:
        progress.update()
        progress.line({"steps_per_second": 0.1}, {"loss": 0.25})
    printed = capsys.readouterr()
    assert printed.out == "step 11/20  loss 0.25  2 min to go\n"
    assert not printed.err


def test_a_terminal_has_a_bar_and_no_lines(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(20, 10, True) as progress:
        progress.update()
        progress.line({"steps_per_second": 0.1}, {"loss": 0.25})
    assert "11/20" in terminal.getvalue()
    assert "loss=0.25" in terminal.getvalue()
    assert not capsys.readouterr().out


def test_another_process_says_nothing(capsys):
    with Progress(20, 10, False) as progress:
        progress.update()
        progress.line({"steps_per_second": 0.1}, {"loss": 0.25})
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize(("steps", "told"), [(10_000, 1), (1_000, 0)])
def test_hours_are_told_once_and_early(steps, told, monkeypatch, capsys):
    """Two seconds a step, after a first one that compiled for two minutes."""
    clock = iter([120.0, *range(122, 222, 2)])
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: next(clock))
    with Progress(steps, 0, True) as progress:
        for _ in range(30):
            progress.update()
    out = capsys.readouterr().out
    assert out.count("about 5.6 h to go") == told == out.count("to go")


def test_times_are_as_one_reads_them():
    assert [duration(s) for s in (40, 700, 12_600)] == ["40 s", "12 min", "3.5 h"]
