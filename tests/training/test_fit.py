"""The shared loop: what it resumes, saves, ranks, refuses, and says."""

import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlib_guidance.training import Checkpoints, Log, fit, init_state, make_train_step

TX = optax.sgd(0.1)


def loss(params, batch, keys):
    return (params["w"] - batch["x"]) ** 2, {"x": batch["x"]}


STEP = make_train_step(loss, TX)


def start():
    return init_state({"w": jnp.float32(3)}, TX, jax.random.key(0))


def batch_at(i):
    return {"x": np.full(2, np.sin(i), np.float32)}


def lines(folder):
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in text]


def without_time(folder):
    return [
        {k: v for k, v in line.items() if k != "steps_per_second"}
        for line in lines(folder)
    ]


def run(folder, steps=7, **options):
    log = options.pop("log", Log(every=3, save_every=2))
    batches = options.pop("batch_at", batch_at)
    return fit(STEP, start(), batches, steps=steps, folder=folder, log=log, **options)


def test_every_interruption_gives_the_uninterrupted_run(tmp_path, capsys):
    whole = run(tmp_path / "whole")
    assert whole.finished
    assert int(whole.state.step) == 7
    # Lines of 3, 6 and the last step, each the mean of the steps since the one before.
    losses = [line["x"] for line in lines(tmp_path / "whole")]
    want = [np.sin([0, 1, 2]).mean(), np.sin([3, 4, 5]).mean(), np.sin(6)]
    np.testing.assert_allclose(losses, want, rtol=1e-6)

    folder = tmp_path / "parts"

    def asked(i):
        if i == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    part = run(folder, batch_at=asked)
    assert not part.finished
    assert int(part.state.step) == 5
    assert "stopped after step 5" in capsys.readouterr().out

    def broken(i):
        if i == 6:
            raise OSError("the disk is gone")
        return batch_at(i)

    with pytest.raises(OSError, match="disk"):
        run(folder, batch_at=broken)
    ended = run(folder)
    assert "resumed after step 6" in capsys.readouterr().out
    np.testing.assert_array_equal(ended.state.ema["w"], whole.state.ema["w"])
    assert without_time(folder) == without_time(tmp_path / "whole")
    again = run(folder, batch_at=broken)
    assert again.finished
    np.testing.assert_array_equal(again.state.ema["w"], whole.state.ema["w"])


def test_the_pace_leaves_out_the_first_step_which_compiles(tmp_path):
    def slow_at_first(i):
        time.sleep(0.4 if i == 0 else 0.01)
        return batch_at(i)

    # A checkpoint takes longer than these steps.
    run(tmp_path, 4, log=Log(every=1, save_every=9), batch_at=slow_at_first)
    paces = [line.get("steps_per_second") for line in lines(tmp_path)]
    assert paces[0] is None
    run(tmp_path / "more", log=Log(every=3, save_every=9), batch_at=slow_at_first)
    assert lines(tmp_path / "more")[0]["steps_per_second"] > 8


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    def poisoned(i):
        return {"x": np.full(2, np.nan if i == 4 else 0.0, np.float32)}

    log = Log(every=100, save_every=2)
    with pytest.raises(
        FloatingPointError, match=r"nan at step 5.*good.*of step 4.*in its config"
    ):
        run(tmp_path, log=log, batch_at=poisoned)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        assert saved.steps() == [2, 4]


def test_the_best_by_a_metric_is_kept(tmp_path):
    seen = []

    def eval_fn(done, state):
        seen.append(done)
        return {"error": abs(done - 3.5)}

    log = Log(every=100, save_every=2, eval_every=3)
    run(tmp_path, 8, log=log, eval_fn=eval_fn, best_metric="error")
    assert seen == [2, 3, 4, 6, 8]
    assert [(line["step"], line["error"]) for line in lines(tmp_path)] == [
        (done, abs(done - 3.5)) for done in seen
    ]
    with Checkpoints(tmp_path / "checkpoints", metric="error") as saved:
        assert saved.steps() == [4, 6, 8]
        assert saved.best() == 4


def test_a_stop_is_not_kept_up_by_an_evaluation_and_is_not_the_best(tmp_path):
    seen = []

    def asked(i):
        if i == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    log = Log(every=100, save_every=2)
    eval_fn = lambda done, state: seen.append(done) or {"good": done - 10.0}  # noqa: E731
    options = {"log": log, "eval_fn": eval_fn, "best_metric": "good", "mode": "max"}
    run(tmp_path, 8, batch_at=asked, **options)
    assert seen == [2]
    with Checkpoints(tmp_path / "checkpoints", metric="good", mode="max") as saved:
        assert saved.steps() == [2, 3]
        assert saved.best() == 2
    assert run(tmp_path, 8, **options).finished


def test_a_value_that_is_not_finite_is_the_worst_and_loses_nothing(tmp_path):
    log = Log(every=100, save_every=2)
    options = {"log": log, "best_metric": "error"}
    eval_fn = lambda done, state: {"error": 1.0 if done == 2 else np.nan}  # noqa: E731
    assert run(tmp_path, 6, eval_fn=eval_fn, **options).finished
    with Checkpoints(tmp_path / "checkpoints", metric="error") as saved:
        assert saved.steps() == [2, 4, 6]
        assert saved.best() == 2


def test_a_metric_that_eval_fn_does_not_return_is_refused(tmp_path):
    eval_fn = lambda done, state: {"error": 1.0, "crps": 2.0}  # noqa: E731
    with pytest.raises(
        ValueError, match=r"'eror' and eval_fn returned \['crps', 'error'"
    ):
        run(tmp_path, eval_fn=eval_fn, best_metric="eror")


def test_a_folder_that_is_past_its_end_is_refused(tmp_path):
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="is at step 4, and 3 are wanted"):
        run(tmp_path, 3)
    assert run(tmp_path, 6).finished


def test_a_stop_in_the_last_step_is_of_the_next_run(tmp_path):
    def asked(i):
        if i == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    assert run(tmp_path / "a", 3, batch_at=asked).finished
    # As a comparison of several runs goes on: with what is finished, and then not.
    assert run(tmp_path / "a", 3).finished
    part = run(tmp_path / "b")
    assert (part.finished, int(part.state.step)) == (False, 1)
    assert run(tmp_path / "b").finished


def test_a_stop_waits_for_the_last_save(tmp_path, monkeypatch):
    close = Checkpoints.close

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGTERM)
        close(self)

    monkeypatch.setattr(Checkpoints, "close", interrupted)
    assert run(tmp_path / "a", 3).finished
    monkeypatch.undo()
    with Checkpoints(tmp_path / "a" / "checkpoints") as saved:
        assert saved.steps()[-1] == 3
    # And it is owed to the next.
    assert not run(tmp_path / "b").finished


def test_more_of_the_newest_are_kept_on_request(tmp_path):
    run(tmp_path, log=Log(save_every=1, keep=4))
    with Checkpoints(tmp_path / "checkpoints") as saved:
        assert saved.steps() == [4, 5, 6, 7]


@pytest.mark.parametrize("name", ["every", "save_every", "keep", "eval_every"])
def test_numbers_that_make_no_sense_are_named(name):
    with pytest.raises(ValueError, match=rf"log\.{name} is -1; expected at least"):
        Log(**{name: -1})


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="best_metric is 'crps' and eval_fn is None"):
        run(tmp_path, best_metric="crps")
