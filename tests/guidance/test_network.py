"""Guidance of a transformer, and the term that docs/guidance.md writes."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

import jaxlib_guidance as jg
from jaxlib_guidance.attention import identity
from jaxlib_guidance.guidance import BASE, Contrast, like_cond
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit
from jaxlib_guidance.types import Branch, per_sample, pytree_dataclass, static

PROCESS = jg.VPCosine()
NULL = 10


class OfMap:
    """The energy of an attention map of the base."""

    through = "network"
    weight = 0.5

    def branches(self, ctx):
        return {BASE: Branch(ctx.cond, grad=True, capture=("block0/attn",))}

    def energy(self, evals, ctx):
        return jnp.sum(evals.maps[BASE]["block0/attn"] ** 2, axis=(1, 2, 3))

    def update(self, delta, evals, state, ctx):
        return delta - self.weight * evals.grad, state


def test_folded_branches_equal_separate_calls(context, guided):
    """A DiT: CFG, perturbed attention, and an energy of a captured map."""
    module, params = tiny_dit(jax.random.key(0), depth=2)
    net = jg.parametrize(from_linen(module, params), PROCESS, "eps")
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    labels = jnp.array([0, 3, 9])
    perturbed = Contrast(1.5, control={"block1": identity()}, worse="perturbed")

    terms = jg.chain(jg.cfg(2.0, NULL), perturbed, OfMap())

    @jax.jit
    def folded(x):
        ctx = context(PROCESS, x, 0.4, labels)
        return [guided(terms, net, ctx, plan=p)[0] for p in ("auto", "fused")]

    @jax.jit
    def separate(x):
        t = jnp.full(3, 0.4)
        c = net(x, t, labels).x0
        u = net(x, t, jnp.full(3, NULL)).x0
        p = net(x, t, labels, control={"block1/attn": identity()}).x0

        def energy(x):
            maps = net(x, t, labels, capture=("block0/attn",)).maps
            return jnp.sum(maps["block0/attn"] ** 2)

        guided = c + 2.0 * (c - u) + 1.5 * (c - p) - 0.5 * jax.grad(energy)(x)
        return guided, (c - u, c - p, jax.grad(energy)(x))

    expected, parts = separate(x)
    assert min(np.abs(part).max() for part in parts) > 1e-3
    for x0 in folded(x):
        np.testing.assert_allclose(x0, expected, rtol=1e-3, atol=2e-4)


def test_the_term_of_the_documentation(lookup, context, guided):
    page = pathlib.Path(__file__).parents[2] / "docs" / "guidance.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    (block,) = (block for block in blocks if "class Fresh" in block)
    source = block[block.index("@pytree_dataclass") :].split("\n\n\n")[0]
    names = {
        "Array": jax.Array,
        "BASE": BASE,
        "Branch": Branch,
        "jnp": jnp,
        "like_cond": like_cond,
        "per_sample": per_sample,
        "pytree_dataclass": pytree_dataclass,
        "static": static,
        "__name__": __name__,
    }
    exec(source, names)
    ctx = context(PROCESS, jnp.zeros((2, 3)), 0.5, jnp.array([1, 1]))
    denoiser = lookup([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    term = names["Fresh"](jnp.array([0.0, 2.0]), null=0)
    x0, state = guided(term, denoiser, ctx)
    np.testing.assert_allclose(x0, [[2.0, 0.0, 1.0], [4.0, -2.0, 3.0]])
    x0, _ = guided(term, denoiser, ctx, state)
    np.testing.assert_allclose(x0, [[2.0, 0.0, 1.0]] * 2)
