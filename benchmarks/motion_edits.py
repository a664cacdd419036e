"""Edits of benchmarks/motion.py, with drawings without them and what is measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from motion_judging import active, activity, correlation, overlap, repetitions

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.data import (
    MOTION_ACTIONS,
    RECORDED_ACTIONS,
    Motions,
    embed_words,
    load_motions,
    make_motions,
)

WORDS = 6


class Clips(NamedTuple):
    """Where clips come from.

    Attributes:
      draw: Function ``(seed, count) -> Motions``.
      actions: Names of the actions, by label.
      sided: Those of the left or the right.
      count: Function ``(poses, labels) -> repetitions``.
    """

    draw: Callable[[int, int], Motions]
    actions: tuple[str, ...]
    sided: tuple[str, ...]
    count: Callable[[Any, Any], Any]


def rises(poses: Any, labels: Any) -> Any:
    """Peaks of the channel that rises once in a repetition of a recorded action."""
    known = load_motions(0, 200)
    channels = dict(zip(known.labels.tolist(), known.moved.tolist(), strict=True))
    own = np.array([channels[label] for label in labels])
    rising = np.take_along_axis(np.asarray(poses), own[:, None, None], 2)[..., 0]
    return np.asarray(editing.count_peaks(rising))


SYNTHETIC = Clips(
    *(make_motions, MOTION_ACTIONS, ("kick", "punch", "wave")),
    lambda poses, labels: repetitions(poses),
)
RECORDED = Clips(load_motions, RECORDED_ACTIONS, ("kick", "punch"), rises)


def condition(texts: list[str]) -> dict[str, jax.Array]:
    """The condition of texts."""
    text, mask = embed_words(texts, WORDS)
    return {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}


def phrases(
    seed: int, count: int, clips: Clips
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Texts, others with another action, and the labels of both."""
    random = np.random.default_rng(seed)
    texts, others, labels = [], [], []
    for i in range(count):
        # Both have a side or neither, so that a single word differs.
        sided = i % len(clips.actions) < len(clips.sided)
        kinds = [a for a in clips.actions if (a in clips.sided) == sided]
        pair = random.choice(kinds, 2, replace=False)
        speed, side = random.choice(["fast", "slow"]), random.choice(["left", "right"])
        for found, action in zip((texts, others), pair, strict=True):
            found.append(f"{speed} {action} {side if sided else ''}".strip())
        labels.append([clips.actions.index(action) for action in pair])
    first, second = np.array(labels).T
    return texts, others, first, second


def edits(draw: Any, judge: Any, clips: Clips) -> dict[str, tuple]:
    """Edit, drawing without it, measures and the settings that are searched.

    An edit or a drawing is a function of keys, conditions, a weight of CFG and a
    setting; measures are functions of source, edited and labels, the higher the better
    but for those that end in "(less)".
    """
    word = jnp.eye(WORDS)[1]
    late = np.arange(48) >= 24
    shares = (0.3, 0.6)

    def redrawn(keys, source, target, weight, _):
        """The target's words from the same noise."""
        own = draw(keys, weight)
        return editing.draw_pair(own, source, target, ())

    def afresh(keys, source, target, weight, _):
        """The same words from other noise."""
        first = editing.draw_pair(draw(keys, weight), source, source, ())
        again = editing.draw_pair(
            draw(jg.rng.fold(keys, 1), weight), source, source, ()
        )
        return editing.MotionPair(first.source, again.source)

    def erased(keys, source, target, weight, gain):
        return editing.erase_word(
            draw(keys, weight), source, word, window=(0.5, 1.0), gain=gain
        )

    def replaced(keys, source, target, weight, share):
        return editing.replace_word(
            *(draw(keys, weight), source, target, word),
            self_share=share,
            cross_share=share,
        )

    def shifted(keys, source, target, weight, share):
        return editing.shift_motion(draw(keys, weight), source, 0.5, share=share)

    def styled(keys, source, target, weight, share):
        return editing.transfer_style(draw(keys, weight), source, target, share=share)

    def varied(keys, source, target, weight, chunk):
        return editing.vary_motion(draw(keys, weight), source, chunk)

    def grounded(keys, source, target, weight, amount):
        return editing.ground_word(
            draw(keys, weight), source, word, (0.0, 0.5), amount=amount
        )

    def rms(x, where):
        return np.sqrt((activity(x) ** 2 * where).sum(-1) / where.sum())

    def kept_action(source, edited, first, second):
        return judge(edited) == first

    def new_action(source, edited, first, second):
        return judge(edited) == second

    def same_number(source, edited, first, second):
        return clips.count(source, first) == clips.count(edited, first)

    def same_number_of_other(source, edited, first, second):
        return clips.count(source, first) == clips.count(edited, second)

    def same_place(source, edited, first, second):
        return overlap(active(source), active(edited))

    measures = {
        "erase": {
            "motion left in the second half, of the source's (less)": lambda s, e, *_: (
                rms(e, late).mean() / rms(s, late).mean() * np.ones(len(s))
            ),
            "change of the first half, of its motion (less)": lambda s, e, *_: (
                rms(e - s, ~late).mean() / rms(s, ~late).mean() * np.ones(len(s))
            ),
        },
        **{
            name: {
                "new action": new_action,
                "same place": same_place,
                "same number of peaks": same_number_of_other,
            }
            for name in ("replace", "style")
        },
        "shift": {
            "action": kept_action,
            "course of the rolled source": lambda s, e, *_: correlation(
                np.roll(activity(s), 24, -1), activity(e)
            ),
            "same number of peaks": same_number,
        },
        "vary": {
            "action": kept_action,
            "change, of its motion": lambda s, e, *_: (
                rms(e - s, late | True) / rms(s, late | True)
            ),
            "same number of peaks": same_number,
        },
        "ground": {
            "action": kept_action,
            "motion in the window, of all": lambda s, e, *_: (
                (activity(e) ** 2 * ~late).sum(-1) / (activity(e) ** 2).sum(-1)
            ),
        },
    }
    return {
        "erase": (erased, afresh, measures["erase"], (0.0, 0.1)),
        "replace": (replaced, redrawn, measures["replace"], shares),
        "style": (styled, redrawn, measures["style"], shares),
        "shift": (shifted, afresh, measures["shift"], shares),
        "vary": (varied, afresh, measures["vary"], (0.125, 0.25)),
        "ground": (grounded, afresh, measures["ground"], (0.3, 0.6)),
    }
