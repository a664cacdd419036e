"""Data parallelism: one mesh axis, global arrays, and a per-device map.

Training is a global-view `jax.jit` over `data_mesh` (see `make_train_step`), with
the state whole on each device or split over all, as `state_sharding` says. Sampling and
evaluation, where samples never meet, go through `pmapped`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlib_guidance.types import PyTree

AXIS = "data"


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis "data" over these devices, by default all.

    The axis type is Auto on every version of jax; the default of `jax.make_mesh` is
    not, and an Explicit axis makes ordinary indexing of a batch an error. Devices of a
    process are neighbours, which on a TPU pod their numbers are not.

    Args:
      devices: Devices of the mesh, in any order; None for all, of every process.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding whose leading axis is split over the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(
    mesh: Mesh,
    make: Callable[[], PyTree],
    kind: Literal["data", "fsdp"] = "data",
    min_size: int = 4096,
) -> PyTree:
    """Where each leaf of a training state lives.

    Initialise with it too, so that no device ever holds more than its share:
    ``state = jax.jit(make, out_shardings=sharding)()``.

    Args:
      mesh: Mesh of devices with the axis "data", from `data_mesh`.
      make: Function without arguments that makes the state; only its shapes are used.
      kind: "data" for a whole copy on each device; "fsdp" to split each leaf along the
        largest axis that the devices can share, optimiser and average included. XLA
        then gathers parameters where they are used and scatters their gradients.
      min_size: Number of elements below which a leaf is kept whole on each device.

    Returns:
      A tree of `NamedSharding` like the state.

    Raises:
      ValueError: Another kind.
    """
    if kind not in ("data", "fsdp"):
        raise ValueError(f"kind is {kind!r}; expected 'data' or 'fsdp'")

    def place(leaf):
        axes = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0]
        if kind == "data" or leaf.size < min_size or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, AXIS))

    return jax.tree.map(place, jax.eval_shape(make))


def local_rows(mesh: Mesh, n: int) -> slice:
    """Which rows of a global batch of ``n`` this process reads and feeds.

    Every process works out the same global batch, of ids say, and loads these rows of
    it for `shard_batch`.

    Args:
      mesh: Mesh of devices with the axis "data", from `data_mesh`.
      n: Number of rows of the global batch.

    Raises:
      ValueError: Rows that the devices cannot share equally.
    """
    _require_divisible(n, mesh, "batch")
    owners = [d.process_index for d in mesh.devices.flat]
    first, count = owners.index(jax.process_index()), owners.count(jax.process_index())
    each = n // mesh.size
    return slice(first * each, (first + count) * each)


def _require_divisible(n, mesh, what):
    if n % mesh.size:
        raise ValueError(
            f"{what} has {n} rows, which {mesh.size} devices cannot share equally; "
            f"expected a multiple of {mesh.size}"
        )


def shard_batch(mesh: Mesh, batch: PyTree) -> PyTree:
    """Puts a batch on the mesh, rows split among devices.

    With several processes each passes its own rows, in the order of their indices.

    Args:
      mesh: Mesh of devices with the axis "data", from `data_mesh`.
      batch: Pytree of arrays whose leading axis is the batch.

    Raises:
      ValueError: Rows that the devices cannot share equally.
    """
    sharding = batch_sharding(mesh)
    local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)

    def put(leaf):
        if np.shape(leaf)[0] % local:
            raise ValueError(
                f"batch has a leaf {np.shape(leaf)}, which {local} devices cannot "
                f"share equally; expected a multiple of {local} rows"
            )
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, batch)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Puts a whole copy of every leaf on each device, gathering those that are split.

    The copies never share a buffer with ``tree``, so donating them leaves it intact;
    `jax.device_put` alone shares even when told not to. With several processes, leaves
    that are not global arrays must be the same on all.
    """
    return _copier(mesh)(tree)


@lru_cache(maxsize=8)
def _copier(mesh):
    # Kept, as jit compiles anew for every new function. One program: a gather for each
    # leaf, all under way at once, is what stalls.
    return jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=replicated(mesh))


def pmapped(
    fn: Callable[..., PyTree],
    mesh: Mesh,
    in_axes: Any = 0,
    out_axes: Any = 0,
    *,
    pad: bool = False,
    donate_argnums: tuple[int, ...] = (),
) -> Callable[..., PyTree]:
    """`jax.pmap` as one would write it today: each device runs ``fn`` on its rows.

    ``jit(shard_map(fn))`` over a mesh of Auto axes. Unlike `jax.pmap` it keeps ranks:
    ``fn`` sees ``[B / D, ...]``, not a row of ``[D, B / D, ...]``. The compiled program
    holds no collectives unless ``fn`` asks for them by the axis name "data". Meant for
    sampling and evaluation; to train, use `make_train_step`.

    Args:
      fn: Function of arrays whose outputs lead with the batch.
      mesh: Mesh of devices with the axis "data", from `data_mesh`.
      in_axes: Axis of each argument that is split, counted from the first, or None for
        a whole copy on each device; one value, or a tuple of values or of prefix trees.
      out_axes: Axis of each output along which the devices' parts are joined, one
        value or a prefix tree. None promises that all devices agree.
      pad: Whether to accept a batch that the devices cannot share equally, repeating
        its last row and cutting the surplus off the outputs. Only for axis 0.
      donate_argnums: Positions of the arguments whose buffers may be reused.

    Returns:
      The mapped, compiled function.

    Raises:
      ValueError: A negative axis; ``pad`` with another axis than 0; at the call, rows
        that the devices cannot share equally.
    """
    absent = lambda axis: axis is None  # noqa: E731

    def spec(axes):
        return jax.tree.map(
            lambda a: (
                PartitionSpec() if a is None else PartitionSpec(*[None] * a, AXIS)
            ),
            axes,
            is_leaf=absent,
        )

    if any(a < 0 for a in jax.tree.leaves((in_axes, out_axes))):
        raise ValueError(
            f"in_axes is {in_axes} and out_axes {out_axes}; expected axes from 0 on"
        )
    if pad and any(a for a in jax.tree.leaves((in_axes, out_axes))):
        raise ValueError(
            f"pad needs axis 0; got in_axes {in_axes}, out_axes {out_axes}"
        )

    def over(axes, tree, change):
        """Applies ``change(leaf, axis)`` where ``axes``, a prefix of ``tree``, maps."""
        return jax.tree.map(
            lambda axis, part: (
                part
                if axis is None
                else jax.tree.map(lambda leaf: change(leaf, axis), part)
            ),
            axes,
            tree,
            is_leaf=absent,
        )

    def call(*args):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ValueError(
                f"in_axes has {len(axes)} entries for {len(args)} arguments"
            )
        rows = set()
        over(axes, args, lambda leaf, axis: rows.add(leaf.shape[axis]))
        if len(rows) > 1:
            raise ValueError(f"mapped arguments have {sorted(rows)} rows; expected one")
        total = rows.pop() if rows else 0
        if not pad:
            _require_divisible(
                total, mesh, "the mapped axis (pass pad=True to fill up)"
            )
        surplus = -total % mesh.size
        if surplus:
            args = over(
                axes,
                args,
                lambda leaf, _: jnp.concatenate([leaf, *[leaf[-1:]] * surplus]),
            )
        mapped = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=spec(axes),
            out_specs=spec(out_axes),
            check_vma=False,
        )
        out = mapped(*args)
        return over(out_axes, out, lambda leaf, _: leaf[:total]) if surplus else out

    return jax.jit(call, donate_argnums=donate_argnums)
