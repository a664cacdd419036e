"""The laws of a loss; see `check_loss`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import LossOut, finalize, merge
from jaxlib_guidance.testing._laws import (
    close,
    finite,
    require,
    same,
)

PROMPTS, GROUP, LENGTH, WORDS = 4, 2, 5, 6
ROWS = PROMPTS * GROUP


PAIRS = (
    ("u_w", "u_l"),
    ("mean_w", "mean_l"),
    ("logp_w", "logp_l"),
    ("r_w", "r_l"),
    ("ratio_w", "ratio_l"),
    ("x", "y"),
)


def _known() -> dict[str, np.ndarray]:
    """Inputs by the names that losses of this library use."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    tokens, rows = (ROWS, LENGTH), (ROWS,)
    logp = -np.abs(normal(*tokens)) - 0.1
    mask = (random.uniform(size=tokens) < 0.7).astype(np.float32)
    # A padding row, a full one, and none of whose neighbours are both empty.
    mask[3], mask[4], mask[:, 0] = 0, 1, np.arange(ROWS) != 3
    known = {
        "logp": logp,
        "logp_old": logp + 0.1 * normal(*tokens),
        "logp_ref": logp + 0.3 * normal(*tokens),
        "logp_rollout": logp + 0.2 * normal(*tokens),
        "advantage": normal(*tokens),
        "values": normal(*tokens),
        "values_old": normal(*tokens),
        "targets": normal(*tokens),
        "logits": normal(*tokens, WORDS),
        "logits_ref": normal(*tokens, WORDS),
        "rewards": normal(PROMPTS, GROUP),
        "mask": mask,
        "u": normal(*rows),
    }
    for name in (name for pair in PAIRS for name in pair):
        known[name] = normal(*rows)
    for name in ("mean_w", "mean_l", "logp_w", "logp_l"):
        known[name] = -np.abs(known[name]) - 0.1
    return known


