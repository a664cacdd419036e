"""Particles around any chain: weighed at each step, resampled, and drawn on.

``B`` samples of ``P`` particles are ``B P`` rows, the particles of a sample beside each
other, so that a batch that is sharded by samples stays so and nothing communicates. A
step evaluates the network, weighs each particle by a `Potential`, resamples the groups
whose weights have grown uneven, and draws the next states. Weighing comes before the
draw: what a step knows of its state decides who moves on.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of, require_cond
from jaxlib_guidance.guidance import chain
from jaxlib_guidance.sampling._checks import require_sampler, require_whole
from jaxlib_guidance.sampling._loop import sample
from jaxlib_guidance.sampling._population import Population
from jaxlib_guidance.sampling._potentials import Potential, Proposal
from jaxlib_guidance.sampling._prepare import (
    make_context,
    make_interval,
    require_grid,
)
from jaxlib_guidance.sampling._resample import (
    Resampling,
    resample,
)
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Context, Denoiser, Process, PyTree


class Particles(NamedTuple):
    """Weighted samples, and what happened on the way.

    Attributes:
      x: Samples ``[B, P, *S]``.
      log_weights: Logarithms of the weights ``[B, P]``, which sum to 1 in each group:
        those since a group was last resampled.
      log_z: Logarithm of the estimate of the normalising constant ``[B]``, the product
        of the groups' mean weights; its exponential is unbiased.
      ess: Effective sample size as each step weighed, before it resampled, and of the
        samples, ``[N + 1, B]``.
      ancestors: Particles from which those after each step come ``[N, B, P]``.
      resamplings: Number of resamplings of each group ``[B]``.
    """

    x: Array
    log_weights: Array
    log_z: Array
    ess: Array
    ancestors: Array
    resamplings: Array


def particle_keys(keys: Array, particles: int) -> Array:
    """Keys of the particles ``[B P]``; the first of each sample has the sample's own.

    Args:
      keys: Typed keys of the samples ``[B]``.
      particles: Number ``P`` of particles of each sample.

    Returns:
      Typed keys ``[B P]``, those of a sample beside each other.

    Raises:
      TypeError: Keys that are not typed keys.
      ValueError: ``particles`` below 1.
    """
    rng.require_keys(keys)
    require_whole(particles, "particles", 1)
    if particles == 1:
        return keys
    number = jnp.arange(1, particles, dtype=jnp.uint32)
    stream = rng.fold(keys, rng.PARTICLE)
    others = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
        stream, number
    )
    return jnp.concatenate([keys[:, None], others], axis=1).reshape(-1)


def per_particle(tree: PyTree, particles: int) -> PyTree:
    """Repeats what leads with samples ``[B, ...]`` for their particles ``[B P, ...]``.

    For the leaves of guidance and potentials that differ by sample: weights, labels.

    Args:
      tree: Pytree whose leaves lead with ``B``.
      particles: Number ``P`` of particles of each sample.

    Returns:
      The tree with leaves ``[B P, ...]``.

    Raises:
      ValueError: ``particles`` below 1.
    """
    require_whole(particles, "particles", 1)

    def repeated(leaf):
        leaf = jnp.asarray(leaf)
        wide = jnp.broadcast_to(
            leaf[:, None], (leaf.shape[0], particles, *leaf.shape[1:])
        )
        return wide.reshape(-1, *leaf.shape[1:])

    return jax.tree.map(repeated, tree)


def sample_particles(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    sampler: Sampler,
    grid: Any,
    x: Any,
    cond: PyTree = None,
    *,
    potential: Potential,
    particles: int,
    resampling: Resampling | None = None,
    guidance: Any = None,
    ref: PyTree = None,
    remat: bool = False,
    progress: Callable[[int, int], None] | None = None,
    plan: str = "auto",
    unroll: int = 1,
    process: Process | None = None,
) -> Particles:
    """Draws weighted particles: `sample` with a potential that weighs and resamples.

    The ``P`` particles of a sample are a population by itself: weights, resampling and
    ``log_z`` never look at another sample. The first starts and moves with the sample's
    own key, so that for ``P = 1`` its trajectory is that of `sample`.

    Args:
      keys: Typed keys ``[B]``, one for each sample; see `sample_keys`.
      denoiser: Network, or a tuple of networks (the base first) for terms that contrast
        them.
      sampler: Solver, stochastic wherever particles are resampled: copies that draw no
        noise stay copies.
      grid: Times ``[N + 1]`` from noise to data, the last usually 0.
      x: Shape ``(*S,)`` of one sample, to start from noise; or the states
        ``[B, P, *S]`` at ``grid[0]``.
      cond: Condition pytree, every leaf ``[B, ...]``, shared by a sample's particles;
        None for a network without one.
      potential: What weighs the particles, such as `cfg_corrector`, `twisted`,
        `steering` or `svdd`.
      particles: Number ``P`` of particles of each sample.
      resampling: When and how particles are resampled; None is as the potential has it.
      guidance: Guidance term or chain of terms, part of the distribution that the
        potential weighs; None is none. Leaves that differ by sample lead with ``B P``,
        see `per_particle`.
      ref: Pytree whose leaves lead with ``N``, row ``i`` of which terms see at step
        ``i`` as ``ctx.ref``.
      remat: Whether to recompute each step on the backward pass.
      progress: Function called on the host with ``(steps done, N)``, at most twenty
        times; None reports nothing.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      unroll: Number of steps in an iteration of the compiled loop.
      process: Noise process; None takes the denoiser's.

    Returns:
      The weighted particles; `draw_particle` and `best_particle` choose one of each.

    Raises:
      TypeError: Something that is no potential or no sampler.
      ValueError: What `sample` or the potential refuse; a deterministic solver with
        resampling; a growing grid; a state that is not ``[B, P, *S]``.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0.5 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> potential = jg.sampling.steering(lambda x0, ctx: x0.sum(1), 2.0)
      >>> out = jg.sampling.sample_particles(
      ...     keys, denoiser, jg.ddpm(), [0.9, 0.5, 0.1, 0.0], (2,),
      ...     potential=potential, particles=16,
      ... )
      >>> out.x.shape, out.log_z.shape, out.ess.shape
      ((4, 16, 2), (4,), (4, 4))
    """
    require_sampler(sampler)
    rows = particle_keys(keys, particles)
    for member in ("init", "weigh", "resampling"):
        if not hasattr(potential, member):
            raise TypeError(
                f"potential is {type(potential).__name__}, without {member}; expected "
                "a potential, such as steering(reward)"
            )
    resampling = potential.resampling if resampling is None else resampling
    if not isinstance(resampling, Resampling):
        raise TypeError(
            f"resampling is {resampling!r}; expected a Resampling, as "
            "Resampling('systematic', 0.5)"
        )
    process = process_of(denoiser, process)
    times, known = require_grid(grid, process, False, x)
    _require_noise(sampler, resampling)
    if hasattr(potential, "require"):
        potential.require(sampler, process, known, guidance)
    require_cond(cond, keys.shape[0])
    own = potential.term() if hasattr(potential, "term") else None
    if own is not None:
        guidance = chain(own) if guidance is None else chain(guidance, own)
    if not isinstance(x, (tuple, list)):
        x = _folded(x, keys.shape[0], particles)
    cond = per_particle(cond, particles)
    total = times.shape[0] - 1

    def context(x, interval, kernel=None) -> Context:
        now = jax.tree.map(lambda leaf: leaf[interval.index], ref)
        return make_context(
            *(x, interval.t, process, cond, interval, total, now, times, kernel),
            stochastic=sampler.stochastic,
        )

    population = Population(sampler, potential, resampling, particles, own is not None)
    end, (ess, ancestors) = sample(
        rows,
        denoiser,
        population.sampler(context),
        times if known is None else known,
        x,
        cond,
        guidance=guidance,
        ref=ref,
        steps=total,
        trace=lambda info: (info.state.ess, info.state.ancestors),
        remat=remat,
        progress=progress,
        plan=plan,
        unroll=unroll,
        process=process,
    )
    # The samples are weighed as a step would that starts where the last one ended.
    after = make_interval(process, jnp.int32(total), times[-1], times[-1], rows, 0)
    seen = Proposal(end.x, end.x, context(end.x, after), None, None)
    factor, _ = potential.weigh(seen, end.state.potential)
    state = population.weighed(end.state, factor)
    return Particles(
        end.x.reshape(-1, particles, *end.x.shape[1:]),
        state.log_weights,
        state.log_z,
        jnp.concatenate([ess, state.ess[None]]),
        ancestors,
        state.resamplings,
    )


def _folded(x: Any, batch: int, particles: int) -> Array:
    shape = jnp.shape(x)
    if shape[:2] != (batch, particles):
        raise ValueError(
            f"x has shape {shape}; expected the shape of one sample, or states "
            f"[{batch}, {particles}, *S] of all particles"
        )
    return jnp.asarray(x).reshape(batch * particles, *shape[2:])


def _require_noise(sampler: Sampler, resampling: Resampling) -> None:
    if not sampler.stochastic and resampling.threshold != 0:
        raise ValueError(
            "sampler draws no noise, and copies of a particle would stay copies; "
            "expected a stochastic one, such as ddpm() or flow_sde(), or a resampling "
            "of threshold 0"
        )


def draw_particle(keys: Array, particles: Particles) -> Array:
    """One particle of each sample, drawn by its weight.

    Args:
      keys: Typed keys of the samples ``[B]``, as given to `sample_particles`.
      particles: What `sample_particles` returned.

    Returns:
      Samples ``[B, *S]``.
    """
    # Number 0 of the stream whose others are the particles' own.
    own = rng.fold(rng.fold(keys, rng.PARTICLE), 0)
    return _chosen(particles, resample(own, particles.log_weights, "one"))


def best_particle(particles: Particles) -> Array:
    """The particle of largest weight of each sample.

    Args:
      particles: What `sample_particles` returned.

    Returns:
      Samples ``[B, *S]``.
    """
    best = jnp.argmax(particles.log_weights, axis=1)[:, None]
    return _chosen(particles, best)


def _chosen(particles, at):
    return jax.vmap(lambda rows, i: rows[i])(particles.x, at[:, 0])


def lineage(ancestors: Array) -> Array:
    """The first particles from which each step's come, ``[N, B, P]``.

    The number of different entries of the last row is how many of the starts have a
    descendant.

    Args:
      ancestors: `Particles.ancestors`, ``[N, B, P]``.

    Returns:
      Indices of particles at the start, int32 ``[N, B, P]``.
    """

    def back(roots, parents):
        roots = jax.vmap(lambda r, a: r[a])(roots, parents)
        return roots, roots

    start = jnp.broadcast_to(
        jnp.arange(ancestors.shape[2], dtype=jnp.int32), ancestors.shape[1:]
    )
    return jax.lax.scan(back, start, ancestors)[1]
