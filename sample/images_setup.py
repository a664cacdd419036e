"""The options of sample/images.py."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw."""

    weights: Annotated[str, tyro.conf.arg(aliases=["--model"])] = "digits"
    """A name of `load_pretrained`, a file that a recipe of train/ wrote, a folder of
    DiT, or a file of ADM under its published name, such as 256x256_diffusion.pt."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of a published model's parameters and computation."""
    time_window: float = 0.0
    """Half of the range of the noise level over which its embedding is averaged, such
    as 0.1: few evaluations follow a network better that is smooth in it."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A text for one row, for a model of texts; give it repeatedly."""
    guide: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A guidance term, NAME=WEIGHT[@WHERE][,KEY=VALUE...]; give it repeatedly."""
    sampler: str = "recommended"
    """Solver with its options, such as ddim,eta=1 or unipc,order=3."""
    steps: int = 20
    """Steps of the solver."""
    grid: Literal["recommended", "karras", "logsnr", "flow"] = "recommended"
    """Spacing of the steps."""
    calibrated: Path | None = None
    """A file of Calibrated.save, in place of sampler, steps and grid; refused where it
    was saved with the parameters of another network."""
    labels: tuple[str, ...] = ()
    """Classes, one for each row, by name or number; -1 is no class. All by default,
    none with prompts."""
    columns: int = 10
    """Images of each class."""
    images: tuple[int, ...] = ()
    """Numbers of single images to draw instead of the whole grid."""
    batch: int = 100
    """Images drawn at once."""
    seed: int = 0
    """Of the noise that all images start from."""
    out: Path = Path("out/images.png")
    """A picture of all images; a name without a suffix is a folder of single ones, and
    .npy or .npz are arrays in [-1, 1]."""
    scale: int = 0
    """Pixels for each pixel; 0 chooses for a sheet, and is 1 for single pictures."""
