"""One guidance term, what it is evaluated at, and what its laws look at."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import VPCosine
from jaxlib_guidance.guidance import BASE, chain, guided
from jaxlib_guidance.sampling import Interval, Level, ddpm
from jaxlib_guidance.testing._law_networks import (
    CLASSES,
    class_denoiser,
)
from jaxlib_guidance.testing._laws import (
    mesh,
    split,
)
from jaxlib_guidance.testing._site_network import site_denoiser
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Denoiser,
    at_least_float32,
    pytree_dataclass,
)

BATCH = 8
SOLVER = ddpm()


@pytree_dataclass
class _Probe:
    """Writes down the base estimate and the correction that arrives."""

    def branches(self, ctx: Context) -> dict[str, Branch]:
        return {}

    def init(self, x):
        return jnp.zeros_like(x), jnp.zeros_like(x)

    def update(self, delta, evals, state, ctx):
        return delta, (evals.x0[BASE], delta)


def _weighted(term: Any, scale: Any) -> Any:
    """The term with each field named ``weight``, at any depth, multiplied."""
    if not dataclasses.is_dataclass(term):
        return term
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(term):
        value = getattr(term, field.name)
        if field.name == "weight":
            kind = getattr(scale, "dtype", None)
            value = value if kind is None else jnp.asarray(value, kind)
            changes[field.name] = value * scale
        elif field.name == "terms":
            changes[field.name] = tuple(_weighted(each, scale) for each in value)
        elif field.name == "inner":
            changes[field.name] = _weighted(value, scale)
    return dataclasses.replace(term, **changes)


def default_state(shape: tuple[int, ...], batch: int = BATCH) -> Array:
    """Samples of a shape at which terms are evaluated, the same each time."""
    noise = np.random.default_rng(0).normal(size=(batch, *shape))
    return jnp.asarray(noise, jnp.float32)


class TermCase:
    """One term with what it is evaluated at."""

    def __init__(self, term, denoiser, process, x, cond, ref, t, step, steps):
        made = callable(term) and not hasattr(term, "branches")
        self.make: Callable[[Any], Any] = (
            term if made else functools.partial(_weighted, term)
        )
        if denoiser is None:
            self.process = VPCosine() if process is None else process
        else:
            self.process = process_of(denoiser, process)
        self.own = denoiser is None
        self.t, self.step, self.steps, self.ref = t, step, steps, ref
        self.cond = cond
        self.x = default_state((6,)) if x is None else jnp.asarray(x)
        self._complete()
        if self.own:
            asked = self._asked().values()
            sites = any(b.control or b.capture for b in asked)
            if sites and x is None:
                self.x = default_state((8, 8, 1))
                self._complete()
                asked = self._asked().values()
            shape, count = self.x.shape[1:], 1 + max((b.net for b in asked), default=0)
            denoiser = tuple(
                site_denoiser(shape, self.process, i)
                if sites
                else class_denoiser(shape, self.process, 0.4 * (1 + i))
                for i in range(count)
            )
        self.nets = (denoiser,) if isinstance(denoiser, Denoiser) else tuple(denoiser)
        self.traces: list[None] = []
        self.expected = 0

        def whole(weight, rows, x):
            self.traces.append(None)
            data = PartitionSpec("data")
            apart = jax.shard_map(
                lambda *args: self.run(*args)[0],
                mesh=mesh(x.shape[0]),
                in_specs=(PartitionSpec(), data, data),
                out_specs=data,
                check_vma=False,
            )
            return self.run(weight, rows, x)[0], apart(weight, rows, x)

        self.whole = jax.jit(whole)

    def _complete(self):
        """What follows from the state: its batch, keys, labels, the odd sample."""
        batch = self.x.shape[0]
        if batch < 4:
            raise ValueError(f"x has {batch} samples; expected at least 4")
        self.rows, self.odd = jnp.arange(batch), batch - 3
        self.others = np.arange(batch) != self.odd
        self.keys = rng.sample_keys(jax.random.key(3), batch)
        if self.own and self.cond is None:
            self.cond = self.rows % CLASSES

    def _asked(self):
        return chain(self.make(1.0)).branches(self.context(self.rows, self.x))

    def context(self, rows, x):
        batch = x.shape[:1]
        t = jnp.full(batch, self.t, jnp.float32)
        coefficients = (self.process.alpha(t), self.process.sigma(t))
        alpha, sigma = (c.reshape(batch + (1,) * (x.ndim - 1)) for c in coefficients)
        step = jnp.float32(self.t)
        return Context(
            x=x,
            t=t,
            alpha=alpha,
            sigma=sigma,
            cond=jax.tree.map(lambda leaf: leaf[rows], self.cond),
            keys=self.keys[rows],
            process=self.process,
            step=jnp.int32(self.step),
            steps=self.steps,
            t_step=step,
            t_next=step * (1 - 1 / self.steps),
            ref=jax.tree.map(lambda leaf: leaf[rows], self.ref),
            grid=step * (1 + (self.step - jnp.arange(self.steps + 1)) / self.steps),
            kernel=self._kernel(rows, x),
            stochastic=SOLVER.stochastic,
        )

    def _kernel(self, rows, x):
        """Of a step of `ddpm`."""
        start = jnp.float32(self.t)
        end = start * (1 - 1 / self.steps)
        step = Interval(
            jnp.int32(self.step),
            start,
            end,
            self._level(start),
            self._level(end),
            self.keys[rows],
            self.process,
        )

        def transition(x0):
            def estimate(x, t, state):
                return x0, state

            return SOLVER.step(estimate, x, (), (), step).transition

        return transition

    def _level(self, t):
        return Level(self.process.alpha(t), self.process.sigma(t))

    def evaluate(self, term, rows, x, shift=0.0, kind=None):
        """Guided and base estimate, and the term's state, of some of the samples."""
        batch = self.x.shape[:1]

        def of_these(leaf):
            return jnp.asarray(leaf)[rows] if jnp.shape(leaf)[:1] == batch else leaf

        def moved(net):
            def apply(x, t, cond, **options):
                out = net.apply(x if kind else (1 + shift) * x, t, cond, **options)
                x0 = out.x0.astype(kind) if kind else (1 + shift) * out.x0
                return out._replace(x0=x0)

            return dataclasses.replace(net, apply=apply)

        term = jax.tree.map(of_these, term)
        steered = guided(tuple(map(moved, self.nets)), chain(term, _Probe()))
        context = self.context(rows, x)
        x0, (*state, (base, _)) = steered(context, steered.init(x))
        terms = chain(term).terms
        if any(hasattr(t, "condition") and not hasattr(t, "inner") for t in terms):
            # What steered takes for the base has another condition.
            base = steered.denoisers[0](x, context.t, context.cond).x0
            base = at_least_float32(base)
        return x0, base, tuple(state)

    def run(self, weight, rows, x):
        return self.evaluate(self.make(weight), rows, x)[:2]

    # What several laws look at is computed once.

    @functools.cached_property
    def swept(self):
        """Values and slopes of cases that differ in weight, network and state."""
        direction = jnp.roll(default_state(self.x.shape[1:], self.x.shape[0]), 1)
        h = self.h = 0.005
        moved, gone = self.x.at[self.odd].set(3.0), self.x.at[self.odd].set(jnp.nan)
        cases = {
            "itself": (1.0, 0.0, self.x),
            "more": (1.0 + h, 0.0, self.x),
            "less": (1.0 - h, 0.0, self.x),
            "stronger": (1.0, h, self.x),
            "weaker": (1.0, -h, self.x),
            "moved": (1.0, 0.0, moved),
            "nan": (1.0, 0.0, gone),
            "off": (0.0, 0.0, self.x),
            "half": (0.5, 0.0, self.x),
        }

        def loss(weight, shift, x):
            x0, base, _ = self.evaluate(self.make(weight), self.rows, x, shift)
            return jnp.sum(x0 * direction), (x0, base)

        graded = jax.value_and_grad(loss, (0, 1), has_aux=True)
        columns = zip(*cases.values(), strict=True)
        (value, (x0, base)), slopes = jax.jit(jax.vmap(graded))(*map(_stack, columns))
        self.value = dict(zip(cases, np.asarray(value), strict=True))
        self.slopes = dict(zip(cases, np.stack(slopes, 1), strict=True))
        self.base = dict(zip(cases, np.asarray(base), strict=True))
        return dict(zip(cases, np.asarray(x0), strict=True))

    @functools.cached_property
    def eager(self):
        """Not compiled, with weight 0 in the first three samples and 1 elsewhere."""
        self.off = np.arange(self.x.shape[0]) < 3
        weight = jnp.where(self.off, 0.0, 1.0)
        return self.run(weight, self.rows, self.x)

    @functools.cached_property
    def divided(self):
        """On all devices: the compiled program, its result and that of half weight.

        One program for both ways to divide a batch: it compiles once.
        """
        rows, x = split((self.rows, self.x), mesh(self.x.shape[0]))
        one, self.apart = self.whole(jnp.float32(1), rows, x)
        half, _ = self.whole(jnp.float32(0.5), rows, x)
        self.compilations = len(self.traces)
        return self.whole.lower(jnp.float32(1), rows, x), one, half


def _stack(values):
    return jnp.stack([jnp.asarray(v, jnp.float32) for v in values])
