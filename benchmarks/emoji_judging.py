"""How pictures of the emoji model are judged.

The judge is `emoji_judge`, a classifier of clean pictures that no guidance uses. What
is held out, pictures and captions, is never trained on and never tuned on.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlib_guidance.data import Emoji, emoji_vocabulary, load_emoji
from jaxlib_guidance.models import Classified, load_pretrained
from jaxlib_guidance.testing import frechet_distance, judge_samples
from jaxlib_guidance.types import Array

RIDGE = 100.0
NEAREST = 5


def coverage(samples: Array, real: Array, k: int = NEAREST) -> float:
    """Share of real pictures with a sample nearer than their k-th real neighbour.

    Args:
      samples: Features of samples ``[N, F]``.
      real: Features of real pictures ``[M, F]``.
      k: Number of the neighbour.

    Reference: Naeem et al., arXiv 2002.09797, eq. 9.
    """
    a, b = np.asarray(samples, np.float64), np.asarray(real, np.float64)
    between = np.linalg.norm(b[:, None] - b[None], axis=-1)
    radius = np.sort(between, axis=1)[:, k]  # Column 0 is the picture itself.
    nearest = np.linalg.norm(b[:, None] - a[None], axis=-1).min(1)
    return float((nearest < radius).mean())


def caption_vectors(pictures: Emoji) -> np.ndarray:
    """The mean of the vectors of each caption's words ``[N, 64]``."""
    known = (pictures.words >= 0)[..., None]
    vectors = emoji_vocabulary().vectors[pictures.words] * known
    return vectors.sum(1) / np.maximum(known.sum(1), 1)


class Captions(NamedTuple):
    """A ridge regression from the judge's features to the caption's mean word vector.

    Attributes:
      mean: Mean of the features ``[F]``.
      std: Standard deviation of the features ``[F]``.
      weights: Coefficients ``[F, 64]``.
      centre: Mean of the captions' vectors ``[64]``.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(cls, features: Array, vectors: np.ndarray) -> "Captions":
        """From training pictures alone."""
        x = np.asarray(features, np.float64)
        mean, std, centre = x.mean(0), x.std(0) + 1e-3, vectors.mean(0)
        x = (x - mean) / std
        gram = x.T @ x + RIDGE * np.eye(x.shape[1])
        return cls(mean, std, np.linalg.solve(gram, x.T @ (vectors - centre)), centre)

    def found(
        self, features: Array, vectors: np.ndarray, own: np.ndarray, nearest: int = 5
    ) -> float:
        """How often the caption ``own [N]`` is among its ``nearest`` of all of them."""
        guess = (np.asarray(features, np.float64) - self.mean) / self.std @ self.weights
        there = vectors - self.centre
        guess, there = (
            a / np.linalg.norm(a, axis=1, keepdims=True) for a in (guess, there)
        )
        alike = guess @ there.T
        above = alike > np.take_along_axis(alike, own[:, None], 1)
        return float((above.sum(1) < nearest).mean())


class Judge:
    """Scores of pictures against the held-out ones."""

    def __init__(self):
        model, params = load_pretrained("emoji_judge")
        self._score = jax.jit(partial(model, params))
        self.train, self.test = load_emoji("train"), load_emoji("test")
        self.seen, self.held_out = self(self.train.images), self(self.test.images)
        self.vectors = caption_vectors(self.test)
        self.captions = Captions.fit(self.seen.features, caption_vectors(self.train))

    def __call__(self, images: Any) -> Classified:
        """Logits and features of pictures, clipped to [-1, 1]."""
        images = np.clip(np.asarray(images, np.float32), -1, 1)
        return jax.tree.map(np.asarray, self._score(images))

    def scores(self, images: Any, asked: np.ndarray | None = None) -> dict[str, float]:
        """The columns of a row: pictures against all held-out ones.

        Args:
          images: Pictures ``[N, 32, 32, 3]``.
          asked: Indices ``[N]`` of the held-out pictures whose categories and captions
            were asked for; None if none were.
        """
        judged = self(images)
        labels = None if asked is None else self.test.labels[asked]
        row = judge_samples(judged, self.held_out, labels)
        found = np.nan
        if asked is not None:
            found = self.captions.found(judged.features, self.vectors, asked)
        return {
            "frechet": row["frechet"],
            "kernel": 100 * row["kernel"],
            "accuracy": row["accuracy"],
            "caption": found,
            "coverage": coverage(judged.features, self.held_out.features),
        }

    def references(self) -> dict[str, dict[str, float]]:
        """Rows of what no model drew: real pictures, and noise of their mean."""
        chance = np.random.RandomState(1)
        some = chance.permutation(len(self.train.labels))[:93]
        kept = chance.permutation(len(self.test.labels))[:93]
        mean, std = self.test.images.mean(0), self.test.images.std(0)
        noise = mean + std * chance.randn(93, *mean.shape)
        return {
            "93 of the held-out pictures themselves": self.scores(
                self.test.images[kept], kept
            ),
            "93 training pictures": self.scores(self.train.images[some]),
            "noise of the pictures' mean and deviation": self.scores(noise),
        }

    def tuning_frechet(self, images: Any, rest: np.ndarray) -> float:
        """Frechet distance to training pictures, for tuning.

        Args:
          images: Pictures ``[N, 32, 32, 3]``.
          rest: Indices of training pictures other than those whose conditions were
            taken.
        """
        return frechet_distance(self(images).features, self.seen.features[rest])
