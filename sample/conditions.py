"""What to draw: labels and texts of rows, and as the condition of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from published_images import Drawable, class_names, is_published

from jaxlib_guidance.data import EMOJI_CATEGORIES, embed_words
from jaxlib_guidance.models import read_pretrained

# More classes than this are neither drawn by default nor listed in errors.
LISTED = 100


def takes_text(model: Drawable) -> bool:
    """Whether the condition of a model has a text."""
    return getattr(model.module, "text", None) is not None


def names_of(weights: str) -> tuple[str, ...]:
    """Names of the classes that a model was trained on; empty if it does not say.

    Args:
      weights: Name or file, as `load_pretrained` takes it; or what is published.
    """
    if is_published(weights):
        return class_names(weights)
    _, about = read_pretrained(weights)
    if "class_names" in about:
        return tuple(about["class_names"])
    bundled = {"emoji": EMOJI_CATEGORIES, "digits": tuple("0123456789")}
    return bundled.get(weights.partition("_")[0], ())


def label_numbers(labels: Sequence[str | int], names: Sequence[str]) -> list[int]:
    """Labels by their names or numbers, as numbers.

    Args:
      labels: Names or numbers; -1 is no class.
      names: Names of the classes, in which "3" is number 3 if no class is called so.

    Raises:
      ValueError: A name that no class has.
    """
    found, table = [], {}
    for i, name in enumerate(names):
        # Published names are lists of synonyms: "tench, Tinca tinca".
        for each in (name, *name.split(",")):
            table.setdefault(each.strip(), i)
    for label in map(str, labels):
        if label in table:
            found.append(table[label])
        elif label.lstrip("-").isdigit():
            found.append(int(label))
        else:
            some = ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)
            known = f"a number or one of {some}" if names else "a number"
            raise ValueError(f"labels has {label!r}; expected {known}")
    return found


def rows_of(
    model: Drawable,
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
    if len(by_default) > LISTED and not labels:
        raise ValueError(
            f"the model has {classes} classes; expected --labels, such as 1 207"
        )
    rows = np.asarray(labels or by_default)
    if rows.min() < -1 or rows.max() >= max(classes, 1):
        raise ValueError(f"labels {rows.tolist()}; expected -1, ..., {classes - 1}")
    if classes and model.null is None and rows.min() < 0:
        raise ValueError("labels has -1; this model was trained with classes alone")
    texts = list(prompts) or [""]
    count = max(len(rows), len(texts))
    if not {len(rows), len(texts)} <= {1, count}:
        raise ValueError(
            f"{len(rows)} labels and {len(texts)} prompts; expected as many, or one"
        )
    texts = texts * (count // len(texts))
    given = np.resize(np.where(rows < 0, classes, rows), count)
    return np.repeat(given, columns), [t for t in texts for _ in range(columns)]


def condition_of(model: Drawable, labels: np.ndarray, texts: list[str]) -> Any:
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
