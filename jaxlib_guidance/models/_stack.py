"""Parameters of equal blocks, one by one or stacked for a scan."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a `DiT` for ``scan=True``, from those for ``scan=False``.

    Args:
      params: Parameters with an entry "block0", "block1", ... for each block.

    Returns:
      Parameters with one entry "blocks", whose leaves lead with the number of blocks.
    """
    depth = sum(name.removeprefix("block").isdigit() for name in params)
    blocks = [params[f"block{i}"] for i in range(depth)]
    rest = {k: v for k, v in params.items() if not k.removeprefix("block").isdigit()}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unstack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a `DiT` for ``scan=False``, from those for ``scan=True``.

    Args:
      params: Parameters with one entry "blocks", whose leaves lead with the number of
        blocks.

    Returns:
      Parameters with an entry "block0", "block1", ... for each block.
    """
    rest = {k: v for k, v in params.items() if k != "blocks"}
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    for i in range(depth):
        rest[f"block{i}"] = jax.tree.map(lambda p, i=i: p[i], params["blocks"])
    return rest
