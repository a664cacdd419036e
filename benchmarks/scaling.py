"""What a train step sends and holds, counted in the compiled program and not timed.

    python benchmarks/scaling.py                     # about five minutes on two cores
    python benchmarks/scaling.py --only collectives

On virtual CPU devices, since none of these numbers depends on how fast a device is:

- collectives: operations and bytes of a step on 1, 2, 4 and 8 devices, with the state
  whole on each and split over all, the batch growing with the devices; and of a guided
  sampler, which should have none;
- memory: of a step against the sum of its parts, and with less donated or recomputed;
- compiles: how often the loss is traced, and what a second start saves.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.training import (
    data_mesh,
    init_state,
    make_train_step,
    pmapped,
    shard_batch,
    state_sharding,
)

RECIPE = Path(__file__).parents[1] / "train" / "images.py"
MB = 1e6
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\("
)
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}


@dataclasses.dataclass(frozen=True)
class Config:
    """The recipe's network, and how much of it."""

    only: Literal["all", "collectives", "memory", "compiles"] = "all"
    width: int = 128
    depth: int = 4
    rows: int = 16
    """Rows of the batch for each device."""
    solver_steps: int = 20


def recipe() -> Any:
    """train/images.py as a module."""
    sys.path.append(str(RECIPE.parent))
    spec: Any = importlib.util.spec_from_file_location("train_images", RECIPE)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def collectives(compiled: Any) -> tuple[dict[str, int], dict[str, int]]:
    """How many of each, and the bytes of their results, in the compiled text."""
    count, size = collections.Counter(), collections.Counter()
    for shapes, name in COLLECTIVE.findall(compiled.as_text()):
        count[name] += 1
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size[name] += SIZES[kind] * int(
                np.prod([int(n) for n in dims.split(",") if n])
            )
    return dict(count), dict(size)


def nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Problem:
    """The recipe's model, loss and optimiser; nothing is initialised."""

    def __init__(self, config: Config, remat: bool = False, **network: Any):
        self.images = recipe()
        options = {"width": config.width, "depth": config.depth} | network
        default = self.images.Config()
        settings = self.images.Config(
            model=dataclasses.replace(default.model, **options),
            scale=dataclasses.replace(default.scale, remat=remat),
        )
        about = self.images.describe(settings, (8, 8, 1), 10, 0.75)
        self.model = self.images.from_config(about)
        self.loss = self.images.make_loss(self.model, settings, 0.75)
        self.tx = optax.adamw(1e-3, b2=0.99)

    def make(self) -> Any:
        key = jax.random.key(0)
        return init_state(self.model.init(key), self.tx, key)

    def batch(self, rows: int) -> Any:
        return {
            "image": np.zeros((rows, 8, 8, 1), np.float32),
            "label": np.zeros(rows, np.int32),
            "u": np.linspace(0, 0.999, rows, dtype=np.float32),
        }

    def compile(self, devices: int, kind: str, rows: int, **options: Any) -> Any:
        mesh = data_mesh(jax.devices()[:devices])
        sharding = state_sharding(mesh, self.make, kind)
        like = lambda leaf, at: jax.ShapeDtypeStruct(  # noqa: E731
            leaf.shape, leaf.dtype, sharding=at
        )
        state = jax.tree.map(like, jax.eval_shape(self.make), sharding)
        step = make_train_step(
            self.loss, self.tx, clip=1.0, mesh=mesh, sharding=sharding, **options
        )
        batch = shard_batch(mesh, self.batch(rows))
        return step.lower(state, batch).compile()


def table(header: str, rows: list[str]) -> None:
    columns = header.count("|") - 1
    print(f"\n{header}\n|---|" + "---:|" * (columns - 1), *rows, sep="\n", flush=True)


