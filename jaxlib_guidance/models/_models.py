"""Networks beside what they were trained for; parameters are apart.

`DiffusionModel` and `ClassifierModel` are what `from_config` builds.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Process, edm_scalings, karras_grid, parametrize
from jaxlib_guidance.models._adapters import from_linen
from jaxlib_guidance.models._classifier import Classified, Classifier
from jaxlib_guidance.types import Array, Denoiser, PyTree, expand


@dataclasses.dataclass(frozen=True)
class DiffusionModel:
    """A network with its noise process and parametrisation; parameters are apart.

    Attributes:
      module: Linen module ``(x, c_noise, cond) -> (value, maps)``.
      process: Noise process that the network was trained on.
      options: Keywords of `parametrize`.
      shape: Shape ``*S`` of a sample.
      classes: Number of classes, or None; the null class is ``classes``.
      data_scale: Scale of the data that it was trained on, for `recommended`, as the
        function of that name measures it; 1 where the configuration does not say.
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

    def smoothed(self, time_window: float) -> "DiffusionModel":
        """The model with the embedding of its level averaged over a window.

        It has the same parameters, and its flow bends less from one level to the next,
        which is what few evaluations cannot follow.

        Args:
          time_window: Half of the window, in units of the level that the network is
            told; 0.1 suits networks with EDM's preconditioning.

        Returns:
          The model.

        Raises:
          TypeError: Not a number that Python knows, which a traced one is not.
          ValueError: A window below 0, or a network without such an embedding.
        """
        if isinstance(time_window, bool) or not isinstance(time_window, Real):
            raise TypeError(f"time_window is {time_window!r}; expected a Python number")
        if not 0 <= time_window < math.inf:
            raise ValueError(f"time_window is {time_window}; expected a number from 0")
        if not hasattr(self.module, "time_window"):
            raise ValueError(
                f"the network is {type(self.module).__name__}, which has no "
                "time_window; expected a DiT, a U-Net or a motion U-Net"
            )
        module = self.module.clone(time_window=float(time_window))
        return dataclasses.replace(self, module=module)

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
