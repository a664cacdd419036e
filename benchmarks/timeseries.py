"""Forecasts, gaps, refinement and synthesis on real series, beside baselines.

    python benchmarks/timeseries.py table --conditional runs/conditional/ema.safetensors
    python benchmarks/timeseries.py table --parts forecast --classical  # ETS and MSTL

Prints the tables of docs/timeseries.md. Weights are of train/timeseries.py,
--conditional's with --model.conditional and --guided's, by default those in the
package, without. Guidance scales are the ones stored with them, found on validation
windows; neither training nor search saw the test windows.
"""

import argparse
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timeseries_baselines import classical

from jaxlib_guidance.timeseries import (
    LEVELS,
    base_paths,
    coverage,
    downstream_score,
    linear_predictive_score,
    rolling_positions,
    wql,
)

sys.path.append(str(Path(__file__).parents[1] / "sample"))
import forecast as recipe

BASES = {
    "naive": "seasonal naive, a day",
    "week": "seasonal naive, a week",
    "ridge": "ridge",
    "bootstrap": "ridge and bootstrap",
    "weeks": "quantiles of four weeks",
}


def table(
    guided: str,
    conditional: Path | None,
    samples: int,
    parts: list[str],
    classics: bool,
) -> None:
    setup = recipe.set_up(guided)
    layout = setup.forecaster.layout
    view = layout.length - layout.horizon
    rolls = setup.forecaster.about["training"]["data"]["rolls"]
    values = np.asarray(setup.reader.values)
    rows, starts = rolling_positions(values, **setup.data, rolls=rolls)
    whole = np.asarray(setup.reader.whole(rows, starts))
    context, truth = whole[:, : -layout.horizon], whole[:, -layout.horizon :]
    key = jax.random.key(0)
    models = [("TSDiff", setup)]
    if conditional is not None:
        models.append(("TSDiff-Cond", recipe.set_up(conditional)))
        other = models[1][1].forecaster.layout
        sizes = (layout.context, layout.horizon)
        if (other.context, other.horizon) != sizes:
            raise ValueError(f"--conditional has other windows than {sizes}")

    def runs():
        for name, model in models:
            for energy in model.forecaster.guidance:
                short = {"quantile": "-Q", "square": "-MS", "unguided": ", unguided"}
                yield name + short.get(energy, ""), model, energy

    def predict(model, energy, how="none"):
        observed = recipe.hide(model, how, len(rows), jax.random.fold_in(key, 1))
        inputs = model.reader.inputs(rows, starts, observed)
        chosen = recipe.guidance_of(model.forecaster, energy, None)
        paths = recipe.draw_paths(model, key, inputs, samples, chosen)
        return jnp.asarray(paths[..., -layout.horizon :])

    def line(name, *numbers):
        print(f"| {name} | " + " | ".join(numbers) + " |", flush=True)

    if "forecast" in parts:
        print("\n| forecast | wQL | coverage of 80 % |\n|---|---|---|")
        for name, title in BASES.items():
            base = recipe.base_forecast(setup, name, rows, starts, samples)
            base = base[:, None] if base.ndim == 2 else base
            inside = f"{coverage(base, truth):.2f}" if base.shape[1] > 1 else "-"
            line(title, f"{wql(base, truth):.4f}", inside)
        if classics:
            history = setup.reader.whole(rows, starts, 672)[:, : -layout.horizon]
            for name, drawn in classical(history, layout.horizon, samples):
                line(name, f"{wql(drawn, truth):.4f}", f"{coverage(drawn, truth):.2f}")
        for name, model, energy in runs():
            drawn = predict(model, energy)
            how = recipe.guidance_of(model.forecaster, energy, None)
            inside = f"{coverage(drawn, truth):.2f}"
            line(
                f"{name} (s={how.scale:g}, {how.steps} steps)",
                f"{wql(drawn, truth):.4f}",
                inside,
            )
    if "missing" in parts:
        hidden = ("random", "begin", "end")
        within = []
        for how in hidden:
            observed = recipe.hide(setup, how, len(rows), jax.random.fold_in(key, 1))
            seen = ~observed[..., : layout.context]
            within.append(float(seen[..., -view:].sum(-1).mean()))
        print(
            f"\nHidden are {layout.context // 2} of {layout.context} steps, of which "
            f"the {view} steps in view have "
            + ", ".join(f"{n:.0f}" for n in within)
            + " (RM, BM-B, BM-E)."
        )
        print("\n| half of the context hidden | RM | BM-B | BM-E |\n|---|---|---|---|")
        for name, model, energy in runs():
            if energy in ("quantile", "conditional"):
                scores = [wql(predict(model, energy, how), truth) for how in hidden]
                line(name, *(f"{score:.4f}" for score in scores))
    if "refine" in parts:
        inputs, t = setup.reader.inputs(rows, starts), recipe.find_time(setup)
        print(
            "\n| refined | base | LMC-MS | LMC-Q | ML-MS | ML-Q |\n|---|" + "---|" * 5
        )
        for name in ("naive", "ridge", "bootstrap"):
            base = recipe.base_forecast(setup, name, rows, starts, samples)
            scores = [wql(base_paths(base, samples), truth)]
            for noise in (0.1, 0.0):
                for energy in ("square", "quantile"):
                    drawn = recipe.refine_forecast(
                        setup, base, inputs, samples, energy, t, noise=noise
                    )
                    scores.append(wql(jnp.asarray(drawn), truth))
            line(BASES[name], *(f"{score:.4f}" for score in scores))
    if "synthetic" in parts:
        real = np.asarray(setup.reader.whole(*setup.training_windows(4000)))
        real = real[np.isfinite(real).all(1)]
        made = recipe.invent(setup, 4000, key)
        print("\n| fitted to | windows | ridge | quantile network |\n|---|---|---|---|")
        for name, windows in (
            ("real windows", real[:, -layout.length :]),
            ("synthetic windows", made),
        ):
            windows = in_own_unit(windows, view)
            linear = linear_predictive_score(windows, context, truth)
            network = downstream_score(windows, context, truth, fit_quantile_network)
            line(name, f"{view} to {layout.horizon}", f"{linear:.4f}", f"{network:.4f}")
        # What the published windows would have: the whole context.
        linear = linear_predictive_score(
            in_own_unit(real, layout.context), context, truth
        )
        size = f"{layout.context} to {layout.horizon}"
        line("real windows", size, f"{linear:.4f}", "-")


