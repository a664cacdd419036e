"""The options of train/ddpo_published.py."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance.training import Hosts, Log, Scale, require_ranges


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of fine-tuning."""

    model: Path
    """Folder of a published model of texts."""
    prompts: Path
    """File with a text a line."""
    directory: Path = Path("runs/lora")
    """Folder of the run."""
    reward: str = "compressibility"
    """"compressibility", "incompressibility", "brightness", or a function of your own
    as file.py:function."""
    lora_rank: int = 4
    """Rank of the change of each layer."""
    negative: str | None = None
    """What guidance moves away from; by default the empty text, or SDXL's zeros."""
    guidance: float = 4.0
    """Classifier-free guidance weight w, diffusers' guidance_scale less one."""
    size: tuple[int, ...] = ()
    """Pixels: one number, or height and width; that of the training by default."""
    rounds: Annotated[int, arg(aliases=["--steps"])] = 100
    """Each draws samples, scores them and learns from them."""
    batch: int = 16
    """Samples of a round."""
    group: int = 4
    """Samples of the same prompt in a row."""
    solver_steps: int = 20
    """Steps of the sampler."""
    updates: int = 1
    """Gradient steps on a round's samples."""
    kl: float = 0.0
    """Pull to the published model: factor of the divergence of a step, a mean over the
    latent's elements."""
    clip: float = 1e-4
    """Clip of the ratio of a step's density, of which the D-th root is taken."""
    learning_rate: float = 3e-4
    """Adam's rate."""
    ema: float = 0.9
    """Decay of the average that is evaluated and kept."""
    seed: int = 0
    """Of the factors and the samples."""
    log: Log = Log(every=1, save_every=10, eval_every=10)
    scale: OmitArgPrefixes[Scale] = Scale(remat=True)
    hosts: OmitArgPrefixes[Hosts] = Hosts()


def texts_of(config: Config) -> list[str]:
    """The prompts, for options that make sense.

    Raises:
      ValueError: Options that are out of range; a file without prompts.
      OSError: No such file.
    """
    require_ranges(config)
    # The last step to clean data has no density to learn from.
    for option in ("group", "solver_steps"):
        if getattr(config, option) < 2:
            raise ValueError(
                f"{option} is {getattr(config, option)}; expected at least 2"
            )
    if config.batch % config.group:
        raise ValueError(
            f"batch is {config.batch}; expected a multiple of group, {config.group}"
        )
    if config.batch % jax.device_count():
        raise ValueError(
            f"batch is {config.batch}; expected a multiple of the "
            f"{jax.device_count()} devices"
        )
    if len(config.size) > 2:
        raise ValueError(f"size is {config.size}; expected one number or two, from 1")
    if config.negative is not None and not config.guidance:
        raise ValueError("negative has no effect without guidance")
    try:
        # Editors of Windows begin a file with a mark, which is no letter of the text.
        text = config.prompts.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts: {config.prompts} is no text ({error})") from error
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"prompts: {config.prompts} has no line of text")
    return texts
