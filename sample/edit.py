r"""Changes a picture: what it shows, in words, becomes something else.

    python sample/edit.py --source "red circle" --target "blue circle"
    python sample/edit.py --picture photo.png --source "a red car" --target "a blue car"
    python sample/edit.py --source "cat face" --target "dog face" --method flow-edit
    python sample/edit.py --model FOLDER --picture photo.png --source "a red car" \
        --target "a blue car" --method prompt-to-prompt --blend car

Without --picture it takes the emoji whose caption is --source. FOLDER is a published
Stable Diffusion on disk; docs/models.md says how to get one. The result is a PNG of the
picture, then what it becomes under each --target. An option that is not given is the
method's own; one that a method does not have is refused. docs/editing.md says which
method to take when.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import edit_subjects
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from outputs import require_writable
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance import editing
from jaxlib_guidance.attention import align_words
from jaxlib_guidance.data import save_grid
from jaxlib_guidance.guidance import local_blend

# The editors, with the options that each has.
METHODS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "guide-and-rescale": (
        partial(editing.guide_and_rescale, low=1.5, high=1.5),
        ("weight", "maps", "low", "high", "share"),
    ),
    "inversion": (
        partial(editing.guide_and_rescale, low=0.0, high=0.0),
        ("weight",),
    ),
    "sdedit": (editing.sdedit, ("weight", "strength")),
    "flow-edit": (editing.flow_edit, ("weight", "source_weight", "strength")),
    "edit-friendly": (
        editing.edit_friendly,
        ("weight", "source_weight", "strength", "eta"),
    ),
    "prompt-to-prompt": (
        editing.prompt_to_prompt,
        (
            *("weight", "source_weight", "strength", "cross_share", "self_share"),
            *("refine", "blend", "gain"),
        ),
    ),
    "null-text": (
        editing.null_text,
        (
            *("weight", "strength", "cross_share", "self_share", "refine", "blend"),
            *("gain", "iterations", "rate"),
        ),
    ),
    "masactrl": (
        editing.masactrl,
        ("weight", "source_weight", "strength", "sites", "start", "thing"),
    ),
    "plug-and-play": (
        editing.plug_and_play,
        (
            *("weight", "source_weight", "strength", "sites", "features"),
            *("feature_share", "self_share"),
        ),
    ),
    "rf-inversion": (
        editing.rf_inversion,
        ("weight", "strength", "gamma", "eta", "share"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to change, into what, and how."""

    source: str
    """What the picture shows."""
    target: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """What it is to show; give it repeatedly for several results."""
    picture: Path | None = None
    """A file of a picture; by default the emoji of that caption."""
    weights: Annotated[str, tyro.conf.arg(aliases=["--model"])] = "emoji"
    """A name of `load_pretrained`, a file that train/emoji.py wrote, or the folder of a
    published Stable Diffusion."""
    method: str = "guide-and-rescale"
    """An editor: guide-and-rescale, inversion (the same without its pull), sdedit,
    flow-edit, edit-friendly, prompt-to-prompt, null-text (the same by null-text
    inversion), masactrl, plug-and-play or rf-inversion."""
    weight: float | None = None
    """Factor of classifier-free guidance towards the target."""
    source_weight: float | None = None
    """That towards the source."""
    strength: float | None = None
    """Share of the steps that are taken."""
    maps: float | None = None
    """Factor of the distance of attention maps, for guide-and-rescale."""
    low: float | None = None
    """Least norm of the pull to the picture, relative to that of the guidance."""
    high: float | None = None
    """Greatest such norm."""
    share: float | None = None
    """Share of the steps with a pull to the picture."""
    eta: float | None = None
    """Noise of edit-friendly, or strength of rf-inversion's pull."""
    gamma: float | None = None
    """Strength of rf-inversion's pull to noise."""
    cross_share: float | None = None
    """Share of the steps with the picture's cross-attention."""
    self_share: float | None = None
    """Share of the steps with its self-attention maps."""
    feature_share: float | None = None
    """Share of the steps with its features."""
    start: float | None = None
    """Share of the steps before masactrl begins."""
    thing: str | None = None
    """A word of source and target for masks of masactrl, the thing whose look is asked
    of itself; SOURCE=TARGET where it is not the same."""
    sites: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Attention sites of masactrl and plug-and-play; give it repeatedly."""
    features: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Features of plug-and-play; for the emoji model block4 by default."""
    iterations: int | None = None
    """Steps of null-text's optimisation in each step."""
    rate: float | None = None
    """Its rate."""
    refine: bool = False
    """Whether new words of prompt-to-prompt keep their own attention, and do not take
    that of the words whose place they have."""
    blend: str | None = None
    """A word of source and target outside of which prompt-to-prompt changes nothing;
    SOURCE=TARGET where it is not the same."""
    gain: str | None = None
    """WORD=FACTOR, a new weight of a word of the target, for prompt-to-prompt."""
    steps: int = 50
    """Steps of the solver, there and back."""
    size: tuple[int, ...] = ()
    """Pixels of a published model: one number, or height and width."""
    dtype: str = "bfloat16"
    """Type of a published model's parameters and computation."""
    seed: int = 0
    """Of all noise."""
    scale: int = 6
    """Pixels of the result for each pixel of the bundled model."""
    out: Path = Path("out/edit.png")


