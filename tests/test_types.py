"""Text is refused where numbers are meant, and lists where they are trees, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import policy, timeseries, worlds
from jaxlib_guidance.types import at_least_float32, require_array

KEY, KEYS = jax.random.key(0), jg.sample_keys(jax.random.key(0), 2)
COSINE = jg.VPCosine()
DENOISER = jg.parametrize(lambda x, t, cond: jnp.tanh(x), COSINE)
GRID = jg.uniform_grid(COSINE, 2)
ONES, ROW = jnp.ones((2, 3)), ["a", "b"]
TEXT = [["a", "b", "c"]] * 2
LAYOUT = timeseries.Layout(context=8, horizon=4, lags=(), covariates=0)
INPUTS = LAYOUT.inputs(jnp.ones((2, 12)), jnp.arange(12) < 8)
CROWD, PUSHER = worlds.crowd.default(), worlds.pusher.default()


@pytest.mark.parametrize(
    "text", ["a", b"a", ["a"], [["a"], [1.0]], np.array(["a"]), np.array([None, 1.0])]
)
@pytest.mark.parametrize("lists", [True, False])
def test_text_is_no_array(text, lists):
    with pytest.raises(TypeError, match="^it h(olds|as dtype) .*; expected times$"):
        require_array("it", text, "times", lists=lists)


@pytest.mark.parametrize(
    "numbers",
    [1.0, True, None, jnp.ones(2), np.ones(2), jnp.ones(1, jnp.bfloat16), KEY],
)
def test_numbers_pass(numbers):
    require_array("it", numbers)
    jax.jit(lambda x: require_array("it", x))(numbers)


def test_lists_pass_where_they_are_said_to():
    require_array("it", [1.0, (2.0, jnp.ones(()))], lists=True)
    with pytest.raises(TypeError, match="it is a tuple; expected an array"):
        require_array("it", (1.0, 2.0))
    with pytest.raises(TypeError, match="rewards is a list; expected a number or an"):
        at_least_float32([1.0], "rewards")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("n", lambda: jg.sample_keys(KEY, ROW)),
        ("grid", lambda: jg.sample(KEYS, DENOISER, jg.ddim(), ROW, (3,))),
        (r"cond\[0\]", lambda: jg.sample(KEYS, DENOISER, jg.ddim(), GRID, (3,), ROW)),
        (
            "cond",
            lambda: jg.sample(*(KEYS, DENOISER, jg.ddim(), GRID), ONES, np.array(ROW)),
        ),
        ("x", lambda: jg.sample(KEYS, DENOISER, jg.ddim(), GRID, np.array(TEXT))),
        ("x", lambda: DENOISER(TEXT, 0.5)),
        ("t", lambda: DENOISER(ONES, ROW)),
        ("x0", lambda: jg.perturb(COSINE, TEXT, ONES, 0.5)),
        ("eps", lambda: jg.perturb(COSINE, ONES, TEXT, 0.5)),
        ("grid", lambda: jg.shift_grid(ROW, 2.0)),
        (
            "action",
            lambda: worlds.craft.step(worlds.craft.build(), jnp.int32(0), "left", KEY),
        ),
        ("action", lambda: worlds.crowd.step(CROWD, None, ROW, KEY)),
        ("action", lambda: worlds.pusher.step(PUSHER, None, ROW, KEY)),
        ("trust", lambda: worlds.shop.build(trust="high")),
        ("logp", lambda: policy.reinforce(TEXT, ONES)),
        ("advantage", lambda: policy.reinforce(ONES, ROW)),
        ("mask", lambda: policy.reinforce(ONES, ONES, TEXT)),
        ("logp_old", lambda: policy.ppo_clip(ONES, TEXT, ONES)),
        ("rewards", lambda: policy.grpo(ONES[None], ONES[None], [ROW])),
        ("u_w", lambda: policy.dpo(ROW, ONES[:, 0])),
        ("u_l", lambda: policy.dpo(ONES[:, 0], ROW)),
        ("beta", lambda: policy.dpo(ONES[:, 0], ONES[:, 0], beta="low")),
        ("logp", lambda: policy.nll(TEXT)),
        ("logits", lambda: policy.entropy(TEXT)),
        ("samples", lambda: policy.pass_at_k(ROW, ONES[:, 0], 1)),
        ("segments", lambda: LAYOUT.inputs(TEXT, ONES)),
        ("observed", lambda: LAYOUT.inputs(jnp.ones((2, 12)), ["a"] * 12)),
        (
            "inputs",
            lambda: timeseries.forecast(KEYS, DENOISER, LAYOUT, ROW, 1, grid=GRID),
        ),
        (
            "grid",
            lambda: timeseries.forecast(KEYS, DENOISER, LAYOUT, INPUTS, 1, grid=ROW),
        ),
    ],
)
def test_text_is_refused_by_the_name_of_the_argument(name, call):
    with pytest.raises(TypeError, match=f"^{name} (holds|has dtype|is) .*; expected"):
        call()
