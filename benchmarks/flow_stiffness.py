"""Where a network's probability flow is stiff, and what a sampler's steps make of it.

    python benchmarks/flow_stiffness.py            # docs/samplers.md, half a minute
    python benchmarks/flow_stiffness.py --model emoji --starts 6 --steps 24 --counts 10
    python benchmarks/flow_stiffness.py --starts 4 --steps 8 --bands 4 --fine 20

On a bundled model, each sample with its condition and no guidance:

bands       stiffness along a single step of DDIM, by noise level, and the error of that
            step, beside several shorter ones. Half of the step times its stiffness is
            what the error should be, as a share of the way that the step goes
grids       distance of DDIM's samples to the end of the flow by evaluations, for grids
            of the library and for that of `diffusion.stiffness_grid`, whose stiffness
            is measured along the paths of other starts
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from calibration import conditions, unseen

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import (
    flow_stiffness,
    karras_grid,
    kl_optimal_grid,
    logsnr_grid,
    stiffness_grid,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    model: str = "digits"
    """Name of `load_pretrained`, or a file of train/images.py."""
    starts: int = 40
    """Starts to measure by, and as many others to judge by."""
    steps: int = 40
    """Steps of the paths along which stiffness is measured."""
    bands: int = 8
    """Single steps that are looked at, of ``steps / bands`` short ones each."""
    counts: tuple[int, ...] = (6, 10, 20)
    """Evaluations of DDIM."""
    fine: int = 150
    """Steps of UniPC that end where the flow does."""


def levels(process: jg.diffusion.Process, t: Any) -> tuple[float, float]:
    """``alpha + sigma`` and the flow's own time, in which DDIM is Euler's method."""
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    return alpha + sigma, sigma / (alpha + sigma)


def sizes(a: Any) -> np.ndarray:
    """Norms of samples."""
    return np.linalg.norm(np.asarray(a).reshape(len(a), -1), axis=1)


class Bench:
    """A model, its starts and what is drawn from them, each compiled once a length."""

    def __init__(self, config: Config):
        if config.bands < 1 or config.steps % config.bands:
            raise ValueError(
                f"steps is {config.steps}; expected a multiple of bands={config.bands}"
            )
        self.model, self.params = jg.models.load_pretrained(config.model)
        process = self.model.process
        # Past this the state is all noise.
        self.first = float(process.t_of_logsnr(jnp.float32(-7.5)))
        ids = np.arange(2 * config.starts)
        cond = conditions(self.model, ids, unseen(self.model, ids))
        self.keys = jg.sample_keys(jax.random.key(2027), ids)
        noise = jg.rng.normal(self.keys, self.model.shape)
        self.noise = process.sigma(jnp.float32(self.first)) * noise
        self.halves = [
            jax.tree.map(lambda a, part=part: a[part], (self.keys, self.noise, cond))
            for part in np.split(ids, 2)
        ]
        self.stiffness = jax.jit(
            lambda params, x, grid, cond: flow_stiffness(
                self.model.denoiser(params), x, grid, cond
            )
        )
        self.samplers = {
            name: jax.jit(
                lambda params, keys, x, cond, grid, solver=solver: jg.sample(
                    keys, self.model.denoiser(params), solver, grid, x, cond
                )[0]
            )
            for name, solver in (("ddim", jg.ddim()), ("unipc", jg.unipc(3)))
        }

    def draw(self, half: int, grid: Any, x: Any = None, solver: str = "ddim") -> Any:
        """Samples of one half of the starts, from ``x`` or from noise."""
        keys, noise, cond = self.halves[half]
        x = noise if x is None else x
        return self.samplers[solver](self.params, keys, x, cond, jnp.asarray(grid))

    def paths(self, grid: Any, x: Any = None) -> np.ndarray:
        """Stiffness ``[N, B]`` along the paths of the first half."""
        _, noise, cond = self.halves[0]
        x = noise if x is None else x
        return np.asarray(self.stiffness(self.params, x, jnp.asarray(grid), cond))


def bands(config: Config, bench: Bench, fine: np.ndarray) -> str:
    """Markdown: single steps of DDIM, each from the path of short ones."""
    lines = [
        "| from sigma / (alpha + sigma) | to | stiffness | error, % of the way "
        "| expected, % | correlation |",
        "|---:" * 6 + "|",
    ]
    x, process, m = (
        bench.halves[0][1],
        bench.model.process,
        config.steps // config.bands,
    )
    for i in range(0, config.steps, m):
        (size, tau), (size_next, tau_next) = (
            levels(process, t) for t in fine[[i, i + m]]
        )
        stiff = bench.paths(fine[[i, i + m]], x)[0]
        one = bench.draw(0, fine[[i, i + m]], x)
        after = bench.draw(0, fine[i : i + m + 1], x)
        way = sizes(one / size_next - x / size)
        error = sizes(one - after) / size_next / way
        # What the short steps themselves lose is m times less, and was not seen.
        expected = 0.5 * (tau - tau_next) * stiff * (1 - 1 / m)
        cells = [f"{tau:.3f}", f"{tau_next:.3f}", f"{stiff.mean():.2f}"]
        cells += [f"{100 * v.mean():.1f}" for v in (error, expected)]
        cells.append(f"{np.corrcoef(error, expected)[0, 1]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
        x = after
    return "\n".join(lines)


def grids(config: Config, bench: Bench, fine: np.ndarray) -> str:
    """Markdown: distances to the flow's ends, a line a grid."""
    process, first, scale = bench.model.process, bench.first, bench.model.data_scale
    stiff = bench.paths(fine)
    ends = bench.draw(1, logsnr_grid(process, config.fine, t_max=first), solver="unipc")
    rows = {
        "`logsnr_grid`": lambda n: logsnr_grid(process, n, t_max=first),
        "`karras_grid`": lambda n: karras_grid(process, n, t_max=first),
        "`uniform_grid`": lambda n: jg.uniform_grid(process, n, t_max=first),
        "`kl_optimal_grid`, the data's scale": lambda n: kl_optimal_grid(
            process, n, scale, t_max=first
        ),
        "`flow_grid`": lambda n: jg.flow_grid(process, n, t_max=first),
        "`flow_grid` of `recommended`, the data's scale": lambda n: jg.flow_grid(
            process, n, 1.5 * scale, t_max=first, rho=2
        ),
        "`stiffness_grid`": lambda n: stiffness_grid(process, fine, stiff, n),
    }
    heads = [f"{n} evaluations" for n in config.counts]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, grid in rows.items():
        cells = []
        for n in config.counts:
            far = sizes(bench.draw(1, grid(n)) - ends)
            cells.append(f"{far.mean():.3f} ± {far.std() / len(far) ** 0.5:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(config: Config) -> str:
    """Measures and prints."""
    bench = Bench(config)
    fine = np.asarray(
        logsnr_grid(
            bench.model.process, config.steps, t_max=bench.first, final_zero=False
        )
    )
    text = f"{bands(config, bench, fine)}\n\n{grids(config, bench, fine)}"
    print(text)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
