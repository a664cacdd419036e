"""How laws are run: one after the other, each by its name, skips held to their word."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlib_guidance.types import PyTree

COLLECTIVE = re.compile(
    r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    r"|collective-broadcast"
)


def run_laws(
    what: str,
    laws: Sequence[Callable[[], None]],
    only: Sequence[str] | None,
    skip: Mapping[str, str] | None,
) -> None:
    """Runs each law; its name is the function's and its meaning the docstring.

    Args:
      what: What is checked, for the messages.
      laws: Functions without arguments that raise where the law is broken.
      only: Names of the laws to run, None for all.
      skip: Reasons by the name of the law that is not to hold.

    Raises:
      AssertionError: A law is broken, or one that is skipped is not.
      ValueError: ``only`` or ``skip`` names no law, or ``skip`` gives no reason.
    """
    skip = dict(skip or {})
    known = [law.__name__ for law in laws]
    for argument, names in (("only", only or ()), ("skip", skip)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{argument} names {unknown}; expected some of {known}")
    if only is not None:
        laws = [law for law in laws if law.__name__ in only]
        unused = [name for name in skip if name not in only]
        if unused:
            raise ValueError(f"skip names {unused}, which only leaves out: {only}")
    silent = [name for name, why in skip.items() if not isinstance(why, str) or not why]
    if silent:
        raise ValueError(f"skip gives no reason for {silent}; expected a sentence each")
    for law in laws:
        name, meaning = law.__name__, (law.__doc__ or "").split("\n")[0]
        try:
            law()
        except Exception as error:
            if name in skip:
                continue
            message = f"{what} breaks the law {name!r}: {meaning}\n{error}"
            raise AssertionError(message) from error
        if name in skip:
            raise AssertionError(
                f"{what} obeys the law {name!r}, which is skipped with the reason "
                f"{skip[name]!r}: remove it from skip"
            )


def require(holds: Any, message: str) -> None:
    """Raises an AssertionError with this message unless it holds."""
    if not holds:
        raise AssertionError(message)


def same(got: PyTree, want: PyTree, what: str) -> None:
    """Raises unless two trees are equal bit for bit; NaN equals NaN."""
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), err_msg=what)


def close(
    got: PyTree, want: PyTree, what: str, atol: float = 2e-5, rtol: float = 1e-4
) -> None:
    """Raises unless two trees agree to a tolerance; NaN equals NaN."""
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(two), rtol, atol, err_msg=what
        )


def finite(tree: PyTree, what: str) -> None:
    """Raises if a tree holds NaN or an infinity."""
    try:
        chex.assert_tree_all_finite(tree)
    except AssertionError as error:
        raise AssertionError(f"{what} is not finite: {error}") from None


def mesh(batch: int) -> Mesh:
    """Devices among which a batch can be split evenly, as many as there are."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("data",))


def split(tree: PyTree, among: Mesh) -> PyTree:
    """The tree with each leaf's first axis split among devices."""
    return jax.device_put(tree, NamedSharding(among, PartitionSpec("data")))


def require_silent(compiled: Any) -> None:
    """Raises if the compiled program communicates between devices."""
    found = sorted(set(COLLECTIVE.findall(compiled.as_text())))
    require(not found, f"the compiled program of a sharded batch has {found}")


def lower_for_accelerators(function: Callable[..., Any], *args: Any) -> None:
    """Raises unless one program serves CPUs, CUDA devices and TPUs."""
    export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*args)
