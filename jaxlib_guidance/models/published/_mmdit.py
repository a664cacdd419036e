"""What SD3 and Flux share: blocks in which image and text attend jointly."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import Edit, attend, enter_layer, leave_layer
from jaxlib_guidance.models.published._layers import (
    TimestepEmbedding,
    timestep_sinusoid,
)
from jaxlib_guidance.models.published._transformer import (
    FeedForward,
    Modulation,
    RMSNorm,
    modulate,
    plain,
)
from jaxlib_guidance.types import Array, PyTree


class JointAttention(nn.Module):
    """Attention of an image and a text in one sequence, with diffusers' names.

    Attributes:
      heads: Number of heads.
      text_first: Whether the text's tokens stand before the image's; else after.
      qk_norm: Whether queries and keys are normalised (RMS).
      image_out: Whether the image's output is projected.
      text_out: Whether the text has an output.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; softmax and norms are float32.
    """

    heads: int
    text_first: bool = False
    qk_norm: bool = False
    image_out: bool = True
    text_out: bool = True
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        text: Array | int | None = None,
        *,
        rotate: Callable[[Array], Array] = lambda a: a,
        edit: Edit | None = None,
        grid: tuple[int, ...] | None = None,
        capture: bool | Callable[[Array], Array] = False,
    ) -> tuple[Array, Array | None, Array | None]:
        """``(out [B, N, C], text's out or None, probs or None)``.

        Args:
          x: Tokens ``[B, N, C]`` of the image.
          text: Tokens ``[B, M, C]`` of the text, which has projections of its own; or
            their number, where they are the first of ``x``; or None.
          rotate: What turns queries and keys by their positions.
          edit: What to change in the map, or None.
          grid: Shape of the image's token grid, for blurs.
          capture: Whether to return the map, or a function of it to return instead.
        """

        def project(names, tokens):
            for name, norm in names:
                layer = nn.Dense(x.shape[-1], dtype=self.dtype, name=name)
                h = layer(tokens).reshape(*tokens.shape[:2], self.heads, -1)
                if norm and self.qk_norm:
                    h = RMSNorm(dtype=self.dtype, name=norm)(h)
                yield h

        own = project((("to_q", "norm_q"), ("to_k", "norm_k"), ("to_v", "")), x)
        image, count = None, 0
        if isinstance(text, int):
            count = text
            image = slice(count, x.shape[1])
            q, k, v = own
        elif text is not None:
            count = text.shape[1]
            names = ("q", "norm_added_q"), ("k", "norm_added_k"), ("v", "")
            said = project([(f"add_{a}_proj", norm) for a, norm in names], text)
            pairs = (
                zip(said, own, strict=True)
                if self.text_first
                else zip(own, said, strict=True)
            )
            q, k, v = (jnp.concatenate(pair, 1) for pair in pairs)
            start = count if self.text_first else 0
            image = slice(start, start + x.shape[1])
        else:
            q, k, v = own
        out, probs = attend(
            *(rotate(q), rotate(k), v, edit),
            grid=grid,
            image=image,
            capture=capture,
            kernel=self.kernel,
        )
        out = out.reshape(*out.shape[:2], -1)
        if text is None or isinstance(text, int):
            return self._project("to_out.0", out, self.image_out), None, probs
        rest = out[:, :count] if self.text_first else out[:, -count:]
        rest = self._project("to_add_out", rest, True) if self.text_out else None
        return self._project("to_out.0", out[:, image], True), rest, probs

    def _project(self, name, out, projected):
        if not projected:
            return out
        return nn.Dense(out.shape[-1], dtype=self.dtype, name=name)(out)


class JointBlock(nn.Module):
    """Block of two streams, image and text, that attend jointly.

    Attributes:
      heads: Number of heads.
      text_first: Whether the text's tokens stand before the image's.
      qk_norm: Whether queries and keys are normalised (RMS).
      dual: Whether the image also attends to itself alone, "attn2".
      last: Whether the text's stream ends here.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; residual streams and norms are float32.
    """

    heads: int
    text_first: bool = False
    qk_norm: bool = False
    dual: bool = False
    last: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        text: Array,
        c: Array,
        edits: Mapping[str, Edit],
        wanted: Mapping[str, bool | Callable[[Array], Array]],
        grid: tuple[int, int],
        rotate: Callable[[Array], Array] = lambda a: a,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """``(x, text, maps)`` with edits and maps named "joint" and "attn"."""
        width, joint = x.shape[-1], edits.get("joint")
        x, own_edit = enter_layer(x, joint)
        before = x, text
        parts = Modulation(9 if self.dual else 6, width, self.dtype, name="norm1")(c)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts[:6]
        said = Modulation(
            2 if self.last else 6, width, self.dtype, name="norm1_context"
        )
        said = said(c)
        # Of a text that ends, the scale stands before the shift.
        moves = said[::-1] if self.last else said
        layer = JointAttention(
            *(self.heads, self.text_first, self.qk_norm),
            text_out=not self.last,
            kernel=self.kernel,
            dtype=self.dtype,
            name="attn",
        )
        out, told, probs = layer(
            modulate(plain(x), shift, scale).astype(self.dtype),
            modulate(plain(text), *moves[:2]).astype(self.dtype),
            rotate=rotate,
            edit=own_edit,
            grid=grid,
            capture=wanted["joint"],
        )
        maps = {} if probs is None else {"joint": probs}
        normed = plain(x)
        x = x + gate[:, None] * out.astype(jnp.float32)
        if self.dual:
            shift, scale, gate = parts[6:]
            layer = JointAttention(
                self.heads,
                qk_norm=self.qk_norm,
                kernel=self.kernel,
                dtype=self.dtype,
                name="attn2",
            )
            out, _, probs = layer(
                modulate(normed, shift, scale).astype(self.dtype),
                edit=_within_layer(edits.get("attn"), joint),
                grid=grid,
                capture=wanted["attn"],
            )
            maps |= {} if probs is None else {"attn": probs}
            x = x + gate[:, None] * out.astype(jnp.float32)
        x = x + self._mlp("ff", x, shift_mlp, scale_mlp, gate_mlp)
        if told is not None:
            text = text + said[2][:, None] * told.astype(jnp.float32)
            text = text + self._mlp("ff_context", text, *said[3:])
        x, text = (
            leave_layer(after, first, joint)
            for after, first in zip((x, text), before, strict=True)
        )
        return x, text, maps

    def _mlp(self, name, x, shift, scale, gate):
        h = modulate(plain(x), shift, scale).astype(self.dtype)
        h = FeedForward(4 * x.shape[-1], dtype=self.dtype, name=name)(h)
        return gate[:, None] * h.astype(jnp.float32)


def _within_layer(edit, joint):
    """The edit of a second attention, without what the first says of the layer."""
    if edit is None or joint is None:
        return edit
    said = {f: None for f in ("skip", "shuffle") if getattr(joint, f) is not None}
    return dataclasses.replace(edit, **said)


class TimeText(nn.Module):
    """Time, pooled text and guidance as one vector.

    Attributes:
      width: Number of features.
      guidance: Whether the scale of guidance is an input.
      dtype: Type of the computation.
    """

    width: int
    guidance: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, time: Array, pooled: Array, guidance: Array | None = None
    ) -> Array:
        """``[B, width]`` of timesteps ``[B]`` of 0 to 1000 and pooled ``[B, P]``."""

        def embed(name, value):
            layer = TimestepEmbedding(self.width, self.dtype, name=name)
            return layer(timestep_sinusoid(value, 256).astype(self.dtype))

        c = embed("timestep_embedder", time)
        if guidance is not None:
            c = c + embed("guidance_embedder", guidance)
        layer = TimestepEmbedding(self.width, self.dtype, name="text_embedder")
        return c + layer(pooled.astype(self.dtype))


def read_prompt(
    cond: PyTree, batch: int, widths: Mapping[str, int], optional: tuple[str, ...] = ()
) -> dict[str, Array]:
    """The entries of a condition, checked.

    Args:
      cond: Dict of arrays that lead with the batch.
      batch: Number of samples.
      widths: Number of features by name of the entries that must be there.
      optional: Names of vectors ``[B]`` that may be there.

    Raises:
      ValueError: Missing or unknown entries, or another shape.
    """
    found = dict(cond) if isinstance(cond, Mapping) else {}
    names = (*widths, *optional)
    if any(name not in found for name in widths) or any(n not in names for n in found):
        got = f"has {sorted(found)}" if found else f"is {type(cond).__name__}"
        raise ValueError(f"cond {got}; expected a dict with {', '.join(names)}")
    for name, value in found.items():
        shape, width = jnp.shape(value), widths.get(name)
        rank = 1 if width is None else 3 if name == "text" else 2
        if len(shape) != rank or shape[0] != batch or width not in (None, shape[-1]):
            want = {1: f"[{batch}]", 2: f"[{batch}, {width}]"}
            raise ValueError(
                f"cond's {name} has shape {shape}; expected "
                f"{want.get(rank, f'[{batch}, tokens, {width}]')}"
            )
    return {name: jnp.asarray(value) for name, value in found.items()}
