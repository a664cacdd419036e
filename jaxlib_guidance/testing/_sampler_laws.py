"""The laws of a solver; see `check_sampler`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxlib_guidance import rng, transition
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid
from jaxlib_guidance.sampling import Sampler, StepInfo, sample
from jaxlib_guidance.testing._law_networks import (
    CLASSES,
    class_denoiser,
    flow_problem,
    in_half,
)
from jaxlib_guidance.testing._laws import (
    close,
    finite,
    lower_for_accelerators,
    mesh,
    require,
    require_silent,
    same,
    split,
)
from jaxlib_guidance.types import Array, Denoiser, process_of

BATCH, STEPS = 8, 4


class SamplerLaws:
    """One solver with what it is run on; each method named in the list is a law."""

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

    def draw(self, rows, x, grid, *, nets=None, wrap=None, trace=None, keys=None):
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

    # The laws.

    def transition(self):
        """Transitions have the right shapes, and the next state is a draw of them."""
        steps, count = self.steps, len(self.grid) - 1
        finite((self.samples, steps), "a state, an estimate or a transition")
        shape = (count, *self.x.shape)
        for name in ("x_next", "x0"):
            found = getattr(steps, name)
            require(
                found.shape == shape and found.dtype == np.float32,
                f"{name} is {found.dtype} {found.shape}; expected float32 {shape}",
            )
        mean, std = steps.transition
        require(mean.shape == shape, f"mean is {mean.shape}; expected {shape}")
        require((std >= 0).all(), f"std falls to {std.min()}; expected 0 or more")
        same(steps.x_next[:-1], steps.x[1:], "the next step's start")
        same(steps.x_next[-1], self.samples, "the samples")
        for i in range(count):
            noise = rng.normal(rng.fold(self.keys, i), self.x.shape[1:])
            wide = std[i].reshape(BATCH, *(1,) * (self.x.ndim - 1))
            gap = np.asarray(steps.x_next[i]) - mean[i]
            if not self.sampler.stochastic:
                noise = np.zeros_like(gap)
            close(gap, wide * np.asarray(noise), f"the noise of step {i}")
            safe = np.where(wide > 0, wide, np.nan)
            each = -0.5 * (gap / safe) ** 2 - np.log(safe * np.sqrt(2 * np.pi))
            want = each.reshape(BATCH, -1).sum(1)
            arrays = map(jnp.asarray, (mean[i], std[i], steps.x_next[i]))
            here = transition.Transition(next(arrays), next(arrays))
            found = transition.log_prob(here, next(arrays))
            close(found, want, f"log-probability of step {i}", 1e-3, 1e-3)

    def evaluations(self):
        """The most evaluations of a step are as many as are stated."""
        _, counts = self.eager
        stated = self.sampler.evaluations
        require(
            max(counts) == stated, f"steps evaluate {counts} times; stated is {stated}"
        )

    def stochastic(self):
        """Some standard deviation is above 0 if and only if that is stated."""
        std = self.steps.transition.std
        require(
            bool((std > 0).any()) == bool(self.sampler.stochastic),
            f"stochastic is {self.sampler.stochastic}, but the standard deviation "
            f"reaches {std.max()}",
        )

    def half(self):
        """States stay float32 with a network and a start in half precision."""
        for kind in (jnp.bfloat16, jnp.float16):

            def steps(x, nets=tuple(in_half(net, kind) for net in self.nets)):
                return self.draw(
                    self.rows, x, self.grid, nets=nets, trace=lambda info: info
                )

            shapes = jax.eval_shape(steps, self.x.astype(kind))
            for path, leaf in jax.tree.leaves_with_path(shapes):
                if jnp.issubdtype(leaf.dtype, jnp.floating):
                    require(
                        leaf.dtype == jnp.float32,
                        f"in {kind.__name__} got {leaf.dtype} for "
                        f"{jax.tree_util.keystr(path)}; expected float32",
                    )

    def batch(self):
        """A sample does not depend on the others, nor on its place."""
        new = rng.sample_keys(jax.random.key(8), BATCH)
        keys = jnp.where(jnp.asarray(self.others), self.keys, new)
        got = self.again(self.rows, self.x.at[self.odd].add(1.0), keys)
        others = self.others
        same(got[others], self.samples[others], "with one sample replaced")
        gap = np.abs(got[self.odd] - self.samples[self.odd]).max()
        require(gap > 1e-4, "replacing a sample left it as it was")
        backwards = self.again(self.rows[::-1], self.x[::-1], self.keys[::-1])
        close(backwards[::-1], self.samples, "in another order")

    def nan(self):
        """NaN in one sample stays in that sample."""
        got = self.again(self.rows, self.x.at[self.odd].set(jnp.nan), self.keys)
        others = self.others
        same(got[others], self.samples[others], "the other samples")

    def jit(self):
        """Compiled and not, the samples are the same."""
        close(self.eager[0], self.samples[:2], "without jit")

    def vmap(self):
        """A vmap over grids gives what each grid gives alone."""
        _, samples, _ = self.swept
        _, one, two = self.divided
        close(samples[0], one[0], "the first grid")
        close(samples[1], two[0], "the second grid")

    def gradient(self):
        """Gradients to the start are finite and agree with finite differences."""
        value, _, slopes = self.swept
        finite(slopes, "the gradient")
        got = jnp.sum(slopes[0] * self.direction)
        want = (value[2] - value[3]) / (2 * self.h)
        close(got, want, "slope along a direction", atol=5e-3, rtol=3e-2)

    def one_compilation(self):
        """One compilation serves two grids of one length."""
        _, one, two = self.divided
        require(
            self.compilations == 1,
            f"two grids were traced {self.compilations} times; expected once",
        )
        gap = np.abs(np.asarray(one[0]) - np.asarray(two[0])).max()
        require(gap > 0, "another grid gives the same samples")

    def devices(self):
        """Split among devices it is the same, and nothing is communicated."""
        lowered, one, _ = self.divided
        require_silent(lowered.compile())
        require(
            len(one[0].sharding.device_set) == self.among.size,
            "the samples left their devices",
        )
        data = PartitionSpec("data")
        apart = jax.jit(
            jax.shard_map(
                lambda rows, x: self.draw(rows, x, self.grid)[0],
                mesh=self.among,
                in_specs=(data, data),
                out_specs=data,
                check_vma=False,
            )
        )(self.rows, self.x)
        close(apart, self.samples, "each device by itself")

    def reversible(self):
        """With growing noise and back leads to the start, or is refused."""
        down = np.asarray(logsnr_grid(self.process, 32, final_zero=False))

        def there_and_back(x):
            noise = self.draw(self.rows, x, down[::-1])[0]
            return self.draw(self.rows, noise, down)[0]

        if not self.sampler.reversible:
            try:
                self.draw(self.rows, self.x, down[::-1])
            except ValueError:
                return
            raise AssertionError("a growing grid was accepted; expected ValueError")
        require(not self.sampler.stochastic, "it is both stochastic and reversible")
        back = np.asarray(jax.jit(there_and_back)(jnp.asarray(self.samples)))
        gap = np.abs(back - self.samples).max()
        require(gap < 0.2, f"there and back in 32 steps is off by {gap:.2g}")

    def order(self):
        """The error falls as the order says."""
        process, denoiser, x, want = flow_problem()
        keys = rng.sample_keys(jax.random.key(0), x.shape[0])
        errors = []
        for steps in (32, 64):
            grid = logsnr_grid(process, steps, final_zero=False)
            got = jax.jit(
                lambda x, grid=grid: sample(keys, denoiser, self.sampler, grid, x)[0]
            )(x)
            errors.append(np.linalg.norm(np.asarray(got) - want, axis=1).mean())
        slope = np.log2(errors[0] / errors[1])
        require(
            slope > self.claimed - 0.35,
            f"errors {errors[0]:.2e} and {errors[1]:.2e} in 32 and 64 steps are order "
            f"{slope:.2f}; stated is {self.claimed}",
        )

    def lowers(self):
        """It lowers for CUDA devices and for TPUs."""
        lower_for_accelerators(self.run, self.rows, self.x, self.grid)
