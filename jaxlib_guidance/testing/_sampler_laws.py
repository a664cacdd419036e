"""The laws of a solver; see `check_sampler`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxlib_guidance import rng, transition
from jaxlib_guidance.diffusion import logsnr_grid
from jaxlib_guidance.sampling import sample
from jaxlib_guidance.testing._law_networks import (
    flow_problem,
    in_half,
)
from jaxlib_guidance.testing._laws import (
    close,
    finite,
    lower_for_accelerators,
    require,
    require_silent,
    same,
)
from jaxlib_guidance.testing._sampler_case import BATCH, SamplerCase


class SamplerLaws(SamplerCase):
    """Each method is a law, its docstring what it says."""

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

    def pieces(self):
        """A trajectory that is cut and goes on is the whole one."""
        count = len(self.grid) - 1

        def cut(x):
            part = self.draw(self.rows, x, self.grid, steps=count // 2)[0]
            left = count - count // 2
            return self.draw(self.rows, part, self.grid, steps=left)[0].x

        close(jax.jit(cut)(self.x), self.samples, f"cut after step {count // 2}")

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
