"""T5's encoder gives what transformers' gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import published


@pytest.mark.parametrize("name", ["t5_gated", "t5_relu"])
def test_states_are_those_of_transformers(golden, name):
    folder, want = golden(name)
    module, params = published.load_t5(published.open_part(folder))

    @jax.jit
    def run(params, tokens, mask):
        apply = module.apply
        return tuple(
            apply({"params": params}, tokens, *given)[:, ::15]
            for given in ((), (mask,))
        )

    plain, masked = run(params, jnp.asarray(want["tokens"]), jnp.asarray(want["mask"]))
    np.testing.assert_allclose(plain, want["plain"], atol=1e-5)
    # What padding itself becomes is of no use.
    np.testing.assert_allclose(masked[0], want["masked"][0], atol=1e-5)
    np.testing.assert_allclose(masked[1, :1], want["masked"][1, :1], atol=1e-5)


def test_files_of_other_names_and_with_a_decoder_are_read(golden):
    part = published.open_part(golden("t5_relu").folder)
    _, want = published.load_t5(part)
    tensors = dict(part.tensors)
    table = tensors.pop("shared.weight")
    tensors |= {"encoder.embed_tokens.weight": table, "decoder.block": table}
    _, params = published.load_t5(dataclasses.replace(part, tensors=tensors))
    jax.tree.map(np.testing.assert_array_equal, params, want)


def test_another_mlp_is_refused_by_its_key(golden):
    part = published.open_part(golden("t5_relu").folder)
    config = {**part.config, "feed_forward_proj": "gated-relu"}
    with pytest.raises(ValueError, match="config.json: 'feed_forward_proj' is"):
        published.load_t5(dataclasses.replace(part, config=config))
