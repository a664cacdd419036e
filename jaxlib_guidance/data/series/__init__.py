"""Time series."""

from jaxlib_guidance.data.series._json import load_json_series
from jaxlib_guidance.data.series._load import load_series
from jaxlib_guidance.data.series._packaged import (
    PACKAGED,
    load_flights,
    load_pedestrians,
    load_simbench,
)
from jaxlib_guidance.data.series._series import (
    Series,
    finish_series,
    parse_freq,
    stamps,
)

__all__ = [
    # Series and their calendar
    "Series",
    "finish_series",
    "stamps",
    "parse_freq",
    # From frames, files and arrays
    "load_series",
    # JSON lines
    "load_json_series",
    # Sets that packages hold
    "load_pedestrians",
    "load_flights",
    "load_simbench",
    "PACKAGED",
]
