"""Edits of attention in branches that are evaluated anyway."""

from collections.abc import Mapping, Sequence

from jaxlib_guidance.attention import Edit, FeatureEdit, combine
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class EditedBranches:
    """Edits of other terms' branches. Build it with `edit_branches`.

    Attributes:
      control: Edits by site, place or feature.
      names: Branches that are edited; None is all (static).
    """

    control: Mapping[str, Edit | FeatureEdit]
    names: tuple[str, ...] | None = static(default=(BASE,))

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None of its own."""
        return {}

    def rewrite(self, branches: dict[str, Branch], ctx: Context) -> dict[str, Branch]:
        """The branches with the edits beside those that they have."""
        edited = dict(branches)
        for name in branches if self.names is None else self.names:
            if name in branches:
                own = dict(branches[name].control or {})
                for place, edit in self.control.items():
                    own[place] = _both(own.get(place), edit, place)
                edited[name] = branches[name]._replace(control=own)
        return edited

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Leaves the correction as it is."""
        return delta, state


def _both(own, edit, place):
    if own is None:
        return edit
    if isinstance(own, FeatureEdit) or isinstance(edit, FeatureEdit):
        raise ValueError(f"two terms edit the features {place!r} of a branch")
    return combine(own, edit)


def edit_branches(
    control: Mapping[str, Edit | FeatureEdit],
    names: Sequence[str] | None = (BASE,),
) -> EditedBranches:
    """Edits attention or features of branches that other terms evaluate.

    It costs no evaluation: the network itself is edited, as for an editor that takes
    maps from the sample `attention.Before`. Limit it to some steps by `during`, with
    bounds that are numbers.

    Args:
      control: Edits by site, place or feature.
      names: Branches that are edited: "cond" is the base, "uncond" that of `cfg`. None
        is all that there are; a branch that a step does not evaluate is passed over.

    Returns:
      A guidance term.

    Raises:
      ValueError: No edits.

    Example:
      >>> import jaxlib_guidance as jg
      >>> from jaxlib_guidance.attention import Before, borrow
      >>> keys_and_values = borrow(("k", "v"), Before())
      >>> term = jg.guidance.edit_branches({"*/attn": keys_and_values}, None)
      >>> jg.chain(jg.cfg(6.5, 10), jg.during(term, 0.1, 1.0)).terms[1].start
      Fixed(value=0.1)
    """
    if not control:
        raise ValueError("edit_branches got no edits")
    return EditedBranches(dict(control), None if names is None else tuple(names))
