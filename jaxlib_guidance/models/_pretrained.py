"""Models rebuilt from their configuration, and those that come with the package.

A configuration is what `export_weights` stores beside the parameters: plain JSON, which
says network, noise process and parametrisation. The training recipes build from it, so
what is sampled is what was trained.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import (
    VE,
    Process,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    edm_scalings,
    karras_grid,
    linear_betas,
    parametrize,
    vp_discrete,
)
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models._adapters import from_linen
from jaxlib_guidance.models._classifier import Classified, Classifier
from jaxlib_guidance.models._dit import DiT
from jaxlib_guidance.models._motion import MotionCLR
from jaxlib_guidance.models._tsdiff import TSDiff
from jaxlib_guidance.models._unet import UNet
from jaxlib_guidance.models.lm import LM
from jaxlib_guidance.types import Array, Denoiser, PyTree, expand


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


@dataclasses.dataclass(frozen=True)
class DiffusionModel:
    """A network with its noise process and parametrisation; parameters are apart.

    Attributes:
      module: Linen module ``(x, c_noise, cond) -> (value, maps)``.
      process: Noise process that the network was trained on.
      options: Keywords of `parametrize`.
      shape: Shape ``*S`` of a sample.
      classes: Number of classes, or None; the null class is ``classes``.
      data_scale: Scale of the data it was trained on, for `recommended`, as `data_scale`
        measures it; 1 where the configuration does not say.
    """

    module: Any
    process: Process
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    classes: int | None = None
    data_scale: float = 1.0

    @property
    def null(self) -> PyTree:
        """The condition that says nothing, in the form that `guidance.cfg` takes.

        The null class, or with text ``{"label", "text", "text_mask"}``, the null class
        only where there are classes; None for a network without a condition.
        """
        if getattr(self.module, "text", None) is None:
            return self.classes
        label = {} if self.classes is None else {"label": self.classes}
        return label | {"text": 0.0, "text_mask": False}

    def init(self, key: Array) -> PyTree:
        """New parameters.

        Args:
          key: One typed key.

        Returns:
          Parameters of the network.
        """
        example = getattr(self.module, "example_cond", None)
        cond = None if example is None else example(self.shape)
        x = jnp.zeros((1, *self.shape))
        return jax.jit(self.module.init)(key, x, jnp.zeros(1), cond)["params"]

    def grid(self, n: int, spacing: Callable[..., Array] = karras_grid) -> Array:
        """Times over the noise levels that matter.

        Past a log-SNR of 7.5 either way the state is all noise or all data, and
        networks say nothing new.

        Args:
          n: Number of steps.
          spacing: Rule of the spacing: `karras_grid`, `logsnr_grid` or `flow_grid`.

        Returns:
          Float32 ``[n + 1]``, the last 0.
        """
        with jax.ensure_compile_time_eval():
            low, high = self.process.t_of_logsnr(jnp.array([7.5, -7.5]))
            return spacing(self.process, n, t_min=float(low), t_max=float(high))

    def denoiser(self, params: PyTree) -> Denoiser:
        """The denoiser; call it inside the function that is jitted.

        Args:
          params: Parameters, from `init` or `load_pretrained`.

        Returns:
          A denoiser of states ``[B, *shape]``. Its network receives the time ``t`` in
          [0, 1], also where the process has a table, unless the options say otherwise:
          our networks scale it themselves.

        Raises:
          ValueError: When called, a state of another shape.
        """
        # Here and not in the network, so that a sampler's loop finds it made.
        prepare = getattr(self.module, "prepare", None)
        variables = (
            {"params": params} if prepare is None else prepare(params, self.shape)
        )
        options = dict(self.options)
        if not options.get("precondition"):
            options.setdefault("c_noise", _own_time)
        made = parametrize(from_linen(self.module, variables), self.process, **options)

        def apply(x, t, cond, **edits):
            self._require_sample(x.shape)
            return made.apply(x, t, cond, **edits)

        return dataclasses.replace(made, apply=apply)

    def _require_sample(self, shape):
        if shape[1:] == self.shape:
            return
        batched = "; a shape given to sample is that of one sample, without the batch"
        hint = batched if shape[2:] == self.shape else ""
        raise ValueError(
            f"x has shape {shape}; expected [B, {', '.join(map(str, self.shape))}], "
            f"the model's samples{hint}"
        )


@dataclasses.dataclass(frozen=True)
class ClassifierModel:
    """A classifier, of clean samples or, with ``process``, of noisy ones.

    Attributes:
      module: Linen module of the classifier.
      shape: Shape ``*S`` of a sample.
      classes: Number of classes.
      process: Noise process whose states it classifies; None for clean samples.
      sigma_data: Standard deviation of the data, to scale noisy states by.
    """

    module: Classifier
    shape: tuple[int, ...]
    classes: int
    process: Process | None = None
    sigma_data: float = 0.5

    def init(self, key: Array) -> PyTree:
        """New parameters.

        Args:
          key: One typed key.

        Returns:
          Parameters of the classifier.
        """
        level = None if self.process is None else jnp.zeros(1)
        x = jnp.zeros((1, *self.shape))
        return jax.jit(self.module.init)(key, x, level)["params"]

    def __call__(
        self, params: PyTree, x: Array, t: Array | float | None = None
    ) -> Classified:
        """Logits and features of samples.

        Args:
          params: Parameters, from `init` or `load_pretrained`.
          x: Samples ``[B, *S]``, noisy ones with ``process``.
          t: Time of the noisy samples, scalar or ``[B]``. A classifier of clean samples
            does not use it, so that both serve `classifier_guidance`.

        Returns:
          Logits ``[B, classes]`` and features ``[B, F]``.

        Raises:
          ValueError: No time for a classifier of noisy samples.
        """
        apply: Any = self.module.apply
        if self.process is None:
            return apply({"params": params}, x)
        if t is None:
            raise ValueError("t is None; a classifier of noisy samples needs a time")
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        scale = edm_scalings(self.process, t, self.sigma_data)
        inputs = expand(scale.c_in, x) * x
        return apply({"params": params}, inputs, scale.c_noise)

    def logits(self, params: PyTree, x: Array, t: Array | float | None = None) -> Array:
        """Logits alone, in the form that `classifier_guidance` takes.

        Args:
          params: Parameters, from `init` or `load_pretrained`.
          x: Samples ``[B, *S]``, noisy ones with ``process``.
          t: Time of the noisy samples, scalar or ``[B]``.

        Returns:
          Logits ``[B, classes]``.
        """
        return self(params, x, t).logits


def _own_time(t):
    return t


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
