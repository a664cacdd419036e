"""What to draw: labels and texts of rows, and as the condition of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlib_guidance.data import embed_words
from jaxlib_guidance.models import DiffusionModel


def takes_text(model: DiffusionModel) -> bool:
    """Whether the condition of a model has a text."""
    return getattr(model.module, "text", None) is not None


def rows_of(
    model: DiffusionModel,
    labels: Sequence[int],
    prompts: Sequence[str],
    columns: int,
) -> tuple[np.ndarray, list[str]]:
    """Labels ``[N]`` and as many texts, ``columns`` of them for each row.

    Args:
      model: The model that draws.
      labels: Label of each row, -1 for none, or one for all; if empty, none beside
        prompts, and else each class.
      prompts: Text of each row, or one for all; if empty, no text.
      columns: Number of images of a row.

    Returns:
      Labels, the number of classes where there is none, and texts.

    Raises:
      ValueError: Labels that do not exist; prompts for a model without text; two lists
        of different lengths.
    """
    classes = model.classes or 0
    if prompts and not takes_text(model):
        raise ValueError(f"prompt {prompts[0]!r}: this model takes labels alone")
    by_default = (-1,) if prompts or not classes else range(classes)
    rows = np.asarray(labels or by_default)
    if rows.min() < -1 or rows.max() >= max(classes, 1):
        raise ValueError(f"labels {rows.tolist()}; expected -1, ..., {classes - 1}")
    texts = list(prompts) or [""]
    count = max(len(rows), len(texts))
    if not {len(rows), len(texts)} <= {1, count}:
        raise ValueError(
            f"{len(rows)} labels and {len(texts)} prompts; expected as many, or one"
        )
    texts = texts * (count // len(texts))
    given = np.resize(np.where(rows < 0, classes, rows), count)
    return np.repeat(given, columns), [t for t in texts for _ in range(columns)]


def condition_of(model: DiffusionModel, labels: np.ndarray, texts: list[str]) -> Any:
    """The condition in the form that the model takes, numpy arrays ``[N, ...]``.

    Raises:
      ValueError: A word that the vocabulary does not have.
    """
    label = labels.astype(np.int32)
    if not takes_text(model):
        return label if model.classes else None
    text, mask = embed_words(texts)
    own = {} if model.classes is None else {"label": label}
    return own | {"text": text, "text_mask": mask}
