"""Changes of real pictures by inversion, a chain of guidance terms, and `sample`."""

from jaxlib_guidance.editing._guide_and_rescale import Edited, guide_and_rescale
from jaxlib_guidance.editing._sdedit import sdedit

__all__ = [
    # From noise on the way to the picture
    "sdedit",
    # By the picture's own attention and features
    "Edited",
    "guide_and_rescale",
]
