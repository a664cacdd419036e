"""What is under test runs as one compiled program a call.

That is how it is used, and it is cheaper: eagerly, each of its operations would be
compiled by itself, for each shape anew.
"""

import functools
import inspect

import jax
import numpy as np
import pytest


@functools.cache
def compiled(fn, tree, fixed):
    """``fn`` of its arrays; ``fixed`` has the other leaves, ``...`` for an array."""

    def call(*arrays):
        rest = iter(arrays)
        leaves = [next(rest) if leaf is ... else leaf for leaf in fixed]
        args, kwargs = jax.tree.unflatten(tree, leaves)
        return fn(*args, **kwargs)

    return jax.jit(call)


def jitted(fn):
    """``fn`` that compiles once for each choice of what is not an array.

    It returns numpy arrays, so that what a test does with them compiles nothing.
    """

    @functools.wraps(fn)
    def call(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        fixed = tuple(
            ... if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        )
        arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
        out = compiled(fn, tree, fixed)(*arrays)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(out)):
            return out
        return jax.tree.map(np.asarray, out)

    return call


@pytest.fixture
def one_program(request, monkeypatch):
    """For ``usefixtures``: wraps the package's functions that a test module imports."""
    for name, thing in list(vars(request.module).items()):
        rooms = ("jaxlib_guidance.policy", "jaxlib_guidance.reduce")
        if inspect.isfunction(thing) and thing.__module__.startswith(rooms):
            monkeypatch.setattr(request.module, name, jitted(thing))
    return jitted