def in_own_unit(windows, first):
    """Windows over the mean absolute value of their first steps, if that is not 0.

    Tests are scaled so, and a window in another unit, such as that of a longer context,
    would weigh more or less than it does there.
    """
    unit = np.abs(windows[:, :first]).mean(1, keepdims=True)
    kept = unit[:, 0] > 0
    return jnp.asarray(windows[kept] / unit[kept])


def fit_quantile_network(x, y, width=128, steps=2000, batch=128):
    """A forecaster to judge windows by: two hidden layers, nine quantiles a step."""
    # GluonTS's rule reads the sorted sample at round(10 q): one sample a level, and
    # the extremes once more.
    levels = jnp.asarray(LEVELS)[:, None]
    network = nn.Sequential([nn.Dense(width), nn.gelu, nn.Dense(width), nn.gelu])
    head = nn.Dense(len(LEVELS) * y.shape[1])

    def quantiles(params, x):
        out = head.apply(params[1], network.apply(params[0], x))
        return x.mean(1)[:, None, None] + out.reshape(len(x), len(LEVELS), -1)

    def loss(params, x, y):
        error = y[:, None] - quantiles(params, x)
        return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error))

    tx = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-3)

    @jax.jit
    def train(params):
        def step(state, key):
            params, memory = state
            rows = jax.random.choice(key, len(x), (batch,))
            grads = jax.grad(loss)(params, x[rows], y[rows])
            updates, memory = tx.update(grads, memory, params)
            return (optax.apply_updates(params, updates), memory), None

        keys = jax.random.split(jax.random.key(2), steps)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

    keys = jax.random.split(jax.random.key(1))
    params = (network.init(keys[0], x[:1]), head.init(keys[1], jnp.ones((1, width))))
    params = train(params)
    padded = ((0, 0), (1, 1), (0, 0))
    return lambda x: jnp.pad(jnp.sort(quantiles(params, x), 1), padded, mode="edge")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("table",))
    parser.add_argument("--guided", default="pedestrians")
    parser.add_argument("--conditional", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    names = ("forecast", "missing", "refine", "synthetic")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--classical", action="store_true")
    options = parser.parse_args()
    if options.classical and "forecast" not in options.parts:
        parser.error("--classical would have no effect without the part 'forecast'")
    table(
        options.guided,
        options.conditional,
        options.samples,
        options.parts,
        options.classical,
    )
