"""TSDiff under jit beside the same network in PyTorch: training and guided sampling.

    python benchmarks/timeseries_torch.py                   # minutes on two cores
    python benchmarks/timeseries_torch.py --no-compiled     # PyTorch only eager
    python benchmarks/timeseries_torch.py --device auto     # a GPU, if there is one

The other side is a plain S4D network with our parameters. Before anything is timed both
must agree on gradients of the loss, on losses over three optimiser steps, and on guided
paths from the same noise. A training step is noise, forward, backward, clipping, AdamW
and a moving average. Sampling takes the quantile energy's gradient through the network
in every step, at the state before it ("posterior") or after it ("after", as in TSDiff's
released code, for one evaluation more).

PyTorch has what helps it: fused AdamW, kernels of real sines, which on a processor are
ten times as fast as complex exponentials, and tables of the noise process; in sampling
kernels transformed once, one step embedding for all paths and no gradient of
parameters. Its kernel is the explicit Vandermonde product, where ours factors powers.
Both compute in float32 on all cores. Times are the least of calls that take turns, on a
machine at rest: where cores have other work PyTorch's threads wait for each other.
"""

import dataclasses
import itertools
import os
import sys
import time
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import denoising_loss, edm_scalings, edm_weight
from jaxlib_guidance.models import DiffusionModel, from_config, tsdiff_cpu, tsdiff_paper
from jaxlib_guidance.timeseries import (
    HOURLY_LAGS,
    Forecaster,
    Inputs,
    Layout,
    infill,
    paths_of,
)
from jaxlib_guidance.training import init_state, make_train_step

# Threads that spin while they wait cost 100 times on a machine with other work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Or JAX takes most of a GPU's memory at once.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
try:
    import torch
except ImportError:
    torch = None  # Our side can be measured alone, by benchmarks/accelerator.py.
else:
    F = torch.nn.functional

