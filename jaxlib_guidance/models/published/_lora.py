"""LoRA files, merged into a published model while it is read.

``W += scale alpha / r B A`` for each tensor that the file names, in float32 and for the
slice in hand, so that a merged model needs no more memory than a plain one. Files of
diffusers and peft name the tensors as the folder does; those of kohya's tools write "_"
for ".", which a table of all names resolves, also where they have the numbers of the
latent diffusion repository.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.files import CorruptFileError, load_safetensors
from jaxlib_guidance.models.published._tensors import Change

# Ends of names: of the matrix that is applied first, of the other, of the scale.
DOWN = (
    *(".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"),
    *("_lora.down.weight", ".lora_down.weight"),
)
UP = (
    *(".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"),
    *("_lora.up.weight", ".lora_up.weight"),
)
ENDS = {
    **dict.fromkeys(DOWN, "down"),
    **dict.fromkeys(UP, "up"),
    ".alpha": "alpha",
}
# Parts by the beginnings of names, the longer first.
PARTS = {
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "transformer.": "transformer",
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
}
# Where peft writes rank and alpha.
ABOUT = "lora_adapter_metadata"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank changes of a file, not yet those of any tensors.

    Attributes:
      path: The file.
      layers: By part and name as written, the matrices ``down [r, in, ...]`` and
        ``up [out, r, ...]``, and the factor ``alpha / r``.
      scale: Factor of all of them.
    """

    path: Path
    layers: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray, float]]]
    scale: float = 1.0

    def change(
        self,
        part: str,
        names: Collection[str] | Mapping[str, tuple[int, ...]],
        aliases: Callable[[str], Sequence[str]] = lambda name: (),
    ) -> Change | None:
        """The change of a part's tensors, for `fill`.

        Args:
          part: Name of the part, such as "unet".
          names: Names of the part's tensors in the network. With their shapes, in
            PyTorch's order, matrices of other sizes are told, also of a slice.
          aliases: Function from a module's name to other names that files may use.

        Returns:
          The change, or None where the file does not touch the part.

        Raises:
          CorruptFileError: A layer of the file that the part does not have, or not of
            this size.
        """
        layers = self.layers.get(part, {})
        if not layers:
            return None
        table = {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            if leaf != "weight":
                continue
            for each in (module, *aliases(module)):
                table[each] = table[each.replace(".", "_")] = name
        unknown = [name for name in layers if name not in table]
        if unknown:
            raise CorruptFileError(
                f"{self.path}: {len(unknown)} layers are not of the {part!r} that is "
                f"loaded ({', '.join(sorted(unknown)[:3])}): is it for another model?"
            )
        found: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = {}
        for name, layer in layers.items():
            own = table[name]
            if isinstance(names, Mapping):
                # A slice of matrices that are too large would fit.
                shape, size = names[own], (layer[1].shape[0], layer[0].shape[1])
                if tuple(shape[:2]) != size:
                    raise CorruptFileError(
                        f"{self.path}: {own} has shape {tuple(shape)}; the change is "
                        f"{size}"
                    )
            found.setdefault(own, []).append(layer)

        def change(name, index, value):
            for down, up, factor in found.get(name, ()):
                value = value + self.scale * factor * _product(
                    down, up, index, value.shape, f"{self.path}: {name}"
                )
            return value

        return change


def _product(down, up, index, shape, where):
    """``up down`` in Flax's order of axes, for the slice in hand."""
    down, up = (np.asarray(a, np.float32) for a in (down, up))
    up = up.reshape(up.shape[:2])
    *pixels, own_in, own_out = index
    down, up = down[:, own_in], up[own_out]
    if not pixels:
        down = down.reshape(down.shape[:2])
        found = down.T @ up.T
    else:
        if down.ndim == 2:
            down = down[:, :, None, None]
        found = np.einsum("or,rihw->hwio", up, down)[tuple(pixels)]
    if found.shape != shape:
        raise CorruptFileError(
            f"{where} has shape {shape}; the change is {found.shape}"
        )
    return found


def read_lora(path: str | os.PathLike, scale: float = 1.0) -> LoRA:
    """A LoRA file of diffusers, peft or kohya's tools.

    Args:
      path: A ``.safetensors`` file.
      scale: Factor of the change; 0 is no change.

    Returns:
      The changes, for ``load_published(lora=[...])``.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: A damaged file or one without layers, a name that is not
        understood, a layer that lacks one of its matrices, or another method: DoRA,
        LoHa, LoKr.
      ValueError: A scale that is not a finite number.

    Reference: Hu et al., arXiv 2106.09685.
    """
    known = np.asarray(scale)
    if known.ndim or known.dtype.kind not in "fiu" or not np.isfinite(known):
        raise ValueError(f"scale is {scale!r}; expected a finite number")
    path = Path(path).expanduser()
    tensors, metadata = load_safetensors(path)
    if not tensors:
        raise CorruptFileError(f"{path} has no layer of LoRA: it would change nothing")
    about = _about(metadata, path)
    held: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        start = next((start for start in PARTS if name.startswith(start)), None)
        if end is None or start is None:
            raise CorruptFileError(
                f"{path}: {name!r:.100} is no layer of LoRA; DoRA, LoHa and LoKr are "
                "not read, nor files of other parts"
            )
        module = name.removesuffix(end).removeprefix(start)
        held.setdefault((PARTS[start], _module(module)), {})[ENDS[end]] = tensor
    layers: dict[str, dict[str, tuple[np.ndarray, np.ndarray, float]]] = {}
    for (part, module), layer in held.items():
        lacks = {"down", "up"} - set(layer)
        if lacks:
            raise CorruptFileError(f"{path}: {module!r} lacks its {sorted(lacks)[0]}")
        down, up = layer["down"], layer["up"]
        if min(down.ndim, up.ndim) < 2 or not up.shape[1] == down.shape[0] > 0:
            raise CorruptFileError(
                f"{path}: {module!r} has matrices {up.shape} and {down.shape}"
            )
        rank = down.shape[0]
        try:
            alpha = _alpha(layer.get("alpha"), about, part, module, rank)
            # peft's "rank-stabilised" factor, arXiv 2312.03732.
            rooted = "alpha" not in layer and about.get(f"{part}.use_rslora")
            factor = alpha / (rank**0.5 if rooted else rank)
        except (
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            re.error,
        ) as error:
            raise CorruptFileError(f"{path}: alpha of {module!r}: {error}") from error
        layers.setdefault(part, {})[module] = (down, up, factor)
    return LoRA(path, layers, scale)


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(metadata.get(ABOUT, "{}")))
    except (TypeError, ValueError) as error:
        raise CorruptFileError(f"{path}: its {ABOUT!r} is no JSON object") from error


def _alpha(own, about, part, module, rank):
    if own is not None:
        return float(np.asarray(own, np.float32).reshape(()))
    pattern = about.get(f"{part}.alpha_pattern") or {}
    # peft's keys are ends of names, as regular expressions; the first counts.
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return float(about.get(f"{part}.lora_alpha", rank))


def _module(name):
    """The name of a module without what older files put around it."""
    name = re.sub(r"\.processor\.(to_[qkv])$", r".\1", name)
    name = re.sub(r"\.processor\.to_out$", ".to_out.0", name)
    return re.sub(r"^text_model[._]", "", name)