def count_collectives(config: Config) -> None:
    problem = Problem(config)
    params = nbytes(jax.eval_shape(problem.make).params)
    print(
        f"{params / 4:,.0f} parameters, {params / MB:.2f} MB; {config.rows} rows each"
    )
    rows = []
    for kind in ("data", "fsdp"):
        for devices in (1, 2, 4, 8):
            compiled = problem.compile(devices, kind, config.rows * devices)
            count, size = collectives(compiled)
            each = (
                f"{count.get(name, 0)} | {size.get(name, 0) / params:.3f}"
                for name in ("all-reduce", "all-gather")
            )
            others = sum(count.values()) - sum(
                count.get(name, 0) for name in ("all-reduce", "all-gather")
            )
            rows.append(f"| {kind}, {devices} | {' | '.join(each)} | {others} |")
    table(
        "| state, devices | all-reduces | in parameters' bytes | all-gathers | "
        "in parameters' bytes | others |",
        rows,
    )

    mesh, model = data_mesh(), problem.model
    n = config.rows * mesh.size
    guidance = jg.chain(jg.cfg(2.0, null=10), jg.pag(1.0, "block1"))

    def run(params, keys, labels):
        return jg.sample(
            keys,
            model.denoiser(params),
            jg.dpmpp_2m(),
            model.grid(config.solver_steps),
            model.shape,
            labels,
            guidance=guidance,
        )[0]

    shapes = jax.eval_shape(problem.make).params
    inputs = (jg.sample_keys(jax.random.key(0), n), np.zeros(n, np.int32))
    mapped = pmapped(run, mesh, (None, 0, 0)).lower(shapes, *inputs).compile()
    print(
        f"\nguided sampler on {mesh.size} devices: {collectives(mapped)[0] or 'none'}"
    )
    split = jax.jit(run).lower(shapes, *shard_batch(mesh, inputs)).compile()
    print(f"the same by jit of sharded rows: {collectives(split)[0] or 'none'}")


def measure_memory(config: Config) -> None:
    problem, n = Problem(config), config.rows * 8
    state = jax.eval_shape(problem.make)
    print(
        "\nparameters, average and optimiser: "
        + ", ".join(
            f"{nbytes(part) / MB:.2f}"
            for part in (state.params, state.ema, state.opt_state)
        )
        + f" MB; a gradient is {nbytes(state.params) / MB:.2f} MB"
    )
    rows = []

    def row(name, compiled):
        found = compiled.memory_analysis()
        new = found.output_size_in_bytes - found.alias_size_in_bytes
        parts = [found.argument_size_in_bytes, new, found.temp_size_in_bytes]
        parts.append(sum(parts))
        return f"| {name} | " + " | ".join(f"{p / MB:.2f}" for p in parts) + " |"

    for name, devices, kind, options in [
        ("state donated", 1, "data", {}),
        ("not donated", 1, "data", {"donate": False}),
        ("4 micro-batches", 1, "data", {"accumulate": 4}),
        ("8 devices, each", 8, "data", {}),
        ("8 devices, split, each", 8, "fsdp", {}),
    ]:
        rows.append(row(name, problem.compile(devices, kind, n, **options)))
    # A scan, because XLA for CPUs merges what is recomputed outside of loops with what
    # was computed.
    deep = 2 * config.depth
    for remat in (False, True):
        made = Problem(config, remat, depth=deep, scan=True)
        name = f"{deep} blocks in a scan, remat {'on' if remat else 'off'}"
        rows.append(row(name, made.compile(1, "data", n)))
    table("| train step, MB | arguments | new outputs | temporary | peak |", rows)

    model, rows = problem.model, []
    keys = jg.sample_keys(jax.random.key(0), config.rows)
    for remat in (False, True):

        def objective(params, remat=remat):
            x, _ = jg.sample(
                keys,
                model.denoiser(params),
                jg.ddim(),
                model.grid(config.solver_steps),
                model.shape,
                jnp.zeros(config.rows, jnp.int32),
                remat=remat,
            )
            return jnp.mean(x)

        compiled = jax.jit(jax.grad(objective)).lower(state.params).compile()
        size = compiled.memory_analysis().temp_size_in_bytes / MB
        rows.append(f"| {'on' if remat else 'off'} | {size:.1f} |")
    table(
        f"| remat, gradient through {config.solver_steps} steps | temporary, MB |", rows
    )


def count_compiles(config: Config) -> None:
    problem, traces = Problem(config, depth=1), []

    def counted(*args):
        traces.append(args[1]["label"].shape)
        return problem.loss(*args)

    step = make_train_step(counted, problem.tx)
    state = problem.make()
    for rows in (8, 8, 8, 16, 16, 8):
        state, _ = step(state, problem.batch(rows))
    print(f"\nsix steps of batches of 8 and 16 rows: traced for {traces}")

    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in ("first start", "second start"):
            command = [sys.executable, str(RECIPE), "--directory", f"{folder}/{name}"]
            command += ["--optimiser.steps", "1", "--evaluation.judge", "None"]
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "1",
                "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            begun, used = time.perf_counter(), os.times()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            wall = time.perf_counter() - begun
            cpu = os.times().children_user - used.children_user
            rows.append(f"| {name} | {wall:.1f} | {cpu:.1f} |")
    table("| train/images.py, one step and its pictures | wall, s | CPU, s |", rows)


def main(config: Config) -> None:
    for name, part in [
        ("collectives", count_collectives),
        ("memory", measure_memory),
        ("compiles", count_compiles),
    ]:
        if config.only in ("all", name):
            part(config)


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main(config)
