"""Networks from Flax modules, ours or foreign.

Build the network inside the function that is jitted or differentiated, from parameters
that are arguments of it. A bare function needs no adapter; see `from_function`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxlib_guidance.types import Array, Captures, PyTree, require_places


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A module with its parameters bound, as a `Network`.

    Attributes:
      call: ``(x, c_noise, cond) -> value``, or with ``control`` and ``capture`` a pair
        of value and maps.
      sites: Names of the attention sites that accept an edit.
      taps: Names of the arrays that can be captured.
      foreign: Whether the module knows nothing of sites and taps.
      classes: Number of classes that labels are checked against, or None.
      reduces: Whether ``capture`` may map taps to functions that the module applies.
      feature_sites: Names of the features that accept an edit.
    """

    call: Callable[..., Any]
    sites: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    foreign: bool = False
    classes: int | None = None
    reduces: bool = False
    feature_sites: tuple[str, ...] = ()

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree = None,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> tuple[Array, Mapping[str, Array]]:
        """Evaluates; raises for sites and taps that the module does not have."""
        require_places(self, control, capture)
        if self.foreign:
            return self.call(x, c_noise, cond), {}
        if not isinstance(capture, Mapping):
            capture = tuple(capture)
        return self.call(x, c_noise, cond, control=control, capture=capture)


def _adapted(module: Any, call: Callable[..., Any]) -> Adapted:
    foreign = not (hasattr(module, "sites") and hasattr(module, "taps"))
    if foreign:
        return Adapted(call, foreign=True)
    classes = getattr(module, "classes", None)
    reduces = getattr(module, "reduces", False)
    return Adapted(
        call,
        tuple(module.sites),
        tuple(module.taps),
        classes=classes,
        reduces=reduces,
        feature_sites=tuple(getattr(module, "feature_sites", ())),
    )


def from_linen(
    module: nn.Module, variables: Mapping[str, Any], **options: Any
) -> Adapted:
    """A network from a Linen module.

    A module with ``sites`` and ``taps``, such as `DiT` and `UNet`, is called with
    ``control`` and ``capture``; any other as ``module(x, c_noise, cond) -> value``, and
    has no sites.

    Args:
      module: The Linen module.
      variables: The module's parameters, or all its variables
        (``{"params": ..., ...}``).
      **options: Constant arguments of each call, such as ``train=False``.

    Returns:
      The network, for `parametrize`.
    """
    bound = variables if "params" in variables else {"params": variables}

    def call(*args, **kwargs):
        return module.apply(bound, *args, **kwargs, **options)

    return _adapted(module, call)


def from_nnx(module: Any, state: Any = None, **options: Any) -> Adapted:
    """A network from an NNX module, or from its graph and state.

    Args:
      module: An ``nnx.Module``, whose parameters become constants of a jitted function;
        or the graph definition of one, with ``state`` the argument to differentiate.
      state: The state that ``nnx.split`` returned with the graph definition; None for a
        whole module.
      **options: Constant arguments of each call, such as ``train=False``.

    Returns:
      The network, for `parametrize`. Changes that a call makes to the module's own
      state are dropped.
    """
    from flax import nnx

    graph = module
    if state is None:
        graph, state = nnx.split(module)

    def call(*args, **kwargs):
        return nnx.merge(graph, state)(*args, **kwargs, **options)

    return _adapted(nnx.merge(graph, state), call)
