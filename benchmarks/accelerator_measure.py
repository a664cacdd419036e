"""Figures of benchmarks/accelerator.py: how they are taken, and a device's peak."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# Dense bfloat16 TFLOP/s of a jax device by the beginning of its kind, the longer first
# (float16 where there is no bfloat16); from the makers' data sheets.
PEAKS = {
    "NVIDIA B200": 2250,
    "NVIDIA GH200": 989,
    "NVIDIA H200": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100": 989,
    "NVIDIA A100": 312,
    "NVIDIA A10G": 70,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "Tesla T4": 65,
    "Tesla V100": 125,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
}


class Figure(NamedTuple):
    """One row of the table.

    Attributes:
      what: What was measured.
      seconds: Of a call; 0 where there is none.
      flops: Operations of a call; 0 where these say nothing.
      compiled: Seconds until the first call could begin; 0 where that was not taken.
      note: What to compare it with.
    """

    what: str
    seconds: float
    flops: float = 0.0
    compiled: float = 0.0
    note: str = ""


def peak_of(kind: str) -> float | None:
    """The peak of a kind of device in TFLOP/s, or None where it is not known."""
    return next((v for name, v in PEAKS.items() if kind.startswith(name)), None)


def table_head(peak: float | None, folder: Path, seconds: float):
    """What stands above the rows, and the peak in FLOP/s.

    A process of its own asks for the device, so that this one holds none.
    """
    ask = (
        "import jax, jaxlib_guidance as jg; d = jax.devices()[0]; "
        "print(d.device_kind, jax.__version__, jg.__version__, sep=chr(10))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", ask],
        **{"capture_output": True, "text": True, "timeout": seconds, "cwd": folder},
    )
    if asked.returncode:
        sys.exit(f"jax finds no device:\n{asked.stderr[-2000:]}")
    kind, jax_version, version = asked.stdout.splitlines()[-3:]
    known = peak_of(kind) if peak is None else peak
    told = "unknown, take --peak" if known is None else f"{known:g} TFLOP/s"
    head = (
        f"{kind}, dense bfloat16 peak {told}; jax {jax_version}, jaxlib_guidance "
        f"{version}\n\n| what | time | TFLOP/s | of the peak | compiled | beside |\n"
        "|---|---:|---:|---:|---:|---|"
    )
    return head, None if known is None else 1e12 * known


def line(figure: Figure, peak: float | None) -> str:
    """A row of the table."""
    rate = figure.flops / figure.seconds if figure.seconds else 0.0
    cells = [
        figure.what,
        _seconds(figure.seconds),
        f"{rate / 1e12:.3g}" if rate else "",
        f"{rate / peak:.1%}" if rate and peak else "",
        f"{figure.compiled:.0f} s" if figure.compiled else "",
        figure.note,
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(value):
    if not value:
        return ""
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def timed(function: Any, *args: Any, repeats: int = 5) -> tuple[float, float]:
    """Least seconds of a call, and seconds to compile it.

    Args:
      function: Function to compile, or one that `jax.jit` made.
      *args: Its arguments.
      repeats: Number of calls after the first.
    """
    import jax

    began = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    ready = time.perf_counter() - began
    return least(lambda: compiled(*args), repeats), ready


def least(call: Any, repeats: int = 5) -> float:
    """Least seconds of a call after the first."""
    import jax

    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - began)
    return min(found)


def operations(function: Any, *args: Any) -> float:
    """Floating-point operations of a program without loops, before it is compiled."""
    import jax

    return float(jax.jit(function).lower(*args).cost_analysis()["flops"])


def random_params(shapes: Any, dtype: Any) -> Any:
    """Parameters that keep the size of what they are applied to, made in seconds.

    Slices of a few numbers, repeated: nothing that is timed depends on them.
    """
    import jax
    import numpy as np

    pool = np.random.default_rng(0).standard_normal(1_000_003).astype(np.float32)

    def leaf(path, made):
        small, count = len(made.shape) < 2, int(np.prod(made.shape))
        size = 0.1 if small else float(np.prod(made.shape[:-1])) ** -0.5
        centre = float(path[-1].key == "scale")
        values = (size * pool + centre).astype(dtype)
        return jax.device_put(np.resize(values, count).reshape(made.shape))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def fused_kernel(*widths: int, keys: int = 256) -> str | None:
    """Flash attention where the device has it for heads of these widths, or None."""
    import jax
    import jax.numpy as jnp

    from jaxlib_guidance.attention import attend

    if jax.default_backend() != "gpu":
        return None
    for width in widths:
        q = jnp.zeros((1, 256, 2, width), jnp.bfloat16)
        k = jnp.zeros((1, keys, 2, width), jnp.bfloat16)
        try:
            for other in (q, k):
                jax.block_until_ready(attend(q, other, other, kernel="cudnn")[0])
        except Exception:  # Any: what a plug-in raises is not one type.
            return None
    return "cudnn"
