"""What a checkpoint can hold, said before anything is written."""

import jax

from jaxlib_guidance.training.saving._errors import SaveError
from jaxlib_guidance.types import PyTree


def require_savable(state: PyTree) -> None:
    """Raises unless a checkpoint of the state could be read back.

    Args:
      state: Pytree of jax arrays, typed keys included. Their values are not looked at,
        so they may have been donated.

    Raises:
      TypeError: A leaf that is not a jax array.
      SaveError: A state without a tree or without arrays, an array of no elements, a
        type that the files cannot hold, or two leaves that would share a file.
    """
    # Here and not above, as Orbax, which brings it.
    import tensorstore

    leaves = jax.tree_util.tree_leaves_with_path(state)
    if not leaves or not leaves[0][0]:
        raise SaveError(
            f"state is {type(state).__name__} with {len(leaves)} leaves; expected a "
            "tree of arrays, such as a dict"
        )
    places: dict[str, str] = {}
    for path, leaf in leaves:
        name = f"state{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, jax.Array):
            raise TypeError(
                f"{name} is {type(leaf).__name__}; expected a jax array (numbers and "
                "text go into extra)"
            )
        if leaf.size == 0:
            raise SaveError(
                f"{name} has shape {leaf.shape}; a checkpoint holds no arrays without "
                "elements. Leave it out of the state, as None or an empty dict"
            )
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            try:
                tensorstore.dtype(leaf.dtype.name)
            except ValueError:
                raise SaveError(
                    f"{name} is {leaf.dtype.name}, a type that a checkpoint cannot "
                    "hold; keep it in another, such as the next wider one"
                ) from None
        place = _place(path)
        if place in places:
            raise SaveError(
                f"{places[place]} and {name} would be written to one place, "
                f"{place!r}; give one of them another name, without '.' or '/'"
            )
        places[place] = name


def _place(path):
    """Where Orbax and TensorStore put a leaf: its keys with dots, and a slash."""
    keys = (
        getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))
        for key in path
    )
    return ".".join(map(str, keys)).removesuffix("/") + "/"
