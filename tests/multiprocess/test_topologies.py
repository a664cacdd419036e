"""What a run learns does not depend on where it is computed."""

import importlib.util
import json
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
CURVES = [
    ("images", IMAGES),
    ("timeseries", SERIES),
    ("selfplay", "--updates 6 --games 16 --width 8 --log.every 1 --log.look-every 0"),
    ("images", f"{IMAGES} --accumulate 2 --remat"),
    ("classifier", "--steps 6 --batch 16 --widths 8 16 --log.every 1"),
]


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
    want = runs.curve(recipe, flags, tmp_path / "one")
    assert sorted(want) == [1, 2, 3, 4, 5, 6]
    assert len(set(want.values())) > 1
    for name, more, processes, devices in [
        ("eight", "", 1, 8),
        ("fsdp", "--mesh fsdp", 1, 8),
        ("hosts", "", 2, 4),
        ("hosts_fsdp", "--mesh fsdp", 2, 4),
    ]:
        folder = tmp_path / name
        got = runs.curve(recipe, f"{flags} {more}", folder, processes, devices)
        assert sorted(got) == sorted(want)
        size = max(map(abs, want.values()))
        worst = max(abs(got[i] - want[i]) for i in want) / size
        print(f"{recipe} {more} on {processes} x {devices}: off by {worst:.1e}")
        assert worst < ROUNDING
