"""From a network to a denoiser: one contract for every sampler and every term."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.calls import require_callable
from jaxlib_guidance.diffusion._discrete import VPDiscrete
from jaxlib_guidance.diffusion._predict import (
    Prediction,
    edm_scalings,
    require_prediction,
    to_x0,
)
from jaxlib_guidance.diffusion._process import Process
from jaxlib_guidance.diffusion._times import require_times
from jaxlib_guidance.types import (
    Array,
    Denoised,
    Denoiser,
    PyTree,
    at_least_float32,
    expand,
    require_process,
)


@dataclasses.dataclass(frozen=True)
class FunctionNetwork:
    """A bare function ``(x, c_noise, cond) -> value`` as a network without sites.

    Attributes:
      function: The function.
      sites: Names of attention sites; a bare function has none.
      taps: Names of what can be captured; a bare function has none.
    """

    function: Callable[..., Array]
    sites: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()

    def __call__(self, x, c_noise, cond, *, control=None, capture=()):
        """Evaluates; there is nothing to control or capture."""
        return self.function(x, c_noise, cond), {}


def from_function(function: Callable[..., Array]) -> FunctionNetwork:
    """A network from a bare function.

    Args:
      function: ``(x [B, *S], c_noise [B], cond) -> value [B, *S]``.

    Returns:
      The function with the signature of a network, for `parametrize`.

    Raises:
      TypeError: No function, or one of other arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> network = jg.from_function(lambda x, c_noise, cond: 2 * x)
      >>> value, maps = network(jnp.ones((2, 3)), jnp.zeros(2), None)
      >>> value.shape, maps
      ((2, 3), {})
    """
    require_callable(function, "network", ("x", "c_noise", "cond"))
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
      process: The noise process that the network was trained on.
      predicts: What the network's output is. With ``precondition`` the raw output is
        EDM's ``F``, so this must stay "x0".
      precondition: Whether to wrap the network in EDM's scalings.
      sigma_data: Standard deviation of the data, used by the scalings.
      c_noise: What the network receives as its noise level, a function of ``t``. None
        means: with ``precondition`` ``log(sigma / alpha) / 4``; for a process with a
        table the table's index 0, ..., T - 1, which DDPM-trained networks expect; else
        ``t`` itself. A network that was trained on such a process with ``t`` in (0, 1]
        needs ``c_noise=lambda t: t``.

    Returns:
      ``(x [B,*S], t scalar or [B], cond) -> Denoised``.

    Raises:
      TypeError: ``process`` is not a noise process, or a bare function takes other
        arguments; when called, a network that returns no array.
      ValueError: Unknown ``predicts``, or one that ``precondition`` contradicts; when
        called, a network that returns another shape than ``x``'s. What the network
        itself raises has a note of what it was called with.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> network = lambda x, t, cond: x  # Predicts the noise.
      >>> denoiser = jg.parametrize(network, jg.VE(), "eps")
      >>> denoiser(jnp.ones((1, 2)), 0.25).x0.tolist()
      [[0.75, 0.75]]
    """
    require_process(process)
    require_prediction(predicts, "predicts")
    if precondition and predicts != "x0":
        raise ValueError(f"precondition needs predicts='x0'; got {predicts!r}")
    net: Any = network if hasattr(network, "sites") else from_function(network)
    if c_noise is None and isinstance(process, VPDiscrete) and not precondition:
        c_noise = process.index

    def apply(x, t, cond, *, control, capture) -> Denoised:
        x = at_least_float32(x)
        require_times(process, t)
        t = jnp.broadcast_to(at_least_float32(t, "t"), x.shape[:1])
        scale = edm_scalings(process, t, sigma_data) if precondition else None
        if scale is not None:
            level = c_noise(t) if c_noise else scale.c_noise
            inputs = expand(scale.c_in, x) * x
        else:
            level, inputs = c_noise(t) if c_noise else t, x
        try:
            out = net(inputs, level, cond, control=control, capture=capture)
        except Exception as error:
            args = ("x", inputs), ("c_noise", level), ("cond", cond)
            given = ", ".join(f"{name} {_described(value)}" for name, value in args)
            error.add_note(f"The network was called with {given}.")
            raise
        value, maps = _parts(out, x)
        value = at_least_float32(value)
        if scale is not None:
            x0 = expand(scale.c_skip, x) * x + expand(scale.c_out, x) * value
        else:
            x0 = to_x0(process, predicts, value, x, t)
        return Denoised(x0, maps)

    classes = getattr(net, "classes", None)
    reduces = getattr(net, "reduces", False)
    names = tuple(net.sites), tuple(net.taps)
    features = tuple(getattr(net, "feature_sites", ()))
    return Denoiser(apply, *names, process, classes, reduces, features)


def _described(tree: PyTree) -> str:
    """Types and shapes of the leaves of a tree, for a note."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    known = [
        f"{jax.tree_util.keystr(path)} {getattr(a, 'dtype', type(a).__name__)}"
        f"{getattr(a, 'shape', '')}"
        for path, a in leaves
    ]
    return ", ".join(known).strip() or "None"


def _parts(out, x):
    """Value and maps of a network's output, checked."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"a network with sites returned {type(out).__name__}; expected (value, "
            "maps)"
        )
    value, maps = out
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(
            f"network returned {type(value).__name__}; expected an array of x's shape, "
            f"{x.shape}: wrap it in a function that returns the prediction alone"
        )
    if value.shape == x.shape:
        return value, maps
    message = f"network returned shape {value.shape}; expected x's, {x.shape}"
    doubled = value.ndim == x.ndim and sorted(
        n / m if m else 1 for n, m in zip(value.shape, x.shape, strict=True)
    ) == [1] * (x.ndim - 1) + [2]
    if doubled:
        message += (
            ". Twice the channels are a prediction and a learned variance: wrap the "
            "network in a function that returns the first half"
        )
    raise ValueError(message)
