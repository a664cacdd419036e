"""A reward of one's own, from a file: ``--reward score.py:brightness``.

    def brightness(images):  # or (images, labels)
        return images.mean((1, 2, 3))

Images are ``[B, H, W, C]`` as they are drawn, -1 for black and 1 for white and a little
beyond; the result is a number for each, the higher the better. A function of jax runs
inside the compiled round. One that needs numpy arrays, of Pillow or scipy say, runs on
the host and works as well.
"""

import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Reward = Callable[[Array, Array], Array]


def is_own(text: str) -> bool:
    """Whether a reward is written as ``file.py:function``."""
    return ".py" in text or ":" in text


def identity(text: str) -> str:
    """A short text that changes with the file: an edited reward is another run.

    Args:
      text: Reward as ``file.py:function``.
    """
    path, _ = _parts(text)
    return f"{zlib.crc32(path.read_bytes()):08x}"


def load_reward(text: str, shape: tuple[int, ...]) -> Reward:
    """``(images, labels) -> [B]`` from ``file.py:function``.

    Args:
      text: Path and name; what the file imports may lie beside it.
      shape: Shape of one image.

    Raises:
      ValueError: No such file or function; one with other arguments; a result that is
        not one number for each image.
    """
    path, name = _parts(text)
    function = getattr(_imported(path), name, None)
    if not callable(function):
        raise ValueError(f"reward {text!r}: {path.name} has no function {name!r}")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # One of a compiled library does not say.
        parameters = [inspect.Parameter("images", inspect.Parameter.POSITIONAL_ONLY)]
    needed = [
        p for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    if not 1 <= len(needed) <= 2:
        raise ValueError(
            f"reward {text!r} takes {len(needed)} arguments; expected (images) or "
            "(images, labels)"
        )
    takes_labels = len(needed) == 2

    def reward(images: Any, labels: Any) -> Any:
        return function(*((images, labels) if takes_labels else (images,)))

    example = (
        jax.ShapeDtypeStruct((3, *shape), jnp.float32),
        jax.ShapeDtypeStruct((3,), jnp.int32),
    )
    try:
        found: Any = jax.eval_shape(reward, *example)
    # What numpy, or an `if` of a value, says of an array that is being traced.
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        reward = _on_host(reward, text)
        found = reward(*(jnp.zeros(each.shape, each.dtype) for each in example))
    if getattr(found, "shape", None) != (3,):
        raise ValueError(
            f"reward {text!r} gives {getattr(found, 'shape', type(found).__name__)} of "
            "three images; expected one number for each, shape (3,)"
        )
    return lambda images, labels: jnp.asarray(reward(images, labels), jnp.float32)


def _on_host(reward: Any, text: str) -> Any:
    def checked(images, labels):
        scores = np.asarray(reward(np.asarray(images), np.asarray(labels)), np.float32)
        if scores.shape != (len(images),):
            raise ValueError(
                f"reward {text!r} gives shape {scores.shape} of {len(images)} images; "
                "expected one number for each"
            )
        return scores

    def call(images, labels):
        out = jax.ShapeDtypeStruct(images.shape[:1], jnp.float32)
        return jax.pure_callback(checked, out, images, labels)

    # The first look is a plain call, whose mistakes then have a plain traceback.
    def either(images: Array, labels: Array) -> Any:
        traced = isinstance(images, jax.core.Tracer)
        return (call if traced else checked)(images, labels)

    return either


def _parts(text: str) -> tuple[Path, str]:
    """The file and the name of its function."""
    place, colon, name = text.rpartition(":")
    path = Path(place).expanduser()
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise ValueError(f"reward is {text!r}; expected file.py:function")
    if not path.is_file():
        raise ValueError(f"reward {text!r}: there is no file {path.absolute()}")
    return path, name


def _imported(path: Path) -> ModuleType:
    beside = str(path.absolute().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
    return module
