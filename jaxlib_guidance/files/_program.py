"""A compiled sampler and its parameters in a file, for a process without this package.

The file is one of `export_weights`, so it is safetensors: the parameters, the program
as bytes, and JSON. Nothing in it is pickled. With jax, flatbuffers and safetensors
alone:

```python
import json
import jax
import numpy as np
from jax import export
from safetensors import safe_open

with safe_open("sampler.safetensors", "np") as file:  # as sample/export.py writes it
    about = json.loads(file.metadata()["jaxlib_guidance"])["config"]
    params = {name: file.get_tensor(name) for name in file.keys()}
program = export.deserialize(bytearray(params.pop("program")))
draw = jax.jit(program.call)  # about["arguments"] says what it takes
ids = np.arange(7, dtype=np.int32)
options = {"seed": np.int32(0), "ids": ids, "labels": ids, "cfg": np.float32(2)}
images = draw(params, **options)
```

An export is for deployment and no archive: jax promises to run one for six months after
the jax that wrote it, and refuses much older ones. Keep the weights.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxlib_guidance.files._bytes import CorruptFileError
from jaxlib_guidance.files._weights import export_weights, load_weights
from jaxlib_guidance.types import PyTree

FORMAT = "jaxlib_guidance.sampler.1"


def _require_flatbuffers():
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            "exporting needs flatbuffers: pip install 'jaxlib-guidance[export]'"
        ) from error


def _name(path):
    return "/".join(("params", *(str(getattr(part, "key", part)) for part in path)))


def _by_name(params):
    """The leaves by their names in the file."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf for path, leaf in leaves}


def _parse(name, text, scope):
    """``"int32[b, 8]"`` as a shape and type."""
    found = re.fullmatch(r"(\w+)\[(.*)\]", text)
    try:
        if not found:
            raise ValueError("no brackets")
        shape = export.symbolic_shape(found[2], scope=scope)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(found[1]))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"arguments[{name!r}] is {text!r}; expected a type and shape such as "
            f"'int32[b]', 'float32[b, 8, 8]' or 'float32[]' ({error})"
        ) from error


def export_sampler(
    path: str | os.PathLike,
    fn: Callable[..., PyTree],
    params: PyTree,
    arguments: Mapping[str, str],
    *,
    config: Mapping[str, Any] | None = None,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
) -> dict[str, Any]:
    """Compiles a sampler as far as is possible without a device, and writes it.

    With one platform and no symbolic sizes the file computes what ``jax.jit(fn)`` does,
    bit for bit on the same machine; otherwise XLA sees another program and the last
    digits differ.

    Args:
      path: File to write, with the suffix ``.safetensors``.
      fn: ``fn(params, **arguments) -> pytree of arrays``, in plain tuples, lists and
        dicts. It makes its keys itself, from an integer seed or from key data
        ("uint32[2]"), and must not call back to the host, as ``progress=`` does.
      params: Nested dicts of arrays, stored beside the program and not in it. To bake
        them in, close over them and pass ``{}``.
      arguments: Type and shape of each further argument by its name, such as ``{"seed":
        "int32[]", "labels": "int32[b]"}``. A letter is a size left open, the same one
        wherever it stands; ``fn`` must not branch on it.
      config: Anything JSON can hold, to travel along; None stores nothing.
      platforms: Names of jax's platforms on which the file shall run.

    Returns:
      What the file says of itself: "arguments" and "result" with their types and
      shapes, "platforms", "devices", "jax" (the version), "config".

    Raises:
      ValueError: Arguments that are no types and shapes; a function that calls back to
        the host, or whose results are not plain; parameters that are not nested dicts.
      ModuleNotFoundError: flatbuffers is not installed.
    """
    _require_flatbuffers()
    scope = export.SymbolicScope()
    specs = {name: _parse(name, text, scope) for name, text in arguments.items()}
    leaves = {name: np.asarray(leaf) for name, leaf in _by_name(params).items()}

    def run(leaves, **options):
        tree = jax.tree_util.tree_map_with_path(lambda p, _: leaves[_name(p)], params)
        return fn(tree, **options)

    try:
        exported = export.export(jax.jit(run), platforms=platforms)(leaves, **specs)
        program = exported.serialize()
    except NotImplementedError as error:
        if "callback" not in str(error):
            raise
        raise ValueError(
            "fn calls back to the host (progress=, jax.debug.print, io_callback or the "
            "like), which a file cannot hold: leave that out"
        ) from error
    about = {
        "format": FORMAT,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "devices": exported.nr_devices,
        "arguments": dict(arguments),
        "result": jax.tree.unflatten(exported.out_tree, map(str, exported.out_avals)),
        "config": config,
    }
    held = {"program": np.frombuffer(program, np.uint8), "params": params}
    export_weights(path, held, about)
    return about


def load_exported(
    path: str | os.PathLike,
) -> tuple[Callable[..., PyTree], dict[str, Any]]:
    """Reads what `export_sampler` wrote; the module says how to do without this.

    Args:
      path: File to read.

    Returns:
      ``(draw, about)``. ``draw(**arguments)`` is compiled once for each batch size, and
      takes numbers and lists as well as arrays.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or one that was damaged.
      ValueError: Written by a jax too old or too new for this one.
      ModuleNotFoundError: flatbuffers is not installed.
    """
    _require_flatbuffers()
    held, about = load_weights(path)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CorruptFileError(f"{path} is not a sampler that export_sampler wrote")
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    program = None
    if oldest <= about["calling_convention"] <= newest:
        program = export.deserialize(bytearray(held["program"]))
    # An older jax reads a newer program as one for 0 devices.
    if program is None or program.nr_devices != about["devices"]:
        raise ValueError(
            f"{path} was exported by jax {about['jax']}, which jax {jax.__version__} "
            "cannot run; export it again from the weights"
        )
    leaves = jax.tree.map(jnp.asarray, _by_name(held.get("params", {})))
    call = jax.jit(program.call)

    def draw(**arguments):
        expected = about["arguments"]
        if arguments.keys() != expected.keys():
            raise TypeError(
                f"arguments are {sorted(arguments)}; expected {sorted(expected)}"
            )
        return call(
            leaves, **{k: _cast(k, v, expected[k]) for k, v in arguments.items()}
        )

    return draw, about


def _cast(name, value, expected):
    """The value in the type that the program takes; whole numbers must not change."""
    dtype = jnp.dtype(expected.partition("[")[0])
    if isinstance(value, jax.Array) and value.dtype == dtype:
        return value
    try:
        given = np.asarray(value)
        cast = given.astype(dtype)
        if jnp.issubdtype(dtype, jnp.integer) and not (cast == given).all():
            raise TypeError("numbers that the type does not have")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {value!r}; expected {expected}") from error
    return cast
