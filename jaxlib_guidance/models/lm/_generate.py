"""Sampling from a language model, and scoring what was sampled.

The sampler returns the log-probabilities it drew by, and `completion_logp` gives the
same numbers from one pass over the whole, so that ratios start at 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.attention import FeatureEdit
from jaxlib_guidance.models.lm._network import (
    LM,
    empty_cache,
    logits,
    unembedding,
)
from jaxlib_guidance.models.lm._require import require_tokens
from jaxlib_guidance.policy import token_logp
from jaxlib_guidance.types import Array, PyTree, concrete


class Generated(NamedTuple):
    """Completions of prompts.

    Attributes:
      tokens: Token numbers, ``int32 [B, steps]``; ``pad`` after the end.
      mask: ``bool [B, steps]``, True up to and with the end-of-sequence token.
      logp: Float32 ``[B, steps]``, log-probability of each token under the distribution
        it was drawn from; 0 where masked.
    """

    tokens: Array
    mask: Array
    logp: Array


def generate(
    keys: Array,
    lm: LM,
    params: PyTree,
    prompts: Array,
    mask: Array | None = None,
    *,
    steps: int,
    temperature: Array | float = 1.0,
    eos: int | Sequence[int] | None = (),
    pad: int = 0,
    control: Mapping[str, FeatureEdit] | None = None,
) -> Generated:
    """Samples a completion of each prompt, token by token with cached keys and values.

    Row i is the same whatever the batch, up to rounding: its noise comes from its key
    and the number of the step. Not jitted inside.

    Args:
      keys: Per-sample typed keys ``[B]``, as from `sample_keys`.
      lm: The network.
      params: Parameters of the network.
      prompts: Integers ``[B, T]``, padded on either side.
      mask: ``bool [B, T]``, False on padding; None where nothing is padding. Each row
        has a token.
      steps: Number of tokens to sample for each prompt.
      temperature: Number that divides the logits, a scalar or ``[B]``. At 0 the
        likeliest token is taken, and its log-probability is that of temperature 1.
      eos: Token, or tokens, that end a sequence; None or ``()`` for no end.
      pad: Token number that stands after the end.
      control: Edits of the residual stream by block, as for `LM.read`, at each token of
        prompt and completion; None changes nothing.

    Returns:
      The completions; those of no prompts are empty.

    Raises:
      ValueError: Shapes that do not fit, a prompt without tokens, a token of a prompt
        or an ``eos`` outside the vocabulary, a negative temperature, no steps, or an
        edit of no block.
        Prompts that are traced and hold such a token get log-probabilities of NaN.
      TypeError: Keys that are not typed keys.
    """
    rng.require_keys(keys)
    prompts = jnp.asarray(prompts)
    if prompts.ndim != 2:
        raise ValueError(f"prompts is {prompts.shape}; expected [B, T]")
    batch, length = prompts.shape
    if keys.shape != (batch,):
        raise ValueError(f"keys is {keys.shape}; expected {(batch,)}, one per prompt")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    temperature = _require_temperature(temperature, batch)
    mask = jnp.ones(prompts.shape, bool) if mask is None else jnp.asarray(mask)
    if mask.shape != prompts.shape:
        raise ValueError(f"mask is {mask.shape}; expected {prompts.shape}")
    if (known := concrete(mask)) is not None and not known.any(1).all():
        raise ValueError(f"prompts {np.flatnonzero(~known.any(1))} have no tokens")
    ends = np.atleast_1d(np.asarray(() if eos is None else eos, np.int32))
    if any(not 0 <= end < lm.vocabulary for end in ends):
        raise ValueError(f"eos is {eos}; the vocabulary has {lm.vocabulary} tokens")
    require_tokens(prompts, mask, lm.vocabulary, "prompts")
    if batch == 0:
        none = jnp.zeros((0, steps))
        return Generated(none.astype(jnp.int32), none.astype(bool), none)
    table = unembedding(params)

    def draw(states, step, done):
        """Each row's token, its log-probability, and whether the row has ended."""
        greedy = temperature == 0
        scaled = logits(states, table) / jnp.where(greedy, 1, temperature)[:, None]
        drawn = jax.vmap(jax.random.categorical)(rng.fold(keys, step), scaled)
        token = jnp.where(greedy, jnp.argmax(scaled, -1), drawn).astype(jnp.int32)
        logp = jax.nn.log_softmax(scaled)
        logp = jnp.take_along_axis(logp, token[:, None], -1)[:, 0]
        token = jnp.where(done, jnp.int32(pad), token)
        logp = jnp.where(done, 0, logp)
        return token, logp, done | jnp.any(token[:, None] == ends, -1)

    def read(tokens, mask, cache) -> Any:
        given = tokens, mask, cache
        return lm.apply({"params": params}, *given, method="read", control=control)

    def step(carry, i):
        token, done, cache = carry
        states, cache = read(token[:, None], None, cache)
        token, logp, ended = draw(states[:, 0], i, done)
        return (token, ended, cache), (token, ~done, logp)

    states, cache = read(prompts, mask, empty_cache(lm, batch, length + steps - 1))
    begun = jnp.zeros(batch, bool)
    token, logp, done = draw(_last(states, mask), jnp.int32(0), begun)
    first = token, ~begun, logp
    rest = jax.lax.scan(step, (token, done, cache), jnp.arange(1, steps))[1]
    return Generated(
        *(
            jnp.concatenate([one[:, None], more.T], 1)
            for one, more in zip(first, rest, strict=True)
        )
    )


