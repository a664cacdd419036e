"""The catalogue of guidance methods: one row each, beside the method itself.

The command line of sample/images.py, the tables of docs/guidance.md and the laws'
catalogue are made from the rows.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

FAMILIES = {
    "contrast": "Contrasts of two predictions",
    "combine": "Other combinations of the same predictions",
    "attention": "Perturbed attention and features",
    "perturb": "Perturbed condition, state or time",
    "energy": "Energies and classifiers",
    "posterior": "Inverse problems",
    "reshape": "Rescaling and thresholds",
    "when": "Windows and schedules",
    "step": "Methods that know the sampler's step",
}
# "any" means affine in predictions with coefficients that sum to one, so the same in
# every space; "argument" that the method takes a space.
SPACES = (
    "any",
    "argument",
    "x0",
    "eps",
    "v",
    "velocity",
    "score",
    "state",
    "time",
    "condition",
    "attention",
    "features",
    "gradient",
)
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the catalogue of guidance methods.

    Attributes:
      name: Name of the method, the constructor's unless several rows share one.
      make: Constructor of the term; its signature has the defaults.
      family: Key of `FAMILIES`.
      formula: What the method does to the estimate, in one line.
      space: Where it acts, one of `SPACES`.
      off: Argument and value at which it changes nothing.
      evaluations: Network evaluations in a step, the base included; None for a method
        that wraps terms and has theirs.
      source: arXiv id, or another address, of where the method was published.
      law: Name of the test that holds it to exact values.
      strength: Name of the argument that scales the method; None if there is none.
      alias: Another name on the command line, or "".
      after: Whether it only reshapes what terms before it add.
      example: Arguments for checks, by name, where the default ones do not serve.
      shape: Shape of a sample in checks; () for the default one.
      vector: Whether the condition in checks is a vector of numbers, for a method that
        edits it; else labels.
      skip: Reasons by the name of a law of `testing.check_term` that is not to hold.
    """

    name: str
    make: Callable[..., Any]
    family: str
    formula: str
    space: str
    off: str
    evaluations: int | None
    source: str
    law: str
    strength: str | None = "weight"
    alias: str = ""
    after: bool = False
    example: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shape: tuple[int, ...] = ()
    vector: bool = False
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Refuses a row that does not fit its constructor."""
        parameters = inspect.signature(self.make).parameters
        for what, value, known in (
            ("family", self.family, FAMILIES),
            ("space", self.space, SPACES),
            ("strength", self.strength, (None, *parameters)),
        ):
            if value not in known:
                raise ValueError(
                    f"method {self.name!r} has {what} {value!r}; expected one of "
                    f"{tuple(known)}"
                )

    @property
    def defaults(self) -> dict[str, Any]:
        """The constructor's arguments that have a default, by name."""
        parameters = inspect.signature(self.make).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


def method(
    family: str,
    formula: str,
    *,
    space: str,
    evaluations: int | None,
    source: str,
    law: str,
    name: str = "",
    off: str = "weight = 0",
    **fields: Any,
) -> Callable[[F], F]:
    """Decorates the constructor of a guidance method with its row of the catalogue.

    Args:
      family: Key of `FAMILIES`.
      formula: What the method does to the estimate, in one line.
      space: Where it acts, one of `SPACES`.
      evaluations: Network evaluations in a step, the base included; None for a method
        that wraps terms.
      source: arXiv id, or another address, of where the method was published.
      law: Name of the test that holds it to exact values.
      name: Name of the row; "" means the constructor's.
      off: Argument and value at which it changes nothing.
      **fields: Other fields of `Method`.

    Returns:
      A decorator that gives the constructor back, with its rows in ``methods``.

    Raises:
      ValueError: A family, space or strength that does not exist.
    """

    def decorate(make: F) -> F:
        row = Method(
            name=name or getattr(make, "__name__", ""),
            make=make,
            family=family,
            formula=formula,
            space=space,
            off=off,
            evaluations=evaluations,
            source=source,
            law=law,
            **fields,
        )
        # Decorators apply from the bottom, rows read from the top.
        setattr(make, "methods", (row, *getattr(make, "methods", ())))  # noqa: B010
        return make

    return decorate


def collect_methods(names: Mapping[str, Any]) -> Mapping[str, Method]:
    """The catalogue of what stands under some names, by family.

    Args:
      names: Functions and other things by name, such as a module's ``vars``.

    Returns:
      Rows by name, in the order of `FAMILIES` and by the alphabet in each.

    Raises:
      ValueError: Two methods, or the alias of one, of the same name.
    """
    rows = [row for thing in names.values() for row in getattr(thing, "methods", ())]
    known: dict[str, Method] = {}
    for row in rows:
        for name in filter(None, (row.name, row.alias)):
            if known.setdefault(name, row) is not row:
                raise ValueError(f"two guidance methods are called {name!r}")
    order = list(FAMILIES)
    rows.sort(key=lambda row: (order.index(row.family), row.name))
    return MappingProxyType({row.name: row for row in rows})
