"""A diffusion transformer for images and sequences, with named attention sites.

Blocks are run as pure functions of their parameters, so that rematerialisation and
`lax.scan` over layers are ordinary jax transformations, and an edit reaches its block
as an argument. A scanned network unrolls just the blocks that an edit or a capture
names.
"""

import itertools
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.models._dit_block import DiTBlock, plain_norm
from jaxlib_guidance.models._patches import patchify, unpatchify
from jaxlib_guidance.models.layers._embed import ConditionEmbed, grid_positions
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class DiT(nn.Module):
    """Diffusion transformer: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are "block0/attn", ... and, with text, "block0/cross", ...; taps are these and
    the blocks' outputs "block0", ....

    Attributes:
      width: Number of features of a token.
      depth: Number of blocks.
      heads: Number of attention heads.
      patch: Side of a patch (images), or its length (sequences).
      channels: Number of channels of the output; None means the input's.
      mlp_ratio: Hidden width of the MLPs over the width.
      classes: Number of classes, or None; label ``classes`` is the null class.
      vector: Number of features of a vector condition, or None for no such condition.
      text: Number of features of text embeddings, or None for no text.
      positions: Positions of the tokens: "sincos", which fits any size, or "learned".
      qk_norm: Whether queries and keys are normalised.
      kernel: What computes unedited maps; see `attention.attend`.
      time_scale: Factor of ``c_noise``: 1000 suits times in [0, 1], 1 step numbers,
        10 EDM's ``log(sigma) / 4``.
      time_window: Half of the range of ``c_noise`` over which to average its embedding;
        0 takes it at the level itself. See `ConditionEmbed`.
      dtype: Type of the blocks' computation. Parameters, residual stream, norms,
        softmax and output head are float32.
      remat: Whether the backward pass recomputes each block.
      scan: Whether blocks run as one scan over stacked parameters, which compiles in
        constant time. `stack_blocks` and `unstack_blocks` convert parameters.

    Reference: Peebles and Xie, arXiv 2212.09748 (adaLN-zero, section 3.2).
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    channels: int | None = None
    mlp_ratio: float = 4.0
    classes: int | None = None
    vector: int | None = None
    text: int | None = None
    positions: str = "sincos"
    qk_norm: bool = False
    kernel: str | None = None
    time_scale: float = 1000.0
    time_window: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    scan: bool = False

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, first block first."""
        kinds = ("attn",) if self.text is None else ("attn", "cross")
        return tuple(f"block{i}/{kind}" for i in range(self.depth) for kind in kinds)

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, Q, M]`` and outputs ``[B, T, width]``."""
        return self.sites + self.feature_sites

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the blocks' outputs."""
        return tuple(f"block{i}" for i in range(self.depth))

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree = None,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates the network.

        Args:
          x: Images ``[B, H, W, C]`` or sequences ``[B, L, C]``.
          c_noise: Noise level of each sample ``[B]``, which `parametrize` chooses.
          cond: Condition: None, labels ``[B]``, a vector ``[B, F]``, text ``[B, M, F]``
            or a dict of these; see `ConditionEmbed`.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape (with ``channels``), and the taps.

        Raises:
          ValueError: A shape that patches do not divide, unknown sites or taps, or an
            unknown option.
        """
        control = require_places(self, control, capture)
        tokens, grid = patchify(x, self.patch)
        h = nn.Dense(self.width, dtype=self.dtype, name="patch_in")(
            tokens.astype(self.dtype)
        )
        h = h.astype(jnp.float32) + self._positions(grid)
        c, context, mask = ConditionEmbed(
            self.width,
            self.classes,
            self.vector,
            self.text,
            self.time_scale,
            self.time_window,
            self.dtype,
            name="condition",
        )(jnp.broadcast_to(c_noise, x.shape[:1]), cond)
        h, maps = self._blocks(h, c, context, mask, grid, control, capture)
        parts = nn.Dense(
            2 * self.width, kernel_init=nn.initializers.zeros, name="head_modulation"
        )(nn.silu(c.astype(jnp.float32)))
        shift, scale = jnp.split(parts[:, None], 2, -1)
        channels = self.channels or x.shape[-1]
        out = nn.Dense(
            self.patch ** len(grid) * channels,
            kernel_init=nn.initializers.zeros,
            name="head",
        )(plain_norm(h) * (1 + scale) + shift)
        return unpatchify(out, grid, self.patch), maps

    def _positions(self, grid):
        if self.positions == "sincos":
            return grid_positions(grid, self.width)
        if self.positions != "learned":
            raise ValueError(
                f"positions is {self.positions!r}; expected 'sincos' or 'learned'"
            )
        shape = (*grid, self.width)
        own = self.get_variable("params", "position_table")
        if own is not None and own.shape != shape:
            raise ValueError(
                f"learned positions are for tokens {own.shape[:-1]}; got {grid}: use "
                "positions='sincos' for more than one size"
            )
        table = self.param("position_table", nn.initializers.normal(0.02), shape)
        return table.reshape(-1, self.width)

    def _blocks(self, h, c, context, mask, grid, control, capture):
        block = DiTBlock(
            self.heads,
            self.mlp_ratio,
            self.qk_norm,
            self.kernel,
            self.dtype,
            parent=None,
        )

        def run(params, h, edits, wanted):
            return block.apply(
                {"params": params},
                *(h, c, context, mask),
                grid=grid,
                control=edits,
                capture=dict(wanted),
            )

        def init(key):
            inputs = (h, c, context, mask)
            made = block.init(key, *inputs, grid=grid, control={}, capture=())
            return made["params"]

        if self.remat:
            run = jax.checkpoint(run, static_argnums=(3,))
        stacked, each = None, None
        if self.scan:
            stacked = self._params(
                "blocks", lambda key: jax.vmap(init)(jax.random.split(key, self.depth))
            )
        else:
            each = [self._params(f"block{i}", init) for i in range(self.depth)]
        if not isinstance(capture, Mapping):
            capture = dict.fromkeys(capture)
        edits, wanted = _by_block(control), _by_block(capture)
        touched = {*edits, *wanted} if self.scan else set(range(self.depth))
        maps = {}
        for start, stop in _runs(self.depth, touched):
            if start not in touched:
                h = _scan_blocks(run, stacked, h, start, stop)
                continue
            params = jax.tree.map(lambda p, i=start: p[i], stacked)
            params = params if each is None else each[start]
            taps = tuple(wanted.get(start, {}).items())
            h, found = cast(Any, run(params, h, edits.get(start, {}), taps))
            for tap, value in found.items():
                maps[f"block{start}/{tap}" if tap else f"block{start}"] = value
        return h, {name: maps[name] for name in capture}

    def _params(self, name, init):
        # `param` alone would trace `init` again on every call, to check shapes that the
        # block checks itself.
        if self.is_initializing():
            return self.param(name, init)
        own = self.get_variable("params", name)
        if own is None:
            raise ValueError(
                f"params have no {name!r}; a network with scan={self.scan} needs it: "
                "see stack_blocks and unstack_blocks"
            )
        return own


def _by_block(named):
    """``{"block3/attn": value} -> {3: {"attn": value}}``; the output's tap is ""."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in named.items():
        block, _, rest = name.partition("/")
        found.setdefault(int(block.removeprefix("block")), {})[rest] = value
    return found


def _runs(depth, touched):
    """``range(depth)`` cut into single touched blocks and runs of untouched ones."""
    ends = {i + step for i in touched for step in (0, 1)}
    return itertools.pairwise(sorted({0, depth, *ends}))


def _scan_blocks(run, stacked, h, start, stop):
    depth = jax.tree.leaves(stacked)[0].shape[0]
    if (start, stop) == (0, depth):
        return jax.lax.scan(lambda h, p: (run(p, h, {}, ())[0], None), h, stacked)[0]

    # Part of the stack: read the blocks where they lie; a slice would be a second copy.
    def step(h, i):
        params = jax.tree.map(lambda p: p[i], stacked)
        return run(params, h, {}, ())[0], None

    return jax.lax.scan(step, h, jnp.arange(start, stop))[0]
