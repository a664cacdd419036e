"""Progress: a bar on a terminal, plain lines in a file, and a word on long runs."""

import io
import re
import sys

import pytest
import tqdm

from jaxlib_guidance.training import _progress
from jaxlib_guidance.training._progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """What `time` is to a bar and to the loop, told by hand."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    time = perf_counter


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    monkeypatch.setattr(tqdm.std, "time", clock.time)
    return clock


def test_a_log_file_has_lines_and_no_bar(capsys, clock):
    with Progress(20, 9, True) as progress:
        progress.update()
        clock.now += 10
        progress.line({})
        progress.update()
        progress.line({"loss": 0.25})
    printed = capsys.readouterr()
    assert printed.out == "step 10/20\nstep 11/20  loss 0.25  2 min to go\n"
    assert not printed.err


def test_a_terminal_has_a_bar_and_no_lines(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(20, 10, True) as progress:
        progress.update()
        progress.line({"loss": 0.25})
    assert "11/20" in terminal.getvalue()
    assert "loss=0.25" in terminal.getvalue()
    assert not capsys.readouterr().out


def test_another_process_says_nothing(capsys):
    with Progress(20, 10, False) as progress:
        progress.update()
        progress.line({"loss": 0.25})
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


def run(clock, progress, *, compiles):
    """A thousand steps of half a second, every fiftieth with ten more; what is left.

    With the first step ``compiles`` seconds go by.
    """
    each = [0.5 + 10 * ((step + 1) % 50 == 0) for step in range(1000)]
    for step, seconds in enumerate(each):
        clock.now += seconds if step else compiles
        progress.update()
        yield step + 1, sum(each[step + 1 :])


@pytest.mark.parametrize("compiles", [0, 600])
def test_the_time_to_go_is_steady(compiles, capsys, clock):
    """Neither what compiled nor which lines hold an evaluation moves it."""
    told = 0
    with Progress(1000, 0, True) as progress:
        for step, left in run(clock, progress, compiles=compiles):
            if step % 25 == 0 and step > 150:
                progress.line({})
                said = re.findall(r"(\d+) (s|min) to go", capsys.readouterr().out)
                for number, unit in said:
                    seconds = int(number) * (60 if unit == "min" else 1)
                    # A tenth, and half a minute by rounding.
                    assert abs(seconds - left) < 0.1 * left + 31
                    told += 1
    assert told == 33  # All lines but the last, where nothing is left.


def test_the_bar_of_a_terminal_is_steady_too(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(1000, 0, True) as progress:
        for step, left in run(clock, progress, compiles=600):
            if step > 150:
                bar = progress._bar.format_dict
                assert bar["rate"] is None  # The mean of all steps, not of the last.
                pace = bar["elapsed"] / (bar["n"] - bar["initial"])
                assert abs((1000 - step) * pace - left) < 0.1 * left + 11
