"""Models rebuilt from their configuration, and those that come with the package.

A configuration is what `export_weights` stores beside the parameters: plain JSON, which
says network, noise process and parametrisation. The training recipes build from it, so
what is sampled is what was trained.
"""

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    linear_betas,
    vp_discrete,
)
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models._classifier import Classifier
from jaxlib_guidance.models._dit import DiT
from jaxlib_guidance.models._models import ClassifierModel, DiffusionModel
from jaxlib_guidance.models._motion import MotionCLR
from jaxlib_guidance.models._tsdiff import TSDiff
from jaxlib_guidance.models._unet import UNet
from jaxlib_guidance.models.lm import LM
from jaxlib_guidance.types import PyTree


def _ddpm(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> VPDiscrete:
    return vp_discrete(linear_betas(steps, beta_start, beta_end))


PROCESSES = {
    "cosine": VPCosine,
    "linear": VPLinear,
    "edm": VE,
    "flow": RectifiedFlow,
    "ddpm": _ddpm,
}
# Names that stored configurations had before.
RENAMED = {"process": {"first": "beta_start", "last": "beta_end"}}
NETWORKS = {
    "dit": DiT,
    "unet": UNet,
    "tsdiff": TSDiff,
    "motion": MotionCLR,
    "classifier": Classifier,
    "lm": LM,
}


def _made(config, what, kinds):
    renamed = RENAMED.get(what, {})
    options = {renamed.get(name, name): x for name, x in config.items()}
    kind = options.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"{what} kind is {kind!r}; expected one of {tuple(kinds)}")
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    options |= {k: tuple(v) for k, v in options.items() if isinstance(v, list)}
    try:
        return kinds[kind](**options)
    except TypeError as error:
        raise ValueError(f"{what} {kind!r} has no such option: {error}") from error


def from_config(config: Mapping[str, Any]) -> DiffusionModel | ClassifierModel | LM:
    """Builds a model from its configuration.

    Args:
      config: Plain JSON with "network" (a dict with "kind" and the options of the
        class), which is all of an `LM`; "process" in the same form, "shape", "classes",
        and, for diffusion, "parametrize" (keywords of `parametrize`) or, for a
        classifier of noisy samples, "sigma_data"; "data_scale" is that of a
        `DiffusionModel`, 1 where it is missing.

    Returns:
      The model, without parameters.

    Raises:
      ValueError: Unknown kinds or options, or a missing entry.
    """
    try:
        module = _made(network := config["network"], "network", NETWORKS)
        if network["kind"] == "lm":
            return module
        shape = tuple(config["shape"])
        process = config.get("process")
        made = None if process is None else _made(process, "process", PROCESSES)
        if network["kind"] == "classifier":
            data = config.get("sigma_data", 0.5)
            return ClassifierModel(module, shape, config["classes"], made, data)
        if made is None:
            raise ValueError("config has no 'process'")
        options = config["parametrize"]
        scale = config.get("data_scale", 1.0)
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not (number and 0 < scale < float("inf")):
            raise ValueError(f"data_scale is {scale!r}; expected a number above 0")
        classes = config.get("classes")
        return DiffusionModel(module, made, options, shape, classes, scale)
    except KeyError as error:
        raise ValueError(f"config has no {error}") from error


def pretrained_names() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    folder = resources.files("jaxlib_guidance.models") / "assets"
    names = (Path(file.name) for file in folder.iterdir())
    return tuple(sorted(name.stem for name in names if name.suffix == ".safetensors"))


def read_pretrained(name: str | os.PathLike) -> tuple[PyTree, dict[str, Any]]:
    """Parameters and configuration, without building the model.

    Args:
      name: Name of a model that ships, see `load_pretrained`, or the path of a file.

    Returns:
      ``(parameters, configuration)``; parameters are numpy arrays.

    Raises:
      FileNotFoundError: Neither a name nor a file.
      CorruptFileError: A damaged or foreign file.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return load_weights(path)
    if str(name) not in pretrained_names():
        raise FileNotFoundError(
            f"{str(name)!r} is neither a file nor one of {pretrained_names()}"
        )
    folder = resources.files("jaxlib_guidance.models") / "assets"
    with resources.as_file(folder / f"{name}.safetensors") as path:
        return load_weights(path)


def load_pretrained(
    name: str | os.PathLike,
) -> tuple[DiffusionModel | ClassifierModel | LM, PyTree]:
    """A model and its parameters, by name or from a file of `export_weights`.

    Args:
      name: Name of a model: "digits", a class-conditional transformer of the bundled
        digits; "digits_weak", a smaller one trained for less, for autoguidance;
        "digits_classifier", of noisy digits, for classifier guidance; "digits_judge",
        of clean digits, which no guidance should use: it is there to judge samples by;
        "emoji", a text-conditional transformer of the bundled emoji, see `embed_words`;
        "emoji_weak", an early state of it, for autoguidance; "emoji_judge", of clean
        emoji's categories, to judge samples by; "motion", a text-conditional network of
        the synthetic motions of `make_motions`; "pedestrians", of hourly counts, which
        `timeseries.load_forecaster` takes with its layout; "sums_plain", "sums_checker"
        and "sums_young", language models of `worlds.sums`. Or the path of a file.

    Returns:
      ``(model, parameters)``; the parameters are jax arrays.

    Raises:
      FileNotFoundError: Neither a name nor a file.
      CorruptFileError: A damaged or foreign file.
    """
    params, config = read_pretrained(name)
    return from_config(config), jax.tree.map(jnp.asarray, params)