RATE, DECAY, CLIP, EMA = 1e-3, 0.01, 1.0, 0.999


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; the windows are those of train/timeseries.py."""

    presets: tuple[Literal["cpu", "paper"], ...] = ("cpu", "paper")
    batch: int = 64
    windows: int = 8
    samples: int = 8
    steps: int = 5
    repeats: int = 8
    compiled: bool = True
    device: Literal["cpu", "auto"] = "cpu"


class Level(NamedTuple):
    """``x0 = c_skip x + c_out F(c_in x, step)``; tensors ``[B, 1, 1]``."""

    alpha: Any
    sigma: Any
    c_skip: Any
    c_out: Any
    c_in: Any
    step: Any


def spectra(w, length):
    """Transformed kernels of all blocks, from weights by their names."""
    found = []
    for i in range(sum(name.endswith("s4.d") for name in w)):
        log_dt, log_neg_re, im, c = (
            w[f"block{i}.s4.{name}"] for name in ("log_dt", "log_neg_re", "im", "c")
        )
        re = -log_neg_re.exp()
        real, turn = log_dt.exp()[:, None] * re, log_dt.exp()[:, None] * im
        # expm1 of a complex number, which PyTorch lacks.
        grow = torch.expm1(real)
        small = grow * torch.cos(turn) - 2 * torch.sin(turn / 2) ** 2
        gain = torch.complex(small, (grow + 1) * torch.sin(turn))
        gain = gain / torch.complex(re, im)
        c = torch.view_as_real(torch.view_as_complex(c) * gain)
        l = torch.arange(length, dtype=re.dtype, device=re.device)
        size, angle = torch.exp(real[..., None] * l), turn[..., None] * l
        respond = partial(torch.einsum, "dhn,hnl->dhl")
        k = respond(c[..., 0], size * torch.cos(angle))
        k = 2 * (k - respond(c[..., 1], size * torch.sin(angle)))
        found.append(torch.fft.rfft(torch.cat([k[0], k[1].flip(-1)], -1)).T)
    return found


def denoise(w, x, level, cond, held=None):
    """`models.tsdiff.TSDiff` and its parametrisation; ``held`` are the spectra."""

    def dense(name, x):
        return F.linear(x, w[f"{name}.kernel"].T, w[f"{name}.bias"])

    length = x.shape[1]
    held = spectra(w, length) if held is None else held
    angle = level.step[:, 0] * torch.logspace(0, -4, 64, device=x.device)
    e = torch.cat([torch.sin(angle), torch.cos(angle)], -1)
    e = F.silu(dense("time_out", F.silu(dense("time_in", e))))
    h, total = F.relu(dense("input", level.c_in * x)), 0
    for i, spectrum in enumerate(held):
        block = f"block{i}."
        z = h + dense(block + "step", e)[:, None]
        scale, bias = w[block + "norm.scale"], w[block + "norm.bias"]
        u = F.layer_norm(z, scale.shape, scale, bias, 1e-6)
        product = torch.fft.rfft(u, 2 * length, 1) * spectrum
        y = torch.fft.irfft(product, 2 * length, 1)[:, :length]
        z = z + dense(block + "mix", F.gelu(y + w[block + "s4.d"] * u))
        z = z if cond is None else z + dense(block + "condition", cond)
        g = torch.tanh(z) * torch.sigmoid(z)
        total = total + dense(block + "skip", g)
        # Nothing reads the last block's residual stream.
        h = h + dense(block + "residual", g) if i + 1 < len(held) else None
    out = dense("output", F.relu(dense("hidden", total)))
    return level.c_skip * x + level.c_out * out


class Case(NamedTuple):
    """A preset, and what PyTorch is to know of it."""

    model: DiffusionModel
    layout: Layout
    params: Any
    device: str

    def send(self, tree):
        return jax.tree.map(lambda a: torch.tensor(np.array(a)).to(self.device), tree)

    def weights(self):
        return self.send(flatten_dict(self.params, sep="."))

    def level(self, t):
        process, data = self.model.process, self.model.options.get("sigma_data")
        alpha, sigma = process.alpha(t), process.sigma(t)
        *scalings, noise = (1 / alpha, -sigma / alpha, jnp.ones_like(t), t)
        if data is not None:
            *scalings, noise = edm_scalings(process, t, data)
        step = noise * self.model.module.time_scale + self.model.module.time_offset
        level = Level(alpha, sigma, *scalings, step)
        return self.send(jax.tree.map(lambda a: a[:, None, None], level))

    def inputs(self, count):
        """Random windows of which the horizon is hidden."""
        random = partial(np.random.default_rng(0).standard_normal, dtype=np.float32)
        shape, features = (count, self.layout.length), self.layout.features
        x = random((*shape, self.layout.channels))
        mask = np.ones_like(x)
        mask[:, -self.layout.horizon :, 0] = 0
        cond = random((*shape, features)) if features else None
        return jax.tree.map(jnp.asarray, Inputs(x, mask, cond, np.ones(count)))


def make_case(preset: str, device: str) -> Case:
    if preset == "paper":
        layout, make = Layout(336, 24, HOURLY_LAGS, diffuse_lags=True), tsdiff_paper
    else:
        weeks = (168, 336, 504, 672)
        layout, make = Layout(336, 24, weeks, view=72, covariates=6), tsdiff_cpu
    model = from_config(make(layout.length, layout.channels, layout.features))
    assert isinstance(model, DiffusionModel)
    params = model.init(jax.random.key(0))
    # It starts at 0, which would hide all other layers.
    kernel = params["output"]["kernel"]
    kernel = jax.random.normal(jax.random.key(1), kernel.shape) / len(kernel) ** 0.5
    params["output"]["kernel"] = kernel
    return Case(model, layout, params, device)


def require_equal(what, got, want, tolerance):
    """Exits unless the gap's root mean square is small beside that of ``want``."""
    got, want = np.asarray(got), np.asarray(want)
    gap = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    if not gap <= tolerance:
        sys.exit(f"{what} differs by {gap:.1e} of its size; allowed is {tolerance:g}")


def training(case: Case, config: Config):
    """Our training step, and a maker of theirs that checks it."""
    model, inputs = case.model, case.inputs(config.batch)
    data = model.options.get("sigma_data")
    weighting = partial(edm_weight, sigma_data=data) if data else "eps"
    shape, t = inputs.x.shape[1:], jnp.linspace(0.05, 0.95, config.batch)

    def loss(params, batch, keys):
        x0, t, cond = batch
        given = (x0, rng.normal(keys, shape), t, cond)
        return denoising_loss(model.denoiser(params), *given, weighting=weighting), {}

    tx = optax.adamw(RATE, b2=0.99, weight_decay=DECAY)
    step = make_train_step(loss, tx, ema_decay=EMA, ema_warmup=False, clip=CLIP)
    state = init_state(case.params, tx, jax.random.key(2))
    keys, batch = rng.sample_keys(state.key, len(t)), (inputs.x, t, inputs.cond)
    # Of the first three steps.
    noise = [rng.normal(rng.fold(keys, i), shape) for i in range(3)]
    mean = lambda params: loss(params, batch, rng.fold(keys, 0))[0].mean()  # noqa: E731
    gradients = flatten_dict(jax.jit(jax.grad(mean))(case.params), sep=".")

    def ours():
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    losses = [ours() for _ in noise]

    def theirs(forward):
        level, x0, cond = case.level(t), *case.send((inputs.x, inputs.cond))
        named, average = case.weights(), list(case.weights().values())
        weights = [weight.requires_grad_() for weight in named.values()]
        options = {"betas": (0.9, 0.99), "weight_decay": DECAY, "fused": True}
        adam = torch.optim.AdamW(weights, RATE, **options)

        def differentiate(eps):
            x = level.alpha * x0 + level.sigma * eps
            error = (forward(named, x, level, cond) - x0) / level.c_out
            value = error.square().mean()
            adam.zero_grad()
            value.backward()
            return value

        def run(eps=None):
            value = differentiate(torch.randn_like(x0) if eps is None else eps)
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - EMA)
            return value.item()

        differentiate(case.send(noise[0]))
        for name, weight in named.items():
            # The last block's residual layer has none here, and zeros there.
            if weight.grad is not None:
                got, want = weight.grad.cpu(), gradients[name]
                require_equal(f"gradient of {name}", got, want, 5e-3)
        for eps, value in zip(noise, losses, strict=True):
            require_equal("loss", run(case.send(eps)), value, 1e-4)
        return run

    return ours, theirs


