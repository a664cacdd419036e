"""Rows of benchmarks/accelerator.py: tokens, series and particles."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import policy
from accelerator_dit import PROCESS, denoiser_of, inputs, network, parameters, shape_of
from accelerator_measure import Figure, least, timed

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import discrete_grid
from jaxlib_guidance.policy import token_logp
from jaxlib_guidance.sampling import Resampling, sample_particles, steering


def token_log_probabilities(toy: bool) -> Iterator[Figure]:
    """With gradients, beside the array of tokens by vocabulary."""
    tokens, width, vocabulary = (64, 16, 1000) if toy else (4096, 4096, 131_072)
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (1, tokens, width), jnp.bfloat16)
    matrix = jax.random.normal(keys[1], (vocabulary, width), jnp.bfloat16)
    matrix *= jnp.asarray(width**-0.5, jnp.bfloat16)
    given = (
        *(hidden, matrix, jax.random.randint(keys[2], (1, tokens), 0, vocabulary)),
        jnp.ones((1, tokens)),
    )
    found = {}
    for name, function in {"dense": policy.dense, "token_logp": token_logp}.items():
        run = jax.jit(policy.with_gradient(function))
        memory = run.lower(*given).compile().memory_analysis().temp_size_in_bytes
        found[name] = (*timed(run, *given), memory)
    spent, ready, memory = found["token_logp"]
    dense, _, held = found["dense"]
    # Three products of a dense pass, and the logits once more.
    flops = 8.0 * tokens * width * vocabulary
    yield Figure(
        f"token_logp and gradients, {tokens} tokens of {vocabulary}",
        *(spent, flops, ready),
        f"{spent / dense:.2f} of the dense time ({1e3 * dense:.3g} ms), "
        f"{memory / 2**20:.0f} of {held / 2**20:.0f} MiB",
    )


def tsdiff(toy: bool) -> Iterator[Figure]:
    """As benchmarks/timeseries_torch.py has it, on this device."""
    import timeseries_torch  # Here: with PyTorch it takes seconds to import.

    sizes = {"batch": 4, "windows": 1, "samples": 2, "steps": 2} if toy else {}
    config = timeseries_torch.Config(**sizes)
    preset = "cpu" if toy else "paper"
    torch = timeseries_torch.torch
    device = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    with jax.default_matmul_precision("float32"):
        case = timeseries_torch.make_case(preset, device)
        for name, make in {
            "training step": lambda: timeseries_torch.training(case, config),
            "guided paths": lambda: timeseries_torch.sampling(
                case, config, "posterior"
            ),
        }.items():
            ours, theirs = make()
            spent, note = least(ours), "torch is not here"
            if torch is not None and device in ("cpu", "cuda"):
                kind = "eager" if toy else "compiled"
                peer = timeseries_torch.denoise
                peer = peer if toy else torch.compile(peer, dynamic=False)
                other = least(theirs(peer))
                note = f"{1e3 * other:.3g} ms in torch, {kind}"
            yield Figure(f"TSDiff ({preset}), {name}", spent, note=note)


def resampling(toy: bool) -> Iterator[Figure]:
    """What it costs that particles change places, at every step."""
    batch, particles, steps = (2, 2, 2) if toy else (4, 16, 10)
    module = network(toy, num_layers=2 if toy else 4)
    params = parameters(module, jnp.bfloat16)
    _, _, labels, keys = inputs(module, batch)
    grid, found = discrete_grid(PROCESS, steps), {}
    for name, threshold in {"never": 0.0, "always": None}.items():
        rule = Resampling("systematic", threshold)
        potential = steering(lambda x0, ctx: x0.mean((1, 2, 3)), 2.0, resampling=rule)

        def draw(params, potential=potential):
            net = denoiser_of(module, params)
            given = (keys, net, jg.ddim(1.0), grid, shape_of(module), labels)
            return sample_particles(*given, potential=potential, particles=particles).x

        found[name] = timed(draw, params)
    (never, _), (spent, ready) = found["never"], found["always"]
    yield Figure(
        f"particles {batch}x{particles}, {steps} steps of {module.num_layers} blocks",
        *(spent, 0.0, ready),
        f"resampling is {max(0.0, 1 - never / spent):.1%} of it",
    )
