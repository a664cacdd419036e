"""A published class-conditional network of latents as one object."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.models.published._dit_xl import load_dit_xl
from jaxlib_guidance.models.published._folder import open_part, read_json
from jaxlib_guidance.models.published._latents import (
    LatentTransformer,
    load_latent_parts,
    wanted_parts,
)
from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._lora_changes import changes_of, require_loaded
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.types import Array, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassTransformer(LatentTransformer):
    """A published class-conditional network of latents, such as DiT-XL/2.

    The condition is labels ``[B]``; ``classes`` is the label of no class.

    Attributes:
      names: Names of the classes, as the folder has them.
    """

    names: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def classes(self) -> int:
        """Number of classes; the label of that number is the null class."""
        return self.network.classes

    def labels(self, names: Sequence[str]) -> Array:
        """Labels of classes by name.

        Args:
          names: A name for each picture, one of those that the folder lists for a
            class: "gray wolf" of "timber wolf, grey wolf, gray wolf".

        Returns:
          int32 ``[B]``; of classes with the same name the first.

        Raises:
          ValueError: One name alone, or one that no class has.
        """
        table: dict[str, int] = {}
        for i, each in enumerate(self.names):
            for word in each.split(","):
                table.setdefault(word.strip().lower(), i)
        given = [] if isinstance(names, str) else names
        unknown = [name for name in given if name.lower() not in table]
        if unknown or not given:
            raise ValueError(
                f"names is {unknown or names!r}; expected a list of names of the "
                f"{len(self.names)} classes, such as {self.names[:3]}"
            )
        return jnp.asarray([table[name.lower()] for name in names], jnp.int32)


def load_class_transformer(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
    lora: Sequence[LoRA] = (),
    as_trained: bool = True,
) -> tuple[ClassTransformer, dict[str, PyTree]]:
    """DiT-XL/2 with its autoencoder from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer" and "vae"; None loads both.
      variant: Variant of the files, such as "fp16".
      lora: Changes to merge, from `read_lora`.
      as_trained: Whether the network computes as its authors' code does, and not as
        diffusers; see `load_dit_xl`.

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    folder = Path(folder).expanduser()
    wanted = wanted_parts(folder, ("transformer", "vae"), parts)
    where: dict[str, Any] = {"dtype": dtype, "sharding": sharding}
    found, params = load_latent_parts(folder, wanted, variant, where)
    module = None
    require_loaded(lora, set(wanted) - {"vae"})
    if "transformer" in wanted:
        part = open_part(folder / "transformer", variant=variant)
        where["change"] = changes_of(lora, "transformer", part.tensors)
        module, params["transformer"] = load_dit_xl(
            part, as_trained=as_trained, **where
        )
    names = read_json(folder / "model_index.json").get("id2label") or {}
    order = sorted(names, key=int)
    model = ClassTransformer(
        transformer=module, names=tuple(names[i] for i in order), **found
    )
    return model, params
