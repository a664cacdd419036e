"""Problems for solvers, in two halves: rows are chosen on one, reported on the other.

    from problems import load
    for problem in load("tuning"):       # or "held_out"
        denoiser, starts = problem.denoiser(), problem.starts
        error = problem.error(samples)   # mean L2 distance to `problem.ends()`

A problem is a denoiser, a noise process, states ``sigma z`` at ``process.t_max`` and
the ends to which the probability flow takes them. Both halves have Gaussian mixtures,
thin supports (condition numbers 1e2 to 1e6), curves, many modes, 2 to 64 dimensions,
data of scale 0.3, 1 and 3, four processes, and a learned network (the bundled digits,
and "emoji" when the package ships it) with and without guidance. No distribution is in
both halves. A published network of another library is not among them yet.

Ends of mixtures are `exact_flow`'s. Those of networks are a fourth-order Runge-Kutta
solution from `process.t_max` to `process.t_min`, and one prediction of x0 from there;
its own error, measured with half the steps, is `problem.floor()`. Both are kept in a
cache folder. Mixtures of like dimension are padded to one shape (`padded`), so that one
compiled function serves them all.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from distributions import DISTRIBUTIONS
from problem import Problem

import jaxlib_guidance as jg
from jaxlib_guidance.data import embed_words, load_digits, load_emoji
from jaxlib_guidance.diffusion import linear_betas, vp_discrete
from jaxlib_guidance.models import load_pretrained, pretrained_names
from jaxlib_guidance.testing import GaussianMixture, draw_exact, exact_denoiser
from jaxlib_guidance.types import Array, pytree_dataclass, static

PROCESSES = {
    "linear": vp_discrete(linear_betas()),
    "cosine": jg.VPCosine(),
    "ve": jg.VE(),
    "flow": jg.RectifiedFlow(),
}
COUNTS = (5, 8, 10, 15, 20, 50)
# Mixtures of at most so many dimensions and components share a shape.
SHAPES = ((2, 256), (16, 100), (64, 4))
STARTS = {"mixture": 64, "network": 32, "picture": 4}

# (name, half, distribution, process, standard deviation of the data)
MIXTURES = (
    ("three", "tuning", "plane", "linear", 1.0),
    ("three-small", "tuning", "plane", "flow", 0.3),
    ("space", "tuning", "space16", "ve", 1.0),
    ("space-cosine", "tuning", "space16", "cosine", 1.0),
    ("thin2", "tuning", "thin2", "flow", 1.0),
    ("thin2-cosine", "tuning", "thin2", "cosine", 1.0),
    ("thin8", "tuning", "thin8", "linear", 1.0),
    ("thin8-ve", "tuning", "thin8", "ve", 0.3),
    ("ring", "tuning", "ring", "flow", 1.0),
    ("ring-large", "tuning", "ring", "linear", 3.0),
    ("spiral", "tuning", "spiral", "ve", 3.0),
    ("grid", "tuning", "grid", "cosine", 1.0),
    ("grid-flow", "tuning", "grid", "flow", 1.0),
    ("modes8", "tuning", "modes8", "linear", 1.0),
    ("four-dim", "tuning", "space4", "flow", 3.0),
    ("wide64", "tuning", "wide64", "linear", 0.3),
    ("five", "held_out", "five", "ve", 1.0),
    ("five-small", "held_out", "five", "linear", 0.3),
    ("space8", "held_out", "space8", "flow", 1.0),
    ("space8-cosine", "held_out", "space8", "cosine", 1.0),
    ("needles", "held_out", "needles", "linear", 1.0),
    ("needles-flow", "held_out", "needles", "flow", 1.0),
    ("thin16", "held_out", "thin16", "flow", 1.0),
    ("thin16-ve", "held_out", "thin16", "ve", 3.0),
    ("swiss-roll", "held_out", "swiss_roll", "linear", 1.0),
    ("swiss-roll-flow", "held_out", "swiss_roll", "flow", 3.0),
    ("moons", "held_out", "moons", "cosine", 1.0),
    ("checkerboard", "held_out", "checkerboard", "cosine", 0.3),
    ("checkerboard-ve", "held_out", "checkerboard", "ve", 1.0),
    ("modes16", "held_out", "modes16", "linear", 1.0),
    ("modes16-flow", "held_out", "modes16", "flow", 1.0),
    ("knot4", "held_out", "knot4", "cosine", 1.0),
    ("subspace64", "held_out", "subspace64", "flow", 1.0),
    ("subspace64-cosine", "held_out", "subspace64", "cosine", 0.3),
)
# (name, half, network, labels, weight): weight None is no guidance, label -1 the null
# class, and labels None stands for `PROMPTS`.
NETWORKS = (
    ("digits", "tuning", "digits", (-1,), None),
    ("digits-cfg3", "tuning", "digits", (0, 1, 2, 3, 4), 3.0),
    ("digits-labels", "held_out", "digits", (5, 6, 7, 8, 9), None),
    ("digits-cfg2", "held_out", "digits", (5, 6, 7, 8, 9), 2.0),
    ("emoji", "held_out", "emoji", None, None),
    ("emoji-cfg2", "held_out", "emoji", None, 2.0),
)
PROMPTS = (
    "red apple",
    "cat face",
    "rocket",
    "tree",
    "pizza",
    "blue circle",
    "sun",
    "fish",
)


@pytree_dataclass
class AnyOf:
    """One of several processes by a traced number: one compilation serves all."""

    which: Array
    members: tuple = tuple(PROCESSES.values())
    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)

    def alpha(self, t):
        return jnp.stack([p.alpha(t) for p in self.members])[self.which]

    def sigma(self, t):
        return jnp.stack([p.sigma(t) for p in self.members])[self.which]

    def t_of_logsnr(self, logsnr):
        return jnp.stack([p.t_of_logsnr(logsnr) for p in self.members])[self.which]


def padded(problem: Problem) -> tuple[GaussianMixture, Array]:
    """A mixture and its starts in the shape that its like share.

    Components of no weight and dimensions in which everything is 0 change nothing: the
    first dimensions of samples of the padded problem are those of the problem itself.

    Args:
      problem: A problem of kind "mixture".

    Returns:
      ``(mixture, starts)``.
    """
    mixture = problem.mixture
    many, dim = mixture.means.shape
    wide, most = next(s for s in SHAPES if dim <= s[0] and many <= s[1])
    m, d = most - many, wide - dim
    eye = jnp.broadcast_to(jnp.eye(wide), (most, wide, wide))
    return GaussianMixture(
        jnp.pad(mixture.log_weights, (0, m), constant_values=-jnp.inf),
        jnp.pad(mixture.means, ((0, m), (0, d))),
        jnp.pad(mixture.variances, ((0, m), (0, d)), constant_values=1.0),
        eye.at[:many, :dim, :dim].set(mixture.axes),
    ), jnp.pad(problem.starts, ((0, 0), (0, d)))


def _seed(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _noise(name, count, shape):
    return np.random.default_rng(_seed(name)).normal(size=(count, *shape))


def _measured(examples):
    """`data_scale` as a user has it, from examples; rounded, to compile less often."""
    return float(f"{jg.data_scale(examples):.2g}")


def _mark(*trees):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]
    parts = [repr(trees[0]).encode(), *(leaf.tobytes() for leaf in leaves)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def mixture_problem(name, half, distribution, process, scale, cache):
    p = PROCESSES[process]
    mixture = DISTRIBUTIONS[distribution](scale)
    z = _noise(name, STARTS["mixture"], mixture.means.shape[1:])
    starts = jnp.asarray(z, jnp.float32) * p.sigma(jnp.float32(p.t_max))
    return Problem(
        name,
        half,
        "mixture",
        p,
        process,
        _measured(draw_exact(mixture, jax.random.key(0), 500)),
        starts,
        lambda: exact_denoiser(mixture, p),
        mixture=mixture,
        mark=_mark(p, mixture, starts),
        cache=cache,
    )


def _prompted(model, count):
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    text, mask = embed_words(prompts)
    label = np.full(count, model.classes, np.int32)
    cond = {"label": label, "text": text, "text_mask": mask}
    return jax.tree.map(jnp.asarray, cond)


def _network_problem(name, half, network, labels, weight, cache):
    model, params = load_pretrained(network)
    # Past a log-SNR of -7.5 the state is all noise: where `model.grid` begins, too.
    t_max = float(model.process.t_of_logsnr(jnp.float32(-7.5)))
    model = dataclasses.replace(
        model, process=dataclasses.replace(model.process, t_max=t_max)
    )
    count = STARTS["network" if np.prod(model.shape) < 1000 else "picture"]
    z = _noise(name, count, model.shape)
    starts = jnp.asarray(z, jnp.float32) * model.process.sigma(jnp.float32(t_max))
    if labels is None:
        cond = _prompted(model, count)
    else:
        chosen = [labels[i % len(labels)] for i in range(count)]
        cond = jnp.asarray(chosen) % (model.classes + 1)
    return Problem(
        name,
        half,
        "network",
        model.process,
        "cosine",
        _measured(load_digits()[0] if network == "digits" else load_emoji().images),
        starts,
        lambda: model.denoiser(params),
        cond,
        None if weight is None else jg.cfg(weight, model.null),
        mark=_mark(model.process, params, starts, cond, weight),
        cache=cache,
    )


def cache_folder(path: str | os.PathLike | None = None) -> Path:
    """Folder of what is computed once; None is ~/.cache/jaxlib_guidance/benchmarks."""
    default = Path.home() / ".cache" / "jaxlib_guidance" / "benchmarks"
    return Path(os.environ.get("BENCHMARK_CACHE", default) if path is None else path)


def load(
    half: str, kind: str | None = None, cache: str | os.PathLike | None = None
) -> list[Problem]:
    """The problems of one half.

    Args:
      half: "tuning" or "held_out".
      kind: "mixture" or "network"; None is both.
      cache: Folder where ends are kept; see `cache_folder`.
    """
    if half not in ("tuning", "held_out"):
        raise ValueError(f"half is {half!r}; expected 'tuning' or 'held_out'")
    folder = cache_folder(cache)
    made = []
    if kind in (None, "mixture"):
        made += [mixture_problem(*row, folder) for row in MIXTURES if row[1] == half]
    if kind in (None, "network"):
        here = pretrained_names()
        made += [
            _network_problem(*row, folder)
            for row in NETWORKS
            if row[1] == half and row[2] in here
        ]
    return made