def options_of(config: Config) -> dict[str, Any]:
    """The options that were given, which the method must have.

    Raises:
      ValueError: An unknown method, or an option that it does not have.
    """
    if config.method not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"method is {config.method!r}; expected one of {known}")
    names = dict.fromkeys(name for _, own in METHODS.values() for name in own)
    given = {name: getattr(config, name) for name in names}
    given = {n: a for n, a in given.items() if a is not None and a is not False}
    given = {n: a for n, a in given.items() if a != ()}
    unused = [name for name in given if name not in METHODS[config.method][1]]
    if unused:
        raise ValueError(f"{config.method} has no option {', '.join(unused)}")
    return given


def place_of(word: str, words: list[Any], subject: edit_subjects.Subject) -> Any:
    """Columns ``[M]`` of a word in a text, 1 on them and 0 elsewhere.

    Raises:
      ValueError: The text does not have the word.
    """
    own = subject.spell(word)
    starts = [i for i in range(len(words)) if words[i : i + len(own)] == own]
    if not own or not starts:
        raise ValueError(f"the word {word!r} is not in a text that is to have it")
    columns = np.zeros(subject.columns, np.float32)
    for start in starts:
        columns[start : start + len(own)] = 1
    return columns


def columns_of(word: str, subject: edit_subjects.Subject) -> list[np.ndarray]:
    """Columns ``[N, M]`` of WORD, or of SOURCE=TARGET, in source and targets.

    Raises:
      ValueError: A text that does not have it.
    """
    source, targets = subject.words
    before, _, after = word.partition("=")
    own = [place_of(before, source, subject)] * len(targets)
    return [
        np.stack(own),
        np.stack([place_of(after or before, text, subject) for text in targets]),
    ]


def words_of(given: dict[str, Any], subject: edit_subjects.Subject) -> dict[str, Any]:
    """What prompt-to-prompt is given for words.

    Raises:
      ValueError: A gain that is no WORD=FACTOR; a word that is in no text.
    """
    source, targets = subject.words
    sources, replaced = [source] * len(targets), not given.pop("refine", False)
    words = align_words(sources, targets, subject.columns, replaced=replaced)
    given = given | {"words": words}
    if "blend" in given:
        own, other = columns_of(given["blend"], subject)
        given["blend"] = local_blend(own, other)
    if "gain" in given:
        word, _, factor = given["gain"].partition("=")
        try:
            more = float(factor) - 1
        except ValueError as error:
            message = f"gain is {given['gain']!r}; expected WORD=FACTOR"
            raise ValueError(message) from error
        columns = [place_of(word, text, subject) for text in targets]
        given["gain"] = 1 + more * np.stack(columns)
    return given


def subject_of(config: Config) -> edit_subjects.Subject:
    """The picture and the model.

    Raises:
      ValueError: A model or a picture that does not serve.
    """
    texts = config.picture, config.source, list(config.target), config.steps
    if not edit_subjects.is_published(config.weights):
        return edit_subjects.bundled(config.weights, *texts)
    sizes = {"size": config.size, "dtype": config.dtype}
    return edit_subjects.published(config.weights, *texts, **sizes)


def edit(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The picture ``[H, W, C]``, and what it becomes ``[N, H, W, C]``.

    Raises:
      ValueError: Options out of their range, a model without text, words that it does
        not know, or no such picture.
    """
    if config.steps < 1:
        raise ValueError(f"steps is {config.steps}; expected at least 1")
    given = options_of(config)
    subject = subject_of(config)
    of_latents = edit_subjects.is_published(config.weights)
    if config.method in ("prompt-to-prompt", "null-text"):
        given = words_of(given, subject)
    if "thing" in given:
        given["words"] = tuple(columns_of(given.pop("thing"), subject))
    if config.method == "plug-and-play" and not of_latents:
        given = {"features": "block4"} | given
    if "maps" in given:
        given["maps"] = {"*/attn": given["maps"]}
    editor, (source, target, null) = METHODS[config.method][0], subject.conds
    if config.method == "null-text" and not of_latents:
        # The bundled model sees no word where there is none, so none could be tuned.
        null = source
    keys = jg.sample_keys(jax.random.key(config.seed), len(config.target))
    bar = tqdm(total=config.steps, unit="step")

    def report(done: int, total: int) -> None:
        bar.total, bar.n = total, done
        bar.refresh()

    @jax.jit
    def run(params: Any, x: jax.Array, source: Any, target: Any, null: Any) -> Any:
        net = subject.denoiser(params)
        if config.method == "sdedit":
            weight = given.get("weight", 6.5)
            rest = {k: v for k, v in given.items() if k != "weight"}
            rest["guidance"] = jg.cfg(weight, null)
            texts: tuple[Any, ...] = (target,)
        else:
            rest, texts = given, (source, target, null)
        got = editor(keys, net, subject.grid, x, *texts, **rest, progress=report)
        return subject.decode(params, getattr(got, "x", got))

    x = jnp.broadcast_to(subject.x, (len(config.target), *subject.x.shape))
    with bar:
        edited = np.asarray(run(subject.params, x, source, target, null), np.float32)
    return subject.picture, edited


def main(config: Config) -> None:
    """Changes, and draws; a mistake is told in one line."""
    try:
        require_writable(config.out)
        picture, edited = edit(config)
        rows = np.concatenate([picture[None], edited])
        note = {"source": config.source, "targets": ", ".join(config.target)}
        scale = 1 if edit_subjects.is_published(config.weights) else config.scale
        save_grid(config.out, rows, len(rows), scale, note | {"method": config.method})
    except (ValueError, OSError) as error:
        sys.exit(f"sample/edit.py: {error}")
    print(f"{config.out}: the picture, then {', '.join(map(repr, config.target))}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
