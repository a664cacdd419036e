"""What it costs to load a full-size network of Stable Diffusion 1.5 over eight devices.

    python benchmarks/published_load.py            # 860 million parameters.
    python benchmarks/published_load.py --tiny     # The same at toy size.
    python benchmarks/published_load.py --devices 1   # Whole, on one device.

Writes the network's folder with random float16 weights to a temporary disk, loads it in
bfloat16 with the last axis of each large kernel split over eight virtual CPU devices,
and takes one step with CFG at 256x256. Prints times, and the process's anonymous memory
beside what the devices hold: on a CPU these are the same memory, so that the difference
is what loading needs besides.
"""

import argparse
import json
import math
import struct
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxlib_guidance as jg
from jaxlib_guidance.models import (
    UNet2DCondition,
    example_arguments,
    from_linen,
    load_unet,
    named_tensors,
    open_part,
    parameter_shapes,
)
from jaxlib_guidance.training import data_mesh

DEVICES = 8
FULL = {"cross_attention_dim": 768, "sample_size": 64}
TINY = FULL | {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64}


def write(folder, config):
    """The folder of a network with random weights; returns their number."""
    (folder / "config.json").write_text(json.dumps(config))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    module = UNet2DCondition(**plain)
    shapes = parameter_shapes(module.init, *example_arguments(module))
    # Arrays without memory of their own, for the names and the order of axes.
    hollow = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float16(0), leaf.shape), shapes
    )
    sizes = {name: hollow.shape for name, hollow in hollow_tensors(hollow)}
    header, at = {}, 0
    for name, shape in sizes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with open(folder / "diffusion_pytorch_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in sizes.items():
            values = rng.standard_normal(shape, np.float32)
            if len(shape) > 1:
                values /= math.sqrt(math.prod(shape[1:]))
            else:
                values = 0.1 * values + name.endswith("weight")
            file.write(values.astype(np.float16).tobytes())
    return at // 2


def hollow_tensors(hollow):
    """Names and tensors, one leaf at a time."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(hollow):
        tree = leaf
        for entry in reversed(path):
            tree = {entry.key: tree}
        yield from named_tensors(tree).items()


def anonymous():
    """Anonymous memory of this process in bytes: without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


class Peak:
    """The largest anonymous memory while the block runs."""

    def __enter__(self):
        self.value, self.done = anonymous(), threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.01):
            self.value = max(self.value, anonymous())

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="toy size")
    parser.add_argument("--load-only", action="store_true", help="without the step")
    parser.add_argument("--devices", type=int, default=DEVICES, help="virtual ones")
    given = parser.parse_args()
    tiny = given.tiny
    jax.config.update("jax_num_cpu_devices", given.devices)
    mesh = data_mesh()

    def place(name, shape):
        split = len(shape) > 1 and shape[-1] % given.devices == 0
        axes = [*(None for _ in shape[1:]), "data"] if split else []
        return NamedSharding(mesh, PartitionSpec(*axes))

    with tempfile.TemporaryDirectory() as scratch:
        folder, began = Path(scratch), time.perf_counter()
        count = write(folder, TINY if tiny else FULL)
        print(f"{count:,} parameters written in {time.perf_counter() - began:.1f} s")
        before, began, worked = anonymous(), time.perf_counter(), time.process_time()
        with Peak() as peak:
            module, params = load_unet(
                open_part(folder), dtype=jnp.bfloat16, sharding=place
            )
            jax.block_until_ready(params)
        took, worked = time.perf_counter() - began, time.process_time() - worked
        held = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(params)
            for shard in leaf.addressable_shards
        )
        print(
            f"loaded in {took:.1f} s, {worked:.1f} s of CPU: devices hold "
            f"{held / 1e9:.2f} GB, anonymous "
            f"memory {before / 1e9:.2f} GB before, {peak.value / 1e9:.2f} GB at its "
            f"peak, so {(peak.value - before - held) / 1e9:+.2f} GB besides"
        )
        if not given.load_only:
            step_with_guidance(module, params)


def step_with_guidance(module, params):
    """Times of one step of DDIM with CFG at 256x256."""
    process = jg.vp_discrete(jg.diffusion.scaled_linear_betas())
    keys, grid = jg.sample_keys(jax.random.key(0), 1), jnp.array([0.802, 0.602])

    @jax.jit
    def step(params, cond, null):
        network = from_linen(module, params)
        z, _ = jg.sample(
            *(keys, jg.parametrize(network, process, "eps"), jg.ddim(), grid),
            *((32, 32, 4), cond),
            guidance=jg.cfg(6.5, null),
        )
        return z

    width = module.cross_attention_dim
    cond, null = ({"text": a * jnp.ones((1, 77, width))} for a in (1.0, 0.0))
    began = time.perf_counter()
    compiled = step.lower(params, cond, null).compile()
    print(f"a step with CFG at 256x256 compiled in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    z = jax.block_until_ready(compiled(params, cond, null))
    took, finite = time.perf_counter() - began, bool(jnp.isfinite(z).all())
    print(f"and ran in {took:.1f} s; its result is finite: {finite}")


if __name__ == "__main__":
    main()
