"""From a network to a denoiser: one contract for every sampler and every term."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion._predict import (
    Prediction,
    edm_scalings,
    require_prediction,
    to_x0,
)
from jaxlib_guidance.diffusion._process import Process
from jaxlib_guidance.types import Array, Denoised, Denoiser, at_least_float32, expand


@dataclasses.dataclass(frozen=True)
class FunctionNetwork:
    """A bare function ``(x, c_noise, cond) -> value`` as a network without sites."""

    function: Callable[..., Array]
    sites: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()

    def __call__(self, x, c_noise, cond, *, control=None, capture=()):
        """Evaluates; there is nothing to control or capture."""
        return self.function(x, c_noise, cond), {}


def from_function(function: Callable[..., Array]) -> FunctionNetwork:
    """A network from ``(x [B,*S], c_noise [B], cond) -> value [B,*S]``."""
    return FunctionNetwork(function)


def parametrize(
    network: Callable,
    process: Process,
    predicts: Prediction = "x0",
    *,
    precondition: bool = False,
    sigma_data: float = 0.5,
    c_noise: Callable[[Array], Array] | None = None,
) -> Denoiser:
    """A denoiser from a network that predicts eps, x0, v, velocity or score.

    The network's input stays in its own units; its output is taken to float32 *before*
    it is turned into x0, because a contrast of two nearby predictions loses a quarter
    of its value to bfloat16 rounding.

    Args:
      network: A `Network` (see `jaxlib_guidance.models`), or a bare function
        ``(x, c_noise, cond) -> value``.
      process: The noise process the network was trained on.
      predicts: What the network's output is. With ``precondition`` the raw output is
        EDM's ``F``, so this must stay "x0".
      precondition: Whether to wrap the network in EDM's scalings.
      sigma_data: Standard deviation of the data, used by the scalings.
      c_noise: What to tell the network about time, a function of ``t``. Default: ``t``
        itself, or ``log(sigma / alpha) / 4`` with ``precondition``. DDPM-trained
        networks want ``process.index``.

    Returns:
      ``(x [B,*S], t scalar or [B], cond) -> Denoised``.

    Raises:
      ValueError: Unknown ``predicts``, or one that ``precondition`` contradicts.
    """
    require_prediction(predicts, "predicts")
    if precondition and predicts != "x0":
        raise ValueError(f"precondition needs predicts='x0'; got {predicts!r}")
    net: Any = network if hasattr(network, "sites") else from_function(network)

    def apply(x, t, cond, *, control, capture) -> Denoised:
        x = at_least_float32(x)
        t = jnp.broadcast_to(at_least_float32(t), x.shape[:1])
        scale = edm_scalings(process, t, sigma_data) if precondition else None
        if scale is not None:
            level = c_noise(t) if c_noise else scale.c_noise
            inputs = expand(scale.c_in, x) * x
        else:
            level, inputs = c_noise(t) if c_noise else t, x
        value, maps = net(inputs, level, cond, control=control, capture=capture)
        if value.shape != x.shape:
            raise ValueError(
                f"network returned shape {value.shape}; expected x's, {x.shape}"
            )
        value = at_least_float32(value)
        if scale is not None:
            x0 = expand(scale.c_skip, x) * x + expand(scale.c_out, x) * value
        else:
            x0 = to_x0(process, predicts, value, x, t)
        return Denoised(x0, maps)

    return Denoiser(apply, tuple(net.sites), tuple(net.taps), process)
