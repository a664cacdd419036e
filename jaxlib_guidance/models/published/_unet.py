"""The U-Net of Stable Diffusion 1.x, 2.x and XL, from its published configuration."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    join_features,
)
from jaxlib_guidance.models.published._configuration import for_each
from jaxlib_guidance.models.published._layers import (
    GroupNorm,
    TimestepEmbedding,
    timestep_sinusoid,
)
from jaxlib_guidance.models.published._unet_blocks import (
    Downsample,
    ResnetBlock,
    Transformer2D,
    Upsample,
)
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class _Run(NamedTuple):
    """What the blocks of one evaluation share."""

    emb: Array
    cond: Mapping[str, PyTree]
    control: Mapping[str, Any]
    capture: Captures
    maps: dict[str, Array]

    def end(self, place, h):
        """Features, edited and captured."""
        h = edit_features(h, self.control.get(place))
        wanted = capture_at(place, self.capture)
        if wanted:
            self.maps[place] = captured(h, wanted)
        return h


class UNet2DCondition(nn.Module):
    """Stable Diffusion's U-Net: ``(x, c_noise, cond) -> (value, maps)``.

    Attributes are the keys of the published ``config.json``, with diffusers' defaults.

    Sites have the published indices: "down{i}/{j}/{k}/attn" and "/cross" for block i,
    its transformer j and the block k of that, "mid/0/{k}/...", "up{i}/{j}/{k}/...".
    **"up0" is the deepest stage**, unlike in `UNet`, where it is the full resolution.
    Taps are these and the features "down{i}", "mid" and "up{i}", which end a stage
    before it is resized, and "down{i}/res{j}" and "up{i}/res{j}". Features accept
    edits, and so do the joins with the way down, "up{i}/join".

    Attributes:
      sample_size: Side of the latents that it was trained on; nothing depends on it.
      in_channels: Number of channels of the input, with those of ``cond["image"]``.
      out_channels: Number of channels of the output.
      flip_sin_to_cos: Whether the cosines of the time stand first.
      freq_shift: Shift in the exponent of the time's frequencies.
      down_block_types: Kinds of the stages on the way down; "CrossAttn" in the word
        gives a stage attention.
      up_block_types: Kinds of the stages on the way up, from the deepest.
      block_out_channels: Number of channels of each stage.
      layers_per_block: Number of residual blocks of each stage on the way down.
      norm_num_groups: Number of groups of the norms.
      norm_eps: Number added to the variances, but for those of transformers.
      cross_attention_dim: Number of features of the text.
      transformer_layers_per_block: Number of blocks of each transformer, one for all
        stages or one for each.
      attention_head_dim: Number of heads, one for all or one for each stage. It is no
        width, an old mistake of the key's name.
      num_attention_heads: Number of heads where it is given.
      addition_embed_type: "text_time" where there are a pooled text and sizes (SDXL).
      addition_time_embed_dim: Number of features of each size.
      projection_class_embeddings_input_dim: Number of features of these together.
      kernel: What computes unedited maps; see `attention.attend`.
      remat: Whether the backward pass recomputes each block; a CPU's compiler does not.
      dtype: Type of the computation. Norms, softmax and the last convolution are
        float32.

    Reference: Rombach et al., arXiv 2112.10752; Podell et al., arXiv 2307.01952;
      diffusers' ``UNet2DConditionModel``.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (
        *("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        *("CrossAttnDownBlock2D", "DownBlock2D"),
    )
    up_block_types: tuple[str, ...] = (
        *("UpBlock2D", "CrossAttnUpBlock2D"),
        *("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    kernel: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        return tuple(
            f"{place}/{k}/{kind}"
            for place, depth in self._transformers()
            for k in range(depth)
            for kind in ("attn", "cross")
        )

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, Q, M]``, features ``[B, h, w, C]``."""
        return (*self.sites, *self._places())

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, these, and the joins with skips."""
        stages = range(len(self.block_out_channels))
        return (*self._places(), *(f"up{i}/join" for i in stages))

    def _places(self):
        """The features, in the order of the computation."""
        places = []
        for i, layers in enumerate(self._layers):
            places += [*(f"down{i}/res{j}" for j in range(layers)), f"down{i}"]
        places.append("mid")
        for i, layers in enumerate(reversed(self._layers)):
            places += [*(f"up{i}/res{j}" for j in range(layers + 1)), f"up{i}"]
        return tuple(places)

    @property
    def _layers(self):
        return self._stages(self.layers_per_block, "layers_per_block")

    @property
    def _depths(self):
        key = "transformer_layers_per_block"
        return self._stages(self.transformer_layers_per_block, key)

    def _stages(self, value, name):
        return for_each(value, len(self.block_out_channels), name)

    def _transformers(self) -> Iterator[tuple[str, int]]:
        """Place and depth of each transformer."""
        for i, kind in enumerate(self.down_block_types):
            for j in range(self._layers[i] if "CrossAttn" in kind else 0):
                yield f"down{i}/{j}", self._depths[i]
        yield "mid/0", self._depths[-1]
        for i, kind in enumerate(self.up_block_types):
            for j in range(self._layers[-1 - i] + 1 if "CrossAttn" in kind else 0):
                yield f"up{i}/{j}", self._depths[-1 - i]

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: Mapping[str, PyTree],
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates the network.

        Args:
          x: Latents ``[B, H, W, C]``; any sides will do.
          c_noise: Timestep of each sample ``[B]``, 0 to 999, which may be a fraction.
          cond: "text", states ``[B, M, F]`` of the text encoder, padding included; for
            SDXL also "pooled" ``[B, P]`` and "time_ids" ``[B, 6]``: original height and
            width, top and left of the crop, target height and width; for inpainting
            "image" ``[B, H, W, E]``, channels that stand behind x's; and, of a
            ControlNet, "residuals", ``{"down": one for each skip, "mid"}``, which are
            added.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 ``[B, H, W, out_channels]``, and the taps.

        Raises:
          ValueError: Another rank, number of channels or condition than the
            configuration's, or unknown sites or taps.
        """
        control = require_places(self, control, capture)
        x = self._input(x, cond)
        run = self._begin(x, c_noise, cond, control, capture)
        channels, added = self.block_out_channels, cond.get("residuals")
        h, skips = self._descend(self._first(x), run)
        if added is not None:
            skips = _added(skips, added["down"])
            h = h + jnp.asarray(added["mid"], h.dtype)
        h = run.end("mid", h)
        for i, kind in enumerate(self.up_block_types):
            block, stage = f"up_blocks.{i}", len(channels) - 1 - i
            for j in range(self._layers[stage] + 1):
                h = join_features(h, skips.pop(), control.get(f"up{i}/join"))
                h = self._resnet(f"{block}.resnets.{j}", h, run, channels[stage])
                h = run.end(f"up{i}/res{j}", h)
                if "CrossAttn" in kind:
                    place = f"up{i}/{j}"
                    h = self._attend(f"{block}.attentions.{j}", place, h, run, stage)
            h = run.end(f"up{i}", h)
            if stage:
                size = skips[-1].shape[1], skips[-1].shape[2]
                h = Upsample(self.dtype, name=f"{block}.upsamplers.0")(h, size)
        norm = GroupNorm(self.norm_num_groups, self.norm_eps, name="conv_norm_out")
        head = nn.Conv(
            self.out_channels, (3, 3), padding=1, dtype=jnp.float32, name="conv_out"
        )
        return head(nn.silu(norm(h))), {name: run.maps[name] for name in capture}

    def _begin(self, x, c_noise, cond, control, capture):
        return _Run(self._embedding(x, c_noise, cond), cond, control, capture, {})

    def _first(self, x):
        width, options = self.block_out_channels[0], {"dtype": self.dtype}
        return nn.Conv(width, (3, 3), padding=1, name="conv_in", **options)(x)

    def _descend(self, h, run):
        """The way down and the middle: the last features, and all that are skipped."""
        channels, skips = self.block_out_channels, [h]
        for i, kind in enumerate(self.down_block_types):
            block = f"down_blocks.{i}"
            for j in range(self._layers[i]):
                h = self._resnet(f"{block}.resnets.{j}", h, run, channels[i])
                h = run.end(f"down{i}/res{j}", h)
                if "CrossAttn" in kind:
                    place = f"down{i}/{j}"
                    h = self._attend(f"{block}.attentions.{j}", place, h, run, i)
                skips.append(h)
            h = skips[-1] = run.end(f"down{i}", h)
            if i < len(channels) - 1:
                h = Downsample(dtype=self.dtype, name=f"{block}.downsamplers.0")(h)
                skips.append(h)
        h = self._resnet("mid_block.resnets.0", h, run, channels[-1])
        h = self._attend("mid_block.attentions.0", "mid/0", h, run, -1)
        return self._resnet("mid_block.resnets.1", h, run, channels[-1]), skips

    def _resnet(self, name, h, run, width):
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        layer = block(width, self.norm_num_groups, self.norm_eps, self.dtype, name=name)
        return layer(h, run.emb)

    def _attend(self, name, place, h, run, stage):
        heads = self.num_attention_heads or self.attention_head_dim
        layer = Transformer2D(
            self._depths[stage],
            self._stages(heads, "attention_head_dim")[stage],
            self.norm_num_groups,
            self.kernel,
            self.remat,
            self.dtype,
            name=name,
        )
        text, control = jnp.asarray(run.cond["text"], self.dtype), run.control
        h, found = layer(h, text, place, control=control, capture=run.capture)
        run.maps.update(found)
        return h

    def _input(self, x, cond):
        if not isinstance(cond, Mapping) or "text" not in cond:
            raise ValueError(
                f"cond is {type(cond).__name__}; expected a dict with 'text', as "
                "`prompts` of the loaded model makes it"
            )
        width = jnp.shape(cond["text"])[-1]
        if width != self.cross_attention_dim:
            raise ValueError(
                f"cond['text'] has {width} features; expected "
                f"{self.cross_attention_dim}: is it of another text encoder?"
            )
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}; expected [B, H, W, C]")
        x = jnp.asarray(x, self.dtype)
        if cond.get("image") is not None:
            x = jnp.concatenate([x, jnp.asarray(cond["image"], self.dtype)], -1)
        if x.shape[-1] != self.in_channels:
            raise ValueError(
                f"x has {x.shape[-1]} channels, those of cond['image'] included; "
                f"expected {self.in_channels}"
                f"{': 9 are those of inpainting' * (self.in_channels == 9)}"
            )
        return x

    def _embedding(self, x, c_noise, cond):
        t = jnp.broadcast_to(c_noise, x.shape[:1])

        def sinusoid(t, width):
            found = timestep_sinusoid(
                t,
                width,
                flip_sin_to_cos=self.flip_sin_to_cos,
                freq_shift=self.freq_shift,
            )
            return found.astype(self.dtype)

        width = 4 * self.block_out_channels[0]
        time = sinusoid(t, self.block_out_channels[0])
        emb = TimestepEmbedding(width, self.dtype, name="time_embedding")(time)
        if self.addition_embed_type is None:
            return emb
        for key in ("pooled", "time_ids"):
            if key not in cond:
                raise ValueError(
                    f"cond has {sorted(cond)} and not {key!r}, which SDXL needs"
                )
        pooled = jnp.asarray(cond["pooled"], self.dtype)
        ids = jnp.asarray(cond["time_ids"], jnp.float32)
        sizes = sinusoid(ids.reshape(-1), self.addition_time_embed_dim)
        both = jnp.concatenate([pooled, sizes.reshape(len(pooled), -1)], -1)
        if both.shape[-1] != self.projection_class_embeddings_input_dim:
            raise ValueError(
                f"cond's pooled text and sizes have {both.shape[-1]} features; "
                f"expected {self.projection_class_embeddings_input_dim}"
            )
        return emb + TimestepEmbedding(width, self.dtype, name="add_embedding")(both)


def _added(skips, residuals):
    if len(residuals) != len(skips):
        raise ValueError(
            f"cond['residuals']['down'] has {len(residuals)} arrays; expected "
            f"{len(skips)}, one for each skip"
        )
    pairs = zip(skips, residuals, strict=True)
    return [h + jnp.asarray(more, h.dtype) for h, more in pairs]
