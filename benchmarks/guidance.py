"""What a planned, scanned guided sampler costs, beside the ways it is usually written.

    python benchmarks/guidance.py                # about four minutes on two cores
    python benchmarks/guidance.py --batches 16

CFG + PAG + an energy through the network, DDIM, a DiT of random weights:

- planned: `sample`, branches folded in one call, the differentiated one in a second;
- fused: the same with ``plan="fused"``, a single call;
- sequential: one network call for each branch, in one jitted scan;
- loop: the sequential step jitted, the steps a Python loop.

All give the same samples, which is checked. Then the sampler's own overhead: `sample`
against a scan of nothing but the same network calls. Times are the least of several
repeats, which take turns, because other programs share the machine; flops are XLA's
count for one step.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance.attention import identity
from jaxlib_guidance.guidance import pag
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
NULL, SITE = 10, "block2/attn"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; times grow with all of them."""

    batches: tuple[int, ...] = (1, 4, 16)
    steps: int = 8
    repeats: int = 7
    side: int = 16
    width: int = 128
    depth: int = 6


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, where it starts and what it is steered by."""

    module: Any
    params: Any
    x: jax.Array
    labels: jax.Array
    keys: jax.Array
    grid: jax.Array

    def denoiser(self, params: Any) -> jg.Denoiser:
        """The denoiser of some parameters, which are arguments of what is jitted."""
        return jg.parametrize(from_linen(self.module, params), PROCESS, "v")


def problem(config: Config, batch: int) -> Problem:
    key = jax.random.key(0)
    shape = (config.side, config.side, 3)
    module, params = tiny_dit(
        key, shape, width=config.width, depth=config.depth, heads=4
    )
    return Problem(
        module,
        params,
        jax.random.normal(key, (batch, *shape)),
        jnp.arange(batch) % NULL,
        jg.sample_keys(key, batch),
        jg.uniform_grid(PROCESS, config.steps, 0.95),
    )


def darkness(x0: jax.Array, ctx: Any = None) -> jax.Array:
    return jnp.mean((x0 + 0.5) ** 2, axis=(1, 2, 3))


WEIGHTS = (2.0, 1.5, 3.0)


def terms(weights: Any) -> Any:
    a, b, c = weights
    return jg.chain(jg.cfg(a, NULL), pag(b, SITE), jg.energy(darkness, c))


def sampled(p: Problem, guidance: Callable, plan: str = "auto") -> Callable:
    """``(params, weights) -> samples`` by the library."""

    def run(params, weights):
        return jg.sample(
            p.keys,
            p.denoiser(params),
            jg.ddim(),
            p.grid,
            p.x,
            p.labels,
            guidance=guidance(weights),
            plan=plan,
        )[0]

    return jax.jit(run)


def sequential_step(p: Problem, params: Any, weights: Any, x: jax.Array, ends: Any):
    """One DDIM step with one network call for each branch."""
    net, (a, b, c), (t, t_next) = p.denoiser(params), weights, ends
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    uncond = net(x, t, jnp.full_like(p.labels, NULL)).x0
    worse = net(x, t, p.labels, control={SITE: identity()}).x0
    base, back = jax.vjp(lambda x: net(x, t, p.labels).x0, x)
    slope = back(jax.grad(lambda x0: jnp.sum(darkness(x0)))(base))[0]
    x0 = base + a * (base - uncond) + b * (base - worse)
    x0 = x0 - c * sigma**2 / alpha * slope
    ratio = PROCESS.sigma(t_next) / sigma
    return ratio * x + (PROCESS.alpha(t_next) - ratio * alpha) * x0


def sequential(p: Problem) -> Callable:
    def run(params, weights):
        def body(x, ends):
            return sequential_step(p, params, weights, x, ends), None

        return jax.lax.scan(body, p.x, (p.grid[:-1], p.grid[1:]))[0]

    return jax.jit(run)


def python_loop(p: Problem) -> Callable:
    step = jax.jit(lambda *args: sequential_step(p, *args))
    ends = list(zip(p.grid[:-1], p.grid[1:], strict=True))

    def run(params, weights):
        x = p.x
        for pair in ends:
            x = step(params, weights, x, pair)
        return x

    return run


def bare(p: Problem, rows: int, energy: bool) -> Callable:
    """A scan of the network calls alone: ``rows`` folded branches, and a gradient."""
    labels = jnp.repeat(p.labels, rows)
    batch = p.x.shape[0]
    gate = (jnp.arange(batch * rows) % rows == rows - 1).astype(jnp.float32)
    control = {SITE: identity(gate)} if energy else None

    def body(params, x, t):
        net = p.denoiser(params)
        folded = net(jnp.repeat(x, rows, axis=0), t, labels, control=control).x0
        out = jnp.mean(folded.reshape(batch, rows, *x.shape[1:]), axis=1)
        if energy:
            base, back = jax.vjp(lambda x: net(x, t, p.labels).x0, x)
            out = out + base + back(base)[0]
        return 0.9 * x + 0.01 * out

    def run(params, weights):
        steps = p.grid[:-1]
        return jax.lax.scan(lambda x, t: (body(params, x, t), None), p.x, steps)[0]

    return jax.jit(run)


def measure(runs: dict[str, Callable], p: Problem, repeats: int) -> dict[str, float]:
    """Least seconds of each, taking turns."""
    best = dict.fromkeys(runs, float("inf"))
    weights = tuple(jnp.float32(w) for w in WEIGHTS)
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(p.params, weights))
            if turn:  # The first compiles.
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def flops(run: Callable, p: Problem) -> float:
    """XLA's count, in which the body of a loop counts once."""
    weights = tuple(jnp.float32(w) for w in WEIGHTS)
    cost = run.lower(p.params, weights).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def main(config: Config) -> None:
    print("| batch | planned | fused | sequential | loop | sequential / planned |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in config.batches:
        p = problem(config, batch)
        runs = {
            "planned": sampled(p, terms),
            "fused": sampled(p, terms, "fused"),
            "sequential": sequential(p),
            "loop": python_loop(p),
        }
        outputs = [run(p.params, WEIGHTS) for run in runs.values()]
        for other in outputs[1:]:
            np.testing.assert_allclose(outputs[0], other, rtol=1e-2, atol=1e-2)
        best = measure(runs, p, config.repeats)
        cells = [f"{1e3 * best[name] / config.steps:.1f} ms" for name in runs]
        ratio = best["sequential"] / best["planned"]
        print(f"| {batch} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    counts = {name: flops(run, p) for name, run in runs.items() if name != "loop"}
    one = flops(bare(p, 1, False), p)
    print("\nflops of a step, in network evaluations:", end=" ")
    print(", ".join(f"{name} {count / one:.2f}" for name, count in counts.items()))

    print("\n| batch | guidance | sample | network calls | overhead |")
    print("| --- | --- | --- | --- | --- |")
    for batch in config.batches:
        p = problem(config, batch)
        cases = {
            "none": (lambda w: None, 1, False),
            "CFG": (lambda w: jg.chain(jg.cfg(w[0], NULL)), 2, False),
            "CFG + PAG + energy": (terms, 2, True),
        }
        for name, (guidance, rows, energy) in cases.items():
            runs = {"sample": sampled(p, guidance), "bare": bare(p, rows, energy)}
            best = measure(runs, p, config.repeats)
            mine, theirs = (1e3 * best[k] / config.steps for k in ("sample", "bare"))
            print(
                f"| {batch} | {name} | {mine:.2f} ms | {theirs:.2f} ms | "
                f"{100 * (mine / theirs - 1):+.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
