"""Writes a guided sampler to one file, which runs where this package is not installed.

    python sample/export.py
    python sample/export.py --weights runs/digits/ema.safetensors --perturb block2

The file takes ``seed``, ``ids`` (sample i is the same in any batch), ``labels`` if the
model has classes, the weight of classifier-free guidance ``cfg`` and that of perturbed
attention ``pag``. `jaxlib_guidance/files/_program.py` shows the lines that call it.
Needs flatbuffers: pip install 'jaxlib-guidance[export]'.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from outputs import require_writable

import jaxlib_guidance as jg
from jaxlib_guidance.files import export_sampler
from jaxlib_guidance.models import DiffusionModel, load_pretrained
from jaxlib_guidance.sampling import load_calibrated


@dataclasses.dataclass(frozen=True)
class Config:
    """What to export."""

    weights: str = "digits"
    """A name of `load_pretrained`, or a file that train/images.py wrote."""
    time_window: float = 0.0
    """Half of the range of the noise level over which its embedding is averaged, such
    as 0.1: few evaluations follow a network better that is smooth in it."""
    steps: int = 20
    """Steps of the recommended sampler."""
    calibrated: Path | None = None
    """A file of Calibrated.save, in place of that sampler and steps."""
    perturb: str = ""
    """Attention site that ``pag`` perturbs, such as block2; none by default."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = (
        "cpu",
        "cuda",
        "tpu",
    )
    """Where the file is to run."""
    out: Path = Path("out/sampler.safetensors")


def write(config: Config) -> dict[str, Any]:
    """Exports, and returns what the file says of itself.

    Raises:
      ValueError: A classifier's weights, a site that does not exist, both a number of
        steps and a calibrated solver, or one that is for another network.
    """
    model, params = load_pretrained(config.weights)
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"weights {config.weights!r} are a classifier's")
    null = model.classes
    about: dict[str, Any] = {"weights": config.weights, "steps": config.steps}
    if config.time_window:
        model = model.smoothed(config.time_window)
        about |= {"time_window": config.time_window}
    if config.calibrated is None:
        sampler, grid = jg.recommended(
            model.process, config.steps, scale=model.data_scale
        )
    elif config.steps != Config.steps:
        raise ValueError("steps are the file's when calibrated is given")
    else:
        made = load_calibrated(config.calibrated, model.process, params=params)
        sampler, grid = made.sampler, made.grid
        about |= {"steps": len(grid) - 1, "calibrated": config.calibrated.name}
    arguments = {"seed": "int32[]", "ids": "int32[b]"}
    if null is not None:
        arguments |= {"labels": "int32[b]", "cfg": "float32[]"}
    if config.perturb:
        arguments |= {"pag": "float32[]"}

    def draw(params, seed, ids, labels=None, cfg=None, pag=None):
        terms = [] if cfg is None else [jg.cfg(cfg, null=null)]
        terms += [] if pag is None else [jg.pag(pag, config.perturb)]
        return jg.sample(
            jg.sample_keys(jax.random.key(seed), ids),
            model.denoiser(params),
            sampler,
            grid,
            model.shape,
            labels,
            guidance=jg.chain(*terms) if terms else None,
        )[0]

    return export_sampler(
        config.out,
        draw,
        params,
        arguments,
        config=about,
        platforms=config.platforms,
    )


def main(config: Config) -> None:
    """Exports, and says how large the file is and what it takes."""
    try:
        require_writable(config.out)
        about = write(config)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"sample/export.py: {error}")
    takes = ", ".join(f"{name}: {kind}" for name, kind in about["arguments"].items())
    size = config.out.expanduser().stat().st_size / 1e6
    print(f"{config.out}, {size:.1f} MB: ({takes}) -> {about['result']}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
