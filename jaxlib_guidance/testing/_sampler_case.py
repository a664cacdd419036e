"""One solver, what it is run on, and what its laws look at."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid
from jaxlib_guidance.sampling import Sampler, StepInfo, sample
from jaxlib_guidance.testing._law_networks import (
    CLASSES,
    class_denoiser,
)
from jaxlib_guidance.testing._laws import (
    mesh,
    split,
)
from jaxlib_guidance.types import Array, Denoiser

BATCH, STEPS = 8, 4


class SamplerCase:
    """One solver with what it is run on."""

    def __init__(self, sampler, denoiser, process, grid, shape, cond, guidance, order):
        self.rows = jnp.arange(BATCH)
        self.make: Callable[[Array], Sampler] = (
            (lambda rows: sampler) if isinstance(sampler, Sampler) else sampler
        )
        self.sampler = self.make(self.rows)
        if denoiser is None:
            self.process = VPCosine() if process is None else process
            denoiser = class_denoiser(shape, self.process)
            cond = self.rows % CLASSES if cond is None else cond
        else:
            self.process = process_of(denoiser, process)
        self.nets = (denoiser,) if isinstance(denoiser, Denoiser) else tuple(denoiser)
        if len(self.nets) == 1:
            self.nets *= 1 if guidance is None else 2
        self.grid = logsnr_grid(self.process, STEPS) if grid is None else grid
        self.grid = jnp.asarray(self.grid, jnp.float32)
        # Another grid of the same length and ends.
        middle = 0.9 * self.grid[1:-1] + 0.1 * self.grid[2:]
        self.other = self.grid.at[1:-1].set(middle)
        self.cond, self.guidance, self.claimed = cond, guidance, order
        self.odd = BATCH - 3
        self.others = np.arange(BATCH) != self.odd
        self.keys = rng.sample_keys(jax.random.key(7), BATCH)
        eps = np.random.default_rng(0).normal(size=(2, BATCH, *shape))
        eps, self.direction = jnp.asarray(eps, jnp.float32)
        self.x = self.process.sigma(self.grid[0]) * eps
        self.traces: list[None] = []

        def whole(*args):
            self.traces.append(None)
            return self.run(*args)

        self.whole = jax.jit(whole)

    def draw(
        self, rows, x, grid, *, nets=None, wrap=None, trace=None, keys=None, steps=None
    ):
        """Samples of some of the eight."""
        sampler = self.make(rows)
        if wrap:
            sampler = sampler._replace(step=wrap(sampler.step))

        def of_these(leaf):
            if jnp.shape(leaf)[:1] == (BATCH,):
                return jnp.asarray(leaf)[rows]
            return leaf

        nets = nets or self.nets
        return sample(
            self.keys[rows] if keys is None else keys,
            nets if self.guidance is not None else nets[0],
            sampler,
            grid,
            x,
            jax.tree.map(of_these, self.cond),
            guidance=jax.tree.map(of_these, self.guidance),
            steps=steps,
            trace=trace,
            process=self.process,
        )

    def run(self, rows, x, grid, keys=None):
        def kept(info: StepInfo):
            std = jnp.broadcast_to(info.transition.std, x.shape[:1])
            return info._replace(transition=info.transition._replace(std=std))

        return self.draw(rows, x, grid, trace=kept, keys=keys)

    # What several laws look at is computed once.

    @functools.cached_property
    def divided(self):
        """On all devices: the compiled program, and both grids' samples and steps."""
        self.among = mesh(BATCH)
        args = split((self.rows, self.x), self.among)
        keys = split(self.keys, self.among)
        one = self.whole(*args, self.grid, keys)
        two = self.whole(*args, self.other, keys)
        self.compilations = len(self.traces)
        return self.whole.lower(*args, self.grid, keys), one, two

    def again(self, rows, x, keys):
        """The same program on another batch."""
        _ = self.divided
        args = split((rows, x, keys), self.among)
        return np.asarray(self.whole(*args[:2], self.grid, args[2])[0])

    @functools.cached_property
    def samples(self):
        return np.asarray(self.divided[1][0])

    @functools.cached_property
    def steps(self):
        return jax.tree.map(np.asarray, self.divided[1][1])

    @functools.cached_property
    def eager(self):
        """Two samples without any compilation, and the evaluations of each step."""
        counts = []

        def counted(step):
            def with_count(denoise, x, state, guidance_state, interval):
                counts.append(0)

                def counting(*args):
                    counts[-1] += 1
                    return denoise(*args)

                return step(counting, x, state, guidance_state, interval)

            return with_count

        rows = self.rows[:2]
        with jax.disable_jit():
            x, _ = self.draw(rows, self.x[:2], self.grid, wrap=counted)
        return x, counts

    @functools.cached_property
    def swept(self):
        """Samples and slopes at both grids, and values a little to either side."""
        h = self.h = 0.01
        shift = self.direction * h
        cases = [
            (self.x, self.grid),
            (self.x, self.other),
            (self.x + shift, self.grid),
            (self.x - shift, self.grid),
        ]

        def loss(x, grid):
            samples = self.draw(self.rows, x, grid)[0]
            return jnp.sum(jnp.sin(2 * samples)), samples

        graded = jax.value_and_grad(loss, has_aux=True)
        x, grid = (jnp.stack(each) for each in zip(*cases, strict=True))
        (value, samples), slopes = jax.jit(jax.vmap(graded))(x, grid)
        return value, np.asarray(samples), slopes