def completion_logp(
    lm: LM,
    params: PyTree,
    prompts: Array,
    tokens: Array,
    prompt_mask: Array | None = None,
    mask: Array | None = None,
    *,
    temperature: Array | float = 1.0,
    chunk: int = 4096,
    control: Mapping[str, FeatureEdit] | None = None,
) -> Array:
    """Log-probabilities of completions, from one pass; differentiable in ``params``.

    Equal to ``Generated.logp`` for the parameters and the temperature that sampled, to
    rounding. No array of tokens by vocabulary is made; see `token_logp`.

    Args:
      lm: The network.
      params: Parameters of the network.
      prompts: Token numbers of the prompts, integers ``[B, T]``.
      tokens: Completions, integers ``[B, S]``.
      prompt_mask: ``bool [B, T]``, False on padding of prompts; None where nothing is
        padding.
      mask: ``bool [B, S]``, False after the end of a completion; None where all count.
      temperature: Number that divides the logits, a scalar or ``[B]``, the same as for
        `generate`; 0 is scored as 1, as there.
      chunk: Number of vocabulary entries that `token_logp` handles at once.
      control: Edits of the residual stream by block, as for `generate`.

    Returns:
      Float32 ``[B, S]``; 0 where masked, NaN for a traced token outside the vocabulary.

    Raises:
      ValueError: A temperature that is negative or of another shape, or a token outside
        the vocabulary where the mask is True.
    """
    by_row = _require_temperature(temperature, tokens.shape[0])
    if prompt_mask is None:
        prompt_mask = jnp.ones(prompts.shape, bool)
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    require_tokens(prompts, prompt_mask, lm.vocabulary, "prompts")
    require_tokens(tokens, mask, lm.vocabulary, "tokens")
    whole, visible = (
        jnp.concatenate(pair, 1) for pair in ((prompts, tokens), (prompt_mask, mask))
    )
    read: Any = lm.apply(
        {"params": params}, whole, visible, method="read", control=control
    )
    length = prompts.shape[1]
    first = _last(read[0][:, :length], prompt_mask)
    states = jnp.concatenate([first[:, None], read[0][:, length:-1]], 1)
    table, number = unembedding(params), concrete(temperature)
    if number is not None and number.ndim == 0:
        number = float(number) or 1.0
    else:
        # Rows are divided before the product, in float32: the sampler's rounding of
        # states and table to half precision comes first, so that ratios stay 1.
        number, table = 1.0, table.astype(states.dtype).astype(jnp.float32)
        by_row = jnp.where(by_row == 0, 1, by_row)[:, None, None]
        states = states.astype(jnp.float32) / by_row
    exists = (tokens >= 0) & (tokens < lm.vocabulary)
    known = jnp.where(exists, tokens, 0)
    logp = token_logp(states, table, known, chunk=chunk, temperature=number)
    return jnp.where(mask, jnp.where(exists, logp, jnp.nan), 0)


def _last(states, mask):
    """The state of each row's last token ``[B, C]``."""
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], 1)
    return jnp.take_along_axis(states, last[:, None, None], 1)[:, 0]


def _require_temperature(temperature, batch):
    known = concrete(temperature)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"temperature is {known}; expected 0 or more")
    temperature = jnp.asarray(temperature, jnp.float32)
    if temperature.shape not in ((), (batch,)):
        raise ValueError(
            f"temperature is {temperature.shape}; expected () or {(batch,)}"
        )
    return jnp.broadcast_to(temperature, (batch,))
