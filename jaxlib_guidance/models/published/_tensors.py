"""A tree of parameters from tensors with published names, and back.

The path of a parameter is the published name of its tensor: a Linen module may be
called "to_out.0" or "down_blocks.0.resnets.1", and the parts of a path joined by "."
are the name, with ``kernel``, ``scale`` and ``embedding`` in place of ``weight``. A
network that is written with these names needs no table of names, and neither do LoRA
or ControlNet files, which speak of the same tensors.

PyTorch's order of axes becomes Flax's by the rank of the tensor. Files are mapped and
parameters made slice by slice, so that the host holds no more than the slice in hand.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.types import Array, PyTree

# Flax's words for what PyTorch calls "weight".
WEIGHT = ("kernel", "scale", "embedding")
# Axes of a kernel, Flax's from PyTorch's: [out, in], [out, in, n], [out, in, h, w].
AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
# How many names an error lists.
SHOWN = 5

Place = Sharding | Callable[[str, tuple[int, ...]], Sharding] | None
Change = Callable[[str, tuple[slice, ...], np.ndarray], np.ndarray]


def tensor_name(path: Any) -> str:
    """The published name of a parameter.

    Args:
      path: Path of a leaf, as `jax.tree_util` gives it, in nested dicts.

    Returns:
      Name such as "down_blocks.0.resnets.1.conv1.weight".
    """
    *parents, leaf = (entry.key for entry in path)
    return ".".join((*parents, "weight" if leaf in WEIGHT else leaf))


def fill(
    shapes: PyTree,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: Any,
    sharding: Place = None,
    ignored: Collection[str] = (),
    change: Change | None = None,
    where: str = "tensors",
) -> PyTree:
    """Parameters from the tensors of a file, strict both ways.

    Args:
      shapes: Nested dicts of the shapes that the network needs, as
        ``jax.eval_shape(module.init, ...)["params"]`` has them.
      tensors: Tensors by published name, in PyTorch's order of axes.
      dtype: Floating type of the parameters.
      sharding: Where the parameters go: one sharding for all, or a function
        ``(name, shape) -> Sharding`` of the published name and Flax's shape; None is
        the first device.
      ignored: Leading parts of the names of tensors that need not be used, such as
        "encoder." where the decoder alone is wanted.
      change: Function ``(name, index, value) -> value`` that changes a slice in Flax's
        order of axes, float32, before it is cast; None changes nothing.
      where: What to call the tensors in errors.

    Returns:
      Parameters of the structure of ``shapes``.

    Raises:
      CorruptFileError: A tensor that the network needs and is not there, one of another
        shape, or one that nothing uses; the message names the first few.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    named = {tensor_name(path): (path[-1].key, made.shape) for path, made in leaves}
    _require_names(named, tensors, tuple(ignored), where)
    views = {}
    for name, (leaf, shape) in named.items():
        found = tensors[name]
        view = _as_flax(found, leaf, shape)
        if view is None:
            raise CorruptFileError(
                f"{where}: {name!r} has shape {list(found.shape)}; the network needs "
                f"{_torch_shape(leaf, shape)}"
            )
        views[name] = view
    own = [_placed(*item, dtype, sharding, change) for item in views.items()]
    return jax.tree.unflatten(tree, own)


def _require_names(named, tensors, ignored, where):
    missing = [name for name in named if name not in tensors]
    unused = [n for n in tensors if n not in named and not n.startswith(ignored)]
    told = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:SHOWN])}"
        f"{', ...' if len(names) > SHOWN else ''})"
        for names, what in (
            (missing, "that the network needs are missing"),
            (unused, "are not used by the network"),
        )
        if names
    ]
    if told:
        raise CorruptFileError(f"{where}: of the tensors, {' and '.join(told)}")


def _as_flax(found, leaf, shape):
    """A view of the tensor in Flax's order of axes, or None where it does not fit."""
    view = found
    if leaf == "kernel" and found.ndim in AXES:
        view = found.transpose(AXES[found.ndim])
        # A convolution of one pixel is a dense layer: files have either.
        pixels, rest = view.shape[:-2], view.shape[-2:]
        if len(shape) != found.ndim and math.prod(pixels) == 1:
            view = view.reshape((1,) * max(0, len(shape) - 2) + rest)
    return view if view.shape == tuple(shape) else None


def _torch_shape(leaf, shape):
    if leaf != "kernel" or len(shape) not in AXES:
        return list(shape)
    return [shape[axis] for axis in np.argsort(AXES[len(shape)])]


def _placed(name, view, dtype, sharding, change):
    if sharding is None:
        sharding = SingleDeviceSharding(jax.devices()[0])
    elif not isinstance(sharding, Sharding):
        sharding = sharding(name, view.shape)

    def read(index):
        value = view[index]
        if change is not None:
            value = change(name, index, value.astype(np.float32))
        # A copy always: jax may keep the memory that it is given, here the file's.
        return np.array(value, dtype, order="C")

    return jax.make_array_from_callback(view.shape, sharding, read)


def named_tensors(params: PyTree) -> dict[str, np.ndarray]:
    """Tensors with published names and PyTorch's order of axes: the inverse of `fill`.

    Args:
      params: Nested dicts of parameters.

    Returns:
      Arrays by name, in the type of the parameters, for a safetensors file. A layer of
      one pixel has the rank that the network gives it.
    """
    found = {}
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(value)
        if path[-1].key == "kernel" and value.ndim in AXES:
            value = value.transpose(np.argsort(AXES[value.ndim]))
        found[tensor_name(path)] = np.ascontiguousarray(value)
    return found


def parameter_shapes(init: Callable[..., PyTree], *examples: Any) -> PyTree:
    """The shapes of a network's parameters, without making them.

    Args:
      init: The ``init`` of a Linen module.
      *examples: Arguments of its call: arrays, or `jax.ShapeDtypeStruct`.

    Returns:
      Nested dicts of `jax.ShapeDtypeStruct`, for `fill`.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(init, key, *examples)["params"]


def count_parameters(shapes: PyTree) -> int:
    """Number of parameters of a tree of shapes or arrays."""
    leaves: list[Array] = jax.tree.leaves(shapes)
    return sum(math.prod(jnp.shape(leaf)) for leaf in leaves)
