"""How rough a network is in time, and what that costs a sampler of few evaluations.

    python benchmarks/roughness.py --starts 128 --time-window 0.1
    python benchmarks/roughness.py --models digits runs/digits/ema.safetensors
    python benchmarks/roughness.py --models emoji --starts 32 --batch 16

A network is told its noise level through sines of many rates. Where the fastest of them
turns many times between two evaluations, what the network says at the one has little
to do with what it says beside it, and no solver can know. For each model, of digits or
of emoji, on the same starts:

settled     mean distance between the flow's ends by 100 and by 150 steps of UniPC-3,
            even in log-SNR: a smooth network's agree
errors      mean distance of `recommended` to the end of 400 such steps, by evaluations
frechet     of samples of 8 evaluations and of 400, in the eyes of the judge, to the
            held-out pictures
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from calibration import conditions, held_out, kind, unseen

import jaxlib_guidance as jg
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.testing import judge_samples


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    models: tuple[str, ...] = ("digits",)
    """Names of `load_pretrained`, or files of train/images.py."""
    counts: tuple[int, ...] = (4, 6, 8, 10, 15, 20)
    """Numbers of evaluations."""
    starts: int = 256
    """Starts to judge by."""
    batch: int = 64
    """Starts at once."""
    fine: int = 400
    """Steps of the reference."""
    time_window: float = 0.0
    """Half of the range of the level over which its embedding is averaged."""
    out: Path | None = None
    """File for the rows, as JSON."""


def measure(config: Config, name: str) -> dict[str, float]:
    """The row of one model."""
    model, params = load_pretrained(name)
    model = model.smoothed(config.time_window)
    denoiser, process = model.denoiser(params), model.process
    judge, judge_params = load_pretrained(f"{kind(model)}_judge")
    features = jax.jit(partial(judge, judge_params))
    real = features(held_out(model))
    ids = np.arange(config.starts)
    keys = jg.sample_keys(jax.random.key(2026), ids)
    cond = conditions(model, ids, unseen(model, ids))
    # Past this the state is all noise.
    first = float(process.t_of_logsnr(jnp.float32(-7.5)))

    def draw(solver, grid):
        run = jax.jit(
            lambda keys, cond: jg.sample(
                keys, denoiser, solver, grid, model.shape, cond
            )[0]
        )
        parts = np.split(ids, range(config.batch, config.starts, config.batch))
        some = lambda part: jax.tree.map(lambda leaf: leaf[part], (keys, cond))  # noqa: E731
        return np.concatenate([run(*some(part)) for part in parts])

    def converged(steps):
        return draw(jg.unipc(3), jg.logsnr_grid(process, steps, t_max=first))

    def apart(a, b):
        return float(np.linalg.norm((a - b).reshape(len(a), -1), axis=1).mean())

    def frechet(x):
        return judge_samples(features(jnp.asarray(x)), real, None)["frechet"]

    ends = converged(config.fine)
    row = {"settled": apart(converged(100), converged(150))}
    for n in config.counts:
        x = draw(*jg.recommended(process, n, scale=model.data_scale, t_max=first))
        row[str(n)] = apart(x, ends)
        if n == 8:
            row["frechet, 8"] = frechet(x)
    return row | {"frechet": frechet(ends)}


def report(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    columns = list(next(iter(rows.values())))
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.4f}' for c in columns)} |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measures every model."""
    rows = {name: measure(config, name) for name in config.models}
    print(report(rows))
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
