"""Data sets behind one interface: bundled, a local folder, or TensorFlow Datasets."""

from jaxlib_guidance.data.digits import load_digits
from jaxlib_guidance.data.images import (
    Images,
    ImageSource,
    load_images,
    open_images,
)
from jaxlib_guidance.data.loader import Loader
from jaxlib_guidance.data.order import batch_indices
from jaxlib_guidance.data.pictures import grid_of, save_grid
from jaxlib_guidance.data.series import Series
from jaxlib_guidance.data.timeseries import load_series

__all__ = [
    "ImageSource",
    "Images",
    "Loader",
    "Series",
    "batch_indices",
    "grid_of",
    "load_digits",
    "load_images",
    "load_series",
    "open_images",
    "save_grid",
]
