"""The types that every room shares: shapes, branches, and what a step knows.

Shapes: ``B`` batch, ``*S`` one sample, ``K`` branches, ``N`` steps, ``H`` heads,
``Q``/``M`` query/key tokens.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
PyTree = Any
Captures = Sequence[str] | Mapping[str, Callable[[Array], Array] | None]
T = TypeVar("T")


def static(**kwargs) -> Any:
    """A dataclass field that is part of the tree's structure, not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass registered as a pytree; fields by `static` are structure."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


class Process(Protocol):
    """What samplers and losses need of a noise process.

    ``t_min`` and ``t_max`` bound the times at which networks are trained and sampled;
    ``t = 0`` itself is clean data and is never given to a network.
    """

    @property
    def t_min(self) -> float:
        """Smallest time at which a network is evaluated."""
        ...

    @property
    def t_max(self) -> float:
        """Largest time, where the state is all but noise."""
        ...

    def alpha(self, t: Array) -> Array:
        """Scale of the data at time ``t``."""
        ...

    def sigma(self, t: Array) -> Array:
        """Standard deviation of the noise at time ``t``."""
        ...

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """The time at which ``2 log(alpha / sigma)`` has this value."""
        ...


def require_process(process: object, name: str = "process") -> None:
    """Raises unless ``process`` is a noise process: an object and not its class.

    Raises:
      TypeError: Something else, such as ``VPCosine`` in place of ``VPCosine()``.
    """
    parts = ("alpha", "sigma", "t_of_logsnr", "t_min", "t_max")
    missing = [part for part in parts if not hasattr(process, part)]
    lacks = f", without {', '.join(missing)}" if len(missing) < len(parts) else ""
    kind = isinstance(process, type)
    got = f"the class {process.__name__}" if kind else f"{process!r}{lacks}"
    if kind or missing:
        raise TypeError(f"{name} is {got}; expected a noise process, as VPCosine()")


class Denoised(NamedTuple):
    """What a denoiser returns.

    Attributes:
      x0: Posterior-mean estimate ``E[x0 | x_t]``, float32 ``[B, *S]``.
      maps: Captured arrays by name, each with leading ``B``.
    """

    x0: Array
    maps: Mapping[str, Array] = {}


