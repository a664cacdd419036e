"""Draws a motion of words, and edits it by attention to words and frames.

    python sample/motion.py --text "fast right wave" --edit erase --word wave
    python sample/motion.py --text "fast walk" --edit replace --target "fast jump"
    python sample/motion.py --text "high bow" --edit emphasise --word high --amount -0.6
    python sample/motion.py --text "slow left kick" --edit shift --ratio 0.5

The words are those of the synthetic clips that the model was trained on: walk, run,
jump, kick, punch, wave, clap, bow; left or right; high or low; fast or slow; one to
five. The result is a GIF of the motion and of the edited one, from the same noise, a
PNG of some frames beside it, and how often and when each moves. docs/motion.md says how
well the edits work.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from outputs import require_writable
from skeletons import draw_strip, save_animation
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.data import caption_words, embed_words
from jaxlib_guidance.models import DiffusionModel, MotionCLR, load_pretrained

EDITS = ("emphasise", "erase", "ground", "replace", "shift", "vary", "style")
WORDS = 6


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw, and how to edit it."""

    text: str
    """Words of the motion."""
    edit: Literal["emphasise", "erase", "ground", "replace", "shift", "vary", "style"]
    """emphasise, erase or ground a word; replace a word by the target's; shift in time;
    vary an example; or the target's words in the text's style."""
    word: str | None = None
    """The word that is emphasised, erased or grounded."""
    target: str | None = None
    """Words of the result, for replace (as many, one another) and style."""
    amount: float = 0.5
    """What is added to the word's attention, to emphasise or ground."""
    gain: float = 0.0
    """Factor of the word's attention where it is erased, or not meant."""
    window: tuple[float, float] = (0.5, 1.0)
    """Part of the clip where a word is erased, or meant."""
    ratio: float = 0.5
    """Part of the clip to shift by."""
    chunk: float = 0.25
    """Length of a shuffled chunk, as part of the clip."""
    share: float = 0.6
    """Share of the steps in which the source is taken from."""
    weight: float = 1.5
    """Factor of classifier-free guidance."""
    weights: str = "motion"
    """A name of `load_pretrained`, or a file that train/motion.py wrote."""
    steps: int = 20
    """Steps of the solver."""
    seed: int = 0
    """Of the noise that all samples start from."""
    side: int = 160
    """Pixels of a skeleton's picture."""
    out: Path = Path("out/motion.gif")


def condition(text: str) -> dict[str, np.ndarray]:
    """The condition of one text.

    Raises:
      ValueError: Words that the vocabulary does not have, or too many.
    """
    embedded, mask = embed_words([text], WORDS)
    return {"text": embedded, "text_mask": mask}


def columns_of(text: str, word: str | None, edit: str) -> Any:
    """1 at the place of a word.

    Raises:
      ValueError: No word, or one that is not in the text.
    """
    words = caption_words(text)
    if word not in words:
        raise ValueError(f"word is {word!r}; {edit} needs one of {words}")
    return np.eye(WORDS, dtype=np.float32)[words.index(word)]


def changed_columns(text: str, target: str) -> np.ndarray:
    """1 where two texts differ.

    Raises:
      ValueError: Another number of words.
    """
    words, others = caption_words(text), caption_words(target)
    if len(words) != len(others):
        raise ValueError(
            f"target has {len(others)} words; expected text's {len(words)}, to replace"
        )
    changed = np.zeros(WORDS, np.float32)
    changed[: len(words)] = [a != b for a, b in zip(words, others, strict=True)]
    return changed


def run(config: Config) -> editing.MotionPair:
    """The motion and the edited one ``[1, T, 12]``.

    Raises:
      ValueError: Words or options that the edit lacks or that do not fit.
    """
    if config.steps < 2:
        raise ValueError(f"steps is {config.steps}; expected at least 2")
    named = ("replace", "style")
    if (config.target is None) == (config.edit in named):
        raise ValueError(f"target is {config.target!r}; {named} need one, others none")
    model, params = load_pretrained(config.weights)
    if not isinstance(model, DiffusionModel) or not isinstance(model.module, MotionCLR):
        raise ValueError(f"weights {config.weights!r} draw no motions")
    source, target = condition(config.text), condition(config.target or config.text)
    columns: Any = None
    needs_word = config.edit in ("emphasise", "erase", "ground")
    if needs_word:
        columns = columns_of(config.text, config.word, config.edit)
    elif config.word is not None:
        raise ValueError(f"word has no effect on {config.edit}")
    elif config.edit == "replace":
        columns = changed_columns(config.text, config.target or "")
    bar = tqdm(total=config.steps, unit="step")

    @jax.jit
    def draw(params: Any) -> editing.MotionPair:
        own = editing.MotionDraw(
            jg.sample_keys(jax.random.key(config.seed), 1),
            model.denoiser(params),
            jg.uniform_grid(model.process, config.steps),
            model.shape,
            model.null,
            config.weight,
            options={"progress": lambda done, _: bar.update(done - bar.n)},
        )
        given = {"share": config.share}
        if config.edit == "emphasise":
            return editing.emphasise_word(own, source, columns, config.amount)
        if config.edit == "erase":
            return editing.erase_word(
                own, source, columns, window=config.window, gain=config.gain
            )
        if config.edit == "ground":
            return editing.ground_word(
                *(own, source, columns, config.window),
                amount=config.amount,
                gain=config.gain,
            )
        if config.edit == "replace":
            shares = {"self_share": config.share, "cross_share": config.share}
            return editing.replace_word(own, source, target, columns, **shares)
        if config.edit == "shift":
            return editing.shift_motion(own, source, config.ratio, **given)
        if config.edit == "vary":
            return editing.vary_motion(own, source, config.chunk)
        return editing.transfer_style(own, source, target, **given)

    with bar:
        pair = jax.tree.map(np.asarray, draw(params))
        jax.effects_barrier()
    return pair


def described(motion: np.ndarray) -> str:
    """How often the channel that moves most rises, and when anything moves."""
    channel = motion[:, np.argmax(np.ptp(motion, axis=0))]
    moving = np.flatnonzero(np.sqrt(np.mean(motion**2, -1)) > 0.1)
    if not len(moving):
        return "at rest"
    peaks = int(editing.count_peaks(jnp.asarray(channel)))
    return f"{peaks} peaks, frames {moving[0]} to {moving[-1]}"


def main(config: Config) -> None:
    """Draws, edits and writes; a mistake is told in one line."""
    try:
        if config.out.suffix != ".gif":
            raise ValueError(f"out is {str(config.out)!r}; expected a name with .gif")
        require_writable(config.out)
        pair = run(config)
    except (ValueError, OSError) as error:
        sys.exit(f"sample/motion.py: {error}")
    motions = np.concatenate([pair.source, pair.edited])
    titles = (config.text, f"{config.edit} {config.target or config.word or ''}")
    save_animation(config.out, motions, titles, config.side)
    strip = config.out.with_suffix(".png")
    draw_strip(motions, 4, config.side // 2).save(strip)
    for title, motion in zip(titles, motions, strict=True):
        print(f"{title}: {described(motion)}")
    print(f"{config.out}, {strip}: the motion, then the edited one")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
