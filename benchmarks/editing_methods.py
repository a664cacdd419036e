"""Editors of benchmarks/editing.py, with the settings that are searched.

Each takes about as many evaluations of the network for a picture, the inversion
included and a backward pass counted as two; steps follow from that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

import jaxlib_guidance as jg
from jaxlib_guidance.editing import (
    ConceptEdit,
    edit_friendly,
    flow_edit,
    guide_and_rescale,
    ledits,
    masactrl,
    null_text,
    plug_and_play,
    prompt_to_prompt,
    rf_inversion,
    sdedit,
)

WEIGHTS = (1.5, 4.0, 10.0)


class Method(NamedTuple):
    """An editor and its six settings.

    Attributes:
      make: Function of the fixed part of a setting that gives the function ``(keys,
        denoiser, x, source, target, *numbers) -> edited``.
      settings: Pairs of the fixed part and the numbers.
      draws: Whether it draws noise, so that seeds differ.
    """

    make: Callable[..., Callable[..., Any]]
    settings: list[tuple[tuple[Any, ...], tuple[float, ...]]]
    draws: bool = False


def methods(model: Any, budget: int) -> dict[str, Method]:
    """Editors by name, for about ``budget`` evaluations of a picture."""
    null = model.null

    def grid(evaluations, share=1.0):
        """Of so many evaluations a step, ``share`` of which are taken."""
        return jg.uniform_grid(model.process, round(budget / evaluations / share))

    def inverted(keys, net, x, source, target, w):
        return guide_and_rescale(
            *(keys, net, grid(3), x, source, target, null), weight=w, low=0.0, high=0.0
        ).x

    def rescaled(features, keys, net, x, source, target, w, low, high):
        # Six in a step with the reference, two in another, one of the inversion.
        return guide_and_rescale(
            *(keys, net, grid(1 + 0.6 * 6 + 0.4 * 2), x, source, target, null),
            maps={"*/attn": 3e5},
            features=features,
            weight=w,
            low=low,
            high=high,
        ).x

    def noised(strength, keys, net, x, source, target, w):
        return sdedit(
            *(keys, net, grid(2, strength), x, target),
            strength=strength + 1e-6,
            guidance=jg.cfg(w, null),
        )

    def beside(editor, strength, keys, net, x, source, target, w):
        got = editor(
            *(keys, net, grid(4, strength), x, source, target, null),
            weight=w,
            source_weight=w / 5,
            strength=strength + 1e-6 if strength < 1 else 1.0,
        )
        return getattr(got, "x", got)

    def by_maps(editor, names, *fixed):
        def edit(keys, net, x, source, target, w):
            return editor(
                *(keys, net, grid(5), x, source, target, null),
                weight=w,
                **dict(zip(names, fixed, strict=True)),
            ).x

        return edit

    def masked(start, keys, net, x, source, target, w):
        # The second word is the thing. Two more in a step see where it is.
        word = jnp.zeros(source["text"].shape[1]).at[1].set(1.0)
        return masactrl(
            *(keys, net, grid(7), x, source, target, null),
            start=start,
            words=(word, word),
            weight=w,
        ).x

    def led(share, keys, net, x, source, target, w, eta):
        return rf_inversion(
            *(keys, net, grid(3), x, source, target, null),
            weight=w,
            eta=eta,
            share=share,
        ).x

    def optimised(iterations, keys, net, x, source, target, w):
        # One of the inversion, two of source and step, four of the pair.
        return null_text(
            *(keys, net, grid(7 + 3 * iterations), x, source, target, source),
            weight=w,
            iterations=iterations,
            rate=0.1 / iterations,
        ).x

    def by_concepts(strength, keys, net, x, source, target, w):
        # The first word, a colour, is the one that differs.
        word = jnp.zeros(source["text"].shape[1]).at[0].set(1.0)
        edits = [
            ConceptEdit(target, word, w, threshold=0.5),
            ConceptEdit(source, word, -w, threshold=0.5),
        ]
        return ledits(
            *(keys, net, grid(8, strength), x, source, null, edits),
            strength=strength + 1e-6 if strength < 1 else 1.0,
        ).x

    def each(*fixed):
        return [(one, (w,)) for one in fixed for w in WEIGHTS]

    held = [((), (w, *r)) for w in WEIGHTS for r in ((0.33, 3.0), (1.5, 1.5))]
    few = [((), (w,)) for w in (0.5, 1.5, 3.0, 4.5, 6.5, 12.0)]
    two = ((0.66,), (1.0,))
    p2p = partial(by_maps, prompt_to_prompt, ("cross_share", "self_share"))
    pnp = partial(by_maps, partial(plug_and_play, features="block4"))
    return {
        "inversion and CFG": Method(lambda: inverted, few),
        "SDEdit": Method(
            lambda s: partial(noised, s), each((0.5,), (0.8,)), draws=True
        ),
        "Guide-and-Rescale, maps": Method(lambda: partial(rescaled, None), held),
        "Guide-and-Rescale, maps and features": Method(
            lambda: partial(rescaled, {"block4": 500.0}), held
        ),
        "Prompt-to-Prompt": Method(p2p, each((0.8, 0.4), (0.4, 0.2))),
        "null-text and Prompt-to-Prompt": Method(
            lambda k: partial(optimised, k), each((2,), (5,))
        ),
        "FlowEdit": Method(
            lambda s: partial(beside, flow_edit, s), each(*two), draws=True
        ),
        "edit-friendly DDPM": Method(
            lambda s: partial(beside, edit_friendly, s), each(*two), draws=True
        ),
        "LEDITS++": Method(lambda s: partial(by_concepts, s), each(*two), draws=True),
        "MasaCtrl": Method(
            partial(by_maps, masactrl, ("start",)), each((0.1,), (0.5,))
        ),
        "MasaCtrl with masks": Method(
            lambda s: partial(masked, s), each((0.1,), (0.5,))
        ),
        "plug-and-play": Method(
            partial(pnp, ("feature_share", "self_share")),
            each((0.8, 0.5), (0.4, 0.25)),
        ),
        "RF-inversion": Method(
            lambda s: partial(led, s),
            [((s,), (w, 0.9)) for s in (0.25, 0.5) for w in WEIGHTS],
            draws=True,
        ),
    }
