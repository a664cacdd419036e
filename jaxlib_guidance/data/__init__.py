"""Data sets behind one interface: bundled, a local folder, or TensorFlow Datasets."""

from jaxlib_guidance.data.digits import load_digits
from jaxlib_guidance.data.images import Images, batch_indices, load_images
from jaxlib_guidance.data.pictures import grid_of, save_grid

__all__ = [
    "Images",
    "batch_indices",
    "grid_of",
    "load_digits",
    "load_images",
    "save_grid",
]