class Network(Protocol):
    """A raw network: ``(x, c_noise, cond, *, control, capture) -> (value, maps)``.

    ``sites`` names the attention sites that accept an edit, ``taps`` all arrays that
    can be captured; ``feature_sites``, if any, the features that accept an edit.
    """

    sites: tuple[str, ...]
    taps: tuple[str, ...]

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Sequence[str] = (),
    ) -> tuple[Array, Mapping[str, Array]]: ...


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network seen as ``(x [B,*S], t [B], cond) -> Denoised``.

    Not a pytree: build it inside the function that is differentiated or jitted, from
    parameters that are arguments of that function.

    Attributes:
      apply: ``(x, t, cond, *, control, capture) -> Denoised``.
      sites: Names of the attention sites that accept an edit.
      taps: Names of the arrays that can be captured.
      process: Noise process of ``x``; None where a sampler or loss is to be given it.
      classes: Number of classes that labels name, or None for a network whose
        conditions are not checked. Label ``classes`` means no class.
      reduces: Whether ``capture`` may map taps to functions that the network applies.
      feature_sites: Names of the features that accept an edit.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: jnp.tanh(x), jg.VPCosine())
      >>> denoiser(jnp.zeros((2, 3)), 0.5).x0.shape
      (2, 3)
    """

    apply: Callable[..., Denoised]
    sites: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    process: Process | None = None
    classes: int | None = None
    reduces: bool = False
    feature_sites: tuple[str, ...] = ()

    def __call__(
        self,
        x: Array,
        t: Array,
        cond: PyTree = None,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> Denoised:
        """Evaluates; ``control`` and ``capture`` must name existing sites and taps."""
        require_labels(cond, self.classes)
        control = require_places(self, control, capture)
        taps = capture if isinstance(capture, Mapping) else tuple(capture)
        return self.apply(x, t, cond, control=control, capture=taps)


def require_labels(cond: PyTree, classes: int | None, name: str = "cond") -> None:
    """Raises where a label, known while tracing, is none of the classes.

    Args:
      cond: Labels ``[B]``, or a dict with an entry "label"; other conditions pass.
      classes: Number of classes; label ``classes`` is the null class. None checks
        nothing.
      name: What to call the condition in the error.

    Raises:
      ValueError: A label below 0 or above ``classes``.
    """
    labels = cond.get("label") if isinstance(cond, Mapping) else cond
    if classes is None or labels is None or jax.tree.structure(labels).num_nodes != 1:
        return
    known = concrete(labels)
    if known is None or not np.issubdtype(known.dtype, np.integer):
        return
    wrong = known[(known < 0) | (known > classes)]
    if wrong.size:
        raise ValueError(
            f"{name} has label {wrong.flat[0]}; expected 0, ..., {classes - 1}, or "
            f"{classes} for no class"
        )


def require_known(
    argument: str, names: Iterable[str], known: Sequence[str], what: str
) -> None:
    """Raises unless each of ``names`` is ``known``, and says what there is."""
    unknown = [name for name in names if name not in known]
    if unknown:
        have = ", ".join(known) if known else "none"
        raise ValueError(
            f"{argument} names {unknown}, but the network's {what} are: {have}"
        )


def require_places(
    network: Any, control: Mapping[str, Any] | None, capture: Captures
) -> dict[str, Any]:
    """The edits as a dict; raises unless the network has their sites and all taps.

    Args:
      network: What has ``sites``, ``taps`` and perhaps ``feature_sites``.
      control: Edits by site or feature; None for none.
      capture: Names of taps, or a mapping from them.

    Raises:
      ValueError: Something that the network does not have, with what there is.
    """
    control = dict(control or {})
    places = (*network.sites, *getattr(network, "feature_sites", ()))
    require_known("control", control, places, "sites")
    require_known("capture", capture, network.taps, "taps")
    return control


class Branch(NamedTuple):
    """One network evaluation that a guidance term asks for.

    Attributes:
      cond: Condition pytree with leading ``B``, or None.
      control: Edits by site or feature, or by a pattern that matches some.
      x: State ``[B, *S]`` to evaluate at; None means the sampler's own.
      net: Which of the sampler's denoisers.
      grad: Whether an energy differentiates through this evaluation.
      capture: Taps to return, by name or pattern; a pair with a function gives that
        function of the array.
      t: Time ``[B]`` that the network is given; None means the evaluation's own.
    """

    cond: PyTree = None
    control: Mapping[str, Any] | None = None
    x: Array | None = None
    net: int = 0
    grad: bool = False
    capture: tuple[str | tuple[str, Callable[[Array], Array]], ...] = ()
    t: Array | None = None


class Context(NamedTuple):
    """What a guidance term knows about the evaluation at hand.

    Attributes:
      x: Noisy state ``[B, *S]``.
      t: Time of this evaluation ``[B]``.
      alpha, sigma: Process coefficients at ``t``, ``[B, 1, ...]``, ready to broadcast
        against ``x``.
      cond: The caller's condition.
      keys: Per-sample typed keys ``[B]`` for this step's guidance.
      process: The noise process.
      step: Index of the sampler's step, int32 scalar.
      steps: Number of steps ``N``, or None under an adaptive solver.
      t_step, t_next: Ends of the sampler's step, scalars or ``[B]``.
      ref: The caller's reference pytree at this step, or None.
      grid: Times ``[N + 1]`` of the whole trajectory; None outside `sample` and under
        an adaptive solver.
      kernel: Function ``x0 [B, *S] -> Transition``: the next state's distribution if
        ``x0`` were the estimate; None outside `sample` and under solvers that evaluate
        more than once a step.
      stochastic: Whether the solver draws noise.
    """

    x: Array
    t: Array
    alpha: Array
    sigma: Array
    cond: PyTree
    keys: Array
    process: Process
    step: Array
    steps: int | None
    t_step: Array
    t_next: Array
    ref: PyTree = None
    grid: Array | None = None
    kernel: Callable[[Array], Any] | None = None
    stochastic: bool = False


def expand(a: Array, like: Array) -> Array:
    """Appends axes to ``a``, scalar or ``[B]``, until it broadcasts to ``like``."""
    a = jnp.asarray(a)
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim)) if a.ndim else a


def require_array(
    name: str, x: Any, expected: str = "an array", *, lists: bool = False
) -> None:
    """Raises for text, and for a list or a tuple, which jax takes for a tree.

    Args:
      name: What to call ``x`` in the error.
      x: What the caller gave.
      expected: What it should be.
      lists: Whether lists and tuples of numbers pass.

    Raises:
      TypeError: Text, alone, listed or as an array of numpy; a list or a tuple.
    """
    for leaf in jax.tree.leaves(x):
        dtype = getattr(leaf, "dtype", None)
        if getattr(dtype, "kind", "") in ("O", "S", "T", "U"):
            raise TypeError(f"{name} has dtype {dtype}; expected {expected}")
        if isinstance(leaf, str | bytes):
            raise TypeError(f"{name} holds {leaf!r}; expected {expected}")
    if isinstance(x, list | tuple) and not lists:
        raise TypeError(f"{name} is a {type(x).__name__}; expected {expected}")


def per_sample(a: Array | float, x: Array, name: str = "weight") -> Array:
    """A weight that is one number or one per sample, ready to broadcast against ``x``.

    Args:
      a: Scalar or ``[B]``.
      x: ``[B, *S]``.
      name: What to call it in the error.

    Returns:
      Float32 scalar or ``[B, 1, ...]``.

    Raises:
      TypeError: Text, or a list or a tuple, which jax takes for a tree of numbers.
      ValueError: Another shape.
    """
    require_array(name, a, "a number or an array")
    a = jnp.asarray(a, jnp.float32)
    if a.shape not in ((), x.shape[:1]):
        raise ValueError(f"{name} has shape {a.shape}; expected () or {x.shape[:1]}")
    return expand(a, x)


def at_least_float32(x: Array | float, name: str = "x") -> Array:
    """Promotes to float32 (float64 stays), so that contrasts keep their digits.

    Raises:
      TypeError: Text, or a list or a tuple, which jax takes for a tree of numbers.
    """
    require_array(name, x, "a number or an array")
    wide = jnp.result_type(x) == jnp.float64
    return jnp.asarray(x, jnp.float64 if wide else jnp.float32)


def concrete(a: Any) -> np.ndarray | None:
    """The value of ``a`` as numpy; None while it is traced or lies on other hosts."""
    traced = isinstance(a, jax.core.Tracer)
    if traced or (isinstance(a, jax.Array) and not a.is_fully_addressable):
        return None
    return np.asarray(a)