def sampling(case: Case, config: Config, form: str):
    """Our sampler of guided paths, and a maker of theirs that checks it."""
    model, inputs = case.model, case.inputs(config.windows)
    keys = rng.sample_keys(jax.random.key(3), config.windows * config.samples)
    grid = Forecaster(model, case.layout).grid(config.steps)

    @jax.jit
    def draw(params, keys, inputs):
        given = (keys, model.denoiser(params))
        known = paths_of(inputs, config.samples)
        return infill(*given, *known, grid=grid, form=form)

    def ours():
        return np.asarray(draw(case.params, keys, inputs))

    def theirs(forward):
        weights, levels = case.weights(), [case.level(t[None]) for t in grid]
        observed, cond = case.send(paths_of(inputs, config.samples))
        known, k = observed.mask > 0, observed.level[:, None, None]

        def guided(x, level, held):
            with torch.enable_grad():
                x = x.requires_grad_()
                x0 = forward(weights, x, level, cond, held)
                e = torch.where(known, observed.y - x0, 0)
                energy = torch.maximum(k * e, (k - 1) * e).sum()
                return x0.detach(), torch.autograd.grad(energy, x)[0]

        @torch.no_grad()
        def run(noise=None):
            def normal(i):
                return torch.randn_like(observed.y) if noise is None else noise[i]

            held = [each.contiguous() for each in spectra(weights, case.layout.length)]
            x = levels[0].sigma * normal(0)
            for i, (now, after) in enumerate(itertools.pairwise(levels), 1):
                shrink = now.alpha * after.sigma / (after.alpha * now.sigma)
                keep = after.sigma / now.sigma * shrink
                std = after.sigma * torch.sqrt(1 - shrink**2)
                if form == "posterior":
                    x0, slope = guided(x, now, held)
                else:
                    x0 = forward(weights, x, now, cond, held)
                mean = keep * x.detach() + (after.alpha - keep * now.alpha) * x0
                x = mean + std * normal(i)
                if form == "after":
                    slope = guided(x, now, held)[1]
                x = x.detach() - std**2 * slope
            return x.cpu().numpy()

        streams = [rng.INITIAL, *range(config.steps)]
        noise = [rng.normal(rng.fold(keys, i), inputs.x.shape[1:]) for i in streams]
        # Where rounding turns an error's sign the energy's slope jumps.
        require_equal("a path", run(case.send(noise)), ours(), 5e-3)
        return run

    return ours, theirs


def least_seconds(runs, repeats):
    """Least seconds of each run, taking turns."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def main(config: Config) -> None:
    if torch is None:
        sys.exit("PyTorch is what this compares with: pip install torch")
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        sys.exit(f"PyTorch cannot use {jax.devices()[0]} here: take --device cpu")
    # Not TensorFloat-32, which PyTorch does not take by itself.
    jax.config.update("jax_default_matmul_precision", "float32")
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {cores} threads")
    print(f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}, {config}\n")
    networks = {"eager": denoise}
    if config.compiled:
        networks["compiled"] = torch.compile(denoise, dynamic=False)
    kinds = [f" torch, {kind} | ratio |" for kind in networks]
    print("| what | ours |" + "".join(kinds))
    print("| --- | --- |" + " --- | --- |" * len(kinds))
    for preset in config.presets:
        case = make_case(preset, device)
        rows = {"training step": partial(training, case, config)}
        for form in ("posterior", "after"):
            rows[f"guided paths, {form}"] = partial(sampling, case, config, form)
        for name, make in rows.items():
            # Or it gives up after eight shapes.
            torch.compiler.reset()
            ours, theirs = make()
            runs = [ours, *map(theirs, networks.values())]
            fast, *slow = least_seconds(runs, config.repeats)
            cells = [f"{1e3 * fast:.0f} ms"]
            for each in slow:
                cells += [f"{1e3 * each:.0f} ms", f"{each / fast:.2f} x"]
            print(f"| {preset}: {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    import tyro  # Not on every machine that benchmarks/accelerator.py runs on.

    main(tyro.cli(Config, description=__doc__))
