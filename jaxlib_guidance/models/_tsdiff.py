"""TSDiff's network: gated residual blocks around a bidirectional state space.

One network serves TSDiff and TSDiff-Cond: what a sequence is conditioned on, calendar
features, lags that are known, or the observed context and its mask, are the channels of
``cond [B, L, F]``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import Edit
from jaxlib_guidance.models.layers._embed import sinusoidal
from jaxlib_guidance.models.layers._s4 import S4D, layer_spectrum
from jaxlib_guidance.types import Array, PyTree, require_places


def _step_embedding(step: Array, width: int) -> Array:
    """``[sin(s f), cos(s f)]``, ``f_i = 1e4^(-i / (n - 1))``, ``n = width / 2``.

    Args:
      step: Numbers of steps, any shape.
      width: Number of features, even and at least 4.

    Returns:
      Float32 ``[*step.shape, width]``.

    Raises:
      ValueError: Another width.

    Reference: DiffWave, arXiv 2009.09761, section 3.1, which TSDiff's code follows.
    """
    if width % 2 or width < 4:
        raise ValueError(f"embedding is {width}; expected an even number from 4")
    # Unlike positions, the slowest rate is 1e-4 itself, and sines come first.
    cosine, sine = jnp.split(sinusoidal(step, width, endpoint=True), 2, -1)
    return jnp.concatenate([sine, cosine], -1)


class _GatedBlock(nn.Module):
    """``z = h + e``; ``z += W GELU(S4D(LN(z)))``; ``h + W_a g``, ``W_b g`` are out.

    With ``g = tanh(z) sigmoid(z)`` and ``GELU(u) = u Phi(u)``, not its approximation by
    tanh; the condition is added to ``z`` before the gate.

    Attributes:
      state: Number of conjugate pairs of each state space.
      poles: Name of the initial state matrices, "lin", "inv" or "legs".
      rule: How they are discretised, "zoh" or "bilinear".
      dtype: Type of the dense layers' computation.
    """

    state: int
    poles: str
    rule: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, e: Array, cond: Array | None) -> tuple[Array, Array]:
        """The residual stream and the block's share of the output, ``[B, L, H]``.

        Args:
          h: Residual stream ``[B, L, H]``.
          e: Step embedding ``[B, E]``.
          cond: Condition ``[B, L, F]``, or None.
        """
        width = h.shape[-1]

        def dense(name, x):
            return nn.Dense(width, dtype=self.dtype, name=name)(x).astype(jnp.float32)

        z = h + dense("step", e)[:, None]
        u = nn.LayerNorm(dtype=jnp.float32, name="norm")(z)
        u = S4D(self.state, self.poles, self.rule, name="s4")(u)
        z = z + dense("mix", nn.gelu(u, approximate=False))
        if cond is not None:
            z = z + dense("condition", cond)
        g = jnp.tanh(z) * nn.sigmoid(z)
        return h + dense("residual", g), dense("skip", g)


class TSDiff(nn.Module):
    """``(x [B, L, C], c_noise, cond [B, L, F]) -> (value [B, L, C], maps)``.

    Attributes:
      width: Number ``H`` of channels of the blocks.
      blocks: Number of blocks.
      state: Number of conjugate pairs of each state space; see `S4D`.
      features: Number ``F`` of channels of the condition, or 0 for none.
      embedding: Number of features of the sinusoidal step embedding.
      time_scale, time_offset: What is embedded is ``c_noise * time_scale +
        time_offset``: 100 and -1 turn the times ``(i + 1) / 100`` of a table of betas
        into its steps ``i``; 1000 and 0 suit EDM's ``log(sigma) / 4``.
      skip: Whether the input is added to the output.
      poles: Name of the initial state matrices; see `initial_poles`.
      rule: How the state spaces are discretised; see `discretise`.
      dtype: Type of the dense layers' computation. Parameters, norms, convolutions and
        the residual stream are float32.
      remat: Whether the backward pass recomputes each block.

    Reference: Kollovieh et al., TSDiff, arXiv 2307.11494, appendix B; the diagonal
      state space stands in for its S4 layer.
    """

    width: int = 64
    blocks: int = 3
    state: int = 64
    features: int = 0
    embedding: int = 128
    time_scale: float = 100.0
    time_offset: float = 0.0
    skip: bool = False
    poles: str = "lin"
    rule: str = "zoh"
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def sites(self) -> tuple[str, ...]:
        """None: there is no attention."""
        return ()

    @property
    def taps(self) -> tuple[str, ...]:
        """The blocks' residual streams ``[B, L, H]``."""
        return tuple(f"block{i}" for i in range(self.blocks))

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree = None,
        *,
        control: Mapping[str, Edit] | None = None,
        capture: Sequence[str] = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates the network.

        Args:
          x: Noisy windows ``[B, L, C]``.
          c_noise: Noise level of each sample ``[B]``, which `parametrize` chooses.
          cond: Condition ``[B, L, F]``, or None where ``features`` is 0.
          control: Attention edits, of which there can be none.
          capture: Taps to return.

        Raises:
          ValueError: A condition of another shape; unknown sites or taps.
        """
        require_places(self, control, capture)
        if x.ndim != 3:
            raise ValueError(f"x has shape {x.shape}; expected [B, L, C]")
        wanted = (*x.shape[:2], self.features)
        if (cond is None) != (self.features == 0) or (
            cond is not None and jnp.shape(cond) != wanted
        ):
            given = None if cond is None else jnp.shape(cond)
            raise ValueError(
                f"cond is {given}; expected {wanted if self.features else None} for x "
                f"of shape {x.shape}"
            )
        x = x.astype(jnp.float32)

        def dense(name, x, features=self.width):
            layer = nn.Dense(features, dtype=self.dtype, name=name)
            return layer(x).astype(jnp.float32)

        c_noise = jnp.broadcast_to(c_noise, x.shape[:1])
        step = c_noise * self.time_scale + self.time_offset
        e = _step_embedding(step, self.embedding)
        e = nn.silu(dense("time_out", nn.silu(dense("time_in", e))))
        h = nn.relu(dense("input", x))
        block, total, maps = _GatedBlock, jnp.zeros_like(h), {}
        if self.remat:
            block: Any = nn.remat(_GatedBlock)
        for i in range(self.blocks):
            h, share = block(
                self.state, self.poles, self.rule, self.dtype, name=f"block{i}"
            )(h, e, cond)
            total = total + share
            maps[f"block{i}"] = h
        out = nn.relu(dense("hidden", total))
        out = nn.Dense(
            x.shape[-1],
            kernel_init=nn.initializers.zeros,
            name="output",
        )(out)
        out = out + x if self.skip else out
        return out, {name: maps[name] for name in capture}

    def example_cond(self, shape: tuple[int, ...]) -> Array | None:
        """A condition of one sample of ``shape [L, C]``, to initialise with."""
        return jnp.zeros((1, shape[0], self.features)) if self.features else None

    def prepare(self, params: PyTree, shape: tuple[int, ...]) -> dict[str, PyTree]:
        """The variables of a network for samples of ``shape [L, C]``: `kernels` too."""
        return {"params": params, "kernels": self.kernels(params, shape[0])}

    def kernels(self, params: PyTree, length: int) -> PyTree:
        """The transformed kernels of all layers, to pass beside the parameters.

        They depend on nothing else, so a sampler's loop need not compute them again:
        ``apply({"params": params, "kernels": kernels}, ...)``.

        Args:
          params: Parameters of the network.
          length: Length ``L`` of a sample.

        Returns:
          Variables of the collection "kernels".
        """

        def of(block):
            made = layer_spectrum(params[block]["s4"], length, self.rule)
            return {"s4": {"spectrum": made}}

        return {block: of(block) for block in self.taps}


def tsdiff_paper(length: int, channels: int = 1, features: int = 0) -> dict[str, Any]:
    """The published configuration, for `from_config`: network, noise and prediction.

    100 steps with betas from 1e-4 to 0.1, eps prediction, three blocks of 64 channels.
    Train it with loss weighting "eps" and times uniform on the steps.

    Args:
      length: Length ``L`` of a window, context and horizon together.
      channels: Number ``C`` of channels, all of which are diffused: the series and its
        lags.
      features: Number ``F`` of channels of the condition; 0 for no condition.

    Returns:
      The configuration, a dict that JSON can hold.

    Reference: Kollovieh et al., arXiv 2307.11494, appendix B.
    """
    return {
        "network": {
            "kind": "tsdiff",
            "features": features,
            # What is embedded is the step of the table, 0, ..., 99.
            "time_scale": 100.0,
            "time_offset": -1.0,
        },
        "process": {
            "kind": "ddpm",
            "steps": 100,
            "beta_start": 1e-4,
            "beta_end": 0.1,
        },
        "parametrize": {"predicts": "eps"},
        "shape": [length, channels],
    }


def tsdiff_cpu(length: int, channels: int = 1, features: int = 0) -> dict[str, Any]:
    """A network that two cores train in ten minutes, with EDM's parametrisation.

    Args:
      length: Length ``L`` of a window, context and horizon together.
      channels: Number ``C`` of channels that are diffused.
      features: Number ``F`` of channels of the condition; 0 for no condition. Known
        lags and the calendar serve better there than as channels to diffuse.

    Returns:
      The configuration, a dict that JSON can hold.
    """
    return {
        "network": {
            "kind": "tsdiff",
            "width": 32,
            "state": 16,
            "features": features,
            "time_scale": 1000.0,
        },
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": 1.0},
        "shape": [length, channels],
    }
