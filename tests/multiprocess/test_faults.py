"""One host is told to go, or goes without a word: the others leave, nothing is lost."""

import re
import signal
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

FLAGS = (
    "--model.width 16 --model.depth 1 --model.heads 2 --optimiser.steps {steps} "
    "--optimiser.batch 16 --log.every 1 --log.save-every 10 --heartbeat 15 "
    "--evaluation.solver-steps 2 --evaluation.judge None"
)
STEPS = 150
ENDLESS = FLAGS.format(steps=STEPS)


def wait_for(runs, folder, children, count):
    deadline = time.monotonic() + 300
    while len(runs.losses(folder)) < count:
        assert all(child.poll() is None for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return runs.curve("images", ENDLESS, folder, 1, 4)


def assert_same_curve(got, whole):
    assert sorted(got) == list(range(1, STEPS + 1))
    steps = sorted(whole)
    want = [whole[i] for i in steps]
    # Rounding grows as the runs go on.
    np.testing.assert_allclose([got[i] for i in steps][:50], want[:50], rtol=1e-4)
    np.testing.assert_allclose([got[i] for i in steps], want, rtol=2e-2)


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_saves_all_at_the_same_step(runs, whole, tmp_path, rank):
    folder = tmp_path / "run"
    outputs = runs.said(folder, 2)
    with runs.started("images", ENDLESS, folder, 2, 4) as children:
        wait_for(runs, folder, children, 25)
        children[rank].send_signal(signal.SIGTERM)
        runs.finish(children, outputs, timeout=120)
    [at] = re.findall(r"stopped after step (\d+)", outputs[0].read_text())
    at = int(at)
    assert max(runs.losses(folder)) == at < STEPS
    assert (folder / "checkpoints" / str(at)).is_dir()
    # And it goes on with fewer devices, on one host.
    got = runs.curve("images", ENDLESS, folder, 1, 2)
    assert f"resumed after step {at}" in outputs[0].read_text()
    assert_same_curve(got, whole)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_one_lost_ends_the_other_and_costs_at_most_the_interval(
    runs, whole, tmp_path, rank, fault
):
    """Killed it hangs up, which is noticed at once; stopped it only falls silent."""
    folder = tmp_path / "run"
    outputs = runs.said(folder, 2)
    with runs.started("images", ENDLESS, folder, 2, 4) as children:
        wait_for(runs, folder, children, 25)
        children[rank].send_signal(fault)
        begun = time.monotonic()
        children[1 - rank].wait(120)
        waited = time.monotonic() - begun
        assert children[1 - rank].returncode != 0
    reached = max(runs.losses(folder))
    got = runs.curve("images", ENDLESS, folder, 2, 4)
    [at] = re.findall(r"resumed after step (\d+)", outputs[0].read_text())
    print(f"{fault!r} to {rank}: the other left after {waited:.1f} s, {reached} - {at}")
    # Once to notice the silence, and as long again for the word to go round.
    assert waited < 2 * 15 + 10
    assert reached - 20 <= int(at) <= reached
    assert_same_curve(got, whole)
