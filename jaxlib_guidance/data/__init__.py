"""Data sets behind one interface: bundled, a local folder, or TensorFlow Datasets."""

from jaxlib_guidance.data.digits import load_digits
from jaxlib_guidance.data.images import Images, batch_indices, load_images

__all__ = ["Images", "batch_indices", "load_digits", "load_images"]
