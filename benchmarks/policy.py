"""What a token's log-probability costs without the array of tokens by vocabulary.

    python benchmarks/policy.py                        # about a minute on two cores
    python benchmarks/policy.py --dtype bfloat16 --batch 32   # an accelerator

The dense log-softmax of all logits beside `token_logp`, at the sizes of SmolLM2-135M:
forward alone, and with the gradients of hidden states and unembedding. Both give the
same numbers, which is checked. Memory is what XLA allots beyond arguments and results;
times are the least of several repeats, which take turns.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.policy import token_logp


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes; times grow with all of them."""

    batch: int = 4
    length: int = 256
    width: int = 576
    vocabulary: int = 49_152
    chunks: tuple[int, ...] = (1024, 4096, 16_384)
    dtype: str = "float32"
    repeats: int = 3


def dense(hidden, unembedding, tokens):
    """Logits, softmax and gather, as it is usually written."""
    logits = jnp.einsum(
        "btd,vd->btv", hidden, unembedding, preferred_element_type=jnp.float32
    )
    logp = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]


def with_gradient(f):
    """Value and both gradients of a weighted sum, as in a policy loss."""

    def loss(hidden, unembedding, tokens, weight):
        logp = f(hidden, unembedding, tokens)
        return jnp.sum(weight * logp), logp

    def run(hidden, unembedding, tokens, weight):
        gradient = jax.grad(loss, (0, 1), has_aux=True)
        return gradient(hidden, unembedding, tokens, weight)

    return run


def forward(f):
    return lambda hidden, unembedding, tokens, weight: f(hidden, unembedding, tokens)


def measure(runs, inputs, repeats):
    """Least seconds of each, taking turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def agree(got, want, dtype):
    tolerance = 2e-4 if dtype == jnp.float32 else 2e-2
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def main(config: Config) -> None:
    dtype = jnp.dtype(config.dtype)
    keys = jax.random.split(jax.random.key(0), 4)
    rows = (config.batch, config.length)
    hidden = jax.random.normal(keys[0], (*rows, config.width), dtype)
    unembedding = jax.random.normal(keys[1], (config.vocabulary, config.width), dtype)
    unembedding = unembedding * jnp.asarray(0.1, dtype)
    tokens = jax.random.randint(keys[2], rows, 0, config.vocabulary)
    inputs = (hidden, unembedding, tokens, jax.random.normal(keys[3], rows))
    fs = {"dense": dense} | {
        f"chunk {chunk}": lambda *inputs, chunk=chunk: token_logp(*inputs, chunk=chunk)
        for chunk in config.chunks
    }
    print(f"{jax.devices()[0].device_kind}, {config}\n")
    print("| pass | computation | time | memory | dense time | dense memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for label, wrap in (("forward", forward), ("with gradients", with_gradient)):
        runs = {
            name: jax.jit(wrap(f)).lower(*inputs).compile() for name, f in fs.items()
        }
        outputs = {name: run(*inputs) for name, run in runs.items()}
        best = measure(runs, inputs, config.repeats)
        memory = {
            name: run.memory_analysis().temp_size_in_bytes for name, run in runs.items()
        }
        for name in runs:
            agree(outputs[name], outputs["dense"], dtype)
            ratios = best["dense"] / best[name], memory["dense"] / memory[name]
            print(
                f"| {label} | {name} | {1e3 * best[name]:.0f} ms | "
                f"{memory[name] / 2**20:.0f} MiB | {ratios[0]:.2f} x | "
                f"{ratios[1]:.1f} x |",
                flush=True,
            )


if __name__ == "__main__":
    import tyro  # Not on every machine that benchmarks/accelerator.py runs on.

    main(tyro.cli(Config, description=__doc__))
