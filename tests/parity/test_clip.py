"""CLIP's text encoders give what transformers' give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import published


@pytest.mark.parametrize("name", ["clip_openai", "clip_openclip"])
def test_states_are_those_of_transformers(golden, name):
    folder, want = golden(name)
    module, params = published.load_clip_text(published.open_part(folder))
    states = jax.jit(module.apply)({"params": params}, jnp.asarray(want["tokens"]))
    np.testing.assert_allclose(states.last, want["last"], atol=1e-5)
    np.testing.assert_allclose(states.pooled, want["pooled"], atol=1e-5)
    for i, hidden in enumerate(states.hidden):
        np.testing.assert_allclose(hidden, want[f"hidden{i}"], atol=1e-5)