class LossLaws:
    """One loss with its inputs; each method is a law."""

    def __init__(self, loss, inputs, learned, constants):
        known = _known()
        names = inspect.signature(loss).parameters
        needed = [
            name
            for name, p in names.items()
            if (p.default is p.empty and p.kind is not p.VAR_KEYWORD)
            or name == "mask"
            or name in inputs
        ]
        missing = [n for n in needed if n not in known and n not in inputs]
        stray = [n for n in inputs if n not in names]
        if missing or stray:
            raise ValueError(
                f"inputs lacks {missing} and has {stray}, which are not among the "
                f"loss's arguments {list(names)}"
            )
        self.inputs = {
            n: jnp.asarray(inputs[n] if n in inputs else known[n]) for n in needed
        }
        self.loss = loss
        first = needed[0]
        pair = next((pair for pair in PAIRS if first in pair), (first,))
        self.learned = tuple(learned or (n for n in pair if n in needed))
        self.fixed = tuple(constants)
        unknown = [n for n in (*self.learned, *self.fixed) if n not in self.inputs]
        if unknown:
            raise ValueError(
                f"learned and constants name {unknown}; expected some of {needed}"
            )
        self.mask = self.inputs.get("mask")
        self.whole = isinstance(self.eager, LossOut)

    def call(self, inputs):
        return self.loss(**inputs)

    def total(self, inputs):
        """A scalar to differentiate, and what the loss returned."""
        out = self.call(inputs)
        if self.whole:
            return out.sum, out
        # Different factors, so that no two elements can be confused.
        factor = 1 + jnp.arange(out.size, dtype=jnp.float32) / out.size
        return jnp.sum(out * factor.reshape(out.shape)), out

    def shifted(self, h):
        """The inputs a little along a direction of what is learned."""
        random = np.random.default_rng(1)
        moved = dict(self.inputs)
        for name in self.learned:
            step = random.normal(size=moved[name].shape)
            moved[name] = moved[name] + jnp.asarray(h * step, jnp.float32)
        return moved

    def hidden(self, fill, everywhere=False):
        """The inputs with junk where the mask is 0."""
        own = jnp.asarray(self.mask)
        mask = jnp.zeros_like(own) if everywhere else own
        changed = self.inputs | {"mask": mask}
        for name, value in self.inputs.items():
            shaped = value.shape[: mask.ndim] == mask.shape
            if name == "mask" or not shaped or value.dtype.kind != "f":
                continue
            hole = jnp.equal(mask, 0).reshape(
                mask.shape + (1,) * (value.ndim - mask.ndim)
            )
            changed[name] = jnp.where(hole, fill, value)
        return changed

    @functools.cached_property
    def swept(self):
        """Loss, total and gradient of all cases, from one compiled program."""
        self.h = 2e-3
        cases = {
            "itself": self.inputs,
            "more": self.shifted(self.h),
            "less": self.shifted(-self.h),
            "rolled": jax.tree.map(_roll, self.inputs),
            "other": self.shifted(0.3),
        }
        if self.mask is not None:
            for fill in (jnp.nan, jnp.inf, -jnp.inf):
                cases[f"masked {fill}"] = self.hidden(fill)
                cases[f"nothing {fill}"] = self.hidden(fill, everywhere=True)
        moving = {*self.learned, *self.fixed}

        def graded(inputs):
            still = {n: v for n, v in inputs.items() if n not in moving}

            def total(part):
                return self.total(still | part)

            part = {n: v for n, v in inputs.items() if n in moving}
            return jax.value_and_grad(total, has_aux=True)(part)

        self.traces: list[None] = []

        def each(stacked):
            self.traces.append(None)
            return jax.vmap(graded)(stacked)

        program = jax.jit(each)
        stacked = jax.tree.map(lambda *v: jnp.stack(v), *cases.values())
        (total, out), slopes = program(stacked)
        program(jax.tree.map(lambda v: v[::-1], stacked))

        def of(tree, i):
            return jax.tree.map(lambda leaf: np.asarray(leaf[i]), tree)

        return {
            name: (of(total, i), of(out, i), of(slopes, i))
            for i, name in enumerate(cases)
        }

    @functools.cached_property
    def eager(self):
        return self.call(self.inputs)

    def contract(self):
        """Float32, one number for each element or row or a sum and a weight."""
        _, out, slopes = self.swept["itself"]
        first = self.inputs[self.learned[0]]
        if self.whole:
            shapes = {"sum": (), "weight": ()}
            for name, shape in shapes.items():
                found = getattr(out, name)
                require(
                    found.shape == shape and found.dtype == np.float32,
                    f"{name} is {found.dtype} {found.shape}; expected float32 ()",
                )
        else:
            allowed = [first.shape[:n] for n in range(1, first.ndim + 1)]
            require(
                out.shape in allowed and out.dtype == np.float32,
                f"the loss is {out.dtype} {out.shape}; expected float32 of one of the "
                f"shapes {allowed}",
            )
        finite((out, slopes), "the loss or its gradient")
        other = self.swept["other"][0]
        require(self.swept["itself"][0] != other, "two inputs give one loss")
        moved = {n: np.abs(slopes[n]).max() for n in self.learned}
        require(min(moved.values()) > 0, f"the gradient is 0: {moved}")

    def masked(self):
        """What is masked has loss and gradient exactly 0 and moves nothing else."""
        _, want, want_slopes = self.swept["itself"]
        hole = np.asarray(self.mask) == 0
        for fill in (jnp.nan, jnp.inf, -jnp.inf):
            _, out, slopes = self.swept[f"masked {fill}"]
            same(out, want, f"the loss with {fill} where masked")
            same(slopes, want_slopes, f"the gradient with {fill} where masked")
            if not self.whole and out.shape == hole.shape:
                require((out[hole] == 0).all(), f"the loss where masked is {out[hole]}")
            for name, slope in slopes.items():
                if slope.shape[: hole.ndim] == hole.shape:
                    require(
                        (slope[hole] == 0).all(),
                        f"the gradient to {name} where masked is {slope[hole]}",
                    )

    def nothing(self):
        """Where everything is masked, loss and gradient are exactly 0."""
        for fill in (jnp.nan, jnp.inf, -jnp.inf):
            _, out, slopes = self.swept[f"nothing {fill}"]
            loss = np.asarray(finalize(out)[0]) if self.whole else out
            require((loss == 0).all(), f"the loss of nothing is {loss}")
            for name, slope in slopes.items():
                require(
                    (slope == 0).all(), f"the gradient to {name} of nothing is {slope}"
                )

    def split(self):
        """Halves of the batch give the whole."""
        first, second = (
            self.call(
                {n: v if v.ndim == 0 else _half(v, i) for n, v in self.inputs.items()}
            )
            for i in range(2)
        )
        want = self.swept["itself"][1]
        if self.whole:
            got = merge(first, second)
            close(got, want, "sum, weight and reports of merged halves")
            close(finalize(got), finalize(want), "the loss of merged halves")
        else:
            got = jnp.concatenate([first, second])
            close(got, want, "rows of the halves")

    def permutation(self):
        """Another order of the rows changes nothing but their order."""
        _, want, slope = self.swept["itself"]
        _, got, slopes = self.swept["rolled"]
        close(got, want if self.whole else _roll(want), "the loss")
        if self.whole:
            close(slopes, jax.tree.map(_roll, slope), "the gradient")

    def half(self):
        """Inputs in half precision are computed with in float32."""
        for kind in (jnp.bfloat16, jnp.float16):

            def narrow(v, kind=kind):
                return v.astype(kind) if v.dtype.kind == "f" else v

            small = jax.tree.map(narrow, self.inputs)
            wide = jax.tree.map(
                lambda v: v.astype(jnp.float32) if v.dtype.itemsize == 2 else v, small
            )
            got, want = self.call(small), self.call(wide)
            for leaf in jax.tree.leaves(got):
                require(
                    leaf.dtype == jnp.float32,
                    f"in {kind.__name__} got {leaf.dtype}; expected float32",
                )
            close(got, want, f"in {kind.__name__}, beside the same numbers wide")

    def jit(self):
        """Compiled and not, the loss is the same."""
        close(self.swept["itself"][1], self.eager, "without jit")

    def vmap(self):
        """A vmap over inputs gives what each gives alone."""
        close(self.swept["other"][1], self.call(self.shifted(0.3)), "the second input")

    def gradient(self):
        """The gradient agrees with finite differences."""
        slopes = self.swept["itself"][2]
        unit = self.shifted(1.0)
        got = sum(
            np.sum(slopes[n] * np.asarray(unit[n] - self.inputs[n]))
            for n in self.learned
        )
        want = (self.swept["more"][0] - self.swept["less"][0]) / (2 * self.h)
        close(got, want, "slope along a direction", atol=1e-2, rtol=2e-2)

    def constants(self):
        """The gradient with respect to constants is exactly 0."""
        for name in self.fixed:
            slope = self.swept["itself"][2][name]
            require((slope == 0).all(), f"the gradient to {name} is {slope}")

    def shapes(self):
        """An argument of another shape raises while tracing, and says which."""
        for name, value in self.inputs.items():
            if value.ndim == 0 or len(self.inputs) == 1:
                continue
            wrong = jnp.concatenate([value, value[:1]])
            try:
                jax.eval_shape(self.call, self.inputs | {name: wrong})
            except (ValueError, TypeError) as error:
                telling = [*self.inputs, str(wrong.shape)]
                require(
                    any(word in str(error) for word in telling),
                    f"the error of {name} {wrong.shape} has none of {telling}: {error}",
                )
            else:
                raise AssertionError(
                    f"{name} of shape {wrong.shape} was accepted beside "
                    f"{jax.tree.map(jnp.shape, self.inputs)}"
                )

    def one_compilation(self):
        """One compilation serves two inputs."""
        _ = self.swept
        require(
            len(self.traces) == 1,
            f"two inputs were traced {len(self.traces)} times; expected once",
        )


def _roll(value):
    """The second half first, which is an order of rows and of prompts alike."""
    return jnp.roll(value, len(value) // 2, 0) if jnp.ndim(value) else value


def _half(value, i):
    if len(value) % 2:
        raise ValueError(
            f"an input has shape {value.shape}; expected an even first axis, to halve"
        )
    return jnp.split(value, 2)[i]
