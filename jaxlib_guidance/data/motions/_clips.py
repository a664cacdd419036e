"""What all sources of clips check and give back."""

from collections.abc import Sequence

import numpy as np


def require_clips(frames: int, count: int, *, least: int) -> None:
    """Raises unless clips have at least so many frames and their number is from 0."""
    if frames < least or count < 0:
        raise ValueError(
            f"frames {frames}, count {count}; expected at least {least} frames and 0 "
            "clips"
        )


def gathered(
    poses: np.ndarray,
    texts: Sequence[str],
    labels: Sequence[int],
    counts: Sequence[int],
    spans: Sequence[tuple[int, int]],
    moved: Sequence[int],
) -> tuple:
    """The fields of `Motions`, in its order, of clips that were drawn one by one."""
    return (
        poses.astype(np.float32),
        tuple(texts),
        np.array(labels, np.int32),
        np.array(counts, np.int32),
        np.array(spans, np.int32).reshape(-1, 2),
        np.array(moved, np.int32),
    )
