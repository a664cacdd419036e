"""One guided evaluation, outside any sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.types import expand


def make_context(process, x, t, cond=None, step=0, steps=10, ref=None):
    batch = x.shape[:1]
    times = jnp.broadcast_to(jnp.asarray(t, jnp.float32), batch)
    return jg.types.Context(
        x=x,
        t=times,
        alpha=expand(process.alpha(times), x),
        sigma=expand(process.sigma(times), x),
        cond=cond,
        keys=jg.sample_keys(jax.random.key(0), *batch),
        process=process,
        step=jnp.int32(step),
        steps=steps,
        t_step=jnp.asarray(t, jnp.float32),
        t_next=jnp.asarray(t, jnp.float32) / 2,
        ref=ref,
    )


@pytest.fixture
def context():
    return make_context


@pytest.fixture
def guided():
    """``(guidance, denoiser, ctx, state) -> (x0, state)``."""

    def guided(guidance, denoiser, ctx, state=None, plan="auto"):
        steered = jg.guided(denoiser, guidance, plan)
        state = steered.init(ctx.x) if state is None else state
        return steered(ctx, state)

    return guided


@pytest.fixture
def lookup():
    """A denoiser that returns row ``cond`` of a table, whatever the state."""

    def lookup(table):
        table = jnp.asarray(np.asarray(table), jnp.float32)

        def apply(x, t, cond, *, control, capture):
            return jg.types.Denoised(table[cond])

        return jg.Denoiser(apply)

    return lookup


@pytest.fixture
def golden(lookup, guided):
    """The guided estimate of one sample where row 1 of a table is the conditional."""

    def golden(*terms, rows=((1.0, 1.0, 0.0), (2.0, 0.0, 1.0)), **place):
        shape = np.shape(rows)[1:]
        x = jnp.zeros((1, *shape)) if "x" not in place else place.pop("x")
        place = {"process": jg.VPCosine(), "t": 0.5, "cond": jnp.array([1])} | place
        ctx = make_context(x=x, **place)
        return np.asarray(guided(jg.chain(*terms), lookup(rows), ctx)[0])[0]

    return golden


class Counter:
    """A smooth denoiser with labels; `rows` lists the batch of each traced call."""

    def __init__(self):
        self.rows = []

        def apply(x, t, cond, *, control, capture):
            self.rows.append(x.shape[0])
            level = expand(t, x)
            numbers = sum(leaf.astype(jnp.float32) for leaf in jax.tree.leaves(cond))
            push = expand(jnp.sin(1.0 + jnp.asarray(numbers, jnp.float32)), x)
            x0 = jnp.tanh(0.7 * x + 0.3 * jnp.roll(x, 1, axis=-1) + push - level)
            return jg.types.Denoised(x0, {tap: x0**2 for tap in capture})

        self.denoiser = jg.Denoiser(apply, taps=("square",))


@pytest.fixture
def counter():
    return Counter()
