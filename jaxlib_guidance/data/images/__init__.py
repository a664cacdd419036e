"""Images."""

from jaxlib_guidance.data.images._digits import Split, load_digits
from jaxlib_guidance.data.images._emoji import (
    EMOJI_CATEGORIES,
    Emoji,
    Vocabulary,
    caption_words,
    embed_words,
    emoji_vocabulary,
    load_emoji,
)
from jaxlib_guidance.data.images._folder import (
    Images,
    ImageSource,
    load_images,
    open_images,
)
from jaxlib_guidance.data.images._loader import Loader, Source
from jaxlib_guidance.data.images._pictures import grid_of, save_grid

__all__ = [
    # The bundled digits
    "Split",
    "load_digits",
    # The bundled emoji and their words
    "EMOJI_CATEGORIES",
    "Emoji",
    "load_emoji",
    "Vocabulary",
    "emoji_vocabulary",
    "caption_words",
    "embed_words",
    # Folders and TensorFlow Datasets
    "Images",
    "ImageSource",
    "load_images",
    "open_images",
    # Batches read ahead
    "Source",
    "Loader",
    # Pictures of batches
    "grid_of",
    "save_grid",
]
