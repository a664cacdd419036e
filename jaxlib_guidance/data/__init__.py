"""Data sets behind one interface: bundled, a local folder, or TensorFlow Datasets."""

from jaxlib_guidance.data import images, motions, series
from jaxlib_guidance.data._order import batch_indices
from jaxlib_guidance.data.images import *
from jaxlib_guidance.data.motions import *
from jaxlib_guidance.data.series import *

__all__ = [
    # Order of the batches
    "batch_indices",
]
__all__ += images.__all__
__all__ += motions.__all__
__all__ += series.__all__
