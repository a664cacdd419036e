"""Teaches a small language model to add by examples; benchmarks/sums_*.py start there.

    python train/sums_start.py                       # minutes on two cores of a CPU
    python train/sums_start.py --habits checker --directory runs/checker
    python train/sums_start.py --steps 700 --directory runs/young
    python train/sums_start.py --help

Half of the examples are answers with steps, of an author with certain habits; the other
half are short: direct answers, with a hint or without, verdicts, and other answers
after wrong ones (sums_examples.py). What it learns ships as `load_pretrained` of
"sums_plain", "sums_checker" and "sums_young".

A run lives in one folder and goes on where it was stopped; see train/images.py.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from sums_examples import CHAIN, HABITS, SHORT, VOCABULARY, short, with_steps
from tyro.conf import OmitArgPrefixes

from jaxlib_guidance import rng
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.models import LM, completion_logp, from_config, generate
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    fit,
    init_state,
    open_run,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/sums")
    """Folder of the run."""
    habits: Literal["plain", "checker", "sloppy"] = "plain"
    """Author of the examples with steps; see sums_examples.py."""
    steps: int = 1300
    """Steps of training."""
    batch: int = 48
    """Examples of a step with steps, and as many short ones."""
    learning_rate: float = 3e-3
    """Largest rate."""
    width: int = 64
    """Features of a token."""
    depth: int = 2
    """Blocks."""
    seed: int = 0
    """Of the weights and the examples."""
    log: Log = Log(every=50, eval_every=500)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float16"
    """Type in which weights are stored."""


def describe(config: Config) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    network = {
        "kind": "lm",
        "vocabulary": VOCABULARY,
        "width": config.width,
        "depth": config.depth,
        "heads": 4,
        "kv_heads": 2,
        "hidden": 2 * config.width,
        "tied": False,
        "dtype": config.scale.precision,
    }
    return {"network": network}


def make_evaluation(lm: LM, per_size: int = 128) -> Any:
    """``params -> figures``: right answers at temperature 1, by digits."""
    sizes = [sums.Sums(n, n) for n in (1, 2, 3)]

    def answers(params, key, sizes, direct):
        """Share of right ones of each size."""
        keys = jax.random.split(key, (len(sizes), per_size))
        drawn = [
            jax.vmap(partial(sums.draw, size))(key)
            for size, key in zip(sizes, keys, strict=True)
        ]
        problems = jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)
        ask = partial(sums.prompt, direct=direct)
        steps = SHORT if direct else CHAIN
        options = {"steps": steps, "eos": sums.END, "pad": sums.END}
        asked = jax.vmap(ask)(problems)
        out = generate(keys.reshape(-1), lm, params, *asked, **options)
        tokens, mask = out.tokens, out.mask
        if direct:
            before = ((0, 0), (1, 0))
            tokens = jnp.pad(tokens, before, constant_values=sums.SOLUTION)
            mask = jnp.pad(mask, before, constant_values=True)
        right = jax.vmap(sums.check)(problems, tokens, mask).right
        return jnp.mean(right.reshape(-1, per_size), 1)

    @jax.jit
    def run(params):
        key = jax.random.key(1)
        one, two, three = answers(params, key, sizes, True)
        (steps,) = answers(params, key, sizes[1:2], False)
        return {"direct1": one, "direct2": two, "direct3": three, "steps2": steps}

    return lambda params: {name: float(x) for name, x in run(params).items()}


def train(config: Config) -> dict[str, float]:
    """Runs, or goes on with, a training run.

    Returns:
      Shares of right answers; empty if it was stopped before the end.
    """
    require_ranges(config)
    run = open_run(config, settings_of(config), free=("directory", "log", "store"))
    about = describe(config)
    lm = from_config(about)
    assert isinstance(lm, LM)
    init_key, train_key, root = jax.random.split(jax.random.key(config.seed), 3)
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    tx = optax.adam(rate, b2=0.99)

    @jax.jit
    def examples(ids):
        keys = rng.sample_keys(root, ids)
        long = jax.vmap(partial(with_steps, habits=HABITS[config.habits]))(keys)
        return {"steps": long, "short": jax.vmap(short)(rng.fold(keys, 1))}

    def make_state():
        rows = examples(jnp.arange(2))["short"]
        made: Any = lm.init(init_key, rows["prompt"], rows["prompt_mask"])
        params = made["params"]
        # Of the size of what blocks add.
        params["embed"] *= 50.0
        return init_state(params, tx, train_key)

    def loss(params, batch, keys):
        def likely(rows):
            given = rows["prompt"], rows["tokens"], rows["prompt_mask"], rows["mask"]
            return masked_mean(completion_logp(lm, params, *given), rows["mask"], 1)

        return -likely(batch["steps"]) - likely(batch["short"]), {}

    state, sharding = run.place(make_state)
    evaluate, found = make_evaluation(lm), {}

    def eval_fn(done, state):
        ema = run.gather(state.ema)
        if run.chief:
            stored, kind = about | {"training": run.settings}, jnp.dtype(config.store)
            export_weights(run.folder / "ema.safetensors", ema, stored, dtype=kind)
        found.update(evaluate(ema))
        return found

    _, finished = fit(
        run.step(loss, tx, sharding, ema_decay=0.99, clip=1.0),
        state,
        lambda i: examples(run.ids(i, config.batch)),
        steps=config.steps,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
    )
    return found if finished else {}


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        print(train(config))
