"""What an attention site may be given."""

from jaxlib_guidance.attention._control import Edit


def require_edit(edit: Edit) -> None:
    """Raises where an attention site is given an edit of features."""
    if not isinstance(edit, Edit):
        raise TypeError(
            f"an attention site was given {type(edit).__name__}; expected attention."
            "Edit: edits of features are for places such as 'mid'"
        )
