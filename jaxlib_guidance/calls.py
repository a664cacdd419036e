"""What callers give: functions, conditions, denoisers, and the process of these."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    Context,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    concrete,
    require_array,
    require_process,
)


def require_callable(function: Any, name: str, arguments: Sequence[str]) -> None:
    """Raises unless a function can be called with these arguments by position.

    Args:
      function: What the caller gave. One whose signature Python cannot tell passes.
      name: What to call it in the error.
      arguments: Names of what it will be called with, for the error.

    Raises:
      TypeError: No function, or one that takes fewer arguments or needs more.
    """
    expected = f"expected a function of ({', '.join(arguments)})"
    if not callable(function):
        raise TypeError(f"{name} is {function!r}; {expected}")
    for layer in _layers(function):
        try:
            signature = inspect.signature(layer, follow_wrapped=False)
        except (TypeError, ValueError):
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return
    raise TypeError(f"{name} takes {inspect.signature(function)}; {expected}")


def _layers(function: Any) -> Iterator[Any]:
    """A function and those that it wraps: a decorator may change what it takes."""
    if isinstance(function, functools.partial):
        for inner in _layers(function.func):
            yield functools.partial(inner, *function.args, **function.keywords)
        return
    yield function
    if hasattr(function, "__wrapped__"):
        yield from _layers(function.__wrapped__)


def require_cond(cond: PyTree, batch: int) -> None:
    """Raises unless every leaf of the condition leads with the batch.

    Args:
      cond: Condition pytree; None has no leaves.
      batch: Number of samples.

    Raises:
      ValueError: A leaf of another shape, with its path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        name = f"cond{jax.tree_util.keystr(path)}"
        require_array(name, leaf, "arrays, as an encoder makes of text")
        if jnp.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"{name} has shape {jnp.shape(leaf)}; expected the batch {batch} first"
            )


def require_energy(function: Any, params: PyTree, name: str) -> None:
    """Raises unless a function can be called with ``([params,] x0, ctx)``.

    Args:
      function: What the caller gave as an energy, a loss or a reward.
      params: Its parameters; None for a function without them.
      name: What to call it in the error.

    Raises:
      TypeError: No function, or one of other arguments.
    """
    arguments = ("x0", "ctx") if params is None else ("params", "x0", "ctx")
    require_callable(function, name, arguments)


def call_energy(
    function: Callable[..., Array],
    params: PyTree,
    x: Array,
    ctx: Context,
    name: str,
    *,
    graded: bool = True,
) -> Array:
    """One number a sample ``[B]``, float32 or wider, by ``function([params,] x, ctx)``.

    Args:
      function: An energy, a loss or a reward.
      params: Its parameters; None for a function without them.
      x: What it is called with, ``[B, *S]``.
      ctx: The evaluation at hand.
      name: What to call the function in the error.
      graded: Whether its gradient is used.

    Raises:
      TypeError: Complex numbers; whole ones, whose gradient is 0, where it is used.
      ValueError: Another shape than ``[B]``, or something without a shape.
    """
    value = function(*(() if params is None else (params,)), x, ctx)
    shape, expected = getattr(value, "shape", None), x.shape[:1]
    if shape != expected:
        got = type(value).__name__ if shape is None else f"shape {shape}"
        raise ValueError(
            f"{name} returned {got}; expected one number a sample, shape {expected}"
        )
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} returned {value.dtype}; expected real numbers")
    if graded and not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name} returned {value.dtype}; expected floats, as the gradient of whole "
            "numbers is 0"
        )
    return at_least_float32(value)


def denoisers_of(denoiser: Denoiser | Sequence[Denoiser]) -> tuple[Denoiser, ...]:
    """One denoiser or several as a tuple.

    Raises:
      TypeError: Something else, or none.
    """
    nets = (denoiser,) if isinstance(denoiser, Denoiser) else denoiser
    if not isinstance(nets, (tuple, list)) or not nets:
        raise TypeError(
            f"denoiser is {type(denoiser).__name__}; expected a Denoiser, as from "
            "parametrize, or a tuple of them"
        )
    for net in nets:
        if not isinstance(net, Denoiser):
            raise TypeError(
                f"denoiser holds {type(net).__name__}; expected Denoisers, as from "
                "parametrize"
            )
    return tuple(nets)


def process_of(
    denoiser: Denoiser | Sequence[Denoiser], process: Process | None = None
) -> Process:
    """The noise process of one denoiser or of several that share it.

    Args:
      denoiser: The network, or a sequence of networks.
      process: What the caller says it is, or None.

    Raises:
      TypeError: ``process`` is not a noise process, or ``denoiser`` no denoiser.
      ValueError: Nobody says what the process is, or two say different things. Two
        processes whose parameters are being traced are not compared.
    """
    if process is not None:
        require_process(process)
    for net in denoisers_of(denoiser):
        own = net.process
        if own is None:
            continue
        if process is not None and _differ(process, own):
            raise ValueError(
                f"the denoiser's process is {own}, but here it is {process}; a network "
                "can be sampled with the process of its training only"
            )
        process = own if process is None else process
    if process is None:
        raise ValueError(
            "the denoiser has no process: make it by parametrize, or pass process="
        )
    return process


def _differ(a: Process, b: Process) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return True
    leaves = (map(concrete, jax.tree.leaves(each)) for each in (a, b))
    pairs = zip(*leaves, strict=True)
    return any(not (x is None or y is None or np.array_equal(x, y)) for x, y in pairs)
