"""Start-up of hosts: what is passed to jax, and what is refused before it hangs."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import pytest
import tyro

from jaxlib_guidance.training import (
    FREE,
    Hosts,
    Log,
    OtherRunError,
    Scale,
    claim,
    start,
)

RECIPES = Path(__file__).parents[2] / "train"


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def initialize(*args, **options):
        calls.append((args, options))
        if args[0] is None:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_an_address_is_passed_on(calls):
    start(Hosts("10.0.0.1:1234", 4, 0, heartbeat=20))
    want = (("10.0.0.1:1234", 4, 0), {"heartbeat_timeout_seconds": 20})
    assert calls == [want]


def test_without_an_address_jax_looks_for_a_cluster_and_may_find_none(calls):
    start(Hosts())
    assert calls[0][0] == (None, None, None)
    start(Hosts(processes=1))
    assert len(calls) == 1


def test_what_else_jax_says_is_not_swallowed(monkeypatch):
    def initialize(*args, **options):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="Number of processes"):
        start(Hosts())


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (Hosts("10.0.0.1:1234"), "--coordinator without --processes, --process"),
        (Hosts(processes=2), "--processes without --coordinator, --process"),
        (Hosts(processes=1, process=0), "without --coordinator"),
        (Hosts("10.0.0.1", 2, 1), "expected host:port"),
    ],
)
def test_half_of_an_address_is_refused(hosts, message, calls):
    with pytest.raises(ValueError, match=message):
        start(hosts)
    assert not calls


def test_a_backend_in_use_is_an_error():
    jax.devices()
    with pytest.raises(RuntimeError, match="before any JAX calls"):
        start(Hosts("127.0.0.1:1", 1, 0))


@pytest.mark.parametrize(
    "name", ["images", "classifier", "timeseries", "ddpo", "reason", "selfplay"]
)
def test_flags_have_the_same_names_in_every_recipe(name, monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    path = RECIPES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"flags_{name}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    flags = "--mesh fsdp --precision bfloat16 --remat --accumulate 4"
    hosts = "--coordinator a:1 --processes 2 --process 1 --heartbeat 30"
    logs = "--log.every 3 --log.save-every 7 --log.eval-every 9 --log.keep 4"
    config = tyro.cli(module.Config, args=f"{flags} {hosts} {logs}".split())
    assert config.log == Log(every=3, save_every=7, eval_every=9, keep=4)
    assert config.scale == Scale("fsdp", "bfloat16", remat=True, accumulate=4)
    assert config.hosts == Hosts("a:1", 2, 1, 30)


def test_a_run_may_go_on_elsewhere_but_not_in_another_precision(tmp_path):
    def settings(scale, hosts):
        return {k: dataclasses.asdict(v) for k, v in locals().items()}

    claim(tmp_path, settings(Scale(), Hosts()), free=FREE)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    moved = settings(Scale("fsdp", remat=True, accumulate=2), Hosts("a:1", 2, 0))
    claim(tmp_path, moved, free=FREE)
    with pytest.raises(OtherRunError, match=r"scale\.precision was 'float32'"):
        claim(tmp_path, settings(Scale(precision="bfloat16"), Hosts()), free=FREE)
