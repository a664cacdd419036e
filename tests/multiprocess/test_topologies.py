"""What a run learns does not depend on where it is computed."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

# Sums over rows are taken in another order; all else is the same.
ROUNDING = 2e-6

# Wide enough for most leaves to be split where the state is.
IMAGES = (
    "--model.width 64 --model.depth 1 --model.heads 2 --optimiser.steps 6 "
    "--optimiser.batch 16 --optimiser.warmup 1 --log.every 1 "
    "--evaluation.solver-steps 2 --evaluation.judge None"
)
SERIES = (
    "--model.width 8 --model.blocks 1 --model.state 4 --optimiser.steps 6 "
    "--optimiser.batch 16 --log.every 1 --search.scales"
)
# On policy their loss is 0 but for rounding: compared are rewards and gradients.
DDPO = (
    "--rounds 6 --batch 16 --solver-steps 2 --count 16 --log.every 1 --log.eval-every 0"
)
REASON = (
    "--sums 12 --updates 6 --prompts 8 --group 4 --model.width 16 --model.depth 1 "
    "--model.heads 2 --model.hidden 16 --start.steps 4 --start.batch 16 --log.every 1 "
    "--log.eval-every 0"
)
CURVES = [
    ("images", IMAGES),
    ("timeseries", SERIES),
    ("selfplay", "--updates 6 --games 16 --width 8 --log.every 1 --log.eval-every 0"),
    ("images", f"{IMAGES} --accumulate 2 --remat"),
    ("classifier", "--steps 6 --batch 16 --widths 8 16 --log.every 1"),
    ("ddpo", DDPO),
    ("reason", REASON),
]
COMPARED = {"ddpo": ("grad_norm", "sampled"), "reason": ("grad_norm", "right1")}
# Samples of a trained model go through its network again and again: 7e-5 was seen.
LOOSE = {"ddpo": 2e-4}


def steps_script():
    path = Path(__file__).with_name("steps.py")
    spec = importlib.util.spec_from_file_location("multiprocess_steps", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_split_over_two_processes_is_whole_on_eight_devices(runs, tmp_path):
    outputs, at = runs.said(tmp_path / "steps", 2), runs.address()
    commands = [["tests/multiprocess/steps.py", "fsdp", at, 2, i] for i in range(2)]
    with runs.spawned(commands, outputs, devices=4) as children:
        steps = steps_script()
        here = steps.run(steps.recipe(), "data")
        runs.finish(children, outputs)
    first, second = (json.loads(o.read_text().splitlines()[-1]) for o in outputs)
    assert first == second
    assert len(set(here["losses"])) == steps.STEPS
    for what in ("losses", "sums"):
        np.testing.assert_allclose(first[what], here[what], rtol=ROUNDING)


@pytest.mark.slow
def test_under_slurm_processes_find_one_another(runs, tmp_path):
    outputs, at = runs.said(tmp_path / "steps", 2), runs.address()

    def variables(i):
        return {
            "JAX_COORDINATOR_PORT": at.split(":")[1],
            "SLURM_JOB_ID": "1",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
        }

    commands = [["tests/multiprocess/steps.py", "data"]] * 2
    with runs.spawned(commands, outputs, 2, variables) as children:
        runs.finish(children, outputs)
    for i, output in enumerate(outputs):
        assert f"process {i} of 2" in output.read_text()
    first, second = (json.loads(o.read_text().splitlines()[-1]) for o in outputs)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "flags"), CURVES)
def test_a_recipe_has_one_curve(runs, tmp_path, recipe, flags):
    runs.curve(recipe, flags, tmp_path / "one")
    for name, more, processes, devices in [
        ("eight", "", 1, 8),
        ("fsdp", "--mesh fsdp", 1, 8),
        ("hosts", "", 2, 4),
        ("hosts_fsdp", "--mesh fsdp", 2, 4),
    ]:
        folder = tmp_path / name
        runs.curve(recipe, f"{flags} {more}", folder, processes, devices)
        for what in COMPARED.get(recipe, ("loss",)):
            want, got = (runs.losses(f, what) for f in (tmp_path / "one", folder))
            assert sorted(got) == sorted(want) == [1, 2, 3, 4, 5, 6]
            assert len(set(want.values())) > 1
            size = max(map(abs, want.values()))
            worst = max(abs(got[i] - want[i]) for i in want) / size
            print(f"{recipe} {more}, {what} on {processes} x {devices}: {worst:.1e}")
            assert worst < LOOSE.get(recipe, ROUNDING)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(runs, tmp_path):
    flags = (
        "--updates 6 --games 16 --width 8 --log.every 1 --log.save-every 3 --log.keep 3"
    )
    want = runs.curve("selfplay", flags, tmp_path / "run", 1, 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    got = runs.curve("selfplay", flags, tmp_path / "run", 2, 2)
    said = runs.said(tmp_path / "run", 2)[0].read_text()
    assert "resumed after step 3" in said
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-5)


@pytest.mark.slow
def test_hosts_with_folders_of_their_own_are_told(runs, tmp_path):
    at, outputs = runs.address(), runs.said(tmp_path / "run", 2)
    flags = ["--updates", 2, "--games", 16, "--width", 8, "--coordinator", at]
    flags += ["--processes", 2, "--process"]
    commands = [
        ["train/selfplay.py", "--directory", tmp_path / f"host{i}", *flags, i]
        for i in range(2)
    ]
    with runs.spawned(commands, outputs) as children:
        assert all(child.wait(120) for child in children)
    for output in outputs:
        assert "is not a folder that all processes share" in output.read_text()
