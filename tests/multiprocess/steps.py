"""A few train steps of train/images.py, as one of the processes of a run.

    python tests/multiprocess/steps.py MESH [COORDINATOR PROCESSES PROCESS]

Prints JSON: the losses, and a number made of all parameters, gathered.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance.training import (
    Hosts,
    data_mesh,
    init_state,
    local_rows,
    make_train_step,
    pmapped,
    replicate,
    shard_batch,
    start,
    state_sharding,
)

ROWS, STEPS = 16, 3


def recipe():
    path = Path(__file__).parents[2] / "train" / "images.py"
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location("train_images", path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(images, kind):
    small = replace(images.Config.model, width=16, depth=1, heads=2)
    config = images.Config(model=small)
    model = images.from_config(images.describe(config, (8, 8, 1), 10, 0.75))
    # SGD, because Adam forgives a gradient that is too large by a factor.
    tx, mesh = optax.sgd(0.1), data_mesh()
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        # Not the model's own, which take longer to compile than the step.
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) / 4,
        jax.eval_shape(model.init, jax.random.key(0)),
    )

    def make_state():
        return init_state(params, tx, jax.random.key(1))

    sharding = state_sharding(mesh, make_state, kind, min_size=1)
    state = jax.jit(make_state, out_shardings=sharding)()
    loss = images.make_loss(model, config, 0.75)
    step = make_train_step(loss, tx, mesh=mesh, sharding=sharding)
    found = []
    for _ in range(STEPS):
        batch = {
            "image": rng.normal(size=(ROWS, 8, 8, 1)).astype(np.float32),
            "label": rng.integers(0, 10, ROWS).astype(np.int32),
            "u": rng.uniform(size=ROWS).astype(np.float32),
        }
        mine = jax.tree.map(lambda leaf: leaf[local_rows(mesh, ROWS)], batch)
        state, metrics = step(state, shard_batch(mesh, mine))
        found.append(float(metrics["loss"]))
    if kind == "fsdp":
        split = [
            leaf for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated
        ]
        assert len(split) > 20
    # As an evaluation does it: whole parameters, rows on their devices, all gathered.
    params = replicate(mesh, state.params)
    total = lambda params, x: x * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))  # noqa: E731
    rows = replicate(mesh, np.arange(10, dtype=np.float32))
    mapped = pmapped(total, mesh, (None, 0), pad=True)(params, rows)
    return {"losses": found, "sums": replicate(mesh, mapped).tolist()}


if __name__ == "__main__":
    kind, *address = sys.argv[1:]
    start(Hosts(address[0], *map(int, address[1:])) if address else Hosts())
    print(f"process {jax.process_index()} of {jax.process_count()}")
    print(json.dumps(run(recipe(), kind)))
