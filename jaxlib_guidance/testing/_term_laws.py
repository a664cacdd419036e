"""The laws of a guidance term; see `check_term`."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxlib_guidance.guidance import chain, guided
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
from jaxlib_guidance.testing._term_case import TermCase

MARK = "evaluation"


class TermLaws(TermCase):
    """Each method is a law, its docstring what it says."""

    def pytree(self):
        """Weights are leaves, and what is unflattened acts the same."""
        term = self.make(jnp.float32(0.7))
        leaves, tree = jax.tree.flatten(term)
        again = tree.unflatten(leaves)
        require(
            jax.tree.structure(again) == tree, "unflattening gives another structure"
        )
        other = self.make(jnp.float32(0.3))
        require(
            jax.tree.structure(other) == tree,
            f"two weights give two structures, {tree} and "
            f"{jax.tree.structure(other)}: a weight that is no leaf compiles anew at "
            "each value",
        )
        require(
            any(
                not np.array_equal(a, b)
                for a, b in zip(leaves, jax.tree.leaves(other), strict=True)
            ),
            f"two weights give the same leaves: {leaves}",
        )
        for each in _dataclasses(term):
            params = type(each).__dataclass_params__
            require(params.frozen, f"{type(each).__name__} is not frozen")
        one, two = (
            jax.eval_shape(self.evaluate, part, self.rows, self.x)
            for part in (term, again)
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(one, two)

    def acts(self):
        """The term changes the estimate."""
        finite(self.swept["itself"], "the estimate")
        gap = np.abs(self.swept["itself"] - self.base["itself"]).max()
        require(
            gap > 1e-3,
            f"the estimate moved by {gap:.1e} at most; expected 1e-3 (give a stronger "
            "weight, or t, step and steps inside its window)",
        )

    def state(self):
        """State leads with the batch and keeps its structure, shapes and types."""
        term = chain(self.make(1.0))
        before = jax.eval_shape(lambda x: term.init(x), self.x)
        after = jax.eval_shape(lambda x: self.evaluate(term, self.rows, x)[2], self.x)
        for leaf in jax.tree.leaves(before):
            require(
                leaf.shape[:1] == self.x.shape[:1],
                f"the state has a leaf {leaf.shape}; expected the batch "
                f"{self.x.shape[0]} first",
            )
        chex.assert_trees_all_equal_structs(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)

    def half(self):
        """With networks and weights in half precision all that comes is float32."""
        for kind in (jnp.bfloat16, jnp.float16):
            weight = jnp.ones(self.x.shape[0], kind)

            def in_half(weight, x, kind=kind):
                return self.evaluate(self.make(weight), self.rows, x, kind=kind)

            for leaf in jax.tree.leaves(jax.eval_shape(in_half, weight, self.x)):
                if jnp.issubdtype(leaf.dtype, jnp.floating):
                    require(
                        leaf.dtype == jnp.float32,
                        f"in {kind.__name__} got {leaf.dtype}; expected float32",
                    )

    def weight_zero(self):
        """Weight 0 is off bit for bit, in the samples whose weight it is."""
        x0, base = self.eager
        same(x0[self.off], base[self.off], "eager, weight 0 in these samples")
        # A matrix product may round its rows otherwise beside those of other branches.
        equal = close if self.nets[0].sites else same
        equal(self.swept["off"], self.base["off"], "compiled, weight 0 everywhere")
        t = jnp.full(self.x.shape[:1], self.t, jnp.float32)
        alone = self.nets[0](self.x, t, self.cond).x0
        close(self.swept["off"], alone, "against the network alone")

    def weight_zero_static(self):
        """A weight known to be 0 leaves nothing in the program."""

        def program(term):
            steered = guided(self.nets, term)
            state = steered.init(self.x)
            return str(
                jax.make_jaxpr(lambda x: steered(self.context(self.rows, x), state)[0])(
                    self.x
                )
            )

        with_it, without = program(self.make(0.0)), program(chain())
        require(
            with_it == without,
            f"a program of {with_it.count(' = ')} operations; expected the "
            f"{without.count(' = ')} of no guidance",
        )

    def weight_sweep(self):
        """A vmap over weights gives what each weight gives alone."""
        _, one, half = self.divided
        close(self.swept["itself"], one, "the term itself")
        close(self.swept["half"], half, "half its weight")
        gap = np.abs(self.swept["itself"] - self.swept["half"]).max()
        require(gap > 0, "half the weight gives the same estimate")

    def gradient(self):
        """Slopes along the weight and the network agree with finite differences."""
        _ = self.swept
        slope, value = self.slopes["itself"], self.value
        ends = [("more", "less"), ("stronger", "weaker")]
        wanted = [(value[a] - value[b]) / (2 * self.h) for a, b in ends]
        finite(slope, "the gradient")
        for name, got, want in zip(("weight", "network"), slope, wanted, strict=True):
            close(got, want, f"slope along the {name}", atol=5e-3, rtol=3e-2)
        finite(self.slopes["off"], "the gradient at weight 0")
        require(slope[0] != 0, "the slope along the weight is 0")

    def batch(self):
        """A sample does not depend on the others, nor on its place."""
        moved, itself = self.swept["moved"], self.swept["itself"]
        same(moved[self.others], itself[self.others], "with one sample replaced")
        gap = np.abs(moved[self.odd] - itself[self.odd]).max()
        require(gap > 1e-2, "replacing a sample left it as it was")
        rows = self.rows[::-1]
        among = mesh(self.x.shape[0])
        backwards = self.whole(jnp.float32(1), *split((rows, self.x[::-1]), among))[0]
        close(backwards[::-1], itself, "in another order")
        some = self.rows[:3]
        alone = jax.eval_shape(self.run, jnp.float32(1), some, self.x[:3])[0]
        require(alone.shape == (3, *self.x.shape[1:]), f"3 samples give {alone}")

    def nan(self):
        """NaN in one sample stays in that sample."""
        got, want = self.swept["nan"], self.swept["itself"]
        same(got[self.others], want[self.others], "the other samples")
        require(np.isnan(got[self.odd]).any(), "NaN in a sample became a number")

    def jit(self):
        """Compiled and not, the estimate is the same."""
        x0, _ = self.eager
        on = ~self.off
        close(x0[on], self.swept["itself"][on], "without jit", atol=1e-5)

    def one_compilation(self):
        """One compilation serves two weights."""
        _ = self.divided
        require(
            self.compilations == 1,
            f"two weights were traced {self.compilations} times; expected once",
        )

    def devices(self):
        """Split among devices it is the same, and nothing is communicated."""
        lowered, one, _ = self.divided
        require_silent(lowered.compile())
        among = mesh(self.x.shape[0])
        require(
            len(one.sharding.device_set) == among.size, "the result left its devices"
        )
        close(self.apart, self.swept["itself"], "each device by itself")

    def evaluations(self):
        """A step evaluates the networks as often as stated."""

        def marked(net):
            def apply(x, t, cond, **options):
                return net.apply(checkpoint_name(x, MARK), t, cond, **options)

            return dataclasses.replace(net, apply=apply)

        steered = guided(tuple(map(marked, self.nets)), self.make(1.0))
        program = jax.make_jaxpr(
            lambda x: steered(self.context(self.rows, x), steered.init(x))
        )(self.x)
        rows, batch = _marked_rows(program.jaxpr), self.x.shape[0]
        require(
            rows == self.expected * batch,
            f"{rows / batch} evaluations of each sample; expected {self.expected}",
        )

    def lowers(self):
        """It lowers for CUDA devices and for TPUs."""
        lower_for_accelerators(self.run, jnp.float32(1), self.rows, self.x)


def _marked_rows(jaxpr):
    """Rows that reach a network, in loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "name" and params["name"] == MARK:
            total += equation.invars[0].aval.shape[0]
            continue
        inside = [_marked_rows(program) for program in _programs(params)]
        require(
            kind != "while" or not any(inside),
            "a network is evaluated in a loop of unknown length; use a fixed number",
        )
        each = max(inside, default=0) if kind == "cond" else sum(inside)
        total += each * params.get("length", 1)
    return total


def _programs(params):
    # Since jax 0.12 `custom_root` and its like hold their programs in an object.
    params = params | getattr(params.get("_prim"), "params", {})
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program


def _dataclasses(term):
    """The term and those inside it."""
    if dataclasses.is_dataclass(term):
        yield term
        inner = (*getattr(term, "terms", ()), getattr(term, "inner", None))
        for each in inner:
            yield from _dataclasses(each)
